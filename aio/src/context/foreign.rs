//! Driving a context from somebody else's loop: prepare, check, dispatch, and a descriptor to wait on.

use std::{io, os::fd::OwnedFd};

use super::AioContext;
use crate::{backend::Wait, current::Turning};

/// A context whose home thread runs another loop (tokio, glib, a bare epoll) is driven by it:
///
/// ```text
///   once:       fd = foreign_fd()            the other loop watches it for readability
///   each time:  prepare() -> timeout         before the other loop sleeps, at most so long
///               check()                      after it has slept, for whatever reason
///               dispatch()                   if check said so
/// ```
///
/// All three are called on the home thread. `prepare` without the others costs a spurious wake-up of
/// the descriptor and nothing else. There is no busy polling then. [`poll`](Self::poll) may still be
/// called from a callback.
impl AioContext {
    /// A descriptor that becomes readable when [`check`](Self::check) would find something: a duplicate, the caller's.
    ///
    /// From now on the context may be driven by somebody else's loop, and its home thread pays for a
    /// wake-up when it leaves work for the context while that loop is about to sleep.
    ///
    /// # Errors
    ///
    /// The system's.
    ///
    /// # Panics
    ///
    /// When the context has been closed.
    pub fn foreign_fd(&self) -> io::Result<OwnedFd> {
        let fd = self.inner.requests.borrow_mut().foreign_fd()?;
        self.inner.shared.set_foreign();
        Ok(fd)
    }

    /// Hands new requests to the kernel, and says how long the other loop may sleep: so many
    /// nanoseconds, not at all (zero), or until the descriptor is ready (`None`).
    ///
    /// # Panics
    ///
    /// On another thread than the home thread.
    pub fn prepare(&self) -> Option<u64> {
        self.assert_turnable();
        let _turning = Turning::begin(self);
        self.remove_dropped_handlers();
        // Handlers are told that polling is over, and looked at once more.
        self.end_poll_mode();
        self.inner.desk.flush(&self.inner.shared);
        self.gather(Wait::No);
        let state = self.inner.shared.wake_state();
        state.announce_sleep(self.timer_deadlines());
        if self.has_pending() || state.take_notified() {
            return Some(0);
        }
        match self.timeout() {
            Wait::No => Some(0),
            Wait::Ns(ns) => Some(ns),
            Wait::Forever => None,
        }
    }

    /// Takes what has happened; returns whether there is something to dispatch.
    ///
    /// # Panics
    ///
    /// On another thread than the home thread.
    pub fn check(&self) -> bool {
        self.assert_turnable();
        let state = self.inner.shared.wake_state();
        state.end_sleep();
        state.take_notified();
        self.gather(Wait::No);
        self.has_pending() || self.timeout() == Wait::No
    }

    /// Does what there is to do, as a turn of the loop does; returns whether that was anything.
    ///
    /// # Panics
    ///
    /// On another thread than the home thread.
    pub fn dispatch(&self) -> bool {
        self.assert_turnable();
        let _turning = Turning::begin(self);
        self.turn()
    }

    fn has_pending(&self) -> bool {
        self.has_work() || !self.inner.completions.borrow().is_empty()
    }
}
