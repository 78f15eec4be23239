//! The part of a context that all threads share: what is posted to it, and the means to wake it.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crossbeam::queue::SegQueue;

use crate::{
    bottom_half::BottomHalfKey,
    clock::TimerClock,
    context::{AioContext, Config},
    fd_handler::FdHandlerKey,
    home::Home,
    inbox::{Inbox, Listed, Node},
    migratable::DueTask,
    polling::SharedParams,
    sys::EventFd,
    task::{TaskKey, TaskPost},
    thread_pool::Pool,
    timer::{TimerPost, Timers},
    wake::WakeState,
};

/// A callback that runs once on the home thread.
pub(crate) type OneShot = Box<dyn FnOnce(&AioContext) + Send>;

/// What is posted again and again, without allocating: the payload of the inbox's nodes.
pub(crate) struct Posted {
    pub(crate) shared: Arc<Shared>,
    pub(crate) what: What,
}

/// The kinds of [`Posted`].
pub(crate) enum What {
    BottomHalf(BottomHalfKey),
    Task(TaskPost),
    Timer(TimerPost),
    FdHandler(FdHandlerKey),
}

/// What the home thread has queued for itself, without locks or atomic operations.
#[derive(Default)]
pub(crate) struct Local {
    /// Woken tasks, in the order of their wake-ups.
    pub(crate) runnable: VecDeque<Runnable>,
    /// Bottom halves whose turn it is. Here and not on the loop's stack, so that a nested turn goes on with them.
    pub(crate) due: VecDeque<Due>,
    /// Bottom halves that were scheduled as idle.
    pub(crate) idle: VecDeque<BottomHalfKey>,
    /// Handlers of descriptors that were dropped, and are still to be removed.
    pub(crate) dropped_handlers: Vec<FdHandlerKey>,
}

/// A task whose turn it is.
pub(crate) enum Runnable {
    Task(TaskKey),
    Migratable(DueTask),
}

/// A bottom half whose turn it is.
pub(crate) enum Due {
    /// Scheduled on the home thread.
    Local(BottomHalfKey),
    /// Raised on another thread.
    Listed(Listed<Posted>),
    OneShot(OneShot),
}

/// The part of a context that is shared between threads.
pub(crate) struct Shared {
    name: String,
    /// Bottom halves, wake-ups and timers from other threads.
    pub(crate) inbox: Inbox<Posted>,
    /// One-shot bottom halves, which allocate anyway.
    posts: SegQueue<OneShot>,
    /// Migratable tasks that were woken elsewhere, or have moved here.
    pub(crate) migrants: SegQueue<DueTask>,
    /// Workers have finished something, or their limits have changed. Not a post, so that it does not
    /// wait behind a flood of them.
    worked: AtomicBool,
    pub(crate) local: Home<Local>,
    pub(crate) timers: Home<Timers>,
    wake: WakeState,
    poll_params: SharedParams,
    /// Somebody else's loop drives the context, and may sleep while the home thread runs other code.
    foreign: AtomicBool,
    event: EventFd,
    closed: AtomicBool,
    kicks: AtomicU64,
    pub(crate) thread_pool: Pool,
}

impl Shared {
    /// The shared part of a context whose home is the calling thread.
    pub(crate) fn new(config: &Config) -> io::Result<Self> {
        Ok(Self {
            name: config.name.clone(),
            inbox: Inbox::new(),
            posts: SegQueue::new(),
            migrants: SegQueue::new(),
            worked: AtomicBool::new(false),
            local: Home::new(Local::default()),
            timers: Home::new(Timers::new()),
            wake: WakeState::new(),
            poll_params: SharedParams::new(config.poll_params()),
            foreign: AtomicBool::new(false),
            event: EventFd::new()?,
            closed: AtomicBool::new(false),
            kicks: AtomicU64::new(0),
            thread_pool: Pool::new(config.workers_max),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_home(&self) -> bool {
        self.local.is_home()
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

    /// Leaves `callback` for the home thread and wakes it if it sleeps. Any thread.
    ///
    /// A post to a closed context is dropped.
    pub(crate) fn post(&self, callback: OneShot) {
        self.posts.push(callback);
        self.after_post();
    }

    /// Leaves a migratable task for the home thread, and wakes it if it sleeps. Any thread.
    ///
    /// A closed context drops it.
    pub(crate) fn post_migrant(&self, task: DueTask) {
        self.migrants.push(task);
        self.after_post();
    }

    /// Has the home thread look at its thread pool. Any thread.
    pub(crate) fn post_worked(&self) {
        self.worked.store(true, Ordering::Release);
        self.after_post();
    }

    /// Whether the home thread is to look at its thread pool; asks once.
    pub(crate) fn take_worked(&self) -> bool {
        self.worked.load(Ordering::Relaxed) && self.worked.swap(false, Ordering::AcqRel)
    }

    /// Raises `bits` of `node`, which is one of this context, and wakes the home thread if it sleeps. Any thread.
    pub(crate) fn raise(&self, node: &Arc<Node<Posted>>, bits: u32) {
        if self.inbox.raise(node, bits) {
            self.after_post();
        }
    }

    /// Raises `bits` of `node`, a timer of this context, and wakes the home thread if it would sleep
    /// past `deadline_ns` of `clock`. Any thread.
    pub(crate) fn raise_timer(
        &self,
        node: &Arc<Node<Posted>>,
        bits: u32,
        clock: TimerClock,
        deadline_ns: u64,
    ) {
        self.inbox.raise(node, bits);
        // Also if it was on the list already: it may have been put there for a later deadline.
        if self.is_home() {
            self.touched();
        } else if self.wake.must_kick_before(clock, deadline_ns) {
            self.kick();
        }
        if self.closed.load(Ordering::Relaxed) {
            self.discard_posts();
        }
    }

    fn after_post(&self) {
        if self.is_home() {
            self.touched();
        } else {
            // The fence in there orders the post before the look at `closed` below, as `close` does
            // it the other way round: one of the two sees the other.
            self.kick_if_asleep();
        }
        if self.is_closed() {
            self.discard_posts();
        }
    }

    /// Asks for a turn of the loop. Any thread.
    pub(crate) fn notify(&self) {
        self.wake.set_notified();
        if self.is_home() {
            self.touched();
        } else {
            self.kick_if_asleep();
        }
    }

    /// Calls `visit` with the home thread's queues if that is the calling thread, and sees to it that the loop looks.
    #[inline]
    pub(crate) fn at_home<R>(&self, visit: impl FnOnce(&mut Local) -> R) -> Option<R> {
        let done = self.local.try_with(visit)?;
        self.touched();
        Some(done)
    }

    /// The home thread has left something for its loop.
    ///
    /// A loop of our own is awake then, and looks before it sleeps. Somebody else's may have made
    /// up its mind to sleep already.
    #[inline]
    pub(crate) fn touched(&self) {
        if self.foreign.load(Ordering::Relaxed) {
            self.kick_if_asleep();
        }
    }

    /// The home thread has armed a timer of `clock` for `deadline_ns`, which as above may be too late to be slept for.
    pub(crate) fn touched_before(&self, clock: TimerClock, deadline_ns: u64) {
        if self.foreign.load(Ordering::Relaxed) && self.wake.must_kick_before(clock, deadline_ns) {
            self.kick();
        }
    }

    /// Somebody else's loop drives the context from now on.
    pub(crate) fn set_foreign(&self) {
        self.foreign.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_foreign(&self) -> bool {
        self.foreign.load(Ordering::Relaxed)
    }

    pub(crate) fn poll_params(&self) -> &SharedParams {
        &self.poll_params
    }

    fn kick_if_asleep(&self) {
        if self.wake.must_kick() {
            self.kick();
        }
    }

    /// Wakes the loop, asleep or not. Any thread.
    pub(crate) fn kick(&self) {
        self.kicks.fetch_add(1, Ordering::Relaxed);
        self.event.signal();
    }

    pub(crate) fn take_post(&self) -> Option<OneShot> {
        // Looking costs less than trying to take.
        if self.posts.is_empty() {
            return None;
        }
        self.posts.pop()
    }

    /// Whether other threads have woken something, or scheduled it again.
    pub(crate) fn has_inbox(&self) -> bool {
        !self.inbox.is_empty() || !self.migrants.is_empty()
    }

    /// Whether other threads have left something.
    pub(crate) fn has_posts(&self) -> bool {
        self.has_inbox() || self.worked.load(Ordering::Relaxed) || !self.posts.is_empty()
    }

    /// Refuses posts from now on, and drops those that nobody will take.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::SeqCst);
        self.discard_posts();
    }

    /// Whether posts are refused. Exact on the home thread.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn discard_posts(&self) {
        drop(self.inbox.take());
        while let Some(post) = self.posts.pop() {
            drop(post);
        }
        while let Some(task) = self.migrants.pop() {
            drop(task);
        }
    }
}

impl fmt::Debug for Runnable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Task(_) => "Task",
            Self::Migratable(_) => "Migratable",
        })
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
