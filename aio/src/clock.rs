//! Time as the loop sees it: real, or moved by hand.

use std::{
    cell::Cell,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use crate::shared::Shared;

/// A clock. Cheap to clone, and for any thread. Nothing above this crate reads the time in another way.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The host's monotonic clock, counted from the first use in the process.
    #[default]
    Monotonic,
    /// The host's wall clock, counted from the beginning of 1970, UTC. It jumps when it is set.
    Wall,
    /// A clock that stands still until its [`ManualClock`] moves it.
    Manual(ManualClock),
}

impl Clock {
    /// A clock that stands at zero, and the means to move it.
    ///
    /// ```
    /// let (clock, hand) = aio::Clock::manual();
    /// let config = aio::Config { clock, ..aio::Config::default() };
    /// aio::run(config, |cx| async move {
    ///     let sleep = cx.sleep_ns(3_600_000_000_000);
    ///     hand.advance_ns(3_600_000_000_000);
    ///     sleep.await;
    /// })?;
    /// # Ok::<(), aio::AioError>(())
    /// ```
    #[must_use]
    pub fn manual() -> (Self, ManualClock) {
        let clock = ManualClock::default();
        (Self::Manual(clock.clone()), clock)
    }

    /// Nanoseconds since the clock's zero. Only a wall clock, and one moved by hand, ever goes back.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        static ZERO: OnceLock<Instant> = OnceLock::new();
        match self {
            Self::Monotonic => {
                let elapsed = ZERO.get_or_init(Instant::now).elapsed();
                u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
            }
            Self::Wall => {
                let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                // Before 1970 it stands still.
                let elapsed = elapsed.unwrap_or_default();
                u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
            }
            Self::Manual(clock) => clock.now_ns(),
        }
    }

    /// Whether time passes on it by itself.
    pub(crate) fn runs(&self) -> bool {
        !matches!(self, Self::Manual(_))
    }
}

/// Which of a context's clocks a timer goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimerClock {
    /// The loop's clock, [`Config::clock`](crate::Config::clock): that of
    /// [`AioContext::now_ns`](crate::AioContext::now_ns) and of all sleeps.
    Loop,
    /// The wall clock, [`Config::wall_clock`](crate::Config::wall_clock). Its jumps are noticed when
    /// the loop turns next: a timer that a jump has made due may wait as long as the loop sleeps.
    Wall,
    /// The virtual clock, [`Config::virtual_clock`](crate::Config::virtual_clock), which only its
    /// owner moves.
    Virtual,
}

/// How many clocks a context has.
pub(crate) const CLOCKS: usize = 3;

impl TimerClock {
    pub(crate) const ALL: [Self; CLOCKS] = [Self::Loop, Self::Wall, Self::Virtual];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Loop => 0,
            Self::Wall => 1,
            Self::Virtual => 2,
        }
    }
}

/// The clocks of a context, as its home thread sees them.
#[derive(Debug)]
pub(crate) struct Clocks {
    clocks: [Clock; CLOCKS],
    /// The latest time of the loop's clock that was read.
    seen_ns: Cell<u64>,
}

impl Clocks {
    /// The clocks of a context that is woken whenever one of them is moved by hand.
    pub(crate) fn new(clocks: [Clock; CLOCKS], context: &Arc<Shared>) -> Self {
        for clock in &clocks {
            if let Clock::Manual(clock) = clock {
                clock.attach(context);
            }
        }
        let seen_ns = Cell::new(0);
        Self { clocks, seen_ns }
    }

    pub(crate) fn get(&self, clock: TimerClock) -> &Clock {
        &self.clocks[clock.index()]
    }

    pub(crate) fn now_ns(&self, clock: TimerClock) -> u64 {
        let now_ns = self.get(clock).now_ns();
        if clock == TimerClock::Loop {
            self.seen_ns.set(now_ns);
        }
        now_ns
    }

    /// Whether the loop's clock is known to have come to `deadline_ns`. Real time is not looked at
    /// for that: reading it costs more than a timer, which finds out as well.
    pub(crate) fn has_come_to(&self, deadline_ns: u64) -> bool {
        match self.get(TimerClock::Loop) {
            Clock::Monotonic => deadline_ns <= self.seen_ns.get(),
            clock @ (Clock::Wall | Clock::Manual(_)) => deadline_ns <= clock.now_ns(),
        }
    }
}

/// Moves a manual clock. Any thread; every context on the clock then looks at its timers.
#[derive(Clone, Default)]
pub struct ManualClock(Arc<Manual>);

#[derive(Default)]
struct Manual {
    now_ns: AtomicU64,
    contexts: Mutex<Vec<Weak<Shared>>>,
}

impl ManualClock {
    /// Nanoseconds since the clock's zero.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.0.now_ns.load(Ordering::Acquire)
    }

    /// Moves the clock forward by `ns` nanoseconds.
    pub fn advance_ns(&self, ns: u64) {
        self.0.now_ns.fetch_add(ns, Ordering::AcqRel);
        self.moved();
    }

    /// Sets the clock. Setting it back is for a clock that stands for a wall clock; sleeps and timers
    /// then wait until their deadlines come again.
    pub fn set_ns(&self, now_ns: u64) {
        self.0.now_ns.store(now_ns, Ordering::Release);
        self.moved();
    }

    fn moved(&self) {
        let contexts: Vec<_> = {
            let mut contexts = self.0.lock();
            contexts.retain(|context| context.strong_count() > 0);
            contexts.iter().filter_map(Weak::upgrade).collect()
        };
        for context in contexts {
            context.notify();
        }
    }

    /// Has every later move of the clock wake `context`.
    fn attach(&self, context: &Arc<Shared>) {
        self.0.lock().push(Arc::downgrade(context));
    }
}

impl Manual {
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Shared>>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock")
            .field("now_ns", &self.0.now_ns)
            .finish_non_exhaustive()
    }
}
