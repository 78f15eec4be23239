//! `KernelRing`: a ring of the kernel's.

// UNSAFETY: hands entries and memory to the kernel; what that takes is passed on to the caller.
#![expect(unsafe_code, reason = "pushes entries, registers memory and enters")]

use std::{
    fmt, io,
    os::fd::{AsRawFd, RawFd},
};

use io_uring::{IoUring, Probe, squeue, types};

use super::{
    ring::{Cqe, Ring},
    setup::{Entries, Setup, check_opcodes, make_ring},
};
use crate::sys;

/// Most threads of the kernel's for operations that block, of each kind: those that end in time, and others.
const IO_WORKERS_MAX: u32 = 8;

/// A ring of the kernel's.
pub(crate) struct KernelRing {
    ring: IoUring,
    setup: Setup,
    probe: Probe,
    /// What the kernel is to know the ring by when it is entered: that is quicker than by its descriptor.
    entrance: Entrance,
}

/// A descriptor, or a place in the home thread's table of rings.
#[derive(Clone, Copy, Debug)]
enum Entrance {
    Descriptor(RawFd),
    Registered(u32),
}

impl Entrance {
    /// The ring's place in the calling thread's table, if there is one free.
    fn of(ring: &IoUring) -> Self {
        let fd = ring.as_raw_fd();
        sys::register_ring(fd).map_or(Self::Descriptor(fd), Self::Registered)
    }
}

impl KernelRing {
    /// A ring of the given numbers of submission and completion entries, that knows every operation that is needed.
    pub(crate) fn new(entries: Entries) -> io::Result<Self> {
        let (ring, setup) = make_ring(entries)?;
        let probe = check_opcodes(&ring)?;
        let mut workers = [IO_WORKERS_MAX; 2];
        if let Err(error) = ring.submitter().register_iowq_max_workers(&mut workers) {
            tracing::debug!(%error, "the kernel's workers are not bounded");
        }
        let entrance = Entrance::of(&ring);
        Ok(Self {
            ring,
            setup,
            probe,
            entrance,
        })
    }
}

impl Drop for KernelRing {
    fn drop(&mut self) {
        if let Entrance::Registered(place) = self.entrance {
            sys::unregister_ring(self.ring.as_raw_fd(), place);
        }
    }
}

impl Ring for KernelRing {
    fn describe(&self) -> &'static str {
        match self.setup {
            Setup::Deferred => "DEFER_TASKRUN, SINGLE_ISSUER",
            Setup::Plain => "plain ring",
        }
    }

    fn cq_entries(&self) -> u32 {
        self.ring.params().cq_entries()
    }

    unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        let mut submission = self.ring.submission();
        // SAFETY: passed on to the caller.
        unsafe { submission.push(entry) }.is_ok()
    }

    fn unsubmitted(&mut self) -> usize {
        self.ring.submission().len()
    }

    fn needs_enter(&mut self) -> bool {
        let submission = self.ring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    fn enter(&mut self, want: u32, timeout_ns: Option<u64>) -> io::Result<()> {
        let unsubmitted = self.ring.submission().len();
        let unsubmitted = u32::try_from(unsubmitted).expect("a queue is not that long");
        let (fd, flags) = match self.entrance {
            Entrance::Descriptor(fd) => (fd, 0),
            Entrance::Registered(place) => (place.cast_signed(), sys::ENTER_REGISTERED),
        };
        sys::enter_ring(fd, unsubmitted, want, flags, timeout_ns)
    }

    fn reap(&mut self, cqes: &mut Vec<Cqe>) {
        cqes.extend(self.ring.completion().map(|entry| Cqe {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
    }

    fn is_overflown(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }

    fn supports(&self, opcode: u8) -> bool {
        self.probe.is_supported(opcode)
    }

    fn register_files(&mut self, len: u32) -> io::Result<()> {
        self.ring.submitter().register_files_sparse(len)
    }

    fn register_file(&mut self, at: u32, file: RawFd) -> io::Result<()> {
        self.ring.submitter().register_files_update(at, &[file])?;
        Ok(())
    }

    fn register_buffers(&mut self, len: u32) -> io::Result<()> {
        self.ring.submitter().register_buffers_sparse(len)
    }

    unsafe fn register_buffer(&mut self, at: u32, memory: libc::iovec) -> io::Result<()> {
        let submitter = self.ring.submitter();
        // SAFETY: passed on to the caller.
        unsafe { submitter.register_buffers_update(at, &[memory], None) }
    }

    fn register_eventfd(&mut self, event: RawFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(event)
    }

    fn unregister_eventfd(&mut self) -> io::Result<()> {
        self.ring.submitter().unregister_eventfd()
    }

    fn cancel_all(&mut self) -> io::Result<()> {
        let everything = types::CancelBuilder::any();
        self.ring.submitter().register_sync_cancel(None, everything)
    }
}

impl fmt::Debug for KernelRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelRing")
            .field("setup", &self.setup)
            .finish_non_exhaustive()
    }
}
