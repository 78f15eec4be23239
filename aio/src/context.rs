//! `AioContext`: one thread's event loop and everything it owns.

mod busy_poll;
mod config;
mod foreign;
mod handlers;
mod task_order;
mod turn;

use std::{
    cell::{Cell, Ref, RefCell},
    collections::VecDeque,
    future::Future,
    io, mem,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    backend::{self, BackendKind, Events},
    bottom_half::{self, BottomHalf, BottomHalfTable, ReentrancyGuard},
    buf::BufferPool,
    clock::{Clock, Clocks, TimerClock},
    error::AioError,
    fd_handler::FdHandlerTable,
    handle::Handle,
    home::Home,
    migratable::Guests,
    op::{Key, Op, Outcome},
    request::Requests,
    shared::{Runnable, Shared},
    task::{self, Task, TaskTable},
    thread_pool::{Desk, ThreadPool},
    timer::{TimerTable, Timers},
};

use busy_poll::BusyPoll;
pub use config::{Config, ContextStats};
pub use foreign::ForeignSource;
use task_order::TaskOrder;
pub use turn::Blocking;

/// One thread's event loop. Cheap to clone; every clone is the same loop, on its home thread.
///
/// It is not `Send`: all of its methods are for the home thread, and only what they return may leave
/// it, as far as that is `Send`. Other threads use its [handle](Self::handle). [The crate's
/// documentation](crate) has the model.
///
/// The loop turns only while somebody runs it: [`IoThread`](crate::IoThread), [`run`](crate::run),
/// or an embedder's own calls of [`poll`](Self::poll). Whoever makes a context by
/// [`AioContext::new`] ends it by [`close`](Self::close).
#[derive(Clone, Debug)]
pub struct AioContext {
    inner: Rc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    shared: Arc<Shared>,
    handle: Handle,
    clock: Clock,
    clocks: Clocks,
    pool: BufferPool,
    requests: RefCell<Requests>,
    timers: RefCell<TimerTable>,
    tasks: RefCell<TaskTable>,
    guests: Guests,
    bottom_halves: RefCell<BottomHalfTable>,
    /// Completions on their way from the backend to their requests.
    completions: RefCell<VecDeque<(Key, Outcome)>>,
    /// What the backend brings, empty between its turns: kept for its memory.
    fresh: RefCell<Events>,
    handlers: RefCell<FdHandlerTable>,
    busy_poll: RefCell<BusyPoll>,
    /// Somebody else's loop sleeps, or will, as [`AioContext::prepare`] has allowed it to.
    foreign_sleeps: Cell<bool>,
    turns: Cell<u64>,
    /// A task of this context is being polled.
    in_task: Cell<bool>,
    /// Tasks between the run queue and their polls, empty between turns: kept for its memory.
    batch: RefCell<VecDeque<Runnable>>,
    /// Absent where tasks run as they were woken.
    task_order: Option<TaskOrder>,
    desk: Desk,
}

impl AioContext {
    /// Makes a context whose home is the calling thread.
    ///
    /// # Errors
    ///
    /// [`AioError`] when the backend that was asked for cannot be had or is not known, or when the
    /// system has no descriptors or memory left.
    pub fn new(config: Config) -> Result<Self, AioError> {
        let poll = config.poll_params();
        let resource = |source| AioError::Resource {
            what: "an eventfd",
            source,
        };
        let shared = Arc::new(Shared::new(&config).map_err(resource)?);
        let pool = BufferPool::new(config.buffer_bytes_max);
        let backend = backend::choose(&config, &shared, pool.shared())?;
        let handle = Handle::new(shared.clone());
        let clocks = [
            config.clock.clone(),
            config.wall_clock,
            Clock::Manual(config.virtual_clock),
        ];
        let clocks = Clocks::new(clocks, &shared);
        let inner = Inner {
            shared,
            handle,
            clock: config.clock,
            clocks,
            pool,
            requests: RefCell::new(Requests::new(backend)),
            timers: RefCell::default(),
            tasks: RefCell::default(),
            guests: Guests::default(),
            bottom_halves: RefCell::default(),
            completions: RefCell::default(),
            fresh: RefCell::default(),
            handlers: RefCell::default(),
            busy_poll: RefCell::new(BusyPoll::new(poll)),
            foreign_sleeps: Cell::new(false),
            turns: Cell::new(0),
            in_task: Cell::new(false),
            batch: RefCell::default(),
            task_order: config.task_order_seed.map(TaskOrder::new),
            desk: Desk::default(),
        };
        let context = Self {
            inner: Rc::new(inner),
        };
        context.remember();
        Ok(context)
    }

    pub(crate) fn from_inner(inner: Rc<Inner>) -> Self {
        Self { inner }
    }

    pub(crate) fn inner(&self) -> &Rc<Inner> {
        &self.inner
    }

    /// What other threads may hold of this context; clone it to give it to them.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.inner.handle
    }

    /// The context's buffers.
    #[must_use]
    pub fn buffers(&self) -> &BufferPool {
        &self.inner.pool
    }

    /// Which backend it uses.
    ///
    /// # Panics
    ///
    /// When the context has been closed.
    #[must_use]
    pub fn backend(&self) -> BackendKind {
        self.inner.requests.borrow().kind()
    }

    /// The backend and what it makes use of, in words for an operator.
    ///
    /// # Panics
    ///
    /// When the context has been closed.
    #[must_use]
    pub fn describe(&self) -> String {
        self.inner.requests.borrow().describe()
    }

    /// Counters since the context was made. Asking costs next to nothing.
    #[must_use]
    pub fn stats(&self) -> ContextStats {
        let requests: Ref<'_, Requests> = self.inner.requests.borrow();
        let backend = requests.backend_stats();
        ContextStats {
            turns: self.inner.turns.get(),
            kicks: self.inner.shared.kicks(),
            requests_in_flight: requests.in_flight(),
            requests_orphaned: requests.orphaned(),
            tasks: self.inner.tasks.borrow().len() + self.inner.guests.len(),
            enters: backend.enters,
            cq_overflows: backend.cq_overflows,
            stale_completions: backend.stale_completions,
        }
    }

    /// Nanoseconds on the loop's clock, that of sleeps; its zero is the clock's own.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.clock_now_ns(TimerClock::Loop)
    }

    /// Nanoseconds on one of the context's clocks.
    #[must_use]
    pub fn clock_now_ns(&self, clock: TimerClock) -> u64 {
        self.inner.clocks.now_ns(clock)
    }

    /// Lets everything else that can run have a turn, I/O included.
    pub fn yield_now(&self) -> YieldNow {
        YieldNow { yielded: false }
    }

    /// Runs `future` as a task of this context. It is polled first in the next turn, or later in this one.
    ///
    /// Dropping the returned [`Task`] detaches it. Tasks that have not ended when the context is
    /// closed are dropped there, later ones at once. Other threads spawn by [`Handle::spawn`].
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let (future, task) = task::joinable(future);
        if self.inner.shared.is_closed() {
            return task;
        }
        self.inner
            .tasks
            .borrow_mut()
            .insert(&self.inner.shared, future);
        task
    }

    /// A bottom half: `callback` runs on the home thread each time it has been scheduled, from any thread.
    ///
    /// The name is for debugging, and for the warning when it is forgotten.
    ///
    /// ```
    /// use std::{cell::Cell, rc::Rc};
    ///
    /// # let cx = aio::AioContext::new(aio::Config::default()).unwrap();
    /// let runs = Rc::new(Cell::new(0));
    /// let count = runs.clone();
    /// let bottom_half = cx.bottom_half("count", move |_| count.set(count.get() + 1));
    /// bottom_half.schedule();
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| bottom_half.schedule());
    /// });
    /// cx.poll(aio::Blocking::No);
    /// assert_eq!(runs.get(), 1, "scheduled twice before its turn, it runs once");
    /// # drop(bottom_half);
    /// # cx.close();
    /// ```
    pub fn bottom_half(
        &self,
        name: &'static str,
        callback: impl FnMut(&Self) + 'static,
    ) -> BottomHalf {
        self.inner
            .bottom_halves
            .borrow_mut()
            .insert(&self.inner.shared, name, Box::new(callback))
    }

    /// A [bottom half](Self::bottom_half) that engages `guard` while its callback runs, so that what
    /// the callback calls can tell, in a nested turn too.
    pub fn guarded_bottom_half(
        &self,
        name: &'static str,
        guard: ReentrancyGuard,
        callback: impl FnMut(&Self) + 'static,
    ) -> BottomHalf {
        let callback = bottom_half::guarded(name, guard, callback);
        self.inner
            .bottom_halves
            .borrow_mut()
            .insert(&self.inner.shared, name, callback)
    }

    /// The context's threads for calls that block.
    #[must_use]
    pub fn thread_pool(&self) -> ThreadPool {
        ThreadPool::of(self.clone())
    }

    /// What the thread pool of this context is made of.
    pub(crate) fn thread_pool_parts(&self) -> (&Arc<Shared>, &Desk) {
        (&self.inner.shared, &self.inner.desk)
    }

    /// Runs `call`, which may block, on a worker thread, when this is polled first.
    ///
    /// Dropping the future after that does not stop the call; see [`ThreadPool`] for cancelling it.
    ///
    /// # Panics
    ///
    /// With the panic of `call`, if it does.
    pub async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let done = self.thread_pool().submit(call).await;
        done.expect("nobody else can cancel this request")
    }

    pub(crate) fn requests(&self) -> &RefCell<Requests> {
        &self.inner.requests
    }

    pub(crate) fn clocks(&self) -> &Clocks {
        &self.inner.clocks
    }

    pub(crate) fn timers(&self) -> &Home<Timers> {
        &self.inner.shared.timers
    }

    pub(crate) fn timer_table(&self) -> &RefCell<TimerTable> {
        &self.inner.timers
    }

    pub(crate) fn guests(&self) -> &Guests {
        &self.inner.guests
    }

    /// Has a worker run an operation.
    pub(crate) fn start_on_worker(&self, key: Key, op: Op) {
        self.inner.desk.push(key, op);
    }

    /// Ends the context: drops its tasks and bottom halves, waits until the kernel and the workers
    /// are done with every request, and gives everything back.
    ///
    /// In a forked child it does nothing at all, and leaks the context.
    ///
    /// What is posted from now on is dropped. Other clones of the context must not be used for
    /// requests any more.
    ///
    /// The last clone of a context does the same when it is dropped; but tasks hold clones, so that
    /// alone does not end a context with tasks.
    pub fn close(self) {
        if self.inner.requests.borrow().is_in_child() {
            // Its ring, threads and locks are the parent's: nothing of it can be ended here.
            let _kept = mem::ManuallyDrop::new(self);
            return;
        }
        self.leave_current();
        self.inner.shut_down();
    }
}

impl Inner {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Ends the context; does nothing the second time.
    fn shut_down(&self) {
        if self.requests.borrow().is_in_child() {
            return;
        }
        self.shared.close();
        // Dropped outside of any borrow: a task's end may spawn, wake, or drop others.
        loop {
            let tasks = self.tasks.borrow_mut().take_all();
            if tasks.is_empty() {
                break;
            }
            drop(tasks);
        }
        self.guests.close();
        let local = self.shared.local.with(mem::take);
        drop(local);
        let handlers = self.handlers.borrow_mut().take_all();
        drop(handlers);
        let (callbacks, bottom_halves) = self.bottom_halves.borrow_mut().take_all();
        drop(callbacks);
        // Dropping a callback or a waker may drop other timers.
        let callbacks = self.timers.borrow_mut().take_all();
        drop(callbacks);
        let timers = self
            .shared
            .timers
            .with(|timers| mem::replace(timers, Timers::new()));
        drop(timers);
        self.desk.close(&self.shared);
        let ended = self.requests.borrow_mut().close();
        // Nobody waits any more; what the requests owned is dropped.
        drop(ended);
        self.shared.close();
        // Whatever the context itself held of them is gone now.
        let leaked = bottom_half::not_deleted(bottom_halves);
        if !leaked.is_empty() {
            let name = self.shared.name();
            tracing::warn!(
                context = name,
                ?leaked,
                "closed with bottom halves that nobody has deleted"
            );
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Lets others run; made by [`AioContext::yield_now`].
#[derive(Debug)]
#[must_use = "a yield does nothing until it is awaited"]
pub struct YieldNow {
    yielded: bool,
}

impl Future for YieldNow {
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if mem::replace(&mut self.yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// An error number as an error.
pub(crate) fn os_error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
