//! Adaptive busy polling: how long a context looks for work in memory before it sleeps.
//!
//! A sleep costs a system call and a wake-up from another thread; work that comes a few microseconds
//! later is met sooner and cheaper by looking for it meanwhile. Each *source* of work that can be
//! seen in memory (posts of other threads, completions in the ring, handlers with a poll callback)
//! has a time of its own, which grows while the waits that it ends are short and shrinks when they
//! are long; a context polls for the longest of them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Limits of busy polling, the same as in [`Config`](crate::Config). Each may be changed while the context runs: see
/// [`Handle::set_poll_params`](crate::Handle::set_poll_params).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollParams {
    /// Longest time to poll before a sleep, in nanoseconds; zero is not at all.
    pub max_ns: u64,
    /// By what the time grows; zero stands for two.
    pub grow: u64,
    /// By what the time is divided when it shrinks; zero stands for falling to nothing at once.
    pub shrink: u64,
}

impl PollParams {
    /// No busy polling.
    pub const OFF: Self = Self {
        max_ns: 0,
        grow: 0,
        shrink: 0,
    };
}

/// The parameters where all threads see them.
#[derive(Debug)]
pub(crate) struct SharedParams {
    max_ns: AtomicU64,
    grow: AtomicU64,
    shrink: AtomicU64,
    /// Counts changes.
    version: AtomicU64,
}

impl SharedParams {
    pub(crate) fn new(params: PollParams) -> Self {
        Self {
            max_ns: AtomicU64::new(params.max_ns),
            grow: AtomicU64::new(params.grow),
            shrink: AtomicU64::new(params.shrink),
            version: AtomicU64::new(0),
        }
    }

    /// Any thread. Whoever polls at that moment may use one more mixture of old and new values.
    pub(crate) fn set(&self, params: PollParams) {
        self.max_ns.store(params.max_ns, Ordering::Relaxed);
        self.grow.store(params.grow, Ordering::Relaxed);
        self.shrink.store(params.shrink, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn get(&self) -> PollParams {
        PollParams {
            max_ns: self.max_ns.load(Ordering::Relaxed),
            grow: self.grow.load(Ordering::Relaxed),
            shrink: self.shrink.load(Ordering::Relaxed),
        }
    }
}

/// First length of a poll that has proved worth while.
const START_NS: u64 = 4_000;

/// A source that has not ended a wait for so long is not polled for any more.
const IDLE_NS: u64 = 7_000_000_000;

/// How long one source is polled for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Polled {
    /// Whether it has ever been ready, and not idle for long since.
    joined: bool,
    ns: u64,
    /// When it was ready last.
    hit_at_ns: u64,
}

impl Polled {
    /// The time to poll for this source; none while it is not on the list of those polled.
    pub(crate) fn ns(&self) -> u64 {
        if self.joined { self.ns } else { 0 }
    }

    /// Whether it is on the list of those polled.
    pub(crate) fn is_joined(&self) -> bool {
        self.joined
    }

    /// It was ready after a wait of `waited_ns` (polling included) that ended at `now_ns`.
    pub(crate) fn was_ready(&mut self, params: PollParams, waited_ns: u64, now_ns: u64) {
        self.hit_at_ns = now_ns;
        if !self.joined {
            self.joined = true;
            self.ns = 0;
        }
        if waited_ns <= self.ns {
            // Polling would have seen it: just right.
        } else if waited_ns > params.max_ns {
            self.ns = self.ns.checked_div(params.shrink).unwrap_or(0);
        } else if waited_ns < params.max_ns {
            let grow = if params.grow == 0 { 2 } else { params.grow };
            let grown = if self.ns == 0 {
                START_NS
            } else {
                self.ns.saturating_mul(grow)
            };
            self.ns = grown.min(params.max_ns);
        }
    }

    /// Takes it off the list if it has been idle for long; returns whether it was taken off now.
    pub(crate) fn leave_if_idle(&mut self, now_ns: u64) -> bool {
        let idle = self.joined && now_ns.saturating_sub(self.hit_at_ns) > IDLE_NS;
        if idle {
            *self = Self::default();
        }
        idle
    }

    /// Begins anew, after a change of parameters; it stays on the list.
    pub(crate) fn reset(&mut self) {
        self.ns = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{IDLE_NS, PollParams, Polled};

    const PARAMS: PollParams = PollParams {
        max_ns: 32_768,
        grow: 0,
        shrink: 0,
    };

    fn after(params: PollParams, waits_ns: &[u64]) -> u64 {
        let mut polled = Polled::default();
        for &waited_ns in waits_ns {
            polled.was_ready(params, waited_ns, 0);
        }
        polled.ns()
    }

    #[test]
    fn the_time_starts_at_four_microseconds_doubles_and_is_clamped() {
        assert_eq!(after(PARAMS, &[5_000]), 4_000);
        assert_eq!(after(PARAMS, &[5_000; 2]), 8_000);
        assert_eq!(after(PARAMS, &[20_000; 9]), 32_000);
        assert_eq!(after(PARAMS, &[32_500; 9]), 32_768);
        let params = PollParams { grow: 3, ..PARAMS };
        assert_eq!(after(params, &[20_000; 2]), 12_000);
    }

    #[test]
    fn a_wait_that_polling_covers_changes_nothing() {
        assert_eq!(after(PARAMS, &[5_000, 5_000, 7_999, 8_000]), 8_000);
        // Exactly the longest time: neither longer nor shorter.
        assert_eq!(after(PARAMS, &[5_000, 32_768]), 4_000);
    }

    #[test]
    fn a_wait_beyond_the_longest_time_shrinks_it() {
        assert_eq!(after(PARAMS, &[20_000, 20_000, 40_000]), 0);
        let params = PollParams {
            shrink: 4,
            ..PARAMS
        };
        assert_eq!(after(params, &[20_000, 20_000, 40_000]), 2_000);
    }

    #[test]
    fn a_source_joins_when_it_is_first_ready_and_leaves_after_seven_idle_seconds() {
        let mut polled = Polled::default();
        assert!(!polled.is_joined());
        polled.was_ready(PARAMS, 5_000, 100);
        assert!(polled.is_joined() && polled.ns() == 4_000);

        assert!(!polled.leave_if_idle(100 + IDLE_NS));
        assert!(polled.leave_if_idle(101 + IDLE_NS));
        assert!(!polled.is_joined() && polled.ns() == 0);
    }
}
