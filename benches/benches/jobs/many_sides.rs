//! The sides of `jobs/many`: each runs in a process of its own and prints what it found.
//!
//! On the main thread 200 users each do one piece of work after the other, until all is done. The
//! pieces run on two other threads, in turns, and are the same on all sides: progress, yields and
//! sleeps, or yields alone. A piece is a job, a bare task of our loop, or one of tokio's.

use std::{
    cell::{Cell, RefCell},
    fs,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use aio::{AioContext, Config, IoThread};
use benches::{cpu_time, percentile, rest};
use job::{
    BoxFuture, Job, JobConfig, JobContext, JobDriver, JobError, JobOutcome, JobRegistry, JobStatus,
    ProgressMeter,
};

use crate::process::{print, status_kib};

/// What tells the program to be a side.
pub(crate) const FLAG: &str = "--many-side";
/// Pieces of work that are alive at a time.
const ALIVE: u64 = 200;
/// Times that a piece yields, tells its progress and sleeps.
const STEPS: u64 = 3;
/// Length of a sleep. That is as finely as tokio counts.
const SLEEP: Duration = Duration::from_millis(1);
/// Threads that the work runs on.
const THREADS: usize = 2;
/// How often the client asks. Management programs ask about once in a second.
const QUERY_EVERY: Duration = Duration::from_millis(1);

/// Does `count` pieces of work the way of `side`, and prints what was found.
pub(crate) fn run(side: &str, count: u64) {
    let (kind, step) = match side.strip_suffix("_awake") {
        Some(kind) => (kind, Step { sleep: None }),
        None => (side, Step { sleep: Some(SLEEP) }),
    };
    match kind {
        "jobs" => jobs(count, step, None),
        "jobs_queried" => jobs(count, step, Some(Client::default())),
        "aio_tasks" => aio_tasks(count, step),
        "tokio_tasks" => tokio_tasks(count, step),
        _ => unreachable!("there is no side with this name"),
    }
}

/// What a piece does again and again, beside telling its progress and yielding.
#[derive(Clone, Copy)]
struct Step {
    sleep: Option<Duration>,
}

impl Step {
    fn sleep_ns(self) -> Option<u64> {
        let nanos = self.sleep?.as_nanos();
        Some(u64::try_from(nanos).expect("a sleep is short"))
    }
}

/// How far the work is. Main thread.
struct Work {
    count: u64,
    begun: Cell<u64>,
    ended: Cell<u64>,
    /// Memory in use, after each hundredth of the work.
    resident: RefCell<Vec<f64>>,
    start: Instant,
    cpu_before: Duration,
}

impl Work {
    fn start(count: u64) -> Rc<Self> {
        Rc::new(Self {
            count,
            begun: Cell::new(0),
            ended: Cell::new(0),
            resident: RefCell::default(),
            start: Instant::now(),
            cpu_before: cpu_time(),
        })
    }

    /// Does one piece after the other by `one`, until all have begun.
    async fn share(self: Rc<Self>, one: impl AsyncFn(u64)) {
        while self.begun.get() < self.count {
            let number = self.begun.replace(self.begun.get() + 1);
            one(number).await;
            self.ended.set(self.ended.get() + 1);
            if self.ended.get().is_multiple_of((self.count / 100).max(1)) {
                self.resident.borrow_mut().push(resident_kib());
            }
        }
    }

    fn print(&self) {
        let (wall, cpu) = (self.start.elapsed(), cpu_time() - self.cpu_before);
        let resident = self.resident.borrow();
        let warm = resident[resident.len() / 10];
        let later = resident[resident.len() / 10..].iter();
        print("wall_ms", wall.as_secs_f64() * 1e3);
        print("cpu_us", cpu.as_secs_f64() * 1e6 / self.count as f64);
        print("peak_mib", status_kib("self", "VmHWM:") / 1024.0);
        print("warm_mib", warm / 1024.0);
        print("growth_kib", later.fold(warm, |a, &b| a.max(b)) - warm);
    }
}

/// Memory that the process has in use, in KiB.
fn resident_kib() -> f64 {
    let text = fs::read_to_string("/proc/self/statm").expect("Linux tells of every process");
    let pages = text.split(' ').nth(1).and_then(|text| text.parse().ok());
    let pages: f64 = pages.expect("the second number is the resident size");
    pages * 4.0
}

fn io_threads() -> Vec<IoThread> {
    // Without busy polling, so that processor time tells what the work costs.
    let start = |number: usize| {
        let thread = IoThread::start(Config {
            name: format!("io{number}"),
            ..Config::default()
        });
        thread.expect("a machine that measures has threads")
    };
    (0..THREADS).map(start).collect()
}

fn thread_of(number: u64) -> usize {
    usize::try_from(number).expect("less than 2^32") % THREADS
}

/// A short job.
struct Short(Step);

impl JobDriver for Short {
    fn kind(&self) -> &'static str {
        "short"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async move {
            job.progress().set_remaining(STEPS);
            for _ in 0..STEPS {
                self.step(job).await;
            }
            Ok(())
        })
    }
}

impl Short {
    async fn step(&self, job: &JobContext) {
        job.yield_now().await;
        if let Some(ns) = self.0.sleep_ns() {
            job.sleep_ns(ns).await;
        }
        job.progress().work_done(1);
    }
}

fn jobs(count: u64, step: Step, client: Option<Client>) {
    let all = |cx: AioContext| async move {
        let threads = io_threads();
        let jobs = JobRegistry::new(cx.handle().clone());
        let events = Arc::new(AtomicU64::new(0));
        let counted = events.clone();
        let subscription = jobs.subscribe(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let asking = client.map(|client| client.start(&jobs));
        let work = Work::start(count);
        let share = |user| {
            let contexts: Vec<_> = threads.iter().map(|it| it.handle().clone()).collect();
            let seen = asking.as_ref().map(|asking| asking.seen.clone());
            let seen = seen.filter(|_| user == 0);
            let jobs = jobs.clone();
            let one = async move |number| {
                let context = contexts[thread_of(number)].clone();
                let config = JobConfig::new(format!("job{number}"), Arc::new(Short(step)), context);
                let job = jobs.create(config).expect("ids do not meet");
                job.start().expect("nobody cancels");
                // Whoever asks may have gone.
                let _ = seen.as_ref().map(|seen| seen.send(job.clone()));
                assert!(matches!(job.wait().await, JobOutcome::Completed));
            };
            cx.spawn(work.clone().share(one))
        };
        let tasks: Vec<_> = (0..ALIVE).map(share).collect();
        for task in tasks {
            task.await;
        }
        work.print();
        if let Some(asking) = asking {
            asking.end();
        }
        drop(subscription);
        print(
            "events",
            events.load(Ordering::Relaxed) as f64 / count as f64,
        );
    };
    aio::run(Config::default(), all).expect("a machine that measures has a backend");
}

/// Somebody on a thread of his own who asks how the jobs stand.
#[derive(Default)]
struct Client {
    query_us: Vec<f64>,
    info_us: Vec<f64>,
    alive: Vec<f64>,
}

struct Asking {
    /// Jobs to ask about.
    seen: mpsc::Sender<Job>,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Client>,
}

impl Client {
    fn start(mut self, jobs: &JobRegistry) -> Asking {
        let (seen, young) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, jobs) = (stop.clone(), jobs.clone());
        let thread = thread::spawn(move || {
            let mut job = None;
            while !stopped.load(Ordering::Acquire) {
                rest(QUERY_EVERY);
                job = young.try_iter().last().or(job);
                self.ask(&jobs, job.as_ref());
            }
            self
        });
        Asking { seen, stop, thread }
    }

    fn ask(&mut self, jobs: &JobRegistry, job: Option<&Job>) {
        let start = Instant::now();
        let all = jobs.query();
        self.query_us.push(start.elapsed().as_secs_f64() * 1e6);
        self.alive.push(all.len() as f64);
        let Some(job) = job else { return };
        let start = Instant::now();
        let info = job.info();
        let took = start.elapsed();
        if info.status != JobStatus::Null {
            self.info_us.push(took.as_secs_f64() * 1e6);
        }
    }
}

impl Asking {
    fn end(self) {
        self.stop.store(true, Ordering::Release);
        let client = self.thread.join().expect("asking does not panic");
        let figures = [("query_us", &client.query_us), ("info_us", &client.info_us)];
        for (name, values) in figures {
            if values.is_empty() {
                continue;
            }
            for percent in [50, 99] {
                let name = format!("{name}_p{percent}");
                print(&name, percentile(values, percent));
            }
        }
        print("queried_alive", percentile(&client.alive, 50));
    }
}

fn aio_tasks(count: u64, step: Step) {
    let all = |cx: AioContext| async move {
        let threads = io_threads();
        let work = Work::start(count);
        let share = |_| {
            let contexts: Vec<_> = threads.iter().map(|it| it.handle().clone()).collect();
            let one = async move |number| {
                let context = &contexts[thread_of(number)];
                context.spawn(move |cx| on_aio(cx, step)).await;
            };
            cx.spawn(work.clone().share(one))
        };
        let tasks: Vec<_> = (0..ALIVE).map(share).collect();
        for task in tasks {
            task.await;
        }
        work.print();
    };
    aio::run(Config::default(), all).expect("a machine that measures has a backend");
}

async fn on_aio(cx: AioContext, step: Step) {
    let progress = ProgressMeter::default();
    progress.set_remaining(STEPS);
    for _ in 0..STEPS {
        cx.yield_now().await;
        if let Some(ns) = step.sleep_ns() {
            cx.sleep_ns(ns).await;
        }
        progress.work_done(1);
    }
}

fn tokio_tasks(count: u64, step: Step) {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().build();
        runtime.expect("a machine that measures has threads")
    };
    let (handles, stops): (Vec<_>, Vec<_>) = (0..THREADS)
        .map(|_| {
            let runtime = runtime();
            let handle = runtime.handle().clone();
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            // Ends when the sender is dropped, which is no message.
            let thread = thread::spawn(move || drop(runtime.block_on(stopped)));
            (handle, (stop, thread))
        })
        .unzip();
    let (main, users) = (runtime(), tokio::task::LocalSet::new());
    let work = Work::start(count);
    users.block_on(&main, async {
        let share = |_| {
            let handles = handles.clone();
            let one = async move |number| {
                let task = handles[thread_of(number)].spawn(on_tokio(step));
                task.await.expect("no task panics");
            };
            tokio::task::spawn_local(work.clone().share(one))
        };
        let tasks: Vec<_> = (0..ALIVE).map(share).collect();
        for task in tasks {
            task.await.expect("no task panics");
        }
    });
    work.print();
    for (stop, thread) in stops {
        drop(stop);
        thread.join().expect("the runtime does not panic");
    }
}

async fn on_tokio(step: Step) {
    let progress = ProgressMeter::default();
    progress.set_remaining(STEPS);
    for _ in 0..STEPS {
        tokio::task::yield_now().await;
        if let Some(sleep) = step.sleep {
            tokio::time::sleep(sleep).await;
        }
        progress.work_done(1);
    }
}
