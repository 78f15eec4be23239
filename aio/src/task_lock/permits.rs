//! A number of permits that tasks take and give back, first come, first served.
//!
//! One word holds how many are free, and whether somebody waits:
//!
//! ```text
//!   nobody waits   taking and giving back is one compare-and-exchange of the word
//!   AWAITED        the word only changes under the lock of the queue;
//!                  who comes waits behind the others, even if there is enough for it
//! ```
//!
//! `AWAITED` is set under the lock, in one step with the finding that too few permits are free, so
//! that whoever gives some back afterwards sees it. Who gives permits back while it is set serves
//! those in front of the queue as far as the permits go: it takes their permits for them, takes
//! them out of the queue, and wakes them. So a ticket that is not in the queue any more *has* its
//! permits, which go on to the next if its future is dropped before it looked.

use std::{
    future::Future,
    hint, mem,
    pin::Pin,
    sync::PoisonError,
    task::{Context, Poll},
};

use super::waiters::{Served, Waiters};
use crate::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

/// Somebody waits.
const AWAITED: u64 = 1;
/// One free permit.
const ONE: u64 = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Permits {
    state: AtomicU64,
    queue: Mutex<Waiters<u64>>,
}

impl Permits {
    /// The most permits there may be.
    pub(super) const MAX: u64 = u64::MAX / ONE;

    /// `total` permits, all free.
    pub(super) fn new(total: u64) -> Self {
        assert!(total <= Self::MAX, "more permits than can be counted");
        Self {
            state: AtomicU64::new(total * ONE),
            queue: Mutex::new(Waiters::new()),
        }
    }

    /// How many are free; a hint.
    pub(super) fn free(&self) -> u64 {
        self.state.load(Ordering::Relaxed) / ONE
    }

    /// Takes `wanted` permits if they are free and nobody waits.
    pub(super) fn try_take(&self, wanted: u64) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & AWAITED == 0 && state / ONE >= wanted {
            let left = state - wanted * ONE;
            // Acquire: what was done by those that gave the permits back is visible.
            match self.state.compare_exchange_weak(
                state,
                left,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// Looks `looks_max` times whether `wanted` permits can be taken; stops when somebody waits.
    pub(super) fn look_and_take(&self, wanted: u64, looks_max: u32) -> bool {
        for _ in 0..looks_max {
            hint::spin_loop();
            if self.state.load(Ordering::Relaxed) & AWAITED != 0 {
                return false;
            }
            if self.try_take(wanted) {
                return true;
            }
        }
        false
    }

    /// Takes `wanted` permits, when those that came before have had theirs.
    ///
    /// Whoever asks for more than there are waits for ever.
    pub(super) fn take(&self, wanted: u64) -> Take<'_> {
        Take {
            permits: self,
            wanted,
            stage: Stage::New,
        }
    }

    /// Gives `count` permits back, and serves those that wait.
    pub(super) fn give_back(&self, count: u64) {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & AWAITED == 0 {
            let more = state + count * ONE;
            // Release: what was done under the permits is visible to those that take them.
            match self.state.compare_exchange_weak(
                state,
                more,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
        let served = self.serve(&mut self.lock(), count);
        served.wake();
    }

    /// Adds `returned` permits to the free ones, and takes from them for those in front.
    fn serve(&self, queue: &mut Waiters<u64>, returned: u64) -> Served {
        let mut served = Served::default();
        let state = self.state.load(Ordering::Relaxed);
        if state & AWAITED == 0 {
            // Everybody has gone meanwhile; nobody can come while the caller holds the lock.
            self.state.fetch_add(returned * ONE, Ordering::Release);
            return served;
        }
        let mut free = state / ONE + returned;
        while let Some((wanted, waker)) = queue.serve_if(|wanted| wanted <= free) {
            free -= wanted;
            served.push(waker);
        }
        let awaited = if queue.is_empty() { 0 } else { AWAITED };
        self.state.store((free * ONE) | awaited, Ordering::Release);
        served
    }

    /// Whether `wanted` permits could be taken; if not, notes that somebody will wait.
    ///
    /// The caller holds the lock of the queue, and enters it then.
    fn take_or_announce(&self, wanted: u64) -> bool {
        loop {
            if self.try_take(wanted) {
                return true;
            }
            let state = self.state.load(Ordering::Relaxed);
            let announced = state & AWAITED != 0
                || state / ONE < wanted
                    // Acquire: hands on, under the lock, what was given back without it before.
                    && self
                        .state
                        .compare_exchange(
                            state,
                            state | AWAITED,
                            Ordering::Acquire,
                            Ordering::Relaxed,
                        )
                        .is_ok();
            if announced {
                return false;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiters<u64>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    New,
    /// Has entered the queue with this ticket.
    Waiting(u64),
    Done,
}

/// Takes permits; see [`Permits::take`]. Whoever awaits it gives them back.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub(super) struct Take<'a> {
    permits: &'a Permits,
    wanted: u64,
    stage: Stage,
}

impl Future for Take<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (permits, wanted) = (self.permits, self.wanted);
        // Wakers are dropped unlocked, since the last one of a task drops what the task holds.
        let stage = match self.stage {
            Stage::New if permits.try_take(wanted) => Stage::Done,
            Stage::New => {
                let waker = cx.waker().clone();
                let mut queue = permits.lock();
                if permits.take_or_announce(wanted) {
                    Stage::Done
                } else {
                    Stage::Waiting(queue.enter(wanted, waker))
                }
            }
            Stage::Waiting(ticket) => {
                let old = permits.lock().renew(ticket, cx.waker());
                if old.is_some() {
                    Stage::Waiting(ticket)
                } else {
                    Stage::Done
                }
            }
            Stage::Done => unreachable!("a future is not polled after it was ready"),
        };
        self.stage = stage;
        match stage {
            Stage::Done => Poll::Ready(()),
            Stage::New | Stage::Waiting(_) => Poll::Pending,
        }
    }
}

impl Drop for Take<'_> {
    fn drop(&mut self) {
        let Stage::Waiting(ticket) = mem::replace(&mut self.stage, Stage::Done) else {
            return;
        };
        let mut queue = self.permits.lock();
        let left = queue.leave(ticket);
        // Served, and never knew: the next may have it. Not served: it may have kept others waiting.
        let returned = if left.is_some() { 0 } else { self.wanted };
        let served = self.permits.serve(&mut queue, returned);
        drop(queue);
        drop(left);
        served.wake();
    }
}
