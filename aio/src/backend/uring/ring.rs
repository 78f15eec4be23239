//! `Ring`: what the backend asks of an `io_uring`, so that tests can play the kernel.

// UNSAFETY: names what a caller must vouch for; does nothing of the kind itself.
#![expect(
    unsafe_code,
    reason = "declares functions whose callers vouch for memory"
)]

use std::{fmt, io, os::fd::RawFd};

use io_uring::squeue;

/// A completion as the ring brings it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cqe {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

/// The kernel says that more completions of the same submission follow.
pub(crate) const MORE: u32 = 1 << 1;
/// It is the last completion of a zero-copy send: the bytes are not needed any more.
pub(crate) const NOTIFICATION: u32 = 1 << 3;
/// In the result of such a completion: the kernel has copied all the same.
pub(crate) const COPIED: u32 = 1 << 31;

/// One `io_uring`. Used on one thread.
pub(crate) trait Ring: fmt::Debug {
    /// How it was set up, in words for an operator.
    fn describe(&self) -> &'static str;

    /// Entries of the completion queue.
    fn cq_entries(&self) -> u32;

    /// Puts an entry into the submission queue; returns whether there was room.
    ///
    /// # Safety
    ///
    /// All the entry points to stays valid, and the kernel's, until its last completion.
    #[must_use]
    unsafe fn push(&mut self, entry: &squeue::Entry) -> bool;

    /// Entries in the submission queue that the kernel has not taken.
    fn unsubmitted(&mut self) -> usize;

    /// Whether the kernel waits for an [`Self::enter`] to take or to bring something.
    fn needs_enter(&mut self) -> bool;

    /// Whether a completion can be reaped.
    fn has_completions(&mut self) -> bool;

    /// Submits what is in the submission queue, has the kernel bring what it has, and waits for
    /// `want` completions, at most `timeout_ns` if there is a limit.
    fn enter(&mut self, want: u32, timeout_ns: Option<u64>) -> io::Result<()>;

    /// Moves the completions that have arrived to `cqes`.
    fn reap(&mut self, cqes: &mut Vec<Cqe>);

    /// Whether the kernel holds completions back because the queue is full.
    fn is_overflown(&mut self) -> bool;

    /// Whether the kernel knows the operation.
    fn supports(&self, opcode: u8) -> bool;

    /// Makes a table of `len` empty places for files.
    fn register_files(&mut self, len: u32) -> io::Result<()>;

    /// Fills a place of the table of files, or empties it, with -1.
    fn register_file(&mut self, at: u32, file: RawFd) -> io::Result<()>;

    /// Makes a table of `len` empty places for buffers.
    fn register_buffers(&mut self, len: u32) -> io::Result<()>;

    /// Fills a place of the table of buffers.
    ///
    /// # Safety
    ///
    /// The memory stays mapped until the ring is closed.
    unsafe fn register_buffer(&mut self, at: u32, memory: libc::iovec) -> io::Result<()>;

    /// Has the kernel signal an eventfd whenever it has a completion to bring.
    fn register_eventfd(&mut self, event: RawFd) -> io::Result<()>;

    /// Ends that.
    fn unregister_eventfd(&mut self) -> io::Result<()>;

    /// Cancels all that can be cancelled.
    fn cancel_all(&mut self) -> io::Result<()>;
}
