//! Who does what since when, and the thread that ends the process when something takes too long.

use std::{
    io::Write,
    panic,
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::clock::Clock;

/// Longest time for one operation. All of them are short, but the machine may be slow.
const LIMIT_NS: u64 = if cfg!(debug_assertions) {
    60_000_000_000
} else {
    20_000_000_000
};

/// Names that begin so are those of threads of this test.
pub(super) const THREAD_PREFIX: &str = "stress-";

static SEED: AtomicU64 = AtomicU64::new(0);

/// Writes to the terminal even where the test harness keeps what tests print.
pub(super) fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "stress: {line}"));
}

fn die(line: &str) -> ! {
    let seed = SEED.load(Ordering::Relaxed);
    say(&format!("FAILED with seed {seed}: {line}"));
    std::process::abort()
}

/// Has a panic on any thread of the test end the process, with the seed: others would wait for ever.
pub(super) fn set_seed(seed: u64) {
    static HOOK: Once = Once::new();
    SEED.store(seed, Ordering::Relaxed);
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let thread = thread::current();
            match thread.name() {
                Some(name) if name.starts_with(THREAD_PREFIX) => {
                    die(&format!("panic on `{name}`: {info}"));
                }
                _ => before(info),
            }
        }));
    });
}

/// One that works, and what it is at.
pub(super) struct Worker {
    name: String,
    state: Mutex<State>,
}

struct State {
    /// `None` between two operations.
    since_ns: Option<u64>,
    what: &'static str,
    step: String,
    before: [&'static str; 4],
    done: u64,
}

impl Worker {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, what: &'static str) {
        let mut state = self.lock();
        state.before.rotate_right(1);
        state.before[0] = state.what;
        state.what = what;
        state.step.clear();
        state.since_ns = Some(Clock::Monotonic.now_ns());
    }

    /// Notes how far the operation has come, for the report.
    pub(super) fn step(&self, step: &str) {
        let mut state = self.lock();
        state.step.clear();
        state.step.push_str(step);
    }

    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.since_ns = None;
        state.done += 1;
    }

    fn describe(&self, now_ns: u64) -> (u64, String) {
        let state = self.lock();
        let for_ns = state
            .since_ns
            .map_or(0, |since_ns| now_ns.saturating_sub(since_ns));
        let line = format!(
            "{}: {} [{}] for {} ms, before that {:?}, {} done",
            self.name,
            state.what,
            state.step,
            for_ns / 1_000_000,
            state.before,
            state.done
        );
        (for_ns, line)
    }
}

/// All that work.
#[derive(Default)]
pub(super) struct Workers(Mutex<Vec<Arc<Worker>>>);

/// Takes a worker off the list when it is dropped.
pub(super) struct Listed<'a>(&'a Workers, pub(super) Arc<Worker>);

impl Workers {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Worker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self, name: String) -> Listed<'_> {
        let state = State {
            since_ns: None,
            what: "nothing",
            step: String::new(),
            before: ["nothing"; 4],
            done: 0,
        };
        let worker = Arc::new(Worker {
            name,
            state: Mutex::new(state),
        });
        self.lock().push(worker.clone());
        Listed(self, worker)
    }

    /// What everybody is at, and for how long the slowest is.
    fn report(&self) -> (u64, Vec<String>) {
        let now_ns = Clock::Monotonic.now_ns();
        let workers = self.lock();
        let described: Vec<_> = workers.iter().map(|it| it.describe(now_ns)).collect();
        let longest_ns = described.iter().map(|it| it.0).max().unwrap_or(0);
        (longest_ns, described.into_iter().map(|it| it.1).collect())
    }

    /// Ends the process if somebody is at one thing for too long.
    fn check(&self, look: impl Fn() -> Vec<String>) {
        let (longest_ns, lines) = self.report();
        if longest_ns > LIMIT_NS {
            lines.iter().chain(&look()).for_each(|line| say(line));
            die("no progress");
        }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.0.lock().retain(|worker| !Arc::ptr_eq(worker, &self.1));
    }
}

/// The thread that looks, until it is stopped.
pub(super) struct Watchdog {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watchdog {
    /// Starts it. `look` is called now and then, and adds to the report when something is stuck.
    pub(super) fn start(
        workers: Arc<Workers>,
        look: impl Fn() -> Vec<String> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let watch = move || {
            while !stopped.load(Ordering::Acquire) {
                thread::park_timeout(Duration::from_millis(250));
                workers.check(&look);
            }
        };
        let name = format!("{THREAD_PREFIX}dog");
        let thread = thread::Builder::new().name(name).spawn(watch).unwrap();
        Self { stop, thread }
    }

    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().unwrap();
    }
}
