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

mod table;

use std::{
    fmt,
    future::Future,
    io,
    mem::{self, ManuallyDrop},
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{
    backend::{Backend, BackendKind, BackendStats, Closed, Events, Submitted, Wait},
    context::AioContext,
    fd::Fd,
    op::{Completion, Key, Op, Outcome, WatchKey},
    sys::ForkMark,
};

use table::State;
pub(crate) use table::{Ended, Place, RequestTable, Slot};

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
    #[inline]
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
    #[inline]
    fn poll(&mut self, key: Key, cx: &Context<'_>) -> Poll<(Op, Outcome)> {
        if let State::Waiting(waker) = &mut self.table.slot(key).state {
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        Poll::Ready(self.table.take_done(key))
    }

    /// Nobody waits for the request of `key` any more. What comes back is dropped outside of any borrow.
    fn abandon(&mut self, key: Key) -> (Option<Op>, Option<State>) {
        if self.fork.is_in_child() {
            return (None, None);
        }
        let slot = self.table.slot(key);
        let is_done = matches!(slot.state, State::Done(_));
        let state = mem::replace(&mut slot.state, State::Orphan);
        match &mut self.backend {
            Some(backend) if !is_done => {
                if !matches!(slot.place, Place::Worker | Place::Ended) {
                    backend.cancel(key, slot);
                }
                self.table.orphaned += 1;
                (None, Some(state))
            }
            Some(_) | None => (self.table.remove(key), Some(state)),
        }
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

/// The future of one submitted request: `finish` makes its output of what comes back.
///
/// Dropping it abandons the result: the request goes on, what it owns stays in its slot, and
/// cancellation is asked for where the kernel can cancel.
#[derive(Debug)]
pub(crate) struct Request<'a, F> {
    context: &'a AioContext,
    key: Option<Key>,
    finish: F,
}

impl<'a, F, T> Request<'a, F>
where
    F: Fn(Op, Outcome) -> T + Unpin,
{
    /// Submits `op` on `context`.
    #[inline]
    pub(crate) fn submit(context: &'a AioContext, op: Op, finish: F) -> Self {
        let (key, work) = context.requests().borrow_mut().submit(op);
        if let Some(op) = work {
            context.start_on_worker(key, op);
        }
        context.inner().shared().touched();
        Self {
            context,
            key: Some(key),
            finish,
        }
    }
}

impl<F, T> Future for Request<'_, F>
where
    F: Fn(Op, Outcome) -> T + Unpin,
{
    type Output = T;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let key = self
            .key
            .expect("a request is not polled after it was ready");
        let polled = self.context.requests().borrow_mut().poll(key, cx);
        let Poll::Ready((op, result)) = polled else {
            return Poll::Pending;
        };
        self.key = None;
        Poll::Ready((self.finish)(op, result))
    }
}

impl<F> Drop for Request<'_, F> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let gone = self.context.requests().borrow_mut().abandon(key);
        // A cancellation waits for the next turn.
        self.context.inner().shared().touched();
        // Dropping a result may close a descriptor or give back a buffer: not under the borrow.
        drop(gone);
    }
}
