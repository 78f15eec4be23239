//! One turn of the loop: wait, then completions, bottom halves, handlers of descriptors, tasks, timers.

use std::{
    future::Future,
    mem,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use super::{AioContext, busy_poll::Woken};
use crate::{
    backend::Wait,
    bottom_half::{self, BottomHalfKey, Turn},
    current::Turning,
    fd_handler,
    request::Ended,
    shared::{Due, Local, Runnable, Shared, What},
    task::{self, TaskKey},
};

/// Tasks polled in one turn before the kernel is looked at again, so that I/O cannot starve.
const TASKS_PER_TURN: usize = 256;

/// Posts taken at once.
const POSTS_PER_TURN: usize = 1024;

/// How long the loop sleeps at most while a bottom half is scheduled as idle.
const IDLE_NS_MAX: u64 = 10_000_000;

/// Whether a turn of the loop may wait for something to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// It may, if there is nothing to do.
    Yes,
    /// It does what there is to do and comes back.
    No,
}

impl AioContext {
    /// Does what the end of an operation leads to.
    pub(super) fn after(&self, ended: Ended) {
        match ended {
            Ended::Wake(Some(waker)) => waker.wake(),
            Ended::Wake(None) | Ended::Unwanted(..) => {}
            Ended::Again(key, op) => self.start_on_worker(key, op),
        }
    }

    /// One turn of the loop: waits if it may and there is nothing to do, then does what there is to do.
    ///
    /// Returns whether anything was done. A turn that may wait comes back without only after a bare
    /// [`notify`](crate::Handle::notify) and what is like it: a bottom half that is idle, cancelled or
    /// deleted, new parameters, many timers to sort. A signal handler does not end the wait.
    ///
    /// It may be called from a callback that the loop has called (a nested turn): each event is
    /// dispatched once, by the inner or the outer turn.
    ///
    /// # Panics
    ///
    /// When called on another thread than the home thread's, from within a task of this context,
    /// after [`close`](Self::close), or in a forked child.
    pub fn poll(&self, blocking: Blocking) -> bool {
        self.assert_turnable();
        // Poll callbacks of handlers are called in here too.
        let _turning = Turning::begin(self);
        self.remove_dropped_handlers();
        self.wait(blocking);
        let progress = self.turn();
        self.renew_foreign_sleep();
        progress
    }

    /// Does what there is to do.
    pub(super) fn turn(&self) -> bool {
        self.inner.turns.set(self.inner.turns.get() + 1);
        let mut progress = self.take_completions();
        self.take_posts();
        progress |= self.run_bottom_halves();
        progress |= self.dispatch_handlers();
        progress |= match &self.inner.task_order {
            None => self.run_tasks(),
            Some(order) => self.run_tasks_in(order),
        };
        progress |= self.expire_timers();
        progress
    }

    pub(super) fn assert_turnable(&self) {
        assert!(
            self.inner.shared.is_home(),
            "a context turns on its home thread only"
        );
        assert!(
            !self.inner.in_task.get(),
            "a task awaits; it does not turn the loop that runs it"
        );
    }

    /// Whether there is something to do without asking the kernel.
    pub(super) fn has_work(&self) -> bool {
        let inner = &self.inner;
        let queued = |local: &mut Local| !local.runnable.is_empty() || !local.due.is_empty();
        inner.shared.local.with(queued)
            || inner.shared.has_posts()
            || inner.desk.has_work()
            || inner.handlers.borrow().ready() > 0
    }

    /// How long the loop may sleep.
    pub(super) fn timeout(&self) -> Wait {
        let wait = self.timer_timeout();
        if self.inner.shared.local.with(|local| local.idle.is_empty()) {
            return wait;
        }
        match wait {
            Wait::Ns(ns) => Wait::Ns(ns.min(IDLE_NS_MAX)),
            Wait::Forever => Wait::Ns(IDLE_NS_MAX),
            Wait::No => Wait::No,
        }
    }

    fn wait(&self, blocking: Blocking) {
        self.inner.desk.flush(&self.inner.shared);
        let mut wait = match blocking {
            Blocking::Yes if !self.has_work() => self.timeout(),
            Blocking::Yes | Blocking::No => Wait::No,
        };
        if wait == Wait::No {
            self.gather(wait);
            return;
        }
        let began_ns = self.inner.clock.now_ns();
        // Callbacks of handlers are called here: they may leave work, or arm a timer.
        let hit = self.busy_poll(wait, began_ns) || self.end_poll_mode();
        wait = if hit || self.has_work() {
            Wait::No
        } else {
            self.timeout()
        };
        let woken = loop {
            let woken = self.sleep(wait);
            wait = self.timeout_after(wait, woken);
            if wait == Wait::No {
                break woken;
            }
        };
        self.learn_from_wait(woken, began_ns);
    }

    /// Waits once, unless other threads have left something meanwhile.
    fn sleep(&self, mut wait: Wait) -> Woken {
        let (shared, state) = (&self.inner.shared, self.inner.shared.wake_state());
        if wait != Wait::No {
            state.announce_sleep(self.timer_deadlines());
            if shared.has_posts() || state.is_notified() {
                wait = Wait::No;
            }
        }
        let by_kernel = self.gather(wait);
        state.end_sleep();
        let notified = state.take_notified();
        Woken {
            by_posts: notified || shared.has_posts(),
            by_kernel,
        }
    }

    /// How long to sleep on after a wait. A signal ends one, and so does the end of what nobody
    /// waits for any more; the loop has nothing to do then.
    fn timeout_after(&self, wait: Wait, woken: Woken) -> Wait {
        if wait == Wait::No || woken.by_kernel || woken.by_posts {
            return Wait::No;
        }
        // An idle bottom half has had its time.
        if self.inner.shared.local.with(|local| !local.idle.is_empty()) {
            return Wait::No;
        }
        self.timer_timeout()
    }

    /// Hands new requests to the kernel, waits as told, and takes what has happened; returns whether that was anything.
    pub(super) fn gather(&self, wait: Wait) -> bool {
        let mut fresh = self.inner.fresh.borrow_mut();
        if !self.inner.requests.borrow_mut().wait(wait, &mut fresh) {
            return false;
        }
        let some = !fresh.completions.is_empty() || !fresh.ready.is_empty();
        self.inner
            .completions
            .borrow_mut()
            .extend(fresh.completions.drain(..));
        if !fresh.ready.is_empty() {
            let mut handlers = self.inner.handlers.borrow_mut();
            for (watch, events) in fresh.ready.drain(..) {
                handlers.note(watch, events);
            }
        }
        some
    }

    fn take_completions(&self) -> bool {
        let mut progress = false;
        loop {
            // Taken one by one: whoever is woken may run a nested turn later, and finds the rest here.
            let Some((key, result)) = self.inner.completions.borrow_mut().pop_front() else {
                return progress;
            };
            let ended = self.inner.requests.borrow_mut().complete(key, result);
            self.after(ended);
            progress = true;
        }
    }

    /// Sorts the bottom halves, wake-ups and timers that other threads have raised.
    pub(super) fn take_inbox(&self) {
        let shared = &self.inner.shared;
        for listed in shared.inbox.take() {
            match listed.node().what.what {
                What::BottomHalf(_) => shared
                    .local
                    .with(|local| local.due.push_back(Due::Listed(listed))),
                What::Task(_) => shared
                    .local
                    .with(|local| task::queue(&listed.begin(task::WOKEN).0, local)),
                What::Timer(_) => self.timer_changed(listed),
                What::FdHandler(key) => {
                    listed.begin(fd_handler::DROPPED);
                    self.remove_handler(key);
                }
            }
        }
        // Each task is in there once, so this ends.
        // Looking costs less than trying to take.
        while !shared.migrants.is_empty()
            && let Some(task) = shared.migrants.pop()
        {
            let task = Runnable::Migratable(task);
            shared.local.with(|local| local.runnable.push_back(task));
        }
    }

    /// Sorts what other threads, and this one, have left for the loop.
    fn take_posts(&self) {
        self.take_inbox();
        let shared = &self.inner.shared;
        // Bounded: whoever posts faster than we take must not keep the loop here.
        for _ in 0..POSTS_PER_TURN {
            let Some(callback) = shared.take_post() else {
                break;
            };
            shared
                .local
                .with(|local| local.due.push_back(Due::OneShot(callback)));
        }
        if shared.take_worked() {
            self.inner.desk.tend(shared);
        }
        self.inner.desk.settle(|done| {
            let ended = self.inner.requests.borrow_mut().complete_work(done);
            self.after(ended);
        });
    }

    /// Runs the bottom halves that are due. Those scheduled meanwhile wait for the next turn.
    fn run_bottom_halves(&self) -> bool {
        let local = &self.inner.shared.local;
        let (slice, idle) = local.with(|local| (local.due.len(), local.idle.len()));
        let mut progress = false;
        for _ in 0..slice {
            // A nested turn may have taken the rest of the slice.
            let Some(due) = local.with(|local| local.due.pop_front()) else {
                break;
            };
            progress |= match due {
                Due::OneShot(callback) => {
                    callback(self);
                    true
                }
                Due::Local(key) => {
                    let turn = self.inner.bottom_halves.borrow_mut().begin(key);
                    self.run_bottom_half(key, turn)
                }
                Due::Listed(listed) => {
                    let (node, bits) = listed.begin(bottom_half::TURN);
                    let key = bottom_half::key_of(&node);
                    self.run_bottom_half(key, Turn::of(bits))
                }
            };
        }
        for _ in 0..idle {
            let Some(key) = local.with(|local| local.idle.pop_front()) else {
                break;
            };
            let turn = self.inner.bottom_halves.borrow_mut().begin_idle(key);
            progress |= self.run_bottom_half(key, turn);
        }
        progress
    }

    /// Runs one bottom half as its turn says; returns whether that is progress.
    fn run_bottom_half(&self, key: BottomHalfKey, turn: Turn) -> bool {
        let table = &self.inner.bottom_halves;
        match turn {
            Turn::Skip => return false,
            Turn::Free => {
                let callback = table.borrow_mut().remove(key);
                // Dropping a callback may drop handles of other bottom halves: not under the borrow.
                drop(callback);
                return false;
            }
            Turn::Run | Turn::RunIdle => {}
        }
        let Some(mut callback) = table.borrow_mut().start(key) else {
            return false;
        };
        callback(self);
        let after = table.borrow_mut().finish(key, callback);
        after.finish();
        turn == Turn::Run
    }

    /// Polls tasks that were woken, and those they wake, up to a limit.
    fn run_tasks(&self) -> bool {
        let shared = &self.inner.shared;
        let mut left = TASKS_PER_TURN;
        let mut batch = self.inner.batch.take();
        while left > 0 {
            if shared.has_inbox() {
                self.take_inbox();
            }
            // A task runs no turn of its own, so nobody looks for those taken here.
            shared
                .local
                .with(|local| mem::swap(&mut local.runnable, &mut batch));
            if batch.is_empty() {
                break;
            }
            self.inner.in_task.set(true);
            while left > 0
                && let Some(next) = batch.pop_front()
            {
                left -= 1;
                self.run_task(next);
            }
            self.inner.in_task.set(false);
        }
        if !batch.is_empty() {
            // What is left comes before what was woken meanwhile.
            shared.local.with(|local| {
                batch.append(&mut local.runnable);
                mem::swap(&mut local.runnable, &mut batch);
            });
        }
        self.inner.batch.replace(batch);
        left < TASKS_PER_TURN
    }

    pub(super) fn run_task(&self, next: Runnable) {
        match next {
            Runnable::Task(key) => self.poll_task(key),
            // Closed from within a task: what was queued is dropped.
            Runnable::Migratable(task) if self.inner.shared.is_closed() => drop(task),
            Runnable::Migratable(task) => task.run(self),
        }
    }

    fn poll_task(&self, key: TaskKey) {
        let task = self.inner.tasks.borrow().get(key);
        let Some(task) = task else { return };
        if task.poll().is_ready() {
            self.inner.tasks.borrow_mut().remove(key);
        }
        // Here, outside of any borrow, what is done is dropped.
    }

    /// Turns the loop until `future` is ready. For `main`, start-up and tests: where one can await,
    /// that is better.
    ///
    /// The future need be neither `Send` nor `'static`, and is polled on this thread, in between turns.
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
