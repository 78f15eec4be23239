//! Timers of one context: who is to be woken when.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use crate::context::AioContext;

/// Names a timer; timers of equal deadline expire in the order in which they were set.
type TimerKey = (u64, u64);

/// Pending timers, by deadline in nanoseconds of the context's clock.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    pending: BTreeMap<TimerKey, Waker>,
    set: u64,
}

impl Timers {
    fn insert(&mut self, deadline_ns: u64, waker: Waker) -> TimerKey {
        self.set += 1;
        let key = (deadline_ns, self.set);
        self.pending.insert(key, waker);
        key
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.pending
            .first_key_value()
            .map(|(&(deadline_ns, _), _)| deadline_ns)
    }

    /// Takes out one timer that is due at `now_ns`.
    pub(crate) fn pop_due(&mut self, now_ns: u64) -> Option<Waker> {
        let first = self
            .pending
            .first_entry()
            .filter(|first| first.key().0 <= now_ns)?;
        Some(first.remove())
    }
}

/// Ends at a deadline; made by [`AioContext::sleep_ns`]. Dropping it removes the timer.
#[derive(Debug)]
#[must_use = "a sleep does nothing until it is awaited"]
pub struct Sleep {
    context: AioContext,
    deadline_ns: u64,
    timer: Option<TimerKey>,
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
            let waker = self.context.timers().borrow_mut().pending.remove(&timer);
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
        match this.timer.and_then(|timer| timers.pending.get_mut(&timer)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => this.timer = Some(timers.insert(this.deadline_ns, cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}
