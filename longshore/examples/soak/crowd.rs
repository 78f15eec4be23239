//! What guests and the conductor of a round share: when to go on, and the order of things.

use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// The guests of one round.
pub(crate) struct Crowd {
    ticks: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    wish: Wish,
    /// Guests that may have a request in flight.
    busy: usize,
    has_lost_one: bool,
    requests: usize,
    /// Number of requests that somebody waits for.
    awaited: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    GoOn,
    HoldStill,
    Stop,
}

impl Crowd {
    pub(crate) fn new(guests: usize) -> Self {
        Self {
            ticks: AtomicU64::new(0),
            state: Mutex::new(State {
                wish: Wish::GoOn,
                busy: guests,
                has_lost_one: false,
                requests: 0,
                awaited: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// The number of this moment; greater than that of all that have been.
    pub(crate) fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    /// A guest asks this between two requests: waits while guests are to hold still, and tells whether to go on.
    pub(crate) fn goes_on(&self) -> bool {
        let mut state = self.lock();
        state.requests += 1;
        if state.wish == Wish::HoldStill {
            state.busy -= 1;
            self.changed.notify_all();
            state = self
                .changed
                .wait_while(state, |state| state.wish == Wish::HoldStill)
                .unwrap_or_else(PoisonError::into_inner);
            state.busy += 1;
        }
        if state.requests == state.awaited {
            self.changed.notify_all();
        }
        state.wish != Wish::Stop
    }

    /// A guest is done, or has failed.
    pub(crate) fn leave(&self) {
        let mut state = self.lock();
        state.busy -= 1;
        state.has_lost_one = true;
        self.changed.notify_all();
    }

    /// Waits until the guests have made `count` more requests.
    pub(crate) fn wait_requests(&self, count: usize) {
        let mut state = self.lock();
        state.awaited = state.requests + count;
        let waits = |state: &mut State| state.requests < state.awaited && !state.has_lost_one;
        drop(self.changed.wait_while(state, waits));
    }

    /// Waits until no guest has a request in flight, and keeps it so.
    pub(crate) fn hold(&self) {
        let mut state = self.lock();
        state.wish = Wish::HoldStill;
        drop(self.changed.wait_while(state, |state| state.busy > 0));
    }

    pub(crate) fn go_on(&self) {
        self.wish(Wish::GoOn);
    }

    pub(crate) fn stop(&self) {
        self.wish(Wish::Stop);
    }

    fn wish(&self, wish: Wish) {
        self.lock().wish = wish;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
