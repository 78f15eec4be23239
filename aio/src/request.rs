//! The requests of a context: the table that owns what they own, and the future over one.
//!
//! A slot is taken when a request is submitted and freed only when its completion has arrived:
//!
//! ```text
//!   submit -> Waiting --complete--> Done --polled--> (free)
//!                |
//!             dropped -> Orphan --complete--> (free)
//! ```
//!
//! The slot owns the operation, and with it all that the kernel may touch, from submission to
//! completion: an orphan's buffer and descriptor are dropped when the kernel is done with them and
//! not before. A worker that runs an operation takes it out of its slot and brings it back.

use std::{
    fmt,
    future::Future,
    io,
    mem::{self, ManuallyDrop},
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use slab::Slab;

use crate::{
    backend::{Backend, BackendKind, BackendStats, Closed, Events, Submitted, Wait},
    context::AioContext,
    fd::Fd,
    op::{Completion, Key, Op, Outcome, WatchKey},
    sys::ForkMark,
};

/// Who waits for a request.
#[derive(Debug)]
enum State {
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

/// One request.
#[derive(Debug)]
pub(crate) struct Slot {
    generation: u32,
    pub(crate) place: Place,
    state: State,
    /// The place of its file in the ring's table, while the kernel goes by that.
    pub(crate) fixed_file: Option<u16>,
    /// Absent while a worker runs it.
    op: Option<Op>,
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
#[derive(Debug, Default)]
pub(crate) struct RequestTable {
    slots: Slab<Slot>,
    generation: u32,
    in_flight: usize,
    orphaned: u64,
}

impl RequestTable {
    /// Takes a slot for a request about to be submitted.
    fn insert(&mut self, op: Op) -> Key {
        self.generation = Key::next_generation(self.generation);
        let slot = Slot {
            generation: self.generation,
            place: Place::Queued,
            state: State::Waiting(None),
            fixed_file: None,
            op: Some(op),
        };
        let index = u32::try_from(self.slots.insert(slot))
            .expect("in-flight requests are bounded by memory");
        self.in_flight += 1;
        Key {
            index,
            generation: self.generation,
        }
    }

    /// The request of `key`, if it has not ended.
    pub(crate) fn in_flight(&mut self, key: Key) -> Option<&mut Slot> {
        self.slots
            .get_mut(key.at())
            .filter(|slot| slot.generation == key.generation && slot.place != Place::Ended)
    }

    fn slot(&mut self, key: Key) -> &mut Slot {
        let slot = self
            .slots
            .get_mut(key.at())
            .filter(|slot| slot.generation == key.generation);
        slot.expect("a request keeps its slot until it has completed and nobody waits for it")
    }

    /// Takes a completion in.
    fn complete(&mut self, key: Key, result: Outcome) -> Ended {
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
            State::Orphan => Ended::Unwanted(self.slots.remove(key.at()), result),
            State::Done(_) => unreachable!("the request of {key:?} completes once"),
        };
        self.in_flight -= 1;
        ended
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
        #[expect(dead_code, reason = "dropped where a drop may run anybody's code")] Slot,
        #[expect(dead_code, reason = "dropped where a drop may run anybody's code")] Outcome,
    ),
    /// It did not end: a worker must run it.
    Again(Key, Op),
}

/// A context's requests and the backend that runs them.
///
/// They live and die together: while the backend may work on an operation its slot stays, and
/// dropping this value waits until the kernel is done.
pub(crate) struct Requests {
    table: RequestTable,
    /// Absent once closed.
    backend: Option<Box<dyn Backend>>,
    /// A forked child has neither the ring nor the threads of its parent: there, everything is left as it is.
    fork: ForkMark,
}

impl Requests {
    pub(crate) fn new(backend: Box<dyn Backend>) -> Self {
        Self {
            table: RequestTable::default(),
            backend: Some(backend),
            fork: ForkMark::new(),
        }
    }

    /// Whether this is a forked child's copy, with which nothing can be done any more. One load.
    pub(crate) fn is_in_child(&self) -> bool {
        self.fork.is_in_child()
    }

    fn backend(&self) -> &dyn Backend {
        let backend = self.backend.as_ref();
        backend.expect("a closed context is not used").as_ref()
    }

    fn backend_mut(&mut self) -> &mut dyn Backend {
        self.parts().0
    }

    /// The backend, and the table for it to work with.
    fn parts(&mut self) -> (&mut dyn Backend, &mut RequestTable) {
        assert!(
            !self.fork.is_in_child(),
            "a context is not used in a forked child"
        );
        let backend = self.backend.as_mut();
        let backend = backend.expect("a closed context is not used");
        (backend.as_mut(), &mut self.table)
    }

    pub(crate) fn kind(&self) -> BackendKind {
        self.backend().kind()
    }

    pub(crate) fn describe(&self) -> String {
        self.backend().describe()
    }

    /// What the backend has counted; nothing once closed.
    pub(crate) fn backend_stats(&self) -> BackendStats {
        let backend = self.backend.as_ref();
        backend.map_or_else(BackendStats::default, |backend| backend.stats())
    }

    /// Requests submitted and not completed.
    pub(crate) fn in_flight(&self) -> usize {
        self.table.in_flight
    }

    /// Requests whose future was dropped before they completed, ever.
    pub(crate) fn orphaned(&self) -> u64 {
        self.table.orphaned
    }

    /// Starts an operation. If it comes back, a worker must run it: see [`Self::complete_work`].
    fn submit(&mut self, op: Op) -> (Key, Option<Op>) {
        let (backend, table) = self.parts();
        let key = table.insert(op);
        let slot = table.slot(key);
        match backend.submit(key, slot) {
            Submitted::Taken => (key, None),
            Submitted::ForWorker => {
                slot.place = Place::Worker;
                (key, slot.op.take())
            }
        }
    }

    /// Takes in what [`Self::wait`] brought.
    pub(crate) fn complete(&mut self, key: Key, result: Outcome) -> Ended {
        self.table.complete(key, result)
    }

    /// Takes in what a worker has run.
    pub(crate) fn complete_work(&mut self, completion: Completion) -> Ended {
        let Completion { key, op, result } = completion;
        self.table.slot(key).op = Some(op);
        self.table.complete(key, result)
    }

    /// As [`Backend::register_file`].
    pub(crate) fn register_file(&mut self, fd: &Fd) -> Option<u16> {
        self.backend_mut().register_file(fd)
    }

    /// As [`Backend::unregister_file`]; nothing once closed.
    pub(crate) fn unregister_file(&mut self, fd: &Fd, place: u16) {
        if let Some(backend) = &mut self.backend
            && !self.fork.is_in_child()
        {
            backend.unregister_file(fd, place);
        }
    }

    /// As [`Backend::set_max_batch`].
    pub(crate) fn set_max_batch(&mut self, requests: u32) {
        self.backend_mut().set_max_batch(requests);
    }

    /// As [`Backend::watch`].
    pub(crate) fn watch(&mut self, fd: &Fd, events: i16) -> io::Result<WatchKey> {
        self.backend_mut().watch(fd, events)
    }

    /// As [`Backend::unwatch`]; nothing once closed.
    pub(crate) fn unwatch(&mut self, key: WatchKey) {
        if let Some(backend) = &mut self.backend
            && !self.fork.is_in_child()
        {
            backend.unwatch(key);
        }
    }

    /// As [`Backend::recheck`].
    pub(crate) fn recheck(&mut self, key: WatchKey) {
        self.backend_mut().recheck(key);
    }

    /// As [`Backend::foreign_fd`].
    pub(crate) fn foreign_fd(&mut self) -> io::Result<OwnedFd> {
        self.backend_mut().foreign_fd()
    }

    /// As [`Backend::has_news`].
    pub(crate) fn has_news(&mut self) -> bool {
        self.backend_mut().has_news()
    }

    /// As [`Backend::wait`]; returns whether it may have brought anything.
    pub(crate) fn wait(&mut self, wait: Wait, events: &mut Events) -> bool {
        let (backend, table) = self.parts();
        if wait == Wait::No && !backend.is_busy() {
            return false;
        }
        backend.wait(wait, table, events);
        true
    }

    /// Looks whether the request of `key` is done; then it is gone, and what it owned comes back.
    fn poll(&mut self, key: Key, cx: &Context<'_>) -> Poll<(Op, Outcome)> {
        if let State::Waiting(waker) = &mut self.table.slot(key).state {
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        match self.table.slots.remove(key.at()) {
            Slot {
                state: State::Done(result),
                op: Some(op),
                ..
            } => Poll::Ready((op, result)),
            slot => unreachable!("a request with a future is waiting or done, not {slot:?}"),
        }
    }

    /// Nobody waits for the request of `key` any more. What comes back is dropped outside of any borrow.
    fn abandon(&mut self, key: Key) -> Option<Slot> {
        if self.fork.is_in_child() {
            return None;
        }
        let slot = self.table.slot(key);
        let Some(backend) = &mut self.backend else {
            return Some(self.table.slots.remove(key.at()));
        };
        if matches!(slot.state, State::Done(_)) {
            return Some(self.table.slots.remove(key.at()));
        }
        slot.state = State::Orphan;
        if !matches!(slot.place, Place::Worker | Place::Ended) {
            backend.cancel(key, slot);
        }
        self.table.orphaned += 1;
        None
    }

    /// Waits until the kernel is done with every operation. Nothing can be submitted any more.
    ///
    /// Brings what that ends. If the kernel does not finish, what it may still write to is leaked.
    pub(crate) fn close(&mut self) -> Vec<Ended> {
        let Some(mut backend) = self.backend.take() else {
            return Vec::new();
        };
        let mut events = Events::default();
        let closed = if self.fork.is_in_child() {
            Closed::Stuck
        } else {
            backend.close(&mut self.table, &mut events)
        };
        if closed == Closed::Stuck {
            let _kept = ManuallyDrop::new((backend, mem::take(&mut self.table)));
            return Vec::new();
        }
        // Nobody is left to try again what the kernel would not wait for.
        let last = |result| match result {
            Err(libc::EAGAIN) => Err(libc::ECANCELED),
            result => result,
        };
        let ended = events.completions.into_iter();
        ended
            .map(|(key, result)| self.table.complete(key, last(result)))
            .collect()
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        drop(self.close());
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests")
            .field("in_flight", &self.table.in_flight)
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

/// The future of one submitted request.
///
/// Dropping it abandons the result: the request goes on, what it owns stays in its slot, and
/// cancellation is asked for where the kernel can cancel.
#[derive(Debug)]
pub(crate) struct Request {
    context: AioContext,
    key: Option<Key>,
}

impl Request {
    /// Submits `op` on `context`.
    pub(crate) fn submit(context: &AioContext, op: Op) -> Self {
        let (key, work) = context.requests().borrow_mut().submit(op);
        if let Some(op) = work {
            context.start_on_worker(key, op);
        }
        context.touched();
        Self {
            context: context.clone(),
            key: Some(key),
        }
    }
}

impl Future for Request {
    type Output = (Op, Outcome);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let key = self
            .key
            .expect("a request is not polled after it was ready");
        let polled = self.context.requests().borrow_mut().poll(key, cx);
        if polled.is_ready() {
            self.key = None;
        }
        polled
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let gone = self.context.requests().borrow_mut().abandon(key);
        // Dropping a result may close a descriptor or give back a buffer: not under the borrow.
        drop(gone);
    }
}
