//! What a file is: `statx`.

// UNSAFETY: a raw system call that fills a structure.
#![expect(
    unsafe_code,
    reason = "calls the system directly where no safe wrapper exists"
)]

use std::{
    fmt, io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::check;

/// What is asked for.
const MASK: u32 = libc::STATX_BASIC_STATS | libc::STATX_DIOALIGN;

/// What `O_DIRECT` asks of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectAlignment {
    /// Alignment of buffers in memory, in bytes.
    pub memory_bytes: u32,
    /// Alignment of offsets and lengths in the file, in bytes.
    pub offset_bytes: u32,
}

/// What a file is, and how it is best read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStatus {
    /// Length of the file, in bytes; zero for a block device.
    pub len_bytes: u64,
    /// Bytes that are allocated for it.
    pub allocated_bytes: u64,
    /// Kind and permissions, as `stat(2)` has them.
    pub mode: u32,
    /// The unit that requests are best made in, in bytes.
    pub block_bytes: u32,
    /// What direct I/O asks for, where the kernel says.
    pub direct: Option<DirectAlignment>,
}

/// Memory for the kernel's answer.
pub(crate) struct StatusBuffer(Box<MaybeUninit<libc::statx>>);

impl StatusBuffer {
    pub(crate) fn new() -> Self {
        Self(Box::new(MaybeUninit::zeroed()))
    }

    /// Where the answer goes.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut libc::statx {
        self.0.as_mut_ptr()
    }

    /// Asks for the status of an open file. May block.
    pub(crate) fn fill(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        let (path, flags) = Self::of_itself();
        let buffer = self.as_mut_ptr();
        // SAFETY: the path is a string constant, and `buffer` has room for one statx.
        check(unsafe { libc::statx(file.as_raw_fd(), path, flags, MASK, buffer) })?;
        Ok(())
    }

    /// The path and flags that mean the descriptor itself.
    pub(crate) fn of_itself() -> (*const libc::c_char, libc::c_int) {
        (c"".as_ptr(), libc::AT_EMPTY_PATH)
    }

    /// What is asked for.
    pub(crate) fn mask() -> u32 {
        MASK
    }

    /// What the kernel has answered; all zero if it was not asked.
    pub(crate) fn status(&self) -> FileStatus {
        // SAFETY: all-zero bytes are a valid statx, and so is what the kernel writes.
        let stat = unsafe { self.0.assume_init_ref() };
        let told = stat.stx_mask & libc::STATX_DIOALIGN != 0 && stat.stx_dio_offset_align != 0;
        let direct = DirectAlignment {
            memory_bytes: stat.stx_dio_mem_align,
            offset_bytes: stat.stx_dio_offset_align,
        };
        FileStatus {
            len_bytes: stat.stx_size,
            allocated_bytes: stat.stx_blocks.saturating_mul(512),
            mode: u32::from(stat.stx_mode),
            block_bytes: stat.stx_blksize,
            direct: told.then_some(direct),
        }
    }
}

impl fmt::Debug for StatusBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusBuffer").finish_non_exhaustive()
    }
}

/// The alignment that direct I/O on `file` needs; `None` where the kernel does not say, or has no direct I/O for it.
///
/// # Errors
///
/// The system's.
pub fn direct_alignment(file: BorrowedFd<'_>) -> io::Result<Option<DirectAlignment>> {
    let mut buffer = StatusBuffer::new();
    buffer.fill(file)?;
    Ok(buffer.status().direct)
}
