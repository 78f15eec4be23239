//! A block job over memory nodes, whose driver notes what it is told and says what the test wants.

use std::{
    any::Any,
    collections::BTreeSet,
    future::poll_fn,
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    task::{Poll, Waker},
    thread,
    time::Duration,
};

use aio::{AioContext, Clock, Config, Handle, ManualClock};
use block::{
    Child, Graph, Node, Permissions,
    nodes::{MemoryNode, MemoryOptions},
};
use blockjob::{Activity, BlockJob, BlockJobDriver, JobChange};
use job::{
    BoxFuture, CancelMode, Job, JobConfig, JobContext, JobDriver, JobError, JobEvent, JobRegistry,
    JobStatus, Subscription,
};

/// Long after the slowest test on the slowest machine.
const HANGS_AFTER: Duration = Duration::from_secs(120);

/// What the body does until it is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// Parks.
    Park,
    /// Becomes ready first, then parks.
    ReadyThenPark,
    /// Moves so many bytes again and again, as fast as the limit lets it.
    Move(u64),
}

pub(crate) struct TestDriver {
    pub(crate) block_job: BlockJob,
    kind: &'static str,
    body: Body,
    /// How often the body went on.
    pub(crate) rounds: AtomicU64,
    /// The name of the context on which it last did so.
    pub(crate) place: Mutex<String>,
    /// Its own word on whether it is quiet.
    pub(crate) word: Mutex<Option<Activity>>,
    pub(crate) synced: Mutex<Option<bool>>,
    /// What it was told, in order.
    heard: Mutex<Vec<String>>,
    /// As what it was called, as the last words of a panic would have it.
    pub(crate) called_as: Mutex<BTreeSet<String>>,
    pub(crate) pausing: Gate,
}

/// Something that the test lets end.
#[derive(Default)]
pub(crate) struct Gate {
    is_closed: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn open(&self) {
        self.is_closed.store(false, Ordering::SeqCst);
        let waker = self.waker.lock().unwrap().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn passed(&self) {
        poll_fn(|cx| {
            *self.waker.lock().unwrap() = Some(cx.waker().clone());
            match self.is_closed.load(Ordering::SeqCst) {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }
}

impl TestDriver {
    fn note(&self, what: impl Into<String>) {
        self.heard.lock().unwrap().push(what.into());
    }

    fn note_call(&self) {
        let current = job::current_callback().map(|current| current.to_string());
        self.called_as.lock().unwrap().extend(current);
    }

    /// What it was told since the last time.
    pub(crate) fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.heard.lock().unwrap())
    }

    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::SeqCst)
    }

    pub(crate) fn place(&self) -> String {
        self.place.lock().unwrap().clone()
    }

    async fn work(&self, job: &JobContext) -> Result<(), JobError> {
        if self.body == Body::ReadyThenPark {
            job.become_ready();
        }
        while !job.is_cancelled() {
            *self.place.lock().unwrap() = here();
            self.rounds.fetch_add(1, Ordering::SeqCst);
            match self.body {
                Body::Move(len_bytes) => {
                    self.block_job.account(len_bytes, job.now_ns());
                    self.block_job.throttle(job).await;
                }
                Body::Park | Body::ReadyThenPark => job.park().await,
            }
        }
        Ok(())
    }
}

/// The name of the context that polls the caller.
fn here() -> String {
    let context = AioContext::current().expect("a body runs on a context");
    context.handle().name().to_owned()
}

impl JobDriver for TestDriver {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn extension(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.block_job)
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(self.work(job))
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.pausing.passed())
    }

    fn user_resume(&self) {
        self.block_job.user_resume();
    }

    fn can_complete(&self) -> bool {
        self.body == Body::ReadyThenPark
    }
}

impl BlockJobDriver for TestDriver {
    fn set_speed(&self, speed_bytes_per_s: u64) {
        self.note_call();
        self.note(format!("speed {speed_bytes_per_s}"));
    }

    fn change(&self, change: &JobChange) -> Result<(), JobError> {
        self.note_call();
        let Some(value) = change.options::<u32>() else {
            return Err(JobError::refused("not a number"));
        };
        self.note(format!("change {value}"));
        Ok(())
    }

    fn drain(&self) {
        self.note_call();
        self.note("drain");
    }

    fn drained_poll(&self) -> Option<Activity> {
        self.note_call();
        *self.word.lock().unwrap()
    }

    fn detach_context(&self) {
        self.note_call();
        self.note("detach");
    }

    fn attached_context(&self, context: &Handle) {
        self.note_call();
        self.note(format!("attached {}", context.name()));
    }

    fn actively_synced(&self) -> Option<bool> {
        self.note_call();
        *self.synced.lock().unwrap()
    }
}

/// Graph and jobs, with what happened to these.
pub(crate) struct World {
    pub(crate) cx: AioContext,
    pub(crate) graph: Graph,
    pub(crate) jobs: JobRegistry,
    events: Arc<Mutex<Vec<String>>>,
    _subscription: Subscription,
}

impl World {
    pub(crate) fn new(cx: &AioContext) -> Self {
        let jobs = JobRegistry::new(cx.handle().clone());
        let events = Arc::<Mutex<Vec<String>>>::default();
        let heard = events.clone();
        let subscription = jobs.subscribe(move |event| heard.lock().unwrap().push(told(event)));
        Self {
            cx: cx.clone(),
            graph: Graph::new(),
            jobs,
            events,
            _subscription: subscription,
        }
    }

    pub(crate) fn node(&self, name: &str) -> Node {
        let memory = MemoryNode::new(MemoryOptions::new(1 << 20)).unwrap();
        self.graph.add_node(Some(name), memory).unwrap()
    }

    /// A job that is attached to `nodes`, bound and not started.
    pub(crate) fn job(&self, id: &str, body: Body, nodes: &[&Node]) -> TestJob {
        self.job_on(self.cx.handle(), id, body, nodes)
    }

    pub(crate) fn job_on(
        &self,
        context: &Handle,
        id: &str,
        body: Body,
        nodes: &[&Node],
    ) -> TestJob {
        let driver = self.driver(id, body);
        let config = JobConfig::new(id, driver.clone(), context.clone());
        self.job_as(config, &driver, nodes)
    }

    /// A driver of a job that does not exist yet.
    pub(crate) fn driver(&self, id: &str, body: Body) -> Arc<TestDriver> {
        Arc::new(TestDriver {
            block_job: BlockJob::new(id, "test", &self.graph),
            kind: "test",
            body,
            rounds: AtomicU64::new(0),
            place: Mutex::default(),
            word: Mutex::default(),
            synced: Mutex::default(),
            heard: Mutex::default(),
            called_as: Mutex::default(),
            pausing: Gate::default(),
        })
    }

    pub(crate) fn job_as(
        &self,
        config: JobConfig,
        driver: &Arc<TestDriver>,
        nodes: &[&Node],
    ) -> TestJob {
        let block_job = driver.block_job.clone();
        let attach = |node| block_job.attach(node, "main node", Permissions::IDLE, &[]);
        let edges = nodes.iter().map(|node| attach(node).unwrap()).collect();
        let job = self.jobs.create(config).unwrap();
        block_job.bind(&job, driver);
        TestJob {
            job,
            block_job,
            driver: driver.clone(),
            edges,
        }
    }

    /// What was told since the last time.
    pub(crate) fn events(&self) -> Vec<String> {
        std::mem::take(&mut self.events.lock().unwrap())
    }

    pub(crate) async fn settle(&self) {
        for _ in 0..50 {
            self.cx.yield_now().await;
        }
    }

    /// Waits for what happens on other threads.
    pub(crate) async fn until(&self, holds: impl Fn() -> bool) {
        for _ in 0..60_000 {
            if holds() {
                return;
            }
            self.cx.sleep_ns(1_000_000).await;
        }
        unreachable!("it does not come to hold");
    }
}

fn told(event: &JobEvent) -> String {
    let id = &event.job().id;
    let what = match event {
        JobEvent::StatusChange { status, .. } => status.to_string(),
        JobEvent::Error {
            operation, action, ..
        } => format!("error {operation} {action}"),
        JobEvent::Cancelled(job) => {
            let speed = BlockJob::of_event(job).unwrap().speed_bytes_per_s();
            format!("cancelled at speed {speed}")
        }
        other => format!("{other:?}"),
    };
    format!("{id} {what}")
}

/// A job, its block job, its driver and its edges.
pub(crate) struct TestJob {
    pub(crate) job: Job,
    pub(crate) block_job: BlockJob,
    pub(crate) driver: Arc<TestDriver>,
    pub(crate) edges: Vec<Child>,
}

impl TestJob {
    /// Whether the job stands still for a section, of which its status tells nothing.
    pub(crate) fn is_held(&self) -> bool {
        assert_eq!(self.job.status(), JobStatus::Running);
        self.job.is_quiescent()
    }

    /// Cancels it, lets it end, and lets go of everything.
    pub(crate) async fn end(mut self) {
        self.job.cancel(CancelMode::Force).unwrap();
        self.job.wait().await;
        self.edges.clear();
        self.block_job.release();
    }
}

/// Runs a test on a context of its own. A test that hangs ends the process.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce(AioContext) -> F) {
    run_by(Clock::default(), test);
}

/// The same by a clock that the test moves.
pub(crate) fn with_clock<F: Future<Output = ()>>(test: impl FnOnce(AioContext, ManualClock) -> F) {
    let (clock, hand) = Clock::manual();
    run_by(clock, |cx| test(cx, hand));
}

fn run_by<F: Future<Output = ()>>(clock: Clock, test: impl FnOnce(AioContext) -> F) {
    let (ended, end) = mpsc::channel::<()>();
    let name = thread::current().name().map(str::to_owned);
    thread::spawn(move || {
        if end.recv_timeout(HANGS_AFTER) == Err(mpsc::RecvTimeoutError::Timeout) {
            // Not by a macro, whose output belongs to the test and would be lost with it.
            drop(writeln!(io::stderr(), "{name:?} hangs"));
            std::process::abort();
        }
    });
    let config = Config {
        clock,
        ..Config::default()
    };
    aio::run(config, test).unwrap();
    drop(ended);
}
