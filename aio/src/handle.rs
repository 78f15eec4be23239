//! What other threads may hold of a context: its inbox, and the means to wake it.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crossbeam::queue::SegQueue;

use crate::{
    bottom_half::BottomHalfShared,
    context::AioContext,
    op::Completion,
    sys::{self, EventFd},
    task::TaskKey,
    wake::WakeState,
};

/// A callback that runs once on the home thread.
pub(crate) type OneShot = Box<dyn FnOnce(&AioContext) + Send>;

/// Something for the home thread to do.
pub(crate) enum Post {
    /// A task was woken.
    Task(TaskKey),
    /// A bottom half was scheduled, or deleted.
    BottomHalf(Arc<BottomHalfShared>),
    /// A one-shot bottom half.
    OneShot(OneShot),
    /// A worker has run an operation. Boxed: every slot of the inbox is as large as the largest post.
    Completed(Box<Completion>),
}

/// The part of a context that is shared between threads.
pub(crate) struct Shared {
    name: String,
    /// The thread that made the context, as [`sys::thread_token`] counts them.
    home: u64,
    inbox: SegQueue<Post>,
    wake: WakeState,
    event: EventFd,
    closed: AtomicBool,
    kicks: AtomicU64,
}

impl Shared {
    /// The shared part of a context whose home is the calling thread.
    pub(crate) fn new(name: String) -> io::Result<Self> {
        let (inbox, wake, event) = (SegQueue::new(), WakeState::new(), EventFd::new()?);
        let (closed, kicks) = (AtomicBool::new(false), AtomicU64::new(0));
        Ok(Self {
            name,
            home: sys::thread_token(),
            inbox,
            wake,
            event,
            closed,
            kicks,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_home(&self) -> bool {
        sys::thread_token() == self.home
    }

    pub(crate) fn wake_state(&self) -> &WakeState {
        &self.wake
    }

    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Times another thread had to wake the home thread by a system call, ever.
    pub(crate) fn kicks(&self) -> u64 {
        self.kicks.load(Ordering::Relaxed)
    }

    /// Leaves `post` for the home thread and wakes it if it sleeps. Any thread.
    ///
    /// A post to a closed context is dropped.
    pub(crate) fn post(&self, post: Post) {
        self.inbox.push(post);
        // The home thread itself is awake, and looks at its inbox before it sleeps.
        if !self.is_home() {
            self.kick_if_asleep();
        }
        if self.closed.load(Ordering::SeqCst) {
            self.discard_posts();
        }
    }

    /// Asks for a turn of the loop. Any thread.
    pub(crate) fn notify(&self) {
        self.wake.set_notified();
        self.kick_if_asleep();
    }

    fn kick_if_asleep(&self) {
        if self.wake.must_kick() {
            self.kicks.fetch_add(1, Ordering::Relaxed);
            self.event.signal();
        }
    }

    pub(crate) fn take_post(&self) -> Option<Post> {
        self.inbox.pop()
    }

    pub(crate) fn has_posts(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Refuses posts from now on, and drops those that nobody will take.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.discard_posts();
    }

    fn discard_posts(&self) {
        while let Some(post) = self.inbox.pop() {
            drop(post);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("name", &self.name)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// The one part of a context that may leave its home thread: posts work and wakes the loop.
///
/// Every method may be called on any thread. Once the context is closed, what is posted is dropped
/// without running.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The context's name, as given in its configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// Whether the calling thread is the context's home.
    #[must_use]
    pub fn is_home(&self) -> bool {
        self.shared.is_home()
    }

    /// Makes the loop turn once more, if it sleeps; costs no system call if it does not.
    pub fn notify(&self) {
        self.shared.notify();
    }

    /// Runs `callback` once on the home thread, in a later turn of the loop: a one-shot bottom half.
    pub fn schedule(&self, callback: impl FnOnce(&AioContext) + Send + 'static) {
        self.shared.post(Post::OneShot(Box::new(callback)));
    }

    /// Calls `start` on the home thread and runs the future that it returns there, as a task.
    ///
    /// The future need not be `Send`: it never leaves the home thread. Dropping the returned
    /// handle detaches the task.
    pub fn spawn<F, Fut, T>(&self, start: F) -> JoinHandle<T>
    where
        F: FnOnce(AioContext) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (sender, handle) = oneshot();
        self.schedule(move |context| {
            let future = start(context.clone());
            drop(context.spawn(async move { sender.send(future.await) }));
        });
        handle
    }
}

/// What a [`JoinHandle`] waits on.
#[derive(Debug)]
struct Oneshot<T> {
    state: Mutex<OneshotState<T>>,
    changed: Condvar,
}

#[derive(Debug)]
enum OneshotState<T> {
    Empty(Option<Waker>),
    Sent(T),
    /// The value was taken, or will never come.
    Closed,
}

/// Sends the one value, or by being dropped tells that none will come.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Oneshot<T>>);

/// A value that one thread sends and another waits for.
pub(crate) fn oneshot<T>() -> (Sender<T>, JoinHandle<T>) {
    let state = Mutex::new(OneshotState::Empty(None));
    let shared = Arc::new(Oneshot {
        state,
        changed: Condvar::new(),
    });
    (Sender(shared.clone()), JoinHandle(shared))
}

impl<T> Oneshot<T> {
    /// Moves on from `Empty`, once.
    fn settle(&self, settled: OneshotState<T>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let OneshotState::Empty(waker) = &mut *state else {
            return;
        };
        let waker = waker.take();
        *state = settled;
        drop(state);
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Sender<T> {
    pub(crate) fn send(self, value: T) {
        self.0.settle(OneshotState::Sent(value));
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.settle(OneshotState::Closed);
    }
}

/// The result of something that runs on another thread's context.
///
/// It can be awaited on any executor, or waited for with [`wait`](Self::wait). Dropping it detaches
/// the work, which goes on.
#[derive(Debug)]
#[must_use = "a dropped handle lets the work run on unobserved"]
pub struct JoinHandle<T>(Arc<Oneshot<T>>);

impl<T> JoinHandle<T> {
    /// Blocks until the work is done.
    ///
    /// Never call it on the thread of a context: nothing there would make progress meanwhile.
    ///
    /// # Panics
    ///
    /// When the context was closed before the work was done: whoever waits keeps it alive.
    pub fn wait(self) -> T {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match std::mem::replace(&mut *state, OneshotState::Closed) {
                OneshotState::Sent(value) => return value,
                OneshotState::Closed => unreachable!("{CLOSED}"),
                empty @ OneshotState::Empty(_) => *state = empty,
            }
            state = self
                .0
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

const CLOSED: &str = "a context lives until those who wait for its work have their answer";

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, OneshotState::Closed) {
            OneshotState::Sent(value) => Poll::Ready(value),
            OneshotState::Closed => unreachable!("{CLOSED}"),
            OneshotState::Empty(_) => {
                *state = OneshotState::Empty(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}
