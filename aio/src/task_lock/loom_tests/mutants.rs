//! Copies of the protocols with one step missing or changed; the models must fail under each.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use loom::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use super::{
    Protocol, WaitWake, downgrade, dropped, hand_over, head_gives_up, producer_and_consumer, turns,
};
use crate::task_lock::{
    TaskMutexGuard,
    waiters::{Served, Waiters},
};

const AWAITED: u64 = 1;
const ONE: u64 = 2;

/// The waiter looks, and announces itself in a second step.
const LOOK_THEN_ANNOUNCE: u8 = 0;
/// The giver looks whether somebody waits, and gives back in a second step.
const LOOK_THEN_GIVE_BACK: u8 = 1;
/// A dropped waiter that was served keeps its permits.
const HAND_OVER_LOST: u8 = 2;
/// A dropped waiter does not look whether it kept others waiting.
const LEAVE_IN_SILENCE: u8 = 3;
/// Whoever gives back serves one only.
const SERVE_ONE: u8 = 4;
/// Permits are given back to all, and whoever comes first takes them.
const BARGING: u8 = 5;
/// Giving back does not publish what was done.
const RELAXED: u8 = 6;

/// No mistake at all.
const FAITHFUL: u8 = u8::MAX;

struct Mutant<const WHICH: u8> {
    state: AtomicU64,
    queue: Mutex<Waiters<u64>>,
}

impl<const WHICH: u8> Mutant<WHICH> {
    fn serve(&self, queue: &mut Waiters<u64>, returned: u64) -> Served {
        let mut served = Served::default();
        let state = self.state.load(Ordering::Relaxed);
        if state & AWAITED == 0 {
            self.state.fetch_add(returned * ONE, Ordering::Release);
            return served;
        }
        let mut free = state / ONE + returned;
        while let Some((wanted, waker)) = queue.serve_if(|wanted| wanted <= free) {
            if WHICH != BARGING {
                free -= wanted;
            }
            served.push(waker);
            if WHICH == SERVE_ONE {
                break;
            }
        }
        let awaited = if queue.is_empty() { 0 } else { AWAITED };
        self.state.store((free * ONE) | awaited, Ordering::Release);
        served
    }

    fn take_or_announce(&self, wanted: u64) -> bool {
        loop {
            if self.try_take(wanted) {
                return true;
            }
            let state = self.state.load(Ordering::Relaxed);
            if state & AWAITED != 0 {
                return false;
            }
            if WHICH == LOOK_THEN_ANNOUNCE {
                self.state.fetch_or(AWAITED, Ordering::Acquire);
                return false;
            }
            let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
            if state / ONE < wanted
                && self
                    .state
                    .compare_exchange(state, state | AWAITED, acquire, relaxed)
                    .is_ok()
            {
                return false;
            }
        }
    }
}

impl<const WHICH: u8> Protocol for Mutant<WHICH> {
    type Take<'a> = MutantTake<'a, WHICH>;

    fn new(total: u64) -> Self {
        Self {
            state: AtomicU64::new(total * ONE),
            queue: Mutex::new(Waiters::new()),
        }
    }

    fn try_take(&self, wanted: u64) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & AWAITED == 0 && state / ONE >= wanted {
            let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
            let left = state - wanted * ONE;
            match self
                .state
                .compare_exchange_weak(state, left, acquire, relaxed)
            {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    fn take(&self, wanted: u64) -> MutantTake<'_, WHICH> {
        MutantTake {
            permits: self,
            wanted,
            ticket: None,
        }
    }

    fn give_back(&self, count: u64) {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & AWAITED == 0 {
            if WHICH == LOOK_THEN_GIVE_BACK {
                self.state.fetch_add(count * ONE, Ordering::Release);
                return;
            }
            let publish = if WHICH == RELAXED {
                Ordering::Relaxed
            } else {
                Ordering::Release
            };
            let more = state + count * ONE;
            match self
                .state
                .compare_exchange_weak(state, more, publish, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
        let served = self.serve(&mut self.queue.lock().unwrap(), count);
        served.wake();
    }
}

pub(super) struct MutantTake<'a, const WHICH: u8> {
    permits: &'a Mutant<WHICH>,
    wanted: u64,
    ticket: Option<u64>,
}

impl<const WHICH: u8> Future for MutantTake<'_, WHICH> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (permits, wanted) = (self.permits, self.wanted);
        let waits = match self.ticket {
            None if permits.try_take(wanted) => false,
            None => {
                let mut queue = permits.queue.lock().unwrap();
                if permits.take_or_announce(wanted) {
                    false
                } else {
                    self.ticket = Some(queue.enter(wanted, cx.waker().clone()));
                    true
                }
            }
            Some(ticket) => {
                let old = permits.queue.lock().unwrap().renew(ticket, cx.waker());
                let served = old.is_none();
                if WHICH == BARGING && served {
                    self.ticket = None;
                    return self.poll(cx);
                }
                !served
            }
        };
        if waits {
            return Poll::Pending;
        }
        self.ticket = None;
        Poll::Ready(())
    }
}

impl<const WHICH: u8> Drop for MutantTake<'_, WHICH> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut queue = self.permits.queue.lock().unwrap();
        let left = queue.leave(ticket);
        let keeps_quiet = match left {
            Some(_) => WHICH == LEAVE_IN_SILENCE,
            None => WHICH == HAND_OVER_LOST,
        };
        if keeps_quiet {
            return;
        }
        let returned = if left.is_some() { 0 } else { self.wanted };
        let served = self.permits.serve(&mut queue, returned);
        drop(queue);
        served.wake();
    }
}

#[test]
fn loom_copies_without_a_mistake_pass() {
    turns::<Mutant<FAITHFUL>>();
    dropped::<Mutant<FAITHFUL>>();
    head_gives_up::<Mutant<FAITHFUL>>();
    downgrade::<Mutant<FAITHFUL>>();
    hand_over::<Mutant<FAITHFUL>>();
    producer_and_consumer::<QueueMutant<FAITHFUL>>();
}

#[test]
#[should_panic]
fn loom_mutant_announcement_apart_from_the_look_is_found() {
    turns::<Mutant<LOOK_THEN_ANNOUNCE>>();
}

#[test]
#[should_panic]
fn loom_mutant_giving_back_apart_from_the_look_is_found() {
    turns::<Mutant<LOOK_THEN_GIVE_BACK>>();
}

#[test]
#[should_panic]
fn loom_mutant_lost_hand_over_is_found() {
    dropped::<Mutant<HAND_OVER_LOST>>();
}

#[test]
#[should_panic]
fn loom_mutant_leaving_in_silence_is_found() {
    head_gives_up::<Mutant<LEAVE_IN_SILENCE>>();
}

#[test]
#[should_panic]
fn loom_mutant_waking_one_reader_on_downgrade_is_found() {
    downgrade::<Mutant<SERVE_ONE>>();
}

#[test]
#[should_panic]
fn loom_mutant_barging_is_found() {
    hand_over::<Mutant<BARGING>>();
}

#[test]
#[should_panic]
fn loom_mutant_relaxed_unlock_is_found() {
    turns::<Mutant<RELAXED>>();
}

/// The mutex is unlocked before the place in the queue is taken.
const UNLOCK_THEN_ENTER: u8 = 0;
/// A dropped waiter that was woken wakes nobody in its place.
const WAKE_UP_LOST: u8 = 1;

struct QueueMutant<const WHICH: u8> {
    waiters: Mutex<Waiters<()>>,
}

struct MutantPlace<'a, const WHICH: u8> {
    queue: &'a QueueMutant<WHICH>,
    ticket: Option<u64>,
}

impl<'a, const WHICH: u8> MutantPlace<'a, WHICH> {
    fn enter(queue: &'a QueueMutant<WHICH>) -> Self {
        let waker = Waker::noop().clone();
        let ticket = Some(queue.waiters.lock().unwrap().enter((), waker));
        Self { queue, ticket }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let ticket = self.ticket.unwrap();
        let mut waiters = self.queue.waiters.lock().unwrap();
        match waiters.renew(ticket, cx.waker()) {
            Some(_) => Poll::Pending,
            None => Poll::Ready(()),
        }
    }
}

impl<const WHICH: u8> Drop for MutantPlace<'_, WHICH> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let left = self.queue.waiters.lock().unwrap().leave(ticket);
        if left.is_none() && WHICH != WAKE_UP_LOST {
            self.queue.wake_one();
        }
    }
}

impl<const WHICH: u8> WaitWake for QueueMutant<WHICH> {
    fn new() -> Self {
        Self {
            waiters: Mutex::new(Waiters::new()),
        }
    }

    async fn wait<'m>(&self, guard: TaskMutexGuard<'m>) -> TaskMutexGuard<'m> {
        let mutex = guard.mutex();
        let mut place;
        if WHICH == UNLOCK_THEN_ENTER {
            drop(guard);
            place = MutantPlace::enter(self);
        } else {
            place = MutantPlace::enter(self);
            drop(guard);
        }
        poll_fn(|cx| place.poll(cx)).await;
        let guard = mutex.lock().await;
        place.ticket = None;
        guard
    }

    fn wake_one(&self) -> bool {
        let served = self.waiters.lock().unwrap().serve_if(|()| true);
        let is_some = served.is_some();
        if let Some(((), waker)) = served {
            waker.wake();
        }
        is_some
    }
}

#[test]
#[should_panic]
fn loom_mutant_unlocking_before_entering_the_queue_is_found() {
    producer_and_consumer::<QueueMutant<UNLOCK_THEN_ENTER>>();
}

#[test]
#[should_panic]
fn loom_mutant_lost_wake_up_of_a_dropped_waiter_is_found() {
    producer_and_consumer::<QueueMutant<WAKE_UP_LOST>>();
}
