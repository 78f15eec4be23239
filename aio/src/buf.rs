//! `IoBuf`: owned, aligned memory that a request can hand to the kernel.

// UNSAFETY: a buffer is raw memory that the kernel reads and writes behind the compiler's back.
// This module alone maps, hands out and unmaps it; a buffer is reachable through exactly one
// `IoBuf`, so its slices follow the borrow rules.
#![expect(unsafe_code, reason = "maps memory and lends it as slices")]

mod buddy;
mod pool;

use std::{
    fmt, io,
    mem::ManuallyDrop,
    num::NonZeroUsize,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
    sync::Arc,
};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

pub(crate) use pool::PoolShared;
pub use pool::{Acquire, BufferPool};

/// Every buffer starts at a multiple of this many bytes, which is enough for direct I/O on any device so far.
pub const BUFFER_ALIGN_BYTES: usize = 4096;

/// The largest buffer a pool hands out: one huge page.
pub const BUFFER_BYTES_MAX: usize = 2 << 20;

/// Anonymous memory of our own, unmapped when dropped.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is plain memory without ties to a thread; all access goes through the one
// `IoBuf` that holds the bytes, or through the kernel on that buffer's behalf.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared `Mapping` gives out its address only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` zeroed bytes, a multiple of the page size.
    fn new(len: usize) -> io::Result<Self> {
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let (prot, flags) = (
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            MapFlags::MAP_PRIVATE,
        );
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { mmap_anonymous(None, size, prot, flags) }?;
        Ok(Self {
            start: start.cast(),
            len,
        })
    }

    /// Maps one slab: [`BUFFER_BYTES_MAX`] bytes, aligned to their size, on a huge page where the system has one.
    fn slab() -> io::Result<Self> {
        let mut mapping = Self::new(2 * BUFFER_BYTES_MAX)?;
        let head = mapping.start.as_ptr().align_offset(BUFFER_BYTES_MAX);
        mapping.trim(head, BUFFER_BYTES_MAX)?;
        // Advice only: without huge pages the buffers work, in more segments.
        // SAFETY: both calls advise on the mapping just made, which nobody uses yet.
        let huge = unsafe { madvise(mapping.start.cast(), mapping.len, MmapAdvise::MADV_HUGEPAGE) };
        // SAFETY: as above.
        let populated = unsafe {
            madvise(
                mapping.start.cast(),
                mapping.len,
                MmapAdvise::MADV_POPULATE_WRITE,
            )
        };
        tracing::trace!(
            huge = huge.is_ok(),
            populated = populated.is_ok(),
            "mapped a slab of buffers"
        );
        Ok(mapping)
    }

    /// Gives back all but the `len` bytes from byte `head` on.
    fn trim(&mut self, head: usize, len: usize) -> io::Result<()> {
        let tail = self.len - head - len;
        let old = self.start;
        // SAFETY: `head + len <= self.len`, so the new start lies within the mapping.
        self.start = unsafe { old.add(head) };
        self.len = len;
        if head > 0 {
            // SAFETY: these bytes lead up to the part that is kept, and nobody uses them.
            unsafe { munmap(old.cast(), head) }?;
        }
        if tail > 0 {
            // SAFETY: `head + len + tail` is the old length, so the address lies within the old mapping.
            let behind = unsafe { old.add(head + len) };
            // SAFETY: these bytes follow the part that is kept, and nobody uses them.
            unsafe { munmap(behind.cast(), tail) }?;
        }
        Ok(())
    }

    /// Address of the first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the buffers in it are gone: each keeps it alive.
        let unmapped = unsafe { munmap(self.start.cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping cannot fail");
    }
}

/// Owned, aligned memory for requests; dereferences to the bytes in use.
///
/// A buffer starts at a multiple of [`BUFFER_ALIGN_BYTES`] and has a [capacity](Self::capacity) that
/// is a multiple of it too. It may be sent to, and dropped on, any thread; a pooled buffer then goes
/// back to its pool. While a request is in flight its buffer belongs to the in-flight table.
/// Contents are initialised, but a pooled buffer holds whatever its last user left.
pub struct IoBuf {
    start: NonNull<u8>,
    /// Where the memory goes when the buffer is dropped; to the system if nowhere else.
    pool: Option<Arc<PoolShared>>,
    // Small numbers, because a buffer is moved several times on the way of a request.
    len: u32,
    pages: u32,
    /// The block of the pool.
    block: u32,
}

// SAFETY: the buffer is the only way to its bytes, and its home can be given back from any thread.
unsafe impl Send for IoBuf {}
// SAFETY: a shared buffer only lends shared slices.
unsafe impl Sync for IoBuf {}

impl IoBuf {
    /// A zeroed buffer of its own memory, outside of any pool.
    ///
    /// # Panics
    ///
    /// When the system has no memory left to map, or `len` is 4 GiB or more.
    #[must_use]
    pub fn heap(len: usize) -> Self {
        let capacity = len.max(1).next_multiple_of(BUFFER_ALIGN_BYTES);
        let (len, pages) = (narrow(len), narrow(capacity / BUFFER_ALIGN_BYTES));
        let memory = Mapping::new(capacity).expect("memory can be mapped for a buffer");
        let memory = ManuallyDrop::new(memory);
        Self {
            start: memory.start,
            pool: None,
            len,
            pages,
            block: 0,
        }
    }

    /// The buffer over block `block` of a pool: `capacity` bytes at `start`.
    ///
    /// # Safety
    ///
    /// The bytes lie in a mapping that `pool` keeps, and are lent to nobody else until
    /// [`PoolShared::give_back`] is called with this block.
    unsafe fn pooled(
        pool: Arc<PoolShared>,
        block: u32,
        start: NonNull<u8>,
        capacity: usize,
    ) -> Self {
        Self {
            start,
            pool: Some(pool),
            len: narrow(capacity),
            pages: narrow(capacity / BUFFER_ALIGN_BYTES),
            block,
        }
    }

    /// Bytes in use: what a read fills and a write sends.
    #[must_use]
    pub fn len(&self) -> usize {
        wide(self.len)
    }

    /// Whether no byte is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes the buffer can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        wide(self.pages) * BUFFER_ALIGN_BYTES
    }

    /// Sets how many bytes are in use; those beyond the old length hold what was there before.
    ///
    /// # Panics
    ///
    /// When `len` exceeds the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(
            len <= self.capacity(),
            "{len} bytes do not fit a buffer of {}",
            self.capacity()
        );
        self.len = narrow(len);
    }

    /// Whether the memory belongs to a context's pool, which the kernel knows in advance where it can.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.pool.is_some()
    }

    /// The slab this buffer lies in, if it belongs to `pool`.
    pub(crate) fn slab_in(&self, pool: &Arc<PoolShared>) -> Option<u16> {
        let mine = self.pool.as_ref().filter(|mine| Arc::ptr_eq(mine, pool));
        mine.map(|_| PoolShared::slab_of(self.block))
    }
}

/// A length as buffers keep it.
fn narrow(len: usize) -> u32 {
    u32::try_from(len).expect("a buffer is smaller than 4 GiB")
}

/// A length that was kept.
fn wide(len: u32) -> usize {
    usize::try_from(len).expect("Linux has no smaller addresses")
}

impl Drop for IoBuf {
    fn drop(&mut self) {
        match &self.pool {
            Some(pool) => pool.give_back(self.block),
            None => drop(Mapping {
                start: self.start,
                len: self.capacity(),
            }),
        }
    }
}

impl Deref for IoBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len <= capacity` initialised bytes at `start` belong to this buffer alone, and
        // no request has them while somebody can reach the buffer.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len()) }
    }
}

impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the exclusive borrow of the buffer covers the slice.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len()) }
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pooled = self.is_pooled();
        f.debug_struct("IoBuf")
            .field("len", &self.len)
            .field("capacity", &self.capacity())
            .field("pooled", &pooled)
            .finish()
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
