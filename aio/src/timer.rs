//! Timers of one context: who is to be woken when.

mod wheel;

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use crate::{backend::Wait, clock::Clock, context::AioContext};
use wheel::{Wheel, WheelKey};

/// Pending timers, by deadline in nanoseconds of the context's clock.
#[derive(Debug)]
pub(crate) struct Timers {
    wheel: Wheel<Option<Waker>>,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            wheel: Wheel::new(),
        }
    }
}

impl Timers {
    /// Whether no timer is armed or due.
    pub(crate) fn is_empty(&self) -> bool {
        self.wheel.is_empty()
    }

    /// A time before which no timer is due: the earliest deadline, unless very many are close to it.
    pub(crate) fn next_deadline_ns(&mut self) -> Option<u64> {
        self.wheel.next_ns()
    }

    /// Begins a pass over the timers due at `now_ns`. Those armed from now on wait for the next one.
    pub(crate) fn collect(&mut self, now_ns: u64) {
        self.wheel.collect(now_ns);
    }

    /// Takes out one timer of the pass.
    pub(crate) fn pop_due(&mut self) -> Option<Waker> {
        self.wheel.pop_due().flatten()
    }
}

impl AioContext {
    /// How long the loop may sleep for its timers' sake.
    pub(crate) fn timer_timeout(&self) -> Wait {
        let Some(deadline_ns) = self.timers().borrow_mut().next_deadline_ns() else {
            return Wait::Forever;
        };
        match (deadline_ns.saturating_sub(self.now_ns()), self.clock()) {
            (0, _) => Wait::No,
            (left_ns, Clock::Monotonic) => Wait::Ns(left_ns),
            (_, Clock::Manual(_)) => Wait::Forever,
        }
    }

    /// One pass over the timers that are due now; returns whether there were any.
    pub(crate) fn expire_timers(&self) -> bool {
        if self.timers().borrow().is_empty() {
            return false;
        }
        let now_ns = self.now_ns();
        self.timers().borrow_mut().collect(now_ns);
        let mut progress = false;
        loop {
            let Some(waker) = self.timers().borrow_mut().pop_due() else {
                return progress;
            };
            waker.wake();
            progress = true;
        }
    }
}

/// Ends at a deadline; made by [`AioContext::sleep_ns`]. Dropping it removes the timer.
#[derive(Debug)]
#[must_use = "a sleep does nothing until it is awaited"]
pub struct Sleep {
    context: AioContext,
    deadline_ns: u64,
    timer: Option<WheelKey>,
}

impl Sleep {
    pub(crate) fn new(context: AioContext, deadline_ns: u64) -> Self {
        Self {
            context,
            deadline_ns,
            timer: None,
        }
    }

    /// When it ends, in nanoseconds of the context's clock.
    #[must_use]
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    fn disarm(&mut self) {
        if let Some(timer) = self.timer.take() {
            let waker = self.context.timers().borrow_mut().wheel.remove(timer);
            drop(waker);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.context.now_ns() >= this.deadline_ns {
            this.disarm();
            return Poll::Ready(());
        }
        let mut timers = this.context.timers().borrow_mut();
        let armed = this.timer.and_then(|timer| timers.wheel.get_mut(timer));
        match armed.and_then(Option::as_mut) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                let waker = Some(cx.waker().clone());
                this.timer = Some(timers.wheel.insert(this.deadline_ns, waker));
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}
