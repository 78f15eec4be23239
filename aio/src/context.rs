//! `AioContext`: one thread's event loop and everything it owns.

use std::{
    cell::{Cell, Ref, RefCell},
    collections::VecDeque,
    future::Future,
    io, mem,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use crate::{
    backend::{self, Backend, BackendKind, Wait},
    bottom_half::{AfterRun, BottomHalf, BottomHalfShared, BottomHalfTable, Callback, Turn},
    buf::BufferPool,
    clock::Clock,
    error::AioError,
    handle::{Handle, OneShot, Post, Shared},
    op::{Completion, Key, Op},
    request::RequestTable,
    task::{self, Task, TaskKey, TaskTable},
    timer::{Sleep, Timers},
    worker_pool::WorkerPool,
    workers,
};

/// Tasks polled in one turn before the kernel is looked at again, so that I/O cannot starve.
const TASKS_PER_TURN: usize = 256;

/// How a context is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name for threads and messages.
    pub name: String,
    /// The backend to use; by default what `LONGSHORE_AIO` says, else the best there is.
    pub backend: Option<BackendKind>,
    /// Most bytes that the context's buffers may take.
    pub buffer_bytes_max: usize,
    /// Most worker threads for calls that block.
    pub workers_max: usize,
    /// Longest time to look for work in memory before sleeping, in nanoseconds; zero is not at all.
    ///
    /// The time actually spent adapts itself: it grows while waits are shorter than this, and
    /// falls to nothing when they are longer.
    pub poll_max_ns: u64,
    /// The clock that timers go by.
    pub clock: Clock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "aio".to_owned(),
            backend: None,
            buffer_bytes_max: 64 << 20,
            workers_max: 64,
            poll_max_ns: 0,
            clock: Clock::Monotonic,
        }
    }
}

/// Counters of a context, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextStats {
    /// Turns of the loop.
    pub turns: u64,
    /// Times another thread had to wake the loop by a system call.
    pub kicks: u64,
    /// Requests in flight now.
    pub requests_in_flight: usize,
    /// Requests whose future was dropped before they completed.
    pub requests_orphaned: u64,
    /// Tasks that have not ended.
    pub tasks: usize,
}

/// Whether a turn of the loop may wait for something to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// It may, if there is nothing to do.
    Yes,
    /// It does what there is to do and comes back.
    No,
}

/// One thread's event loop. Cheap to clone; every clone is the same loop, on its home thread.
///
/// The loop turns only while somebody runs it: [`IoThread`](crate::IoThread), [`run`](crate::run),
/// or an embedder's own calls of [`poll`](Self::poll). Whoever makes a context by
/// [`AioContext::new`] ends it by [`close`](Self::close).
#[derive(Clone, Debug)]
pub struct AioContext {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    handle: Handle,
    clock: Clock,
    pool: BufferPool,
    requests: RefCell<RequestTable>,
    timers: RefCell<Timers>,
    tasks: RefCell<TaskTable>,
    /// Woken tasks, in the order of their wake-ups.
    runnable: RefCell<VecDeque<TaskKey>>,
    bottom_halves: RefCell<BottomHalfTable>,
    /// Bottom halves whose turn it is; outside of the loop's stack, so that a nested turn goes on with them.
    due: RefCell<VecDeque<Due>>,
    /// Completions on their way from the backend to their requests.
    completions: RefCell<Vec<Completion>>,
    spin: Cell<Spin>,
    turns: Cell<u64>,
    workers: RefCell<Option<WorkerPool>>,
    workers_max: usize,
    backend: RefCell<Option<Box<dyn Backend>>>,
}

enum Due {
    BottomHalf(Arc<BottomHalfShared>),
    OneShot(OneShot),
}

impl std::fmt::Debug for Due {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::BottomHalf(_) => "BottomHalf",
            Self::OneShot(_) => "OneShot",
        })
    }
}

/// Adaptive polling before sleep: how long the next one may be (SEMANTICS: adaptive busy polling).
#[derive(Clone, Copy, Debug)]
struct Spin {
    now_ns: u64,
    max_ns: u64,
}

impl Spin {
    /// First length of a poll that has proved worth while.
    const START_NS: u64 = 4_000;

    /// Learns from a wait that took `blocked_ns` in all.
    fn learn(&mut self, blocked_ns: u64) {
        if blocked_ns > self.max_ns {
            self.now_ns = 0;
        } else if blocked_ns > self.now_ns {
            self.now_ns = (self.now_ns * 2).clamp(Self::START_NS, self.max_ns);
        }
    }
}

impl AioContext {
    /// Makes a context whose home is the calling thread.
    ///
    /// # Errors
    ///
    /// [`AioError`] when the backend that was asked for cannot be had, or no backend at all.
    pub fn new(config: Config) -> Result<Self, AioError> {
        let resource = |source| AioError::Resource {
            what: "an eventfd",
            source,
        };
        let shared = Arc::new(Shared::new(config.name).map_err(resource)?);
        let pool = BufferPool::new(config.buffer_bytes_max);
        let backend = backend::choose(config.backend, &shared, pool.shared())?;
        let handle = Handle::new(shared.clone());
        if let Clock::Manual(clock) = &config.clock {
            clock.attach(handle.clone());
        }
        let inner = Inner {
            shared,
            handle,
            clock: config.clock,
            pool,
            requests: RefCell::default(),
            timers: RefCell::default(),
            tasks: RefCell::default(),
            runnable: RefCell::default(),
            bottom_halves: RefCell::default(),
            due: RefCell::default(),
            completions: RefCell::default(),
            spin: Cell::new(Spin {
                now_ns: 0,
                max_ns: config.poll_max_ns,
            }),
            turns: Cell::new(0),
            workers: RefCell::new(None),
            workers_max: config.workers_max,
            backend: RefCell::new(Some(backend)),
        };
        Ok(Self {
            inner: Rc::new(inner),
        })
    }

    /// What other threads may hold of this context.
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
        self.with_backend(|backend| backend.kind())
    }

    /// The backend and what it makes use of, in words for an operator.
    ///
    /// # Panics
    ///
    /// When the context has been closed.
    #[must_use]
    pub fn describe(&self) -> String {
        self.with_backend(|backend| backend.describe())
    }

    /// Counters since the context was made.
    #[must_use]
    pub fn stats(&self) -> ContextStats {
        let requests: Ref<'_, RequestTable> = self.inner.requests.borrow();
        ContextStats {
            turns: self.inner.turns.get(),
            kicks: self.inner.shared.kicks(),
            requests_in_flight: requests.in_flight(),
            requests_orphaned: requests.orphaned(),
            tasks: self.inner.tasks.borrow().len(),
        }
    }

    /// Nanoseconds on the context's clock.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.inner.clock.now_ns()
    }

    /// Ends after `ns` nanoseconds.
    pub fn sleep_ns(&self, ns: u64) -> Sleep {
        self.sleep_until_ns(self.now_ns().saturating_add(ns))
    }

    /// Ends when the context's clock has reached `deadline_ns`.
    pub fn sleep_until_ns(&self, deadline_ns: u64) -> Sleep {
        Sleep::new(self.clone(), deadline_ns)
    }

    /// Lets everything else that can run have a turn.
    pub fn yield_now(&self) -> YieldNow {
        YieldNow { yielded: false }
    }

    /// Runs `future` as a task of this context.
    ///
    /// Dropping the returned [`Task`] detaches it. Tasks that have not ended when the context is
    /// closed are dropped there.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let (future, task) = task::joinable(future);
        let key = self
            .inner
            .tasks
            .borrow_mut()
            .insert(&self.inner.shared, future);
        self.inner.runnable.borrow_mut().push_back(key);
        task
    }

    /// A bottom half: `callback` runs on the home thread each time it has been scheduled.
    ///
    /// The name is for debugging.
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

    /// Runs `call`, which may block, on a worker thread.
    ///
    /// Dropping the future does not stop the call.
    pub async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (sender, result) = crate::handle::oneshot();
        self.submit_work(Box::new(move || sender.send(call())));
        result.await
    }

    fn submit_work(&self, work: crate::worker_pool::Work) {
        let mut workers = self.inner.workers.borrow_mut();
        let pool = workers.get_or_insert_with(|| {
            WorkerPool::new(self.inner.shared.name(), self.inner.workers_max)
        });
        pool.submit(work);
    }

    pub(crate) fn requests(&self) -> &RefCell<RequestTable> {
        &self.inner.requests
    }

    pub(crate) fn timers(&self) -> &RefCell<Timers> {
        &self.inner.timers
    }

    fn with_backend<T>(&self, call: impl FnOnce(&mut dyn Backend) -> T) -> T {
        let mut backend = self.inner.backend.borrow_mut();
        call(
            backend
                .as_mut()
                .expect("a closed context is not used")
                .as_mut(),
        )
    }

    /// Starts an operation.
    pub(crate) fn start(&self, key: Key, op: Op) {
        if op.is_disk() && !self.with_backend(|backend| backend.runs_disk()) {
            self.start_on_worker(key, op);
        } else {
            self.with_backend(|backend| backend.submit(key, op));
        }
    }

    /// Has a worker run a disk operation; its completion comes back through the inbox.
    fn start_on_worker(&self, key: Key, op: Op) {
        let shared = self.inner.shared.clone();
        self.submit_work(Box::new(move || {
            let mut op = op;
            let result = workers::run(&mut op);
            shared.post(Post::Completed(Completion { key, op, result }));
        }));
    }

    /// Asks for an early end of an operation nobody waits for any more.
    pub(crate) fn cancel(&self, key: Key) {
        if let Some(backend) = self.inner.backend.borrow_mut().as_mut() {
            backend.cancel(key);
        }
    }

    fn complete(&self, completion: Completion) {
        let again = matches!(completion.result, Err(libc::EAGAIN)) && completion.op.is_disk();
        if again {
            // The kernel will not wait for this file; a thread of ours can.
            self.start_on_worker(completion.key, completion.op);
            return;
        }
        let (waker, orphan) = self.inner.requests.borrow_mut().complete(completion);
        drop(orphan);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// One turn of the loop: waits if it may and there is nothing to do, then does what there is to do.
    ///
    /// Returns whether anything was done. It may be called from a callback that the loop has
    /// called (a nested turn): each event is dispatched once, by the inner or the outer turn. It
    /// must not be called from within a task.
    ///
    /// # Panics
    ///
    /// When called on another thread than the home thread's, or after [`close`](Self::close).
    pub fn poll(&self, blocking: Blocking) -> bool {
        assert!(
            self.inner.shared.is_home(),
            "a context turns on its home thread only"
        );
        self.inner.turns.set(self.inner.turns.get() + 1);
        self.wait(blocking);
        let mut progress = self.take_completions();
        self.take_posts();
        progress |= self.run_bottom_halves();
        progress |= self.run_tasks();
        progress |= self.expire_timers();
        progress
    }

    /// Whether there is something to do without asking the kernel.
    fn has_work(&self) -> bool {
        let inner = &self.inner;
        !inner.runnable.borrow().is_empty()
            || !inner.due.borrow().is_empty()
            || inner.shared.has_posts()
    }

    /// How long the loop may sleep.
    fn timeout(&self) -> Wait {
        let Some(deadline_ns) = self.inner.timers.borrow().next_deadline_ns() else {
            return Wait::Forever;
        };
        match (deadline_ns.saturating_sub(self.now_ns()), &self.inner.clock) {
            (0, _) => Wait::No,
            (left_ns, Clock::Monotonic) => Wait::Ns(left_ns),
            (_, Clock::Manual(_)) => Wait::Forever,
        }
    }

    fn wait(&self, blocking: Blocking) {
        let mut wait = match blocking {
            Blocking::Yes if !self.has_work() => self.timeout(),
            Blocking::Yes | Blocking::No => Wait::No,
        };
        let began_ns = if wait == Wait::No {
            0
        } else {
            self.inner.clock.now_ns()
        };
        let wanted_to_sleep = wait != Wait::No;
        if wanted_to_sleep && self.spin(began_ns) {
            wait = Wait::No;
        }
        let state = self.inner.shared.wake_state();
        if wait != Wait::No {
            state.announce_sleep();
            if self.inner.shared.has_posts() || state.take_notified() {
                wait = Wait::No;
            }
        }
        let mut completions = mem::take(&mut *self.inner.completions.borrow_mut());
        self.with_backend(|backend| backend.wait(wait, &mut completions));
        self.inner.completions.borrow_mut().append(&mut completions);
        state.end_sleep();
        state.take_notified();
        if wanted_to_sleep && self.inner.spin.get().max_ns > 0 {
            let mut spin = self.inner.spin.get();
            spin.learn(self.inner.clock.now_ns().saturating_sub(began_ns));
            self.inner.spin.set(spin);
        }
    }

    /// Looks for work in memory for a while; returns whether there is some.
    fn spin(&self, began_ns: u64) -> bool {
        let budget_ns = self.inner.spin.get().now_ns;
        if budget_ns == 0 || matches!(self.inner.clock, Clock::Manual(_)) {
            return false;
        }
        let until_ns = match self.timeout() {
            Wait::Ns(left_ns) => began_ns + budget_ns.min(left_ns),
            Wait::No | Wait::Forever => began_ns + budget_ns,
        };
        loop {
            if self.inner.shared.has_posts() || self.with_backend(|backend| backend.has_news()) {
                return true;
            }
            if self.inner.clock.now_ns() >= until_ns {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    fn take_completions(&self) -> bool {
        let mut progress = false;
        loop {
            // Taken one by one: whoever is woken may run a nested turn later, and finds the rest here.
            let Some(completion) = self.inner.completions.borrow_mut().pop() else {
                return progress;
            };
            self.complete(completion);
            progress = true;
        }
    }

    /// Sorts what other threads, and this one, have left for the loop.
    fn take_posts(&self) {
        while let Some(post) = self.inner.shared.take_post() {
            match post {
                Post::Task(key) => self.inner.runnable.borrow_mut().push_back(key),
                Post::BottomHalf(bottom_half) => self
                    .inner
                    .due
                    .borrow_mut()
                    .push_back(Due::BottomHalf(bottom_half)),
                Post::OneShot(callback) => self
                    .inner
                    .due
                    .borrow_mut()
                    .push_back(Due::OneShot(callback)),
                Post::Completed(completion) => self.complete(completion),
            }
        }
    }

    /// Runs the bottom halves that are due. Those scheduled meanwhile wait for the next turn.
    fn run_bottom_halves(&self) -> bool {
        let slice = self.inner.due.borrow().len();
        let mut progress = false;
        for _ in 0..slice {
            // A nested turn may have taken the rest of the slice.
            let Some(due) = self.inner.due.borrow_mut().pop_front() else {
                break;
            };
            progress = true;
            match due {
                Due::OneShot(callback) => callback(self),
                Due::BottomHalf(bottom_half) => self.run_bottom_half(&bottom_half),
            }
        }
        progress
    }

    fn run_bottom_half(&self, bottom_half: &Arc<BottomHalfShared>) {
        let index = bottom_half.index();
        let table = &self.inner.bottom_halves;
        let unused: Option<Callback> = match bottom_half.take() {
            Turn::Skip => None,
            Turn::Free => table.borrow_mut().remove(index),
            Turn::Run => {
                let Some(mut callback) = table.borrow_mut().start(index) else {
                    return;
                };
                callback(self);
                match table.borrow_mut().finish(index, callback) {
                    AfterRun::Nothing => None,
                    AfterRun::Again => {
                        bottom_half.schedule();
                        None
                    }
                    AfterRun::Drop(callback) => Some(callback),
                }
            }
        };
        // Dropping a callback may drop handles of other bottom halves: not under the borrow.
        drop(unused);
    }

    /// Polls tasks that were woken, and those they wake, up to a limit.
    fn run_tasks(&self) -> bool {
        let mut progress = false;
        for _ in 0..TASKS_PER_TURN {
            let mut next = self.inner.runnable.borrow_mut().pop_front();
            if next.is_none() && self.inner.shared.has_posts() {
                self.take_posts();
                next = self.inner.runnable.borrow_mut().pop_front();
            }
            let Some(key) = next else { break };
            progress = true;
            self.run_task(key);
        }
        progress
    }

    fn run_task(&self, key: TaskKey) {
        let Some((mut future, waker)) = self.inner.tasks.borrow_mut().take(key) else {
            return;
        };
        if future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
        {
            self.inner.tasks.borrow_mut().remove(key);
            return;
        }
        let missed = self.inner.tasks.borrow_mut().put_back(key, future);
        if let Some(waker) = missed {
            waker.wake();
        }
    }

    fn expire_timers(&self) -> bool {
        let mut progress = false;
        if self.inner.timers.borrow().next_deadline_ns().is_none() {
            return progress;
        }
        let now_ns = self.now_ns();
        loop {
            let Some(waker) = self.inner.timers.borrow_mut().pop_due(now_ns) else {
                return progress;
            };
            waker.wake();
            progress = true;
        }
    }

    /// Turns the loop until `future` is ready. For `main`, start-up and tests.
    ///
    /// # Panics
    ///
    /// As [`poll`](Self::poll).
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let flag = Arc::new(BlockOn {
            shared: self.inner.shared.clone(),
            woken: AtomicBool::new(true),
        });
        let waker = Waker::from(flag.clone());
        let mut cx = Context::from_waker(&waker);
        loop {
            if flag.woken.swap(false, Ordering::AcqRel)
                && let Poll::Ready(value) = future.as_mut().poll(&mut cx)
            {
                return value;
            }
            let blocking = if flag.woken.load(Ordering::Acquire) {
                Blocking::No
            } else {
                Blocking::Yes
            };
            self.poll(blocking);
        }
    }

    /// Ends the context: drops its tasks and bottom halves, waits until the kernel and the workers
    /// are done with every request, and gives everything back.
    ///
    /// What is posted from now on is dropped. Other clones of the context must not be used for
    /// requests any more.
    pub fn close(self) {
        self.inner.shared.close();
        // Dropped outside of any borrow: a task's end may spawn, wake, or drop others.
        loop {
            let tasks = self.inner.tasks.borrow_mut().take_all();
            if tasks.is_empty() {
                break;
            }
            drop(tasks);
        }
        let due = mem::take(&mut *self.inner.due.borrow_mut());
        drop(due);
        let bottom_halves = self.inner.bottom_halves.borrow_mut().take_all();
        drop(bottom_halves);
        let workers = self.inner.workers.borrow_mut().take();
        drop(workers);
        let backend = self.inner.backend.borrow_mut().take();
        drop(backend);
        self.inner.shared.close();
    }
}

/// Wakes [`AioContext::block_on`].
struct BlockOn {
    shared: Arc<Shared>,
    woken: AtomicBool,
}

impl Wake for BlockOn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.shared.notify();
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
