//! How the backend enters the kernel, sleeps there, and is woken.

use std::os::fd::AsRawFd;

use super::{Uring, ring::Ring};
use crate::{backend::Wait, sys};

/// How kicks of the context reach a sleeping ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kick {
    /// Not yet: the read on the eventfd is to be queued.
    Idle,
    /// By the completion of that read.
    Armed,
    /// An outside loop waits on the eventfd, which the ring signals too. The read, if there is
    /// one left, ends in time.
    Foreign { armed: bool },
}

impl<R: Ring> Uring<R> {
    pub(super) fn enter(&mut self, want: u32, timeout_ns: Option<u64>) {
        self.stats.enters += 1;
        // EINTR and ETIME are ordinary; EBUSY and EAGAIN go away once completions are taken, which comes next.
        if let Err(error) = self.ring.enter(want, timeout_ns) {
            tracing::trace!(%error, "io_uring_enter came back early");
        }
    }

    /// Enters the kernel if there is anything to say or to wait for.
    pub(super) fn enter_for(&mut self, wait: Wait) {
        match (wait, self.kick) {
            (Wait::No, _) => {
                if self.ring.needs_enter() {
                    self.enter(0, None);
                }
            }
            (_, Kick::Foreign { .. }) => self.sleep_on_event(wait),
            (Wait::Ns(ns), _) => self.enter(1, Some(ns)),
            (Wait::Forever, _) => self.enter(1, None),
        }
    }

    /// Sleeps when an outside loop may take what is meant to wake us: on the eventfd, which all signal.
    fn sleep_on_event(&mut self, wait: Wait) {
        self.enter(0, None);
        let timeout_ns = match wait {
            _ if self.ring.has_completions() => Some(0),
            Wait::No => Some(0),
            Wait::Ns(ns) => Some(ns),
            Wait::Forever => None,
        };
        let mut event = [libc::pollfd {
            fd: self.shared.event().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        }];
        if let Err(error) = sys::poll_many(&mut event, timeout_ns) {
            tracing::trace!(%error, "ppoll came back early");
        }
        self.enter(0, None);
    }

    pub(super) fn kick_arrived(&mut self) {
        self.kick = match self.kick {
            Kick::Foreign { .. } => Kick::Foreign { armed: false },
            Kick::Idle | Kick::Armed => Kick::Idle,
        };
    }

    pub(super) fn kick_is_armed(&self) -> bool {
        matches!(self.kick, Kick::Armed | Kick::Foreign { armed: true })
    }
}
