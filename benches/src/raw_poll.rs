//! The limit of readiness: a ring whose polls are armed once and tell each wake-up.

// UNSAFETY: as in `raw_ring`; a poll points to no memory at all.
#![expect(unsafe_code, reason = "pushes submission entries")]

use std::{io, os::fd::AsRawFd};

use io_uring::{IoUring, cqueue, opcode, types};

use crate::raw_ring::{enter, make_ring};

/// Tells which of a few descriptors have become readable.
pub struct RawPoll {
    ring: IoUring,
}

impl RawPoll {
    /// Begins to look at `fds`, which are open as long as this is used.
    ///
    /// # Errors
    ///
    /// The system's: no ring.
    ///
    /// # Panics
    ///
    /// When there are more than a ring has entries for: 256.
    pub fn new<'a, F: AsRawFd + 'a>(fds: impl IntoIterator<Item = &'a F>) -> io::Result<Self> {
        let mut ring = make_ring()?;
        for (index, fd) in (0..).zip(fds) {
            let entry = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), libc::POLLIN as u32)
                .multi(true)
                .build()
                .user_data(index);
            // SAFETY: a poll points to no memory.
            let pushed = unsafe { ring.submission().push(&entry) };
            pushed.expect("the ring has an entry for each");
        }
        ring.submit()?;
        Ok(Self { ring })
    }

    /// Waits until some are, and calls `is_ready` with the number of each.
    ///
    /// # Panics
    ///
    /// When the kernel ends a poll, which it does only when completions pile up.
    pub fn wait(&mut self, mut is_ready: impl FnMut(u64)) {
        enter(|| self.ring.submitter().submit_and_wait(1));
        for entry in self.ring.completion() {
            assert!(cqueue::more(entry.flags()), "a poll goes on");
            is_ready(entry.user_data());
        }
    }
}

impl std::fmt::Debug for RawPoll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawPoll").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::eventfd::EventFd;

    use super::*;
    use crate::skip::skip;

    #[test]
    fn each_wake_up_is_told_once() {
        let fds = [EventFd::new().unwrap(), EventFd::new().unwrap()];
        let Ok(mut poll) = RawPoll::new(&fds) else {
            return skip("io_uring");
        };
        for number in [1, 0, 0] {
            fds[usize::try_from(number).unwrap()].write(1).unwrap();
            let mut ready = Vec::new();
            poll.wait(|number| ready.push(number));
            assert_eq!(ready, [number]);
        }
    }
}
