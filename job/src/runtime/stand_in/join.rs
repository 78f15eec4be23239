//! Results that one thread sends and another waits for.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

struct Oneshot<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Option<T>,
    /// No value will come any more.
    is_over: bool,
    is_aborted: bool,
    joiner: Option<Waker>,
    task: Option<Waker>,
}

impl<T> Oneshot<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("nothing panics under this lock")
    }

    fn settle(&self, value: Option<T>) {
        let mut state = self.lock();
        if state.is_over {
            return;
        }
        state.value = value;
        state.is_over = true;
        let joiner = state.joiner.take();
        drop(state);
        if let Some(joiner) = joiner {
            joiner.wake();
        }
    }
}

/// Sends the one value, or by being dropped tells that none will come.
pub(super) struct Sender<T>(Arc<Oneshot<T>>);

pub(super) fn oneshot<T>() -> (Sender<T>, JoinHandle<T>) {
    let state = State {
        value: None,
        is_over: false,
        is_aborted: false,
        joiner: None,
        task: None,
    };
    let state = Mutex::new(state);
    let shared = Arc::new(Oneshot { state });
    (Sender(shared.clone()), JoinHandle(Join(shared)))
}

impl<T> Sender<T> {
    pub(super) fn send(self, value: T) {
        self.0.settle(Some(value));
    }

    /// Sends the result of `future`, unless it is aborted first; then it is dropped where it runs.
    pub(super) async fn send_result_of(self, future: impl Future<Output = T>) {
        let mut future = pin!(future);
        let run = poll_fn(|cx| match self.is_aborted(cx.waker()) {
            true => Poll::Ready(None),
            false => future.as_mut().poll(cx).map(Some),
        });
        if let Some(value) = run.await {
            self.send(value);
        }
    }
}

impl<T> Sender<T> {
    /// Whether nobody wants the value; wakes `waker` when that changes.
    fn is_aborted(&self, waker: &Waker) -> bool {
        let mut state = self.0.lock();
        state.task = Some(waker.clone());
        state.is_aborted
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.settle(None);
    }
}

/// See `aio::Closed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// See `aio::JoinHandle`.
pub(crate) struct JoinHandle<T>(Join<T>);

impl<T> JoinHandle<T> {
    pub(crate) fn wait(self) -> T {
        shuttle::future::block_on(self)
    }

    pub(crate) fn join(self) -> Join<T> {
        self.0
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let joined = Pin::new(&mut self.0).poll(cx);
        joined.map(|joined| joined.expect("a context lives until its work is done"))
    }
}

/// See `aio::Join`.
pub(crate) struct Join<T>(Arc<Oneshot<T>>);

impl<T> Join<T> {
    pub(crate) fn abort(&self) {
        let mut state = self.0.lock();
        state.is_aborted = true;
        let task = state.task.take();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<T> Future for Join<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        if state.is_over {
            return Poll::Ready(state.value.take().ok_or(Closed));
        }
        state.joiner = Some(cx.waker().clone());
        Poll::Pending
    }
}
