//! Results that one thread sends and another waits for.

use std::{
    fmt,
    future::{Future, poll_fn},
    mem,
    pin::{Pin, pin},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// What a [`JoinHandle`] waits on.
struct Oneshot<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    /// Nobody wants the result any more. Whoever sets it wakes the task afterwards.
    aborted: AtomicBool,
}

enum State<T> {
    Empty {
        joiner: Option<Waker>,
        task: Option<Waker>,
        /// A thread waits. Of most tasks nobody does, and to wake nobody is a system call, too.
        blocks: bool,
    },
    Sent(T),
    /// The value was taken, or will never come.
    Closed,
}

/// Sends the one value, or by being dropped tells that none will come.
pub(crate) struct Sender<T>(Arc<Oneshot<T>>);

/// A value that one thread sends and another waits for.
pub(crate) fn oneshot<T>() -> (Sender<T>, JoinHandle<T>) {
    let state = Mutex::new(State::Empty {
        joiner: None,
        task: None,
        blocks: false,
    });
    let shared = Arc::new(Oneshot {
        state,
        changed: Condvar::new(),
        aborted: AtomicBool::new(false),
    });
    (Sender(shared.clone()), JoinHandle(Join(shared)))
}

impl<T> Oneshot<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves on from `Empty`, once.
    fn settle(&self, settled: State<T>) {
        let mut state = self.lock();
        if !matches!(*state, State::Empty { .. }) {
            return;
        }
        let before = mem::replace(&mut *state, settled);
        drop(state);
        let State::Empty { joiner, blocks, .. } = before else {
            return;
        };
        if blocks {
            self.changed.notify_all();
        }
        if let Some(joiner) = joiner {
            joiner.wake();
        }
    }
}

impl<T> Sender<T> {
    pub(crate) fn send(self, value: T) {
        self.0.settle(State::Sent(value));
    }

    /// Sends the result of `future`, unless it is aborted first; then it is dropped where it runs.
    pub(crate) async fn send_result_of(self, future: impl Future<Output = T>) {
        let mut future = pin!(future);
        let mut is_known = false;
        let run = poll_fn(|cx| {
            if !mem::replace(&mut is_known, true)
                && let State::Empty { task, .. } = &mut *self.0.lock()
            {
                *task = Some(cx.waker().clone());
            }
            if self.0.aborted.load(Ordering::Relaxed) {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        });
        if let Some(value) = run.await {
            self.send(value);
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.settle(State::Closed);
    }
}

/// The work was dropped before it had a result: its context was closed, or it was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work was dropped before it had a result")]
pub struct Closed;

/// The result of something that runs on a context, perhaps another thread's.
///
/// It can be awaited on any executor and thread, or waited for with [`wait`](Self::wait). Both take it for
/// granted that the context lives until the work is done; [`join`](Self::join) does not. Dropping it
/// detaches the work, which goes on.
#[must_use = "a dropped handle lets the work run on unobserved"]
pub struct JoinHandle<T>(Join<T>);

impl<T> JoinHandle<T> {
    /// Blocks until the work is done.
    ///
    /// Never call it on the thread of a context: nothing there would make progress meanwhile.
    ///
    /// # Panics
    ///
    /// When the context was closed before the work was done, or the work aborted.
    pub fn wait(self) -> T {
        expect_open(self.0.wait())
    }

    /// The result, or word that there will be none: for work that may outlive its context.
    pub fn join(self) -> Join<T> {
        self.0
    }

    /// Whether the work has ended, with a result or without.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !matches!(*self.0.0.lock(), State::Empty { .. })
    }

    /// Asks for the work to be dropped. Any thread.
    ///
    /// A task is dropped on the thread that runs it, instead of being polled the next time. If it
    /// ends before, its result stands. What [`Handle::call`](crate::Handle::call) runs is not stopped.
    pub fn abort(&self) {
        self.0.abort();
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(cx).map(expect_open)
    }
}

fn expect_open<T>(joined: Result<T, Closed>) -> T {
    joined.expect("a context lives until those who wait for its work have their answer")
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("finished", &self.is_finished())
            .finish()
    }
}

/// The result of something that may have been dropped before it was done; made by [`JoinHandle::join`].
///
/// Dropping it detaches the work, which goes on.
#[must_use = "futures do nothing unless awaited"]
pub struct Join<T>(Arc<Oneshot<T>>);

impl<T> Join<T> {
    /// Asks for the work to be dropped, as [`JoinHandle::abort`] does. Any thread.
    pub fn abort(&self) {
        self.0.aborted.store(true, Ordering::Relaxed);
        let task = match &mut *self.0.lock() {
            State::Empty { task, .. } => task.take(),
            State::Sent(_) | State::Closed => None,
        };
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Blocks until the work is done.
    ///
    /// Never call it on the thread of a context: nothing there would make progress meanwhile.
    ///
    /// # Errors
    ///
    /// [`Closed`] when the work was dropped before.
    pub fn wait(self) -> Result<T, Closed> {
        let mut state = self.0.lock();
        while let State::Empty { blocks, .. } = &mut *state {
            *blocks = true;
            let waited = self.0.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        take(&mut state)
    }
}

/// Takes the result out of a state that is not empty.
fn take<T>(state: &mut State<T>) -> Result<T, Closed> {
    match mem::replace(state, State::Closed) {
        State::Sent(value) => Ok(value),
        State::Closed => Err(Closed),
        State::Empty { .. } => unreachable!("the caller has looked"),
    }
}

impl<T> Future for Join<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T, Closed>> {
        let mut state = self.0.lock();
        let State::Empty { joiner, .. } = &mut *state else {
            return Poll::Ready(take(&mut state));
        };
        let before = joiner.replace(cx.waker().clone());
        drop(state);
        // Dropped unlocked, since the last waker of a task drops what the task holds.
        drop(before);
        Poll::Pending
    }
}

impl<T> fmt::Debug for Join<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::{
        cell::Cell,
        future::pending,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use super::{Closed, oneshot};
    use crate::{AioContext, Blocking, Config, IoThread};

    /// Tells that it was dropped, and whether that happened on the context's thread.
    struct Guard(Arc<(AtomicBool, AtomicBool)>, AioContext);

    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.0.store(true, Ordering::Release);
            self.0.1.store(self.1.handle().is_home(), Ordering::Release);
        }
    }

    #[test]
    fn a_result_that_will_never_come_is_an_orderly_end() {
        let thread = IoThread::start(Config::default()).unwrap();
        let endless = thread.handle().spawn(|_| pending::<u32>());
        let handle = thread.handle().clone();
        drop(thread);

        assert!(endless.is_finished());
        assert_eq!(endless.join().wait(), Err(Closed));
        let late = handle.spawn(|_| async { 1 });
        assert_eq!(late.join().wait(), Err(Closed));
        assert_eq!(handle.call(|_| 1).join().wait(), Err(Closed));
    }

    #[test]
    fn one_context_awaits_another_that_closes() {
        let closing = IoThread::start(Config::default()).unwrap();
        let endless = closing.handle().spawn(|_| pending::<u32>());
        let waiting = IoThread::start(Config::default()).unwrap();
        let joined = waiting.handle().spawn(|_| endless.join());
        drop(closing);

        assert_eq!(joined.wait(), Err(Closed));
    }

    #[test]
    fn an_aborted_task_is_dropped_where_it_runs() {
        let thread = IoThread::start(Config::default()).unwrap();
        let seen = Arc::<(AtomicBool, AtomicBool)>::default();
        let guarded = seen.clone();
        let task = thread.handle().spawn(|cx| {
            let guard = Guard(guarded, cx);
            async move {
                let _guard = guard;
                pending::<()>().await;
            }
        });
        thread.handle().call(|_| ()).wait();
        task.abort();

        assert_eq!(task.join().wait(), Err(Closed));
        assert!(seen.0.load(Ordering::Acquire) && seen.1.load(Ordering::Acquire));
    }

    #[test]
    fn a_task_aborted_before_its_first_poll_never_runs() {
        let context = AioContext::new(Config::default()).unwrap();
        let task = context.handle().spawn(|_| async { unreachable!() });
        task.abort();
        while !task.is_finished() {
            context.poll(Blocking::No);
        }

        assert_eq!(task.join().wait(), Err::<(), _>(Closed));
        context.close();
    }

    #[test]
    fn an_abort_after_the_end_changes_nothing() {
        let (sender, handle) = oneshot();
        sender.send(Cell::new(7));
        handle.abort();

        assert_eq!(handle.join().wait(), Ok(Cell::new(7)));
    }
}
