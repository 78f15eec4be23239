//! Memory on huge pages.

// UNSAFETY: the buffers of a raw loop are named to the kernel by their addresses, and must not lie
// in memory that the allocator has cut from ordinary pages before.
#![expect(unsafe_code, reason = "maps huge pages and hands out addresses")]

use std::ptr::{self, NonNull};

const HUGE_BYTES: usize = 2 << 20;

/// Memory on huge pages, if there are some; there, and zero, from the beginning.
///
/// Whoever has it drops it only when no request is in flight.
#[derive(Debug)]
pub struct Memory {
    /// What was mapped: more than is used, to begin with a huge page.
    mapped: NonNull<u8>,
    mapped_len: usize,
    start: NonNull<u8>,
    len: usize,
}

impl Memory {
    /// At least `len` bytes, which is not none.
    ///
    /// # Panics
    ///
    /// When there is no such memory.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let len = len.next_multiple_of(HUGE_BYTES);
        let mapped_len = len + HUGE_BYTES;
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: new memory, wherever the system finds room for it.
        let mapped = unsafe { libc::mmap(ptr::null_mut(), mapped_len, protection, flags, -1, 0) };
        assert_ne!(mapped, libc::MAP_FAILED, "there is memory left");
        let mapped = NonNull::new(mapped.cast::<u8>()).expect("nothing is mapped at zero");
        let skipped = mapped.as_ptr().align_offset(HUGE_BYTES);
        assert!(skipped < HUGE_BYTES, "an address of bytes can be aligned");
        // SAFETY: fewer bytes than were mapped beyond `len`.
        let start = unsafe { mapped.add(skipped) };
        // Advice only: without huge pages it works, in more pages.
        // SAFETY: the bytes were mapped just now and belong to nobody else.
        let _ = unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        // The pages come when they are written to, and must come before anybody measures.
        // SAFETY: as above.
        unsafe { start.write_bytes(0, len) };
        Self {
            mapped,
            mapped_len,
            start,
            len,
        }
    }

    /// Where it begins: with a huge page.
    #[must_use]
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len
    }

    /// All of it, as a ring registers it.
    pub(crate) fn as_iovec(&self) -> libc::iovec {
        libc::iovec {
            iov_base: self.start.as_ptr().cast(),
            iov_len: self.len,
        }
    }

    /// Start of the buffer of request `slot`, when each has `len` bytes.
    ///
    /// # Panics
    ///
    /// When it would not lie within the memory.
    pub(crate) fn buffer(&self, slot: u64, len: usize) -> *mut u8 {
        let slot = usize::try_from(slot).expect("a slot fits");
        assert!(slot < self.len / len, "there is a buffer for each request");
        self.start.as_ptr().wrapping_add(slot * len)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length, and no request is in flight.
        let unmapped = unsafe { libc::munmap(self.mapped.as_ptr().cast(), self.mapped_len) };
        debug_assert_eq!(unmapped, 0, "what was mapped can be unmapped");
    }
}
