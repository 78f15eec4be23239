//! Who works on what: the queue of a thread pool, its workers, and what they have finished.
//!
//! The queue is first in, first out. When there is work, one worker is *called*: an idle one is
//! woken (the one that went idle last, whose memory is warm), or a new one is started. It takes
//! one item, and calls the next if it sees more. So a batch costs its submitter one wake-up, the
//! pool grows only as fast as its workers come to life, and no item waits behind a slow one.
//!
//! ```text
//!   next: Started, Finished, Woken, Waited
//!     more than max          -> leave
//!     work in the queue      -> take it; call the next worker if there is more
//!     closing                -> leave
//!     waited, more than min  -> leave
//!     else                   -> rest, in the list of the idle
//! ```
//!
//! What is finished goes into a list in the same critical section that takes the next item. Only
//! who finds that list empty leaves word for the home thread, after the result is in the list.

use std::{collections::VecDeque, mem, sync::PoisonError};

use crate::sync::{Mutex, MutexGuard};

/// How many workers there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// So many stay when there is nothing to do.
    pub(super) min: usize,
    pub(super) max: usize,
}

/// Why a worker asks what to do.
#[derive(Debug)]
pub(super) enum Came<D> {
    /// It is new.
    Started,
    /// It has finished an item.
    Finished(D),
    /// Something ended its rest.
    Woken,
    /// Nobody called it for so long that it may leave.
    Waited,
}

/// What a worker does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<W> {
    Work(W),
    /// Rest until woken.
    Rest,
    /// Rest until woken, for a while: the worker is one more than must stay.
    RestAWhile,
    Leave,
}

/// How a further worker comes to help.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call<P> {
    Wake(P),
    /// It counts already; [`Crew::start_failed`] takes that back.
    Start,
}

/// The answer to a worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step<W, P> {
    /// The home thread is to be told that something is finished.
    pub(super) tell: bool,
    pub(super) call: Option<Call<P>>,
    pub(super) next: Next<W>,
}

/// A queue of items `W` with workers that turn them into `D`; by `P` an idle worker is woken.
#[derive(Debug)]
pub(super) struct Crew<W, D, P>(Mutex<State<W, D, P>>);

#[derive(Debug)]
struct State<W, D, P> {
    /// `None` is an item that was taken back.
    queue: VecDeque<Option<W>>,
    /// The ticket of the first item in the queue: how many have left it at its head, ever.
    head: u64,
    done: Vec<D>,
    /// The last one has the shortest rest behind it.
    idle: Vec<P>,
    alive: usize,
    /// A worker was called and has not come yet. It will call the next.
    called: bool,
    limits: Limits,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was submitted yet: there are no workers, whatever the limits say.
    Unused,
    Open,
    Closing,
}

impl<W, D, P: PartialEq> Crew<W, D, P> {
    pub(super) fn new(limits: Limits) -> Self {
        Self(Mutex::new(State {
            queue: VecDeque::new(),
            head: 0,
            done: Vec::new(),
            idle: Vec::new(),
            alive: 0,
            called: false,
            limits,
            phase: Phase::Unused,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State<W, D, P>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `items`. Returns the ticket of the last one, and whom to call.
    pub(super) fn submit(&self, items: impl Iterator<Item = W>) -> (u64, Option<Call<P>>) {
        let mut state = self.lock();
        state.queue.extend(items.map(Some));
        if state.phase == Phase::Unused {
            state.phase = Phase::Open;
        }
        let end = state.head + queue_len(&state.queue);
        (end.saturating_sub(1), state.call())
    }

    /// What the worker `me` does next.
    pub(super) fn next(&self, me: &P, came: Came<D>) -> Step<W, P>
    where
        P: Clone,
    {
        let mut state = self.lock();
        let waited = matches!(came, Came::Waited);
        let mut tell = false;
        match came {
            Came::Started => state.called = false,
            Came::Finished(done) => tell = state.finish(done),
            Came::Woken | Came::Waited => state.end_rest(me),
        }
        let next = match state.next() {
            Next::RestAWhile if waited => Next::Leave,
            next => next,
        };
        match next {
            Next::Rest | Next::RestAWhile => state.idle.push(me.clone()),
            Next::Leave => state.alive -= 1,
            Next::Work(_) => {}
        }
        let call = state.call();
        Step { tell, call, next }
    }

    /// Takes an item back that no worker has taken: what `end` makes of it counts as finished.
    ///
    /// Returns `None` when it is too late, else whether the home thread is to be told.
    pub(super) fn cancel(&self, ticket: u64, end: impl FnOnce(W) -> D) -> Option<bool> {
        let mut state = self.lock();
        let at = usize::try_from(ticket.checked_sub(state.head)?).ok()?;
        let item = state.queue.get_mut(at)?.take()?;
        state.drop_cancelled();
        Some(state.finish(end(item)))
    }

    /// Moves what is finished to `done`.
    pub(super) fn take_done(&self, done: &mut VecDeque<D>) {
        done.extend(self.lock().done.drain(..));
    }

    /// The worker that was to be started could not be. If it would have been the only one, what it
    /// would have done is to be taken by [`Self::take_stranded`].
    pub(super) fn start_failed(&self) {
        let mut state = self.lock();
        state.alive -= 1;
        state.called = false;
    }

    /// An item that no worker will take, because there is none.
    pub(super) fn take_stranded(&self) -> Option<W> {
        let mut state = self.lock();
        if state.alive > 0 {
            return None;
        }
        state.take()
    }

    /// Notes what came of an item; returns whether the home thread is to be told.
    pub(super) fn finish(&self, done: D) -> bool {
        self.lock().finish(done)
    }

    /// Whom to call to have as many workers as the limits and the queue want, one at a time.
    pub(super) fn grow(&self) -> Option<Call<P>> {
        let mut state = self.lock();
        if state.phase == Phase::Open && state.alive < state.limits.min {
            state.alive += 1;
            return Some(Call::Start);
        }
        state.call()
    }

    /// Sets new limits. Returns the idle workers, all of which are to be woken to learn of them.
    pub(super) fn set_limits(&self, limits: Limits) -> Vec<P> {
        let mut state = self.lock();
        state.limits = limits;
        mem::take(&mut state.idle)
    }

    /// Has the workers leave once the queue is empty. Returns the idle ones, to be woken.
    pub(super) fn close(&self) -> Vec<P> {
        let mut state = self.lock();
        state.phase = Phase::Closing;
        mem::take(&mut state.idle)
    }

    /// Workers, and items in the queue.
    pub(super) fn count(&self) -> (usize, usize) {
        let state = self.lock();
        (state.alive, state.queue.iter().flatten().count())
    }
}

impl<W, D, P: PartialEq> State<W, D, P> {
    /// Calls one more worker if there is work, and none is on its way already.
    fn call(&mut self) -> Option<Call<P>> {
        if self.queue.is_empty() || self.called {
            return None;
        }
        let call = match self.idle.pop() {
            Some(idle) => Call::Wake(idle),
            None if self.alive < self.limits.max => {
                self.alive += 1;
                Call::Start
            }
            None => return None,
        };
        self.called = true;
        Some(call)
    }

    /// A worker is back. Whoever is not in the list of the idle was taken from it to be called.
    fn end_rest(&mut self, me: &P) {
        match self.idle.iter().rposition(|idle| idle == me) {
            Some(at) => drop(self.idle.remove(at)),
            None => self.called = false,
        }
    }

    fn next(&mut self) -> Next<W> {
        let Limits { min, max } = self.limits;
        if self.alive > max {
            return Next::Leave;
        }
        match self.take() {
            Some(item) => Next::Work(item),
            None if self.phase == Phase::Closing => Next::Leave,
            None if self.alive <= min => Next::Rest,
            None => Next::RestAWhile,
        }
    }

    fn take(&mut self) -> Option<W> {
        let item = self.queue.pop_front()?;
        self.head += 1;
        self.drop_cancelled();
        item
    }

    /// Keeps an item that is still wanted at the head of the queue, unless it is empty.
    fn drop_cancelled(&mut self) {
        while let Some(None) = self.queue.front() {
            self.queue.pop_front();
            self.head += 1;
        }
    }

    fn finish(&mut self, done: D) -> bool {
        self.done.push(done);
        self.done.len() == 1
    }
}

fn queue_len<T>(queue: &VecDeque<T>) -> u64 {
    u64::try_from(queue.len()).expect("a queue fits into memory")
}
