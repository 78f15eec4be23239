//! Busy polling in a turn: looking for work in memory before the loop sleeps.

use super::AioContext;
use crate::{
    backend::{BackendKind, Wait},
    clock::Clock,
    fd_handler::{FdHandlerKey, Probe},
    polling::{PollParams, Polled},
};

/// What a context knows of its busy polling.
#[derive(Debug)]
pub(super) struct BusyPoll {
    params: PollParams,
    /// The version of the shared parameters that `params` is.
    version: u64,
    /// Posts of other threads.
    posts: Polled,
    /// Completions and readiness that the ring shows in memory.
    kernel: Polled,
    /// Whether handlers have been told that polling has begun.
    mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    On,
    Off,
}

impl BusyPoll {
    pub(super) fn new(params: PollParams) -> Self {
        Self {
            params,
            version: 0,
            posts: Polled::default(),
            kernel: Polled::default(),
            mode: Mode::Off,
        }
    }
}

/// What ended a wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Woken {
    pub(super) by_posts: bool,
    pub(super) by_kernel: bool,
}

type Pollers = Vec<(FdHandlerKey, Probe)>;

impl AioContext {
    /// Looks for work in memory for as long as has proved worth while, at most as long as `wait`;
    /// returns whether there is some.
    pub(super) fn busy_poll(&self, wait: Wait, began_ns: u64) -> bool {
        self.take_poll_params();
        let off = self.inner.busy_poll.borrow().params.max_ns == 0;
        if off || matches!(self.inner.clock, Clock::Manual(_)) || self.inner.shared.is_foreign() {
            return false;
        }
        self.leave_idle_pollers(began_ns);
        let budget_ns = match wait {
            Wait::No => 0,
            Wait::Ns(ns) => self.poll_budget_ns().min(ns),
            Wait::Forever => self.poll_budget_ns(),
        };
        if budget_ns == 0 {
            return false;
        }
        self.begin_poll_mode();
        let pollers = self.pollers();
        let until_ns = began_ns.saturating_add(budget_ns);
        let shared = &self.inner.shared;
        loop {
            if self.probe(&pollers)
                || shared.has_posts()
                || shared.wake_state().is_notified()
                || self.inner.requests.borrow_mut().has_news()
            {
                return true;
            }
            if self.inner.clock.now_ns() >= until_ns {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// Ends poll mode before a sleep; returns whether a last look has found something.
    pub(super) fn end_poll_mode(&self) -> bool {
        if self.inner.busy_poll.borrow().mode == Mode::Off {
            return false;
        }
        self.inner.busy_poll.borrow_mut().mode = Mode::Off;
        let mut ends = Vec::new();
        self.inner.handlers.borrow_mut().each_polling(|_, handler| {
            if handler.polled.is_joined() {
                ends.extend(handler.notices.end.clone());
            }
        });
        for end in ends {
            end();
        }
        self.probe(&self.pollers())
    }

    /// Learns from a wait that began at `began_ns` and has just ended.
    pub(super) fn learn_from_wait(&self, woken: Woken, began_ns: u64) {
        let mut busy_poll = self.inner.busy_poll.borrow_mut();
        let params = busy_poll.params;
        if params.max_ns == 0 {
            return;
        }
        let now_ns = self.inner.clock.now_ns();
        let waited_ns = now_ns.saturating_sub(began_ns);
        if woken.by_posts {
            busy_poll.posts.was_ready(params, waited_ns, now_ns);
        }
        if woken.by_kernel && self.backend() == BackendKind::IoUring {
            busy_poll.kernel.was_ready(params, waited_ns, now_ns);
        }
        let mode = busy_poll.mode;
        drop(busy_poll);
        let mut begins = Vec::new();
        self.inner.handlers.borrow_mut().each_ready(|handler| {
            let joins = !handler.polled.is_joined();
            handler.polled.was_ready(params, waited_ns, now_ns);
            if joins && mode == Mode::On {
                begins.extend(handler.notices.begin.clone());
            }
        });
        for begin in begins {
            begin();
        }
    }

    /// Takes over parameters that were changed; every time begins anew then.
    fn take_poll_params(&self) {
        let shared = self.inner.shared.poll_params();
        let version = shared.version();
        let mut busy_poll = self.inner.busy_poll.borrow_mut();
        if busy_poll.version == version {
            return;
        }
        busy_poll.version = version;
        busy_poll.params = shared.get();
        busy_poll.posts.reset();
        busy_poll.kernel.reset();
        self.inner
            .handlers
            .borrow_mut()
            .each_polling(|_, handler| handler.polled.reset());
    }

    fn poll_budget_ns(&self) -> u64 {
        let busy_poll = self.inner.busy_poll.borrow();
        let mut longest_ns = busy_poll.posts.ns().max(busy_poll.kernel.ns());
        let mut handlers = self.inner.handlers.borrow_mut();
        if handlers.has_polling() {
            handlers.each_polling(|_, handler| longest_ns = longest_ns.max(handler.polled.ns()));
        }
        longest_ns.min(busy_poll.params.max_ns)
    }

    /// Takes sources off the list that have not been ready for long; each is looked at once more.
    fn leave_idle_pollers(&self, now_ns: u64) {
        let mut busy_poll = self.inner.busy_poll.borrow_mut();
        busy_poll.posts.leave_if_idle(now_ns);
        busy_poll.kernel.leave_if_idle(now_ns);
        let told = busy_poll.mode == Mode::On;
        drop(busy_poll);
        if !self.inner.handlers.borrow().has_polling() {
            return;
        }
        let mut left = Vec::new();
        self.inner
            .handlers
            .borrow_mut()
            .each_polling(|key, handler| {
                if handler.polled.leave_if_idle(now_ns) {
                    let end = handler.notices.end.clone().filter(|_| told);
                    left.push((key, end, handler.poll.clone()));
                }
            });
        for (key, end, poll) in left {
            if let Some(end) = end {
                end();
            }
            if poll.is_some_and(|poll| poll()) {
                self.inner.handlers.borrow_mut().note_polled(key);
            }
        }
    }

    fn begin_poll_mode(&self) {
        if self.inner.busy_poll.borrow().mode == Mode::On {
            return;
        }
        self.inner.busy_poll.borrow_mut().mode = Mode::On;
        let mut begins = Vec::new();
        self.inner.handlers.borrow_mut().each_polling(|_, handler| {
            if handler.polled.is_joined() {
                begins.extend(handler.notices.begin.clone());
            }
        });
        for begin in begins {
            begin();
        }
    }

    /// The poll callbacks to call, taken out so that no borrow is held meanwhile. Handlers that run
    /// further out on the stack are left out: what they would say is being dealt with.
    fn pollers(&self) -> Pollers {
        let mut pollers = Vec::new();
        let mut handlers = self.inner.handlers.borrow_mut();
        if handlers.has_polling() {
            handlers.each_polling(|key, handler| {
                let wanted = handler.polled.is_joined() && !handler.is_running();
                let poll = handler.poll.clone().filter(|_| wanted);
                pollers.extend(poll.map(|poll| (key, poll)));
            });
        }
        pollers
    }

    /// Asks each poll callback once, and notes those that are ready.
    fn probe(&self, pollers: &Pollers) -> bool {
        let mut found = false;
        for (key, poll) in pollers {
            if poll() {
                self.inner.handlers.borrow_mut().note_polled(*key);
                found = true;
            }
        }
        found
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
