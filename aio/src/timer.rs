//! Timers of one context: what is due when, by which of its clocks.
//!
//! There is one [wheel](wheel) for each clock. In it are the wakers of [`Sleep`]s, and the
//! [`Timer`]s, which other threads may arm as well. The loop asks [`AioContext::timer_timeout`] how
//! long it may sleep, publishes [`AioContext::timer_deadlines`] with the announcement of its sleep,
//! and at the end of each turn has [`AioContext::expire_timers`] make a pass.

mod callback;
mod sleep;
mod wheel;

use std::{mem, task::Waker};

use crate::{
    backend::Wait,
    clock::{CLOCKS, Clocks, TimerClock},
    context::AioContext,
    wake::NO_DEADLINES,
};
use wheel::{Wheel, WheelKey};

pub use callback::Timer;
pub(crate) use callback::{TimerPost, TimerTable};
pub use sleep::{Elapsed, Sleep, SleepWaker, WakeableSleep};

/// What happens at a deadline.
#[derive(Debug)]
enum Expiry {
    Wake(Waker),
    /// The callback at this place of the [`TimerTable`] is to be called.
    Call(u32),
}

impl Default for Expiry {
    fn default() -> Self {
        Self::Call(u32::MAX)
    }
}

/// The pending timers of a context, by clock.
#[derive(Debug)]
pub(crate) struct Timers {
    wheels: [Wheel<Expiry>; CLOCKS],
    /// The time of the last pass.
    pass_ns: [u64; CLOCKS],
}

impl Timers {
    pub(crate) fn new() -> Self {
        Self {
            wheels: [Wheel::new(), Wheel::new(), Wheel::new()],
            pass_ns: [0; CLOCKS],
        }
    }

    /// Whether no timer is armed or due.
    pub(crate) fn is_empty(&self) -> bool {
        self.wheels.iter().all(Wheel::is_empty)
    }

    fn wheel(&mut self, clock: TimerClock) -> &mut Wheel<Expiry> {
        &mut self.wheels[clock.index()]
    }

    /// Has a timer of the loop's clock wake `waker`, if it is still there; returns what is of no use
    /// any more, for the caller to drop.
    fn rewake(&mut self, timer: WheelKey, waker: &Waker) -> Option<Expiry> {
        let expiry = self.wheel(TimerClock::Loop).get_mut(timer)?;
        let new = match expiry {
            Expiry::Wake(before) if before.will_wake(waker) => return Some(Expiry::default()),
            _ => Expiry::Wake(waker.clone()),
        };
        Some(mem::replace(expiry, new))
    }

    /// A time of each clock before which no timer of it is due; the end of time if there is none.
    fn deadlines(&mut self) -> [u64; CLOCKS] {
        let mut deadlines = NO_DEADLINES;
        if self.is_empty() {
            return deadlines;
        }
        for (deadline_ns, wheel) in deadlines.iter_mut().zip(&mut self.wheels) {
            *deadline_ns = wheel.next_ns().unwrap_or(u64::MAX);
        }
        deadlines
    }

    fn timeout(&mut self, clocks: &Clocks) -> Wait {
        let mut wait = Wait::Forever;
        if self.is_empty() {
            return wait;
        }
        for clock in TimerClock::ALL {
            let left_ns = match self.left_ns(clock, clocks) {
                Some(0) => return Wait::No,
                // Whoever moves such a clock wakes the loop.
                Some(_) if !clocks.get(clock).runs() => continue,
                Some(left_ns) => left_ns,
                None => continue,
            };
            wait = match wait {
                Wait::Ns(ns) => Wait::Ns(ns.min(left_ns)),
                Wait::Forever | Wait::No => Wait::Ns(left_ns),
            };
        }
        wait
    }

    /// How long until a timer of `clock` may be due; zero only if one is.
    fn left_ns(&mut self, clock: TimerClock, clocks: &Clocks) -> Option<u64> {
        let deadline_ns = self.wheel(clock).next_ns()?;
        let now_ns = clocks.now_ns(clock);
        if deadline_ns > now_ns {
            return Some(deadline_ns - now_ns);
        }
        // It may be that the wheel only wants to sort its timers finer: that is no reason for a turn.
        self.look(clock, now_ns);
        let deadline_ns = self.wheel(clock).next_ns()?;
        Some(deadline_ns.saturating_sub(now_ns))
    }

    /// Begins a pass: looks at each clock once.
    fn collect(&mut self, clocks: &Clocks) {
        for clock in TimerClock::ALL {
            if !self.wheel(clock).is_empty() {
                self.look(clock, clocks.now_ns(clock));
            }
        }
    }

    /// Sets aside what is due at `now_ns`.
    fn look(&mut self, clock: TimerClock, now_ns: u64) {
        self.pass_ns[clock.index()] = now_ns;
        self.wheel(clock).collect(now_ns);
    }

    /// Takes out one timer of the pass.
    fn pop_due(&mut self) -> Option<Expiry> {
        self.wheels.iter_mut().find_map(Wheel::pop_due)
    }
}

impl AioContext {
    /// How long the loop may sleep for its timers' sake.
    pub(crate) fn timer_timeout(&self) -> Wait {
        self.timers().with(|timers| timers.timeout(self.clocks()))
    }

    /// A time of `clock` before which no timer of it is due; `None` while there are no timers.
    ///
    /// For whoever moves a [manual clock](crate::Clock::manual) from event to event. It may be that a
    /// turn at that time finds nothing due yet; asked again after it, this tells a later time.
    ///
    /// # Panics
    ///
    /// On another thread than the home thread.
    #[must_use]
    pub fn next_timer_ns(&self, clock: TimerClock) -> Option<u64> {
        self.timers().with(|timers| timers.wheel(clock).next_ns())
    }

    /// When the loop has to wake for its timers' sake, by each clock.
    pub(crate) fn timer_deadlines(&self) -> [u64; CLOCKS] {
        self.timers().with(Timers::deadlines)
    }

    /// One pass over the timers that are due now; returns whether there were any.
    ///
    /// Timers armed meanwhile wait for the next pass. A nested turn goes on with this pass, and makes
    /// one of its own.
    pub(crate) fn expire_timers(&self) -> bool {
        let timers = self.timers();
        let any = timers.with(|timers| {
            timers.collect(self.clocks());
            !timers.is_empty()
        });
        let mut progress = false;
        while any && let Some(expiry) = timers.with(Timers::pop_due) {
            progress |= match expiry {
                Expiry::Wake(waker) => {
                    waker.wake();
                    true
                }
                Expiry::Call(index) => self.call_timer(index),
            };
        }
        progress
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
