//! How the backend enters the kernel, sleeps there, and is woken.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{Ordering, fence},
};

use super::{KICK, Uring, WATCH, outside::Outside, ring::Ring};
use crate::backend::Wait;

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
            (_, Kick::Foreign { .. }) => self.enter_from_outside(wait),
            (Wait::No, _) => self.enter_if_needed(),
            (Wait::Ns(ns), _) => self.enter(1, Some(ns)),
            (Wait::Forever, _) => self.enter(1, None),
        }
    }

    fn enter_if_needed(&mut self) {
        if self.ring.needs_enter() {
            self.enter(0, None);
        }
    }

    /// Does so when an outside loop waits for the ring, and sleeps, if that is asked for, where it does.
    fn enter_from_outside(&mut self, wait: Wait) {
        if wait != Wait::No {
            self.enter_if_needed();
        }
        let timeout_ns = match wait {
            _ if self.ring.has_completions() || self.ring.unsubmitted() > 0 => Some(0),
            Wait::No => Some(0),
            Wait::Ns(ns) => Some(ns),
            Wait::Forever => None,
        };
        // Before the look at the ring: what is signalled from here on stays signalled. With deferred
        // task work, a completion that comes later need not even be in the ring.
        if self.watches.look_outside(timeout_ns) {
            self.shared.event().take();
        }
        self.enter_if_needed();
    }

    /// Lets an outside loop wait for the ring from now on; returns a descriptor for it.
    pub(super) fn go_outside(&mut self) -> io::Result<OwnedFd> {
        if let Some(outside) = self.watches.outside() {
            return outside.descriptor();
        }
        let event = self.shared.event();
        let outside = Outside::new(event)?;
        let fd = outside.descriptor()?;
        self.ring.register_eventfd(event.as_raw_fd())?;
        let watched = self.watches.go_outside(outside)?;
        let watched = watched.iter().map(|key| WATCH | key.to_bits());
        self.cancels.extend(watched);
        let armed = self.kick == Kick::Armed;
        if armed {
            self.cancels.push_back(KICK);
        }
        self.push_cancels();
        self.kick = Kick::Foreign { armed };
        Ok(fd)
    }

    /// Has the ring signal its eventfd for the next poll of another eventfd as well.
    ///
    /// See [`outside`](super::outside): it may have used up its one time. Whatever completes before
    /// this goes unsignalled perhaps, so the ring is looked at once more.
    pub(super) fn signal_again(&mut self) {
        let event = self.shared.event().as_raw_fd();
        let renewed = self.ring.unregister_eventfd();
        let renewed = renewed.and_then(|()| self.ring.register_eventfd(event));
        if let Err(error) = renewed {
            tracing::warn!(%error, "the ring does not signal its eventfd any more");
        }
        fence(Ordering::SeqCst);
        self.enter_if_needed();
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
