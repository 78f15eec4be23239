//! Time as the loop sees it: real, or advanced by hand in tests.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::handle::Handle;

/// The clock of a context. Nothing above this crate reads the time in another way.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The host's monotonic clock, counted from the first use in the process.
    #[default]
    Monotonic,
    /// A clock that stands still until its [`ManualClock`] moves it.
    Manual(ManualClock),
}

impl Clock {
    /// A clock that stands at zero, and the means to move it.
    #[must_use]
    pub fn manual() -> (Self, ManualClock) {
        let clock = ManualClock::default();
        (Self::Manual(clock.clone()), clock)
    }

    /// Nanoseconds since the clock's zero. Never goes back.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        static ZERO: OnceLock<Instant> = OnceLock::new();
        match self {
            Self::Monotonic => {
                let elapsed = ZERO.get_or_init(Instant::now).elapsed();
                u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
            }
            Self::Manual(clock) => clock.0.now_ns.load(Ordering::Acquire),
        }
    }
}

/// Moves a manual clock. Any thread; every context on the clock then looks at its timers.
#[derive(Clone, Default)]
pub struct ManualClock(Arc<Manual>);

#[derive(Default)]
struct Manual {
    now_ns: AtomicU64,
    contexts: Mutex<Vec<Handle>>,
}

impl ManualClock {
    /// Moves the clock forward by `ns` nanoseconds.
    pub fn advance_ns(&self, ns: u64) {
        self.0.now_ns.fetch_add(ns, Ordering::AcqRel);
        let contexts = self
            .0
            .contexts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for context in contexts {
            context.notify();
        }
    }

    /// Has every later move of the clock wake `context`.
    pub(crate) fn attach(&self, context: Handle) {
        self.0
            .contexts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(context);
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock")
            .field("now_ns", &self.0.now_ns)
            .finish_non_exhaustive()
    }
}
