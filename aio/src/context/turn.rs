//! One turn of the loop: wait, then completions, bottom halves, tasks, timers.

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

use super::AioContext;
use crate::{
    backend::Wait,
    bottom_half::{self, BottomHalfKey, Turn},
    clock::Clock,
    current::Turning,
    request::Ended,
    shared::{Due, Local, Post, Shared, What},
    task::{self, TaskKey},
};

/// Tasks polled in one turn before the kernel is looked at again, so that I/O cannot starve.
const TASKS_PER_TURN: usize = 256;

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

/// Adaptive polling before sleep: how long the next one may be (SEMANTICS: adaptive busy polling).
#[derive(Clone, Copy, Debug)]
pub(super) struct Spin {
    now_ns: u64,
    max_ns: u64,
}

impl Spin {
    /// Starts with no polling; it has to prove worth while.
    pub(super) fn new(max_ns: u64) -> Self {
        Self { now_ns: 0, max_ns }
    }

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
        let _turning = Turning::begin(self);
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
        let queued = |local: &mut Local| !local.runnable.is_empty() || !local.due.is_empty();
        inner.shared.local.with(queued) || inner.shared.has_posts() || inner.desk.has_work()
    }

    /// How long the loop may sleep.
    fn timeout(&self) -> Wait {
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
            state.announce_sleep(self.timer_deadlines());
            if self.inner.shared.has_posts() || state.take_notified() {
                wait = Wait::No;
            }
        }
        let mut fresh = mem::take(&mut *self.inner.fresh.borrow_mut());
        self.inner.requests.borrow_mut().wait(wait, &mut fresh);
        let completions = fresh.completions.drain(..);
        self.inner.completions.borrow_mut().extend(completions);
        self.inner.fresh.replace(fresh);
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
            let shared = &self.inner.shared;
            if shared.has_posts() || shared.wake_state().is_notified() {
                return true;
            }
            if self.inner.requests.borrow_mut().has_news() {
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
            let Some((key, result)) = self.inner.completions.borrow_mut().pop_front() else {
                return progress;
            };
            let ended = self.inner.requests.borrow_mut().complete(key, result);
            self.after(ended);
            progress = true;
        }
    }

    /// Sorts what other threads, and this one, have left for the loop.
    fn take_posts(&self) {
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
            }
        }
        while let Some(post) = shared.take_post() {
            match post {
                Post::OneShot(callback) => shared
                    .local
                    .with(|local| local.due.push_back(Due::OneShot(callback))),
                Post::Worked => self.inner.desk.tend(shared),
            }
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
        let mut progress = false;
        for _ in 0..TASKS_PER_TURN {
            let mut next = shared.local.with(|local| local.runnable.pop_front());
            if next.is_none() && shared.has_posts() {
                self.take_posts();
                next = shared.local.with(|local| local.runnable.pop_front());
            }
            let Some(key) = next else { break };
            progress = true;
            self.run_task(key);
        }
        progress
    }

    fn run_task(&self, key: TaskKey) {
        let taken = self.inner.tasks.borrow_mut().take(key);
        let Some((mut future, waker)) = taken else {
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
        self.inner.tasks.borrow_mut().put_back(key, future, waker);
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
