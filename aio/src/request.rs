//! The table of requests that somebody waits for, or has stopped waiting for, and the future over one.
//!
//! A slot is taken when a request is submitted and freed only when its completion has arrived:
//!
//! ```text
//!   submit -> Waiting --complete--> Done --polled--> (free)
//!                |
//!             dropped -> Orphan --complete--> (free)
//! ```
//!
//! What the request owns lives with whoever runs it (the backend or a worker), never here, so an
//! orphan's buffer and descriptor are dropped when the kernel is done with them and not before.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use slab::Slab;

use crate::{
    context::AioContext,
    op::{Completion, Key, Op, Value},
};

#[derive(Debug)]
enum State {
    Waiting(Option<Waker>),
    Done(Op, Result<Value, i32>),
    Orphan,
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    state: State,
}

/// All requests of a context between submission and the end of interest in them.
#[derive(Debug, Default)]
pub(crate) struct RequestTable {
    entries: Slab<Entry>,
    generation: u32,
    in_flight: usize,
    orphaned: u64,
}

impl RequestTable {
    /// Takes a slot for a request about to be submitted.
    fn insert(&mut self) -> Key {
        // Thirty-two bits of generation pass through the kernel; zero is left out so that a key is never zero.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        let entry = Entry {
            generation: self.generation,
            state: State::Waiting(None),
        };
        let index = u32::try_from(self.entries.insert(entry))
            .expect("in-flight requests are bounded by memory");
        self.in_flight += 1;
        Key {
            index,
            generation: self.generation,
        }
    }

    /// Requests submitted and not completed.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Requests whose future was dropped before they completed, ever.
    pub(crate) fn orphaned(&self) -> u64 {
        self.orphaned
    }

    fn entry(&mut self, key: Key) -> &mut Entry {
        let entry = self
            .entries
            .get_mut(key.at())
            .filter(|entry| entry.generation == key.generation);
        entry.expect("a request keeps its slot until it has completed")
    }

    /// Takes a completion in; returns who is to be woken, and what is to be dropped outside of any borrow.
    pub(crate) fn complete(
        &mut self,
        completion: Completion,
    ) -> (Option<Waker>, Option<Completion>) {
        self.in_flight -= 1;
        let entry = self.entry(completion.key);
        match &mut entry.state {
            State::Waiting(waker) => {
                let waker = waker.take();
                entry.state = State::Done(completion.op, completion.result);
                (waker, None)
            }
            State::Orphan => {
                self.entries.remove(completion.key.at());
                (None, Some(completion))
            }
            State::Done(..) => unreachable!("the request of {:?} completes once", completion.key),
        }
    }
}

/// The future of one submitted request.
///
/// Dropping it abandons the result: the request goes on, what it owns stays with whoever runs it,
/// and cancellation is asked for where the kernel can cancel.
#[derive(Debug)]
pub(crate) struct Request {
    context: AioContext,
    key: Option<Key>,
}

impl Request {
    /// Submits `op` on `context`.
    pub(crate) fn submit(context: &AioContext, op: Op) -> Self {
        let key = context.requests().borrow_mut().insert();
        context.start(key, op);
        Self {
            context: context.clone(),
            key: Some(key),
        }
    }
}

impl Future for Request {
    type Output = (Op, Result<Value, i32>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let key = self
            .key
            .expect("a request is not polled after it was ready");
        {
            let mut requests = self.context.requests().borrow_mut();
            if let State::Waiting(waker) = &mut requests.entry(key).state {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                return Poll::Pending;
            }
        }
        let entry = self
            .context
            .requests()
            .borrow_mut()
            .entries
            .remove(key.at());
        self.key = None;
        match entry.state {
            State::Done(op, result) => Poll::Ready((op, result)),
            State::Waiting(_) | State::Orphan => {
                unreachable!("a request with a future is waiting or done")
            }
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let mut requests = self.context.requests().borrow_mut();
        let entry = requests.entry(key);
        if matches!(entry.state, State::Done(..)) {
            let entry = requests.entries.remove(key.at());
            // Dropping a result may close a descriptor or give back a buffer: not under the borrow.
            drop(requests);
            drop(entry);
            return;
        }
        entry.state = State::Orphan;
        requests.orphaned += 1;
        drop(requests);
        self.context.cancel(key);
    }
}
