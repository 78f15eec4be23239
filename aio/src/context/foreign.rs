//! Driving a context from somebody else's loop: one descriptor and one call, or prepare, check, dispatch.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags},
    timer::{Expiration, TimerSetTimeFlags},
    timerfd::{ClockId, TimerFd, TimerFlags},
};

use super::AioContext;
use crate::{backend::Wait, current::Turning};

/// A context whose home thread runs another loop (tokio, mio, glib, a bare epoll) is driven by it.
/// [`foreign_source`](Self::foreign_source) is the easy way: one descriptor, one call. A loop that
/// asks each of its sources how long it may sleep can do without the timer in there, and with the
/// parts:
///
/// ```text
///   once:       fd = foreign_fd()            the other loop watches it for readability
///   each time:  prepare() -> timeout         before the other loop sleeps, at most so long
///               check()                      after it has slept, for whatever reason
///               dispatch()                   if check said so
/// ```
///
/// All of it is called on the home thread, and not from within a turn. Only `check` makes the
/// descriptor unreadable again; nobody reads from it. `prepare` without the others costs a spurious
/// wake-up of the descriptor and nothing else. There is no busy polling then. Between `prepare` and
/// `check`, other code of the thread may use the context as it likes: what it leaves for the loop
/// makes the descriptor readable, and so does a turn of its own ([`poll`](Self::poll)).
impl AioContext {
    /// The context as a source of events of another loop.
    ///
    /// Its descriptor is readable from the beginning, so that what was left for the context before
    /// is not forgotten.
    ///
    /// # Errors
    ///
    /// The system's, when no descriptor can be had.
    ///
    /// # Panics
    ///
    /// When the context has been closed.
    pub fn foreign_source(&self) -> io::Result<ForeignSource> {
        let fd = self.foreign_fd()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
        let readable = EpollEvent::new(EpollFlags::EPOLLIN, 0);
        epoll.add(&fd, readable)?;
        epoll.add(&timer, readable)?;
        self.inner.shared.kick();
        Ok(ForeignSource {
            context: self.clone(),
            epoll,
            timer,
            _fd: fd,
        })
    }

    /// A descriptor that becomes readable when [`check`](Self::check) would find something: a duplicate, the caller's.
    ///
    /// It must be watched level-triggered, or `prepare` be called before each sleep.
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
        self.inner.foreign_sleeps.set(true);
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
        self.inner.foreign_sleeps.set(false);
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

    /// Has the other loop come back if it sleeps, or will, on a promise that a turn of our own has
    /// broken: that it is woken by what happens.
    pub(super) fn renew_foreign_sleep(&self) {
        if self.inner.foreign_sleeps.get() {
            self.inner.shared.kick();
        }
    }

    fn has_pending(&self) -> bool {
        self.has_work() || !self.inner.completions.borrow().is_empty()
    }
}

/// A context as a source of events of somebody else's loop; made by [`AioContext::foreign_source`].
///
/// The other loop watches its descriptor for readability, level- or edge-triggered, and calls
/// [`turn`](Self::turn) whenever it is readable. That is all: timers are in there too, to the
/// nanosecond, whatever resolution the other loop's own have.
///
/// The descriptor belongs to this value, which therefore outlives its registration with the other
/// loop, and nobody reads from it. Dropping the value ends the driving; the context lives on, and
/// does nothing until it is turned in another way.
///
/// ```
/// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
/// use std::os::fd::AsFd;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cx = aio::AioContext::new(aio::Config::default())?;
/// let source = cx.foreign_source()?;
/// let task = cx.spawn(cx.sleep_ns(100_000));
/// while !task.is_finished() {
///     // The loop of somebody else, with one source only.
///     poll(&mut [PollFd::new(source.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
///     source.turn();
/// }
/// cx.close();
/// # Ok(())
/// # }
/// ```
pub struct ForeignSource {
    context: AioContext,
    /// What the other loop watches: readable when one of those below is.
    epoll: Epoll,
    timer: TimerFd,
    _fd: OwnedFd,
}

impl ForeignSource {
    /// Takes what has happened and does what there is to do, as a turn of the loop does; returns
    /// whether that was anything.
    ///
    /// What it leaves for the next turn keeps the descriptor readable, so that the other loop gets
    /// to its other sources in between.
    ///
    /// # Panics
    ///
    /// On another thread than the context's home thread, and when the context has been closed.
    pub fn turn(&self) -> bool {
        let context = &self.context;
        let progress = context.check() && context.dispatch();
        let armed = match context.prepare() {
            Some(0) => {
                context.inner.shared.kick();
                Ok(())
            }
            Some(ns) => {
                let after = Expiration::OneShot(Duration::from_nanos(ns).into());
                self.timer.set(after, TimerSetTimeFlags::empty())
            }
            None => self.timer.unset(),
        };
        armed.expect("the system sets a timer that it has given out");
        progress
    }
}

impl AsFd for ForeignSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl AsRawFd for ForeignSource {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }
}

impl fmt::Debug for ForeignSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignSource")
            .field("context", &self.context.handle().name())
            .finish_non_exhaustive()
    }
}
