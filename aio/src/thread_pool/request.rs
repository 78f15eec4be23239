//! One piece of work that somebody waits for, from submission to its result.
//!
//! ```text
//!   submit -> Queued --worker--> Running --worker--> Ran --home--> Ended --polled--> Taken
//!                |                                                  ^
//!                +--------------------cancel, then home-------------+
//! ```
//!
//! A worker leaves the result in `Ran` before the home thread is told; only the home thread makes
//! it visible to who waits, so a result, like a cancellation, arrives in a turn of the loop.

use std::{
    any::Any,
    fmt,
    future::Future,
    mem,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker},
};

use crate::{
    shared::Shared,
    sync::{Mutex, MutexGuard},
    thread_pool::Done,
};

/// The work was cancelled before a worker had taken it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work was cancelled before a thread had begun it")]
pub struct Cancelled;

/// A piece of work as workers and the home thread see it.
pub(super) trait Job: Send + Sync {
    /// Does the work, on the calling thread.
    fn run(&self);

    /// Makes the result visible; without one, the work was cancelled. The caller wakes who waits.
    fn end(&self) -> Option<Waker>;
}

/// A piece of work as who waits for it sees it.
trait Outcome<T>: Send + Sync {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<T, Cancelled>>;
}

/// What the work left behind: its value, or the panic that ended it.
type Left<T> = Result<T, Box<dyn Any + Send>>;

enum Stage<T, F> {
    Queued(F),
    Running,
    Ran(Left<T>),
    Ended(Result<Left<T>, Cancelled>),
    Taken,
}

struct State<T, F> {
    stage: Stage<T, F>,
    waker: Option<Waker>,
}

struct Shape<T, F>(Mutex<State<T, F>>);

impl<T, F> Shape<T, F> {
    fn lock(&self) -> MutexGuard<'_, State<T, F>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send, F: FnOnce() -> T + Send> Job for Shape<T, F> {
    fn run(&self) {
        let stage = mem::replace(&mut self.lock().stage, Stage::Running);
        let Stage::Queued(work) = stage else {
            unreachable!("work is taken from the queue once")
        };
        // A panic belongs to who waits for the result, and not to the worker.
        let left = panic::catch_unwind(AssertUnwindSafe(work));
        self.lock().stage = Stage::Ran(left);
    }

    fn end(&self) -> Option<Waker> {
        let mut state = self.lock();
        let (stage, unused) = match mem::replace(&mut state.stage, Stage::Taken) {
            Stage::Ran(left) => (Stage::Ended(Ok(left)), None),
            Stage::Queued(work) => (Stage::Ended(Err(Cancelled)), Some(work)),
            Stage::Running | Stage::Ended(_) | Stage::Taken => {
                unreachable!("work ends once, after it ran or instead")
            }
        };
        state.stage = stage;
        let waker = state.waker.take();
        drop(state);
        drop(unused);
        waker
    }
}

impl<T: Send, F: Send> Outcome<T> for Shape<T, F> {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<T, Cancelled>> {
        let mut state = self.lock();
        if !matches!(state.stage, Stage::Ended(_) | Stage::Taken) {
            let before = state.waker.replace(cx.waker().clone());
            drop(state);
            drop(before);
            return Poll::Pending;
        }
        let stage = mem::replace(&mut state.stage, Stage::Taken);
        drop(state);
        match stage {
            Stage::Ended(Ok(Ok(value))) => Poll::Ready(Ok(value)),
            Stage::Ended(Ok(Err(panicked))) => panic::resume_unwind(panicked),
            Stage::Ended(Err(cancelled)) => Poll::Ready(Err(cancelled)),
            Stage::Queued(_) | Stage::Running | Stage::Ran(_) | Stage::Taken => {
                unreachable!("the result of work is taken once")
            }
        }
    }
}

/// Makes `work` a job for the queue, and what waits for it.
pub(super) fn job<T, F>(work: F) -> (Arc<dyn Job>, Waiter<T>)
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let shape = Arc::new(Shape(Mutex::new(State {
        stage: Stage::Queued(work),
        waker: None,
    })));
    (shape.clone(), Waiter(shape))
}

/// The side of a job that waits.
pub(super) struct Waiter<T>(Arc<dyn Outcome<T>>);

impl<T> Waiter<T> {
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<T, Cancelled>> {
        self.0.poll(cx)
    }
}

/// The result of work in a thread pool, once it has one; made by
/// [`ThreadPool::submit`](super::ThreadPool::submit).
///
/// It may be awaited on any thread; the result becomes visible in a turn of the pool's context.
/// Dropping it detaches the work, which is done all the same, and its result dropped.
///
/// # Panics
///
/// Polling it panics with the work's own panic if there was one. It is never ready once its context
/// was closed before the result had arrived.
#[must_use = "dropped, the work runs on unobserved"]
pub struct PoolRequest<T> {
    pub(super) waiter: Waiter<T>,
    pub(super) ticket: u64,
    pub(super) context: Arc<Shared>,
}

impl<T> PoolRequest<T> {
    /// Takes the work back if no worker has begun it. Returns whether it did.
    ///
    /// The future still has to be awaited, and gives [`Cancelled`] in a later turn of the pool's
    /// context; the work itself is dropped there. Otherwise this changes nothing: work that has
    /// begun goes on to its end, and the future gives its result. Any thread.
    pub fn cancel(&self) -> bool {
        let tell = self.context.thread_pool.crew.cancel(self.ticket, Done::of);
        if tell == Some(true) {
            self.context.post_worked();
        }
        tell.is_some()
    }
}

impl<T> Future for PoolRequest<T> {
    type Output = Result<T, Cancelled>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.waiter.poll(cx)
    }
}

impl<T> fmt::Debug for PoolRequest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolRequest")
            .field("ticket", &self.ticket)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}
