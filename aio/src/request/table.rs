//! The table of requests: who owns what, from submission to completion.

use std::{mem, task::Waker};

use crate::op::{Key, Op, Outcome};

/// Who waits for a request.
#[derive(Debug)]
pub(super) enum State {
    Waiting(Option<Waker>),
    Done(Outcome),
    Orphan,
}

/// Where an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// With the backend, which has not begun it or tries it again.
    Queued,
    /// In the kernel.
    Kernel,
    /// With the backend, which is to have the kernel wait until it is worth another try.
    ToPoll,
    /// The kernel waits until it is worth another try.
    Polled,
    /// With a worker.
    Worker,
    /// It has ended; its completion is on the way, or was taken.
    Ended,
}

/// One request, or a slot without one.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Zero while the slot is free.
    generation: u32,
    pub(crate) place: Place,
    pub(super) state: State,
    /// The place of its file in the ring's table, while the kernel goes by that.
    pub(crate) fixed_file: Option<u16>,
    /// Absent while a worker runs it.
    pub(super) op: Option<Op>,
}

impl Slot {
    /// The operation, which no worker has.
    pub(crate) fn op(&mut self) -> &mut Op {
        self.op
            .as_mut()
            .expect("only a worker takes an operation out")
    }

    /// Whether nobody waits for the result any more.
    pub(crate) fn is_orphan(&self) -> bool {
        matches!(self.state, State::Orphan)
    }
}

/// All requests between submission and the end of interest in them.
///
/// A slot's operation is written there once and taken out once.
#[derive(Debug, Default)]
pub(crate) struct RequestTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    generation: u32,
    pub(super) in_flight: usize,
    pub(super) orphaned: u64,
}

impl RequestTable {
    /// Takes a slot for a request about to be submitted.
    #[inline]
    pub(super) fn insert(&mut self, op: Op) -> Key {
        self.generation = Key::next_generation(self.generation);
        let generation = self.generation;
        self.in_flight += 1;
        if let Some(index) = self.free.pop() {
            let key = Key { index, generation };
            let slot = &mut self.slots[key.at()];
            slot.generation = generation;
            slot.place = Place::Queued;
            slot.state = State::Waiting(None);
            slot.op = Some(op);
            return key;
        }
        let index = u32::try_from(self.slots.len());
        self.slots.push(Slot {
            generation,
            place: Place::Queued,
            state: State::Waiting(None),
            fixed_file: None,
            op: Some(op),
        });
        let index = index.expect("in-flight requests are bounded by memory");
        Key { index, generation }
    }

    /// Frees a slot; the operation comes back.
    #[inline]
    pub(super) fn remove(&mut self, key: Key) -> Option<Op> {
        let slot = &mut self.slots[key.at()];
        slot.generation = 0;
        self.free.push(key.index);
        slot.op.take()
    }

    /// The request of `key`, if it has not ended.
    #[inline]
    pub(crate) fn in_flight(&mut self, key: Key) -> Option<&mut Slot> {
        self.slots
            .get_mut(key.at())
            .filter(|slot| slot.generation == key.generation && slot.place != Place::Ended)
    }

    #[inline]
    pub(super) fn slot(&mut self, key: Key) -> &mut Slot {
        let slot = self
            .slots
            .get_mut(key.at())
            .filter(|slot| slot.generation == key.generation);
        slot.expect("a request keeps its slot until it has completed and nobody waits for it")
    }

    /// Takes a completion in.
    pub(super) fn complete(&mut self, key: Key, result: Outcome) -> Ended {
        let slot = self.slot(key);
        if matches!(result, Err(libc::EAGAIN)) && !slot.is_orphan() && slot.op().waits_for() == 0 {
            // The kernel will not wait for this file; a thread of ours can.
            slot.place = Place::Worker;
            let op = slot.op.take();
            return Ended::Again(key, op.expect("the operation was just looked at"));
        }
        slot.place = Place::Ended;
        let ended = match &mut slot.state {
            State::Waiting(waker) => {
                let waker = waker.take();
                slot.state = State::Done(result);
                Ended::Wake(waker)
            }
            State::Orphan => Ended::Unwanted(self.remove(key), result),
            State::Done(_) => unreachable!("the request of {key:?} completes once"),
        };
        self.in_flight -= 1;
        ended
    }

    /// Takes the result, and what the request owned, of a request that somebody waits for and that
    /// is done; the slot is free then.
    #[inline]
    pub(super) fn take_done(&mut self, key: Key) -> (Op, Outcome) {
        let state = mem::replace(&mut self.slot(key).state, State::Orphan);
        match (state, self.remove(key)) {
            (State::Done(result), Some(op)) => (op, result),
            other => unreachable!("a request with a future is waiting or done, not {other:?}"),
        }
    }
}

/// What the end of an operation leads to, outside of any borrow.
#[derive(Debug)]
#[must_use = "somebody waits for the result"]
pub(crate) enum Ended {
    /// Whoever waits is to be woken.
    Wake(Option<Waker>),
    /// Nobody waits: what the request owned, and its result, are to be dropped.
    Unwanted(
        #[expect(dead_code, reason = "dropped where a drop may run anybody's code")] Option<Op>,
        #[expect(dead_code, reason = "dropped where a drop may run anybody's code")] Outcome,
    ),
    /// It did not end: a worker must run it.
    Again(Key, Op),
}
