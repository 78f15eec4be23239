//! The command line of the simulation; `cargo xtask sim` calls it.
//!
//! ```text
//! sim --seeds N [--from S] [--threads N] [--jobs KIND]    so many seeds, from S on, until one fails
//! sim --seed S [--jobs KIND]                              one seed, with its whole trace
//!
//! KIND is backup, mirror or all; a seed is another world for each.
//! ```

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the terminal of a developer is this program's only output"
)]

use std::{
    env,
    num::NonZero,
    panic,
    process::ExitCode,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use sim::{Ends, JobKinds, Keep, Report, last_events, run_seed};

/// One seed of so many is run twice, and must do the same both times.
const TWICE_ONE_IN: u64 = 100;

const USAGE: &str =
    "usage: sim (--seeds N [--from S] [--threads N] | --seed S) [--jobs backup|mirror|all]";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let Some(asked) = Asked::read(&args) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    // A panic ends the process: an invariant of the product does not hold, or one of ours.
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        before(info);
        print_last("PANIC");
    }));
    match asked.seed {
        Some(seed) => replay(seed, asked.jobs),
        None => run_many(&asked),
    }
}

/// What the command line asks for.
struct Asked {
    seed: Option<u64>,
    seeds: u64,
    from: u64,
    threads: usize,
    jobs: JobKinds,
}

impl Asked {
    fn read(args: &[String]) -> Option<Self> {
        let mut asked = Self {
            seed: None,
            seeds: 0,
            from: 0,
            threads: thread::available_parallelism().map_or(1, NonZero::get),
            jobs: JobKinds::All,
        };
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let value = args.next()?;
            if name == "--jobs" {
                asked.jobs = match value.as_str() {
                    "backup" => JobKinds::Backup,
                    "mirror" => JobKinds::Mirror,
                    "all" => JobKinds::All,
                    _ => return None,
                };
                continue;
            }
            let value = value.parse().ok()?;
            match name.as_str() {
                "--seed" => asked.seed = Some(value),
                "--seeds" => asked.seeds = value,
                "--from" => asked.from = value,
                "--threads" => asked.threads = usize::try_from(value).ok()?.max(1),
                _ => return None,
            }
        }
        (asked.seed.is_some() || asked.seeds > 0).then_some(asked)
    }
}

/// What else to say for the same world.
fn again() -> String {
    let args: Vec<String> = env::args().collect();
    let jobs = args.windows(2).find(|pair| pair[0] == "--jobs");
    let jobs = jobs.filter(|pair| pair[1] != "all");
    jobs.map_or_else(String::new, |pair| format!(" --jobs {}", pair[1]))
}

fn print_last(what: &str) {
    let (seed, events) = last_events();
    for event in events {
        eprintln!("{event}");
    }
    eprintln!(
        "{what} with seed {seed}; again with: cargo xtask sim --seed {seed}{}",
        again()
    );
}

/// Runs one seed and prints all that happens in it.
fn replay(seed: u64, jobs: JobKinds) -> ExitCode {
    let report = run_seed(seed, jobs, Keep::All);
    for event in last_events().1 {
        println!("{event}");
    }
    println!("{report:?}");
    match report.violation {
        Some(violation) => {
            println!("seed {seed} violates {violation}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

/// What all threads have come to, together.
#[derive(Default)]
struct Totals {
    seeds: u64,
    events: u64,
    virtual_ns: u64,
    answered: u64,
    ends: Ends,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.events += report.events;
        self.virtual_ns += report.virtual_ns;
        self.answered += report.answered;
        self.ends.completed += report.ends.completed;
        self.ends.failed += report.ends.failed;
        self.ends.cancelled += report.ends.cancelled;
        self.ends.switched += report.ends.switched;
        self.ends.grouped += report.ends.grouped;
        self.ends.chained += report.ends.chained;
    }
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    next: AtomicU64,
    has_failed: AtomicBool,
    totals: Mutex<Totals>,
}

impl Shared {
    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs seed after seed until there are no more, or one fails.
    fn work(&self, asked: &Asked) {
        while !self.has_failed.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= asked.seeds {
                return;
            }
            match run_one(asked.from.wrapping_add(number), asked.jobs) {
                Some(report) => self.totals().add(&report),
                None => self.has_failed.store(true, Ordering::Relaxed),
            }
        }
    }
}

fn run_many(asked: &Asked) -> ExitCode {
    let began = Instant::now();
    let shared = Shared::default();
    thread::scope(|scope| {
        for _ in 0..asked.threads {
            scope.spawn(|| shared.work(asked));
        }
    });
    let totals = shared.totals();
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} seeds in {seconds:.1} s, {:.1} in a second; {} s of virtual time, {} events, {} requests of guests answered; \
         jobs: {} completed ({} have switched, {} in groups, {} in chains), {} failed, {} cancelled",
        totals.seeds,
        f64::from(u32::try_from(totals.seeds).unwrap_or(u32::MAX)) / seconds,
        totals.virtual_ns / 1_000_000_000,
        totals.events,
        totals.answered,
        totals.ends.completed,
        totals.ends.switched,
        totals.ends.grouped,
        totals.ends.chained,
        totals.ends.failed,
        totals.ends.cancelled,
    );
    ExitCode::from(u8::from(shared.has_failed.load(Ordering::Relaxed)))
}

/// Runs one seed, now and then twice; `None` if something does not hold, which is printed.
fn run_one(seed: u64, jobs: JobKinds) -> Option<Report> {
    let report = run_seed(seed, jobs, Keep::Last);
    if let Some(violation) = report.violation {
        print_last(&format!("VIOLATION: {violation}"));
        return None;
    }
    if seed.is_multiple_of(TWICE_ONE_IN) && run_seed(seed, jobs, Keep::Last).hash != report.hash {
        eprintln!("VIOLATION: D12: seed {seed} does not do the same every time");
        return None;
    }
    Some(report)
}
