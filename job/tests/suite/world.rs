//! A registry on a loop that tests turn by hand, and a job driver that plays a part and keeps a log.

use std::{
    ops::Deref,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use aio::{AioContext, BackendKind, Clock, Config, ManualClock};
use job::{
    BoxFuture, CancelMode, Job, JobConfig, JobContext, JobDriver, JobError, JobEvent, JobRegistry,
    LocalBoxFuture, Subscription,
};

/// What happened, in order: events as `id status` or `id END`, hooks as `id.hook`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn add(&self, line: String) {
        self.0.lock().expect("no test panics here").push(line);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("no test panics here"))
    }
}

/// A flag that a test sets and a job driver looks at.
#[derive(Debug, Default)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What the body does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Ends well at once.
    EndWell,
    /// Fails with `boom` at once.
    Fail,
    /// Ends well when told; sees a cancel.
    UntilTold,
    /// Fails with `boom` when told, whatever else happens.
    FailWhenTold,
    /// Ends well when told, and does not look at anything else.
    Deaf,
    /// Becomes ready, then ends well when told or asked to complete, or at a soft cancel.
    Converge,
    /// Sleeps that many milliseconds in all and logs each time it wakes.
    SleepMs(u64),
}

/// A job driver that plays its part and logs its hooks.
#[derive(Debug)]
pub(crate) struct Actor {
    name: String,
    part: Part,
    log: Log,
    /// The body may end.
    told: Flag,
    is_ready: Flag,
    /// Takes every soft cancel as soft.
    pub(crate) stays_soft: Flag,
    /// Begins the body by pausing the job in the name of its user, without a pause point after it.
    pub(crate) pauses_itself: Flag,
    /// Keeps `pause` from returning for ever.
    pub(crate) hangs_in_pause: Flag,
    /// Makes `prepare` fail.
    pub(crate) fails_late: Flag,
    /// Keeps `prepare` from returning until it is set, if `slow_prepare` is.
    pub(crate) may_prepare: Flag,
    pub(crate) slow_prepare: Flag,
    /// The same for `abort`.
    pub(crate) may_abort: Flag,
    pub(crate) slow_abort: Flag,
}

impl Actor {
    pub(crate) fn new(name: &str, part: Part, log: Log) -> Self {
        Self {
            name: name.to_owned(),
            part,
            log,
            told: Flag::default(),
            is_ready: Flag::default(),
            stays_soft: Flag::default(),
            pauses_itself: Flag::default(),
            hangs_in_pause: Flag::default(),
            fails_late: Flag::default(),
            may_prepare: Flag::default(),
            slow_prepare: Flag::default(),
            may_abort: Flag::default(),
            slow_abort: Flag::default(),
        }
    }

    fn note(&self, what: &str) {
        self.log.add(format!("{}.{what}", self.name));
    }

    async fn until_told(&self, job: &JobContext) -> Result<(), JobError> {
        while !self.told.is_set() {
            if job.is_cancelled() {
                return Err(JobError::cancelled());
            }
            job.park().await;
        }
        Ok(())
    }

    async fn deaf(&self) -> Result<(), JobError> {
        std::future::poll_fn(|cx| {
            if self.told.is_set() {
                return Poll::Ready(Ok(()));
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    async fn converge(&self, job: &JobContext) -> Result<(), JobError> {
        job.become_ready();
        self.is_ready.set();
        while !self.told.is_set() && !job.is_cancel_requested() {
            job.park().await;
        }
        Ok(())
    }

    async fn sleep(&self, job: &JobContext, ms: u64) -> Result<(), JobError> {
        let end_ns = job.now_ns() + ms * 1_000_000;
        while let left_ns @ 1.. = end_ns.saturating_sub(job.now_ns()) {
            if job.is_cancelled() {
                return Err(JobError::cancelled());
            }
            job.sleep_ns(left_ns).await;
            self.note(&format!("woke {}", job.now_ns() / 1_000_000));
        }
        Ok(())
    }
}

impl JobDriver for Actor {
    fn kind(&self) -> &'static str {
        "part"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        self.note("run");
        if self.pauses_itself.is_set() {
            job.job().pause().expect("the user has not paused it");
        }
        let boom = || Err(JobError::failed("boom"));
        match self.part {
            Part::EndWell => Box::pin(async { Ok(()) }),
            Part::Fail => Box::pin(async move { boom() }),
            Part::Deaf => Box::pin(self.deaf()),
            Part::UntilTold => Box::pin(self.until_told(job)),
            Part::FailWhenTold => Box::pin(async move { self.until_told(job).await.and(boom()) }),
            Part::Converge => Box::pin(self.converge(job)),
            Part::SleepMs(ms) => Box::pin(self.sleep(job, ms)),
        }
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        self.note("pause");
        match self.hangs_in_pause.is_set() {
            true => Box::pin(std::future::pending()),
            false => Box::pin(std::future::ready(())),
        }
    }

    fn resume(&self) {
        self.note("resume");
    }

    fn user_resume(&self) {
        self.note("user_resume");
    }

    fn cancel(&self, mode: CancelMode) -> CancelMode {
        self.note(&format!("cancel {mode:?}"));
        match self.is_ready.is_set() || self.stays_soft.is_set() {
            true => mode,
            false => CancelMode::Force,
        }
    }

    fn can_complete(&self) -> bool {
        self.part == Part::Converge
    }

    fn complete(&self) -> Result<(), JobError> {
        self.note("complete");
        self.told.set();
        Ok(())
    }

    fn prepare<'a>(&'a self, main: &'a AioContext) -> LocalBoxFuture<'a, Result<(), JobError>> {
        self.note("prepare");
        Box::pin(async {
            while self.slow_prepare.is_set() && !self.may_prepare.is_set() {
                main.yield_now().await;
            }
            match self.fails_late.is_set() {
                true => Err(JobError::failed("late")),
                false => Ok(()),
            }
        })
    }

    fn commit<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        self.note("commit");
        Box::pin(std::future::ready(()))
    }

    fn abort<'a>(&'a self, main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        self.note("abort");
        Box::pin(async {
            while self.slow_abort.is_set() && !self.may_abort.is_set() {
                main.yield_now().await;
            }
        })
    }

    fn clean<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        self.note("clean");
        Box::pin(std::future::ready(()))
    }
}

/// A job and the actor inside it.
#[derive(Debug)]
pub(crate) struct TestJob {
    job: Job,
    pub(crate) actor: Arc<Actor>,
}

impl TestJob {
    /// Lets the body end.
    pub(crate) fn tell(&self) {
        self.actor.told.set();
        self.job.wake();
    }
}

impl Deref for TestJob {
    type Target = Job;

    fn deref(&self) -> &Job {
        &self.job
    }
}

/// A registry whose main context, on the calling thread, is also where bodies run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) context: AioContext,
    pub(crate) clock: ManualClock,
    pub(crate) wall_clock: ManualClock,
    pub(crate) registry: JobRegistry,
    pub(crate) log: Log,
    _subscription: Subscription,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::on(BackendKind::Epoll)
    }

    pub(crate) fn on(backend: BackendKind) -> Self {
        let (clock, hand) = Clock::manual();
        let (wall_clock, wall_hand) = Clock::manual();
        let backend = Some(backend);
        let config = Config {
            backend,
            clock,
            wall_clock,
            ..Config::default()
        };
        let context = AioContext::new(config).expect("every system has this backend");
        let registry = JobRegistry::new(context.handle().clone());
        let log = Log::default();
        let events = log.clone();
        let subscription = registry.subscribe(move |event| events.add(draw(event)));
        Self {
            context,
            clock: hand,
            wall_clock: wall_hand,
            registry,
            log,
            _subscription: subscription,
        }
    }

    pub(crate) fn config(&self, id: &str, part: Part) -> (JobConfig, Arc<Actor>) {
        let actor = Arc::new(Actor::new(id, part, self.log.clone()));
        let config = JobConfig::new(id, actor.clone(), self.context.handle().clone());
        (config, actor)
    }

    /// Creates a job with automatic steps.
    pub(crate) fn create(&self, id: &str, part: Part) -> TestJob {
        self.create_as(id, part, |_| ())
    }

    /// Creates a job whose configuration `change` changes.
    pub(crate) fn create_as(
        &self,
        id: &str,
        part: Part,
        change: impl FnOnce(&mut JobConfig),
    ) -> TestJob {
        let (mut config, actor) = self.config(id, part);
        change(&mut config);
        let job = self
            .registry
            .create(config)
            .expect("the id is good and free");
        TestJob { job, actor }
    }

    /// Creates a job and starts it, without a turn of the loop.
    pub(crate) fn start(&self, id: &str, part: Part) -> TestJob {
        let job = self.create(id, part);
        job.start().expect("nobody cancelled it");
        job
    }

    /// Turns the loop until nothing happens any more.
    pub(crate) fn settle(&self) {
        self.context.block_on(async {
            for _ in 0..60 {
                self.context.yield_now().await;
            }
        });
    }

    pub(crate) fn advance_ms(&self, ms: u64) {
        self.clock.advance_ns(ms * 1_000_000);
        self.settle();
    }

    /// What happened since the last look, hooks included.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.take()
    }

    /// The events since the last look, without hooks.
    pub(crate) fn events(&self) -> Vec<String> {
        let mut events = self.log.take();
        events.retain(|line| line.contains(' ') && !line.contains('.'));
        events
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.context.clone().close();
    }
}

/// One event in one line.
pub(crate) fn draw(event: &JobEvent) -> String {
    let id = &event.job().id;
    match event {
        JobEvent::StatusChange { status, .. } => format!("{id} {status}"),
        JobEvent::Ready(_) => format!("{id} READY"),
        JobEvent::Pending(_) => format!("{id} PENDING"),
        JobEvent::Completed { error: None, .. } => format!("{id} COMPLETED"),
        JobEvent::Completed {
            error: Some(error), ..
        } => format!("{id} COMPLETED {error}"),
        JobEvent::Cancelled(_) => format!("{id} CANCELLED"),
        JobEvent::Error {
            operation, action, ..
        } => format!("{id} ERROR {operation} {action}"),
        other => format!("{id} {other:?}"),
    }
}

/// Prefixes each word with the id: `lines("a", ["created", "running"])`.
pub(crate) fn lines<const N: usize>(id: &str, words: [&str; N]) -> Vec<String> {
    let line = |word: &str| match word.starts_with('.') {
        true => format!("{id}{word}"),
        false => format!("{id} {word}"),
    };
    words.map(line).to_vec()
}
