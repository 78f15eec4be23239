//! Where models play: a registry on two loops, and job drivers that keep account of their hooks.

use std::{
    mem::ManuallyDrop,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use shuttle::{
    future::block_on,
    rand::{RngCore, thread_rng},
    thread,
};

use crate::{
    BoxFuture, CancelMode, Job, JobConfig, JobContext, JobDriver, JobError, JobEvent, JobOutcome,
    JobRegistry, JobStatus, LocalBoxFuture, Subscription, Trigger,
    runtime::{
        AioContext, Handle,
        stand_in::{LoopThread, NEVER_NS, switch_point},
    },
};

/// A flag of a test: no place where threads are switched, so that it adds no schedules.
#[derive(Debug, Default)]
pub(super) struct Flag(AtomicBool);

impl Flag {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn clear(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What the body does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// Passes that many pause points and ends well.
    Steps(u32),
    /// Parks until it is told to end.
    Park,
    /// The same in sleeps that do not end by themselves.
    Sleep,
    /// The same in short sleeps.
    Doze,
    /// Waits for a request that never returns, until it is cancelled.
    Request,
    /// Becomes ready, then parks until it is told to end, or asked to complete, or cancelled.
    Converge,
    /// Waits once, in its own way.
    Own(Wait),
}

/// A wait of a body.
pub(super) type Wait = for<'a> fn(&'a JobContext) -> BoxFuture<'a, ()>;

/// What the hooks of one job were called with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hooks {
    pub(super) runs: u32,
    pub(super) pauses: u32,
    pub(super) resumes: u32,
    pub(super) user_resumes: u32,
    pub(super) prepares: u32,
    pub(super) commits: u32,
    pub(super) aborts: u32,
    pub(super) cleans: u32,
}

/// A job driver that plays its part and keeps account.
#[derive(Debug)]
pub(super) struct Actor {
    part: Part,
    told: Flag,
    hooks: Mutex<Hooks>,
    /// The body does something: it is in none of its waits.
    is_at_work: Flag,
}

impl Actor {
    pub(super) fn new(part: Part) -> Self {
        Self {
            part,
            told: Flag::default(),
            hooks: Mutex::default(),
            is_at_work: Flag::default(),
        }
    }

    /// The hooks so far.
    pub(super) fn hooks(&self) -> Hooks {
        self.lock().clone()
    }

    /// Lets the body end, once it is woken.
    pub(super) fn tell(&self) {
        self.told.set();
    }

    /// Whether the body does something right now.
    pub(super) fn is_at_work(&self) -> bool {
        self.is_at_work.is_set()
    }

    fn lock(&self) -> MutexGuard<'_, Hooks> {
        self.hooks.lock().expect("nothing panics under this lock")
    }

    /// A request on the job's context that never returns.
    async fn request(&self, job: &JobContext) {
        job.on_context(|_cx| std::future::pending::<()>()).await;
    }

    /// One wait of the body; it is not at work meanwhile.
    async fn wait(&self, job: &JobContext) {
        self.is_at_work.clear();
        match self.part {
            Part::Steps(_) => job.yield_now().await,
            Part::Park | Part::Converge => job.park().await,
            Part::Sleep => job.sleep_ns(NEVER_NS).await,
            Part::Doze => job.sleep_ns(1000).await,
            Part::Own(wait) => wait(job).await,
            Part::Request => job.or_cancelled(self.request(job)).await.unwrap_or(()),
        }
        self.is_at_work.set();
        // Something to do, during which others come by.
        switch_point();
        assert!(job.handle().is_home(), "a body runs on its job's context");
    }

    async fn play(&self, job: &JobContext) -> Result<(), JobError> {
        let mut left = match self.part {
            Part::Steps(steps) => steps,
            Part::Own(_) => 1,
            _ => u32::MAX,
        };
        if self.can_complete() {
            job.become_ready();
        }
        while left > 0 && !self.told.is_set() {
            let is_cancelled = match self.part {
                Part::Converge => job.is_cancel_requested(),
                _ => job.is_cancelled(),
            };
            if is_cancelled {
                break;
            }
            self.wait(job).await;
            left -= 1;
        }
        Ok(())
    }
}

impl JobDriver for Actor {
    fn kind(&self) -> &'static str {
        "part"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        self.lock().runs += 1;
        Box::pin(async {
            self.is_at_work.set();
            let result = self.play(job).await;
            self.is_at_work.clear();
            result
        })
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        self.lock().pauses += 1;
        Box::pin(std::future::ready(()))
    }

    fn resume(&self) {
        self.lock().resumes += 1;
    }

    fn user_resume(&self) {
        take_time();
        self.lock().user_resumes += 1;
    }

    fn cancel(&self, mode: CancelMode) -> CancelMode {
        take_time();
        match self.part {
            Part::Converge => mode,
            _ => CancelMode::Force,
        }
    }

    fn can_complete(&self) -> bool {
        matches!(self.part, Part::Converge)
    }

    fn complete(&self) -> Result<(), JobError> {
        self.tell();
        Ok(())
    }

    fn prepare<'a>(&'a self, main: &'a AioContext) -> LocalBoxFuture<'a, Result<(), JobError>> {
        take_time();
        self.lock().prepares += 1;
        assert_eq!(self.hooks().prepares, 1, "a job is prepared once");
        Box::pin(async {
            main.yield_now().await;
            Ok(())
        })
    }

    fn commit<'a>(&'a self, main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        take_time();
        self.lock().commits += 1;
        Box::pin(async { main.yield_now().await })
    }

    fn abort<'a>(&'a self, main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        take_time();
        self.lock().aborts += 1;
        Box::pin(async { main.yield_now().await })
    }

    fn clean<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        self.lock().cleans += 1;
        Box::pin(std::future::ready(()))
    }
}

/// Lets others go on for a while, now a short one, now a long one.
pub(super) fn take_time() {
    for _ in 0..thread_rng().next_u64() % 8 {
        thread::yield_now();
    }
}

/// A job and the actor inside it.
#[derive(Clone, Debug)]
pub(super) struct Played {
    pub(super) job: Job,
    pub(super) actor: Arc<Actor>,
}

impl Played {
    /// Lets the body end.
    pub(super) fn tell(&self) {
        self.actor.tell();
        self.job.wake();
    }

    /// The outcome, awaited on the calling thread.
    pub(super) fn outcome(&self) -> JobOutcome {
        block_on(self.job.wait())
    }
}

/// A registry whose jobs complete on one loop, and whose bodies run on another.
pub(super) struct Stage {
    main: Option<LoopThread>,
    side: Option<LoopThread>,
    /// Where bodies may move to.
    pub(super) target: Option<LoopThread>,
    pub(super) registry: JobRegistry,
    pub(super) events: Arc<Mutex<Vec<JobEvent>>>,
    played: Mutex<Vec<Played>>,
    _subscription: UnlessPanicking<Subscription>,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self::with_registry(|main| JobRegistry::new(main.clone()))
    }

    /// The same with a registry that `make` makes from the main context.
    pub(super) fn with_registry(make: impl FnOnce(&Handle) -> JobRegistry) -> Self {
        let [main, side] = ["main", "side"].map(LoopThread::start);
        let registry = make(main.handle());
        let events = Arc::<Mutex<Vec<JobEvent>>>::default();
        let (heard, home) = (events.clone(), main.handle().clone());
        let subscription = registry.subscribe(move |event| {
            assert!(home.is_home(), "events are heard on the main context");
            heard.lock().expect("nothing panics").push(event.clone());
            switch_point();
        });
        Self {
            main: Some(main),
            side: Some(side),
            target: None,
            registry,
            events,
            played: Mutex::default(),
            _subscription: UnlessPanicking(Some(subscription)),
        }
    }

    /// The same with a third loop, for bodies to move to.
    pub(super) fn with_target() -> (Self, Handle) {
        let target = LoopThread::start("target");
        let handle = target.handle().clone();
        let stage = Self {
            target: Some(target),
            ..Self::new()
        };
        (stage, handle)
    }

    /// Creates a job whose configuration `change` changes.
    pub(super) fn create(
        &self,
        id: &str,
        part: Part,
        change: impl FnOnce(&mut JobConfig),
    ) -> Played {
        let created = self.try_create(id, part, change);
        created.expect("the id is free, and the transaction open")
    }

    /// The same where it may be too late.
    pub(super) fn try_create(
        &self,
        id: &str,
        part: Part,
        change: impl FnOnce(&mut JobConfig),
    ) -> Result<Played, JobError> {
        let actor = Arc::new(Actor::new(part));
        let side = self.side.as_ref().expect("it is open");
        let mut config = JobConfig::new(id, actor.clone(), side.handle().clone());
        change(&mut config);
        let job = self.registry.create(config)?;
        let played = Played { job, actor };
        let mut all = self.played.lock().expect("nothing panics");
        all.push(played.clone());
        Ok(played)
    }

    /// Creates a job with automatic steps, and starts it.
    pub(super) fn start(&self, id: &str, part: Part) -> Played {
        let played = self.create(id, part, |_| ());
        played.job.start().expect("nobody has cancelled it");
        played
    }

    /// The same for two jobs of one transaction that wait for a finalize.
    pub(super) fn start_pair(&self, part: Part) -> [Played; 2] {
        let transaction = self.registry.transaction();
        let pair = ["a", "b"].map(|id| {
            self.create(id, part, |config| {
                config.transaction = Some(transaction.clone());
                config.finalize = Trigger::Manual;
            })
        });
        for played in &pair {
            played.job.start().expect("nobody has cancelled it");
        }
        pair
    }

    /// All jobs ever, in the order in which they were made.
    pub(super) fn played(&self) -> Vec<Played> {
        let mut played = self.played.lock().expect("nothing panics").clone();
        played.sort_by_key(|played| played.job.cell.key);
        played
    }

    pub(super) fn main_handle(&self) -> Handle {
        let main = self.main.as_ref().expect("it is open");
        main.handle().clone()
    }

    /// Closes the context on which the bodies run.
    pub(super) fn close_side(&mut self) {
        self.side = None;
    }

    /// Closes the context on which jobs complete.
    pub(super) fn close_main(&mut self) {
        self.main = None;
    }

    /// Waits until every job has ended, closes the loops, and checks what always holds.
    pub(super) fn finish(self) {
        let played = self.played.into_inner().expect("nothing panics");
        for Played { job, .. } in &played {
            block_on(job.wait());
            assert!(job.outcome().is_some(), "whoever waited can also ask");
            if job.status() == JobStatus::Concluded {
                job.dismiss().expect("nobody else dismisses it now");
            }
        }
        if let Some(main) = self.main {
            // Behind the last event.
            main.handle().call(|_main| ()).wait();
        }
        drop((self.side, self.target));
        let events = self.events.lock().expect("nothing panics");
        for Played { job, actor } in &played {
            check_hooks(&actor.hooks(), &job.outcome().expect("it has ended"));
            check_events(job, &events);
        }
    }
}

/// Is dropped unless a model has failed: dropping what takes a lock would hide why.
pub(super) struct UnlessPanicking<T>(pub(super) Option<T>);

impl<T> Drop for UnlessPanicking<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _left = ManuallyDrop::new(self.0.take());
        }
    }
}

/// Exactly one of commit and abort, by the outcome, and once; a resume for each pause.
fn check_hooks(hooks: &Hooks, outcome: &JobOutcome) {
    if *hooks == Hooks::default() {
        let is_discarded = matches!(outcome, JobOutcome::Cancelled(_));
        assert!(is_discarded, "only a discarded job has no hooks called");
        return;
    }
    let is_success = matches!(outcome, JobOutcome::Completed);
    let want = (u32::from(is_success), u32::from(!is_success), 1);
    assert_eq!(
        (hooks.commits, hooks.aborts, hooks.cleans),
        want,
        "{hooks:?}"
    );
    assert_eq!(hooks.pauses, hooks.resumes, "{hooks:?}");
    assert!(hooks.runs <= 1 && hooks.prepares <= 1, "{hooks:?}");
    assert!(hooks.prepares == 1 || !is_success, "{hooks:?}");
}

/// Created first, null last, each change from where the last one led, one end before concluded.
fn check_events(job: &Job, events: &[JobEvent]) {
    let id = job.id().expect("models have no internal jobs");
    let mut status = None::<JobStatus>;
    let mut ends = 0;
    for event in events.iter().filter(|event| &*event.job().id == id) {
        match event {
            JobEvent::StatusChange { status: to, .. } => {
                match &mut status {
                    None => assert_eq!(*to, JobStatus::Created, "{events:?}"),
                    Some(status) => status.advance(*to),
                }
                status = Some(*to);
            }
            JobEvent::Completed { .. } | JobEvent::Cancelled(_) => ends += 1,
            _ => {}
        }
    }
    assert_eq!(status, Some(JobStatus::Null), "{id}: {events:?}");
    assert!(ends <= 1, "{id} ends once");
}
