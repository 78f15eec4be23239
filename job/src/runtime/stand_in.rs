//! A small context with the contract of `aio`'s, on a thread of shuttle's.
//!
//! What other threads leave is taken in the order in which it was left: first all callbacks, then
//! tasks that were woken, then timers. The clock is virtual: when there is nothing else to do, the
//! next timer is due, unless it lies in a time that nobody lives to see ([`NEVER_NS`]).
//!
//! The stand-in is believed, not tested. So its own state is behind locks of the standard library,
//! which are never held where shuttle may switch threads; the one place where it may is before
//! something is left for a loop.

mod join;
mod migratable;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use shuttle::thread::{self, ThreadId};

use join::oneshot;
pub(crate) use join::{Closed, Join, JoinHandle};
use migratable::Migratable;
pub(crate) use migratable::reschedule_to;

/// Sleeps of this length and more do not end by themselves.
pub(crate) const NEVER_NS: u64 = 1 << 60;

type Callback = Box<dyn FnOnce(&AioContext) + Send>;
type TimerCallback = RefCell<dyn FnMut(&AioContext)>;
type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

shuttle::thread_local! {
    static CURRENT: RefCell<Option<AioContext>> = RefCell::new(None);
}

/// Never: a panic is how a schedule fails, and shuttle is to see it rather than the process to end.
pub(crate) fn panicking() -> bool {
    false
}

/// Lets the scheduler switch threads here.
pub(crate) fn switch_point() {
    if !std::thread::panicking() {
        thread::sleep(Duration::ZERO);
    }
}

/// A loop, as all threads see it.
struct Loop {
    name: String,
    home: OnceLock<ThreadId>,
    state: Mutex<LoopState>,
}

#[derive(Default)]
struct LoopState {
    callbacks: VecDeque<Callback>,
    /// Tasks that were woken, each once.
    runnable: VecDeque<Runnable>,
    /// Migratable tasks that are here, or on their way.
    guests: BTreeMap<u64, Arc<Migratable>>,
    /// Whom to wake when there is something to do.
    sleeper: Option<Waker>,
    /// Something was left since the last sleep.
    is_told: bool,
    /// When which timers are due.
    deadlines: BTreeSet<(u64, u64)>,
    /// Timers whose owners have dropped them.
    dropped_timers: Vec<u64>,
    must_stop: bool,
    is_closed: bool,
    last_key: u64,
}

enum Runnable {
    Local(u64),
    Migratable(Arc<Migratable>),
}

impl Loop {
    fn lock(&self) -> MutexGuard<'_, LoopState> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// Changes the state and wakes the loop. What is left for a closed one is given back.
    fn leave<T>(&self, left: T, change: impl FnOnce(&mut LoopState, T)) -> Option<T> {
        let mut state = self.lock();
        if state.is_closed {
            return Some(left);
        }
        change(&mut state, left);
        state.is_told = true;
        let sleeper = state.sleeper.take();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        None
    }
}

/// See `aio::Handle`.
#[derive(Clone)]
pub(crate) struct Handle {
    shared: Arc<Loop>,
    /// Every thread is taken for its home, which is a mistake.
    is_lying: bool,
}

impl Handle {
    fn new(name: &str) -> Self {
        let shared = Loop {
            name: name.to_owned(),
            home: OnceLock::new(),
            state: Mutex::default(),
        };
        let shared = Arc::new(shared);
        let is_lying = false;
        Self { shared, is_lying }
    }

    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    pub(crate) fn is_home(&self) -> bool {
        self.is_lying || self.shared.home.get() == Some(&thread::current().id())
    }

    /// A handle that takes every thread for the home: the mistake of a mutant.
    pub(crate) fn at_home_anywhere(&self) -> Self {
        Self {
            is_lying: true,
            ..self.clone()
        }
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    pub(crate) fn notify(&self) {
        switch_point();
        self.shared.leave((), |_, ()| ());
    }

    pub(crate) fn schedule(&self, callback: impl FnOnce(&AioContext) + Send + 'static) {
        switch_point();
        let callback: Callback = Box::new(callback);
        let refused = self
            .shared
            .leave(callback, |state, it| state.callbacks.push_back(it));
        drop(refused);
    }

    pub(crate) fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&AioContext) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let (sender, handle) = oneshot();
        self.schedule(move |context| sender.send(call(context)));
        handle
    }

    pub(crate) fn spawn<F, Fut, T>(&self, start: F) -> JoinHandle<T>
    where
        F: FnOnce(AioContext) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (sender, handle) = oneshot();
        self.schedule(move |context| {
            let future = start(context.clone());
            context.spawn_local(sender.send_result_of(future));
        });
        handle
    }

    pub(crate) fn spawn_migratable<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let (sender, handle) = oneshot();
        switch_point();
        migratable::spawn(self, Box::pin(sender.send_result_of(future)));
        handle
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// See `aio::AioContext`.
#[derive(Clone)]
pub(crate) struct AioContext {
    inner: Rc<Inner>,
}

struct Inner {
    handle: Handle,
    /// Callbacks that a turn has taken and not yet run: an inner turn goes on with them.
    callbacks: RefCell<VecDeque<Callback>>,
    tasks: RefCell<BTreeMap<u64, LocalFuture>>,
    timers: RefCell<BTreeMap<u64, Rc<TimerCallback>>>,
    now_ns: Cell<u64>,
    /// A migratable task is being polled, and where it wants to go.
    going: RefCell<Option<Going>>,
}

enum Going {
    Nowhere,
    To(Handle),
}

impl AioContext {
    /// Makes the calling thread the home of the loop behind `handle`.
    fn new(handle: Handle) -> Self {
        let home = thread::current().id();
        handle.shared.home.set(home).expect("a loop has one home");
        let inner = Inner {
            handle,
            callbacks: RefCell::default(),
            tasks: RefCell::default(),
            timers: RefCell::default(),
            now_ns: Cell::new(0),
            going: RefCell::new(None),
        };
        let context = Self {
            inner: Rc::new(inner),
        };
        CURRENT.with(|current| *current.borrow_mut() = Some(context.clone()));
        context
    }

    pub(crate) fn current() -> Option<Self> {
        CURRENT.with(|current| current.borrow().clone())
    }

    /// The context behind `handle`, on its home thread.
    pub(crate) fn of(handle: &Handle) -> Option<Self> {
        Self::current().filter(|context| context.handle().is_same(handle))
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.inner.handle
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.inner.now_ns.get()
    }

    /// All clocks show the same.
    pub(crate) fn clock_now_ns(&self, _clock: TimerClock) -> u64 {
        self.now_ns()
    }

    pub(crate) fn timer(
        &self,
        _name: &'static str,
        _clock: TimerClock,
        callback: impl FnMut(&Self) + 'static,
    ) -> Timer {
        let key = self.next_key();
        let callback: Rc<TimerCallback> = Rc::new(RefCell::new(callback));
        self.inner.timers.borrow_mut().insert(key, callback);
        let handle = self.handle().clone();
        Timer { handle, key }
    }

    /// Lets everything else that is due run once.
    pub(crate) fn yield_now(&self) -> YieldNow {
        YieldNow { has_yielded: false }
    }

    /// Here there are no other threads for it: the work is done on the spot.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        self.yield_now().await;
        work()
    }

    /// Turns the loop until `future` has ended.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let waker = Waker::from(Arc::new(Nudge(self.handle().clone())));
        loop {
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            if let Poll::Ready(out) = polled {
                return out;
            }
            if !self.turn() {
                self.sleep();
            }
        }
    }

    /// Turns the loop while `condition` holds.
    pub(crate) fn wait_while(&self, mut condition: impl FnMut() -> bool) {
        while condition() {
            if !self.turn() {
                self.sleep();
            }
        }
    }

    fn next_key(&self) -> u64 {
        let mut state = self.handle().shared.lock();
        state.last_key += 1;
        state.last_key
    }

    fn spawn_local(&self, future: impl Future<Output = ()> + 'static) {
        let key = self.next_key();
        let mut state = self.handle().shared.lock();
        if state.is_closed {
            drop(state);
            return;
        }
        state.runnable.push_back(Runnable::Local(key));
        state.is_told = true;
        drop(state);
        let mut tasks = self.inner.tasks.borrow_mut();
        tasks.insert(key, Box::pin(future));
    }

    /// Does what is due; false if nothing was.
    fn turn(&self) -> bool {
        switch_point();
        let shared = &self.handle().shared;
        let left = std::mem::take(&mut shared.lock().callbacks);
        self.inner.callbacks.borrow_mut().extend(left);
        let mut is_busy = false;
        while let Some(callback) = self.next_callback() {
            callback(self);
            is_busy = true;
        }
        // Those that are woken meanwhile are for the next turn: callbacks do not wait for them.
        let mut left = shared.lock().runnable.len();
        while left > 0
            && let Some(runnable) = self.next_runnable()
        {
            left -= 1;
            is_busy = true;
            match runnable {
                Runnable::Local(key) => self.poll_local(key),
                Runnable::Migratable(task) => task.poll(self),
            }
        }
        is_busy || self.fire_timer()
    }

    fn next_callback(&self) -> Option<Callback> {
        self.inner.callbacks.borrow_mut().pop_front()
    }

    fn next_runnable(&self) -> Option<Runnable> {
        self.handle().shared.lock().runnable.pop_front()
    }

    fn poll_local(&self, key: u64) {
        let task = self.inner.tasks.borrow_mut().remove(&key);
        let Some(mut future) = task else {
            return;
        };
        let handle = self.handle().clone();
        let waker = Waker::from(Arc::new(LocalWake { handle, key }));
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_pending() && !self.handle().shared.lock().is_closed {
            self.inner.tasks.borrow_mut().insert(key, future);
        }
    }

    /// Moves the clock to the next deadline.
    fn fire_timer(&self) -> bool {
        let mut state = self.handle().shared.lock();
        let dropped = std::mem::take(&mut state.dropped_timers);
        let first = state.deadlines.first().copied();
        let due = first.filter(|&(deadline_ns, _)| deadline_ns < NEVER_NS);
        if due.is_some() {
            state.deadlines.pop_first();
        }
        drop(state);
        for key in dropped {
            let timer = self.inner.timers.borrow_mut().remove(&key);
            drop(timer);
        }
        let Some((deadline_ns, key)) = due else {
            return false;
        };
        // Time passes for all threads.
        thread::yield_now();
        self.inner.now_ns.set(self.now_ns().max(deadline_ns));
        let timer = self.inner.timers.borrow().get(&key).cloned();
        if let Some(timer) = timer {
            timer.borrow_mut()(self);
        }
        true
    }

    /// Waits until somebody leaves something.
    fn sleep(&self) {
        let shared = &self.handle().shared;
        shuttle::future::block_on(std::future::poll_fn(|cx| {
            let mut state = shared.lock();
            if std::mem::take(&mut state.is_told) {
                return Poll::Ready(());
            }
            state.sleeper = Some(cx.waker().clone());
            Poll::Pending
        }));
    }

    /// Drops all that is left. On the home thread.
    fn close(&self) {
        let mut state = self.handle().shared.lock();
        state.is_closed = true;
        let left = std::mem::take(&mut *state);
        state.is_closed = true;
        drop(state);
        for task in left.guests.values() {
            task.close();
        }
        let tasks = std::mem::take(&mut *self.inner.tasks.borrow_mut());
        let callbacks = std::mem::take(&mut *self.inner.callbacks.borrow_mut());
        let timers = std::mem::take(&mut *self.inner.timers.borrow_mut());
        drop((left, tasks, callbacks, timers));
        CURRENT.with(|current| current.borrow_mut().take());
    }
}

impl fmt::Debug for AioContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AioContext")
            .field("handle", self.handle())
            .finish_non_exhaustive()
    }
}

/// Wakes a local task, from any thread.
struct LocalWake {
    handle: Handle,
    key: u64,
}

impl Wake for LocalWake {
    fn wake(self: Arc<Self>) {
        switch_point();
        let key = self.key;
        self.handle.shared.leave((), |state, ()| {
            let is_this = |it: &Runnable| matches!(it, Runnable::Local(known) if *known == key);
            if !state.runnable.iter().any(is_this) {
                state.runnable.push_back(Runnable::Local(key));
            }
        });
    }
}

/// Makes a loop turn.
struct Nudge(Handle);

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

/// See `aio::YieldNow`.
pub(crate) struct YieldNow {
    has_yielded: bool,
}

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// See `aio::TimerClock`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TimerClock {
    Loop,
    Wall,
}

/// See `aio::Timer`.
#[derive(Debug)]
pub(crate) struct Timer {
    handle: Handle,
    key: u64,
}

impl Timer {
    pub(crate) fn arm_at_ns(&self, deadline_ns: u64) {
        switch_point();
        let key = self.key;
        self.handle.shared.leave((), |state, ()| {
            state.disarm(key);
            state.deadlines.insert((deadline_ns, key));
        });
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        switch_point();
        let mut state = self.handle.shared.lock();
        state.disarm(self.key);
        state.dropped_timers.push(self.key);
    }
}

impl LoopState {
    fn disarm(&mut self, key: u64) {
        self.deadlines.retain(|&(_, timer)| timer != key);
    }
}

/// A thread that turns a loop; closes it when dropped.
pub(crate) struct LoopThread {
    handle: Handle,
    thread: Option<thread::JoinHandle<()>>,
}

impl LoopThread {
    pub(crate) fn start(name: &str) -> Self {
        let handle = Handle::new(name);
        let thread = thread::Builder::new().name(name.to_owned());
        let home = handle.clone();
        let thread = thread.spawn(move || {
            let context = AioContext::new(home);
            let shared = &context.handle().shared;
            context.wait_while(|| !shared.lock().must_stop);
            context.close();
        });
        let thread = Some(thread.expect("shuttle has threads for all"));
        Self { handle, thread }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for LoopThread {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.handle
            .shared
            .leave((), |state, ()| state.must_stop = true);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a loop that panics ends the test");
        }
    }
}
