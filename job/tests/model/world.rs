//! The product under the same acts: a registry over two contexts that the test turns by hand.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use aio::{AioContext, BackendKind, Blocking, Clock, Config, Handle, ManualClock};
use job::{
    CancelMode, Job, JobConfig, JobEvent, JobHistoryEntry, JobMoment, JobOutcome, JobRegistry,
    JobStatus, JobVerb, MomentGuard, PauseAll, PauseHold, RegistryConfig, Subscription,
    Transaction,
};

use crate::{
    act::{Act, GROUPS, HISTORY_MAX, IDS, Naming, PLACES, Spec, Verb},
    actor::Actor,
    log::{Entry, Log, Told},
    reference::{Cancel, InfoLook, JobLook, Look, Past, Reply},
};

/// More turns than this in a row are an endless chase.
const TURNS_MAX: usize = 10_000;

#[derive(Debug)]
struct Real {
    job: Job,
    actor: Arc<Actor>,
    holds: Vec<PauseHold>,
    /// Moves that are not done.
    moves: Arc<AtomicUsize>,
    /// How often it was idle since the last look.
    idles: Arc<AtomicUsize>,
    _guards: Vec<MomentGuard>,
}

/// The product's side of a run.
#[derive(Debug)]
pub(crate) struct World {
    /// The main context comes first.
    contexts: [AioContext; 2],
    clock: ManualClock,
    registry: JobRegistry,
    pub(crate) log: Log,
    jobs: [Option<Real>; PLACES],
    groups: [Transaction; GROUPS],
    holds: Vec<PauseAll>,
    /// All jobs are being cancelled.
    cancels_all: Arc<AtomicBool>,
    _subscription: Subscription,
}

impl World {
    pub(crate) fn new() -> Self {
        let (clock, hand) = Clock::manual();
        let contexts = std::array::from_fn(|_| {
            let config = Config {
                backend: Some(BackendKind::Epoll),
                clock: clock.clone(),
                ..Config::default()
            };
            AioContext::new(config).expect("every system has this backend")
        });
        let history_max = HISTORY_MAX;
        let config = RegistryConfig { history_max };
        let registry = JobRegistry::with_config(contexts[0].handle().clone(), config);
        let log = Log::default();
        let events = log.clone();
        let subscription = registry.subscribe(move |event| events.add(entry(event)));
        Self {
            groups: std::array::from_fn(|_| registry.transaction()),
            contexts,
            clock: hand,
            registry,
            log,
            jobs: [const { None }; PLACES],
            holds: Vec::new(),
            cancels_all: Arc::default(),
            _subscription: subscription,
        }
    }

    /// Puts a new transaction in the place of one that has ended.
    pub(crate) fn renew(&mut self, group: usize) {
        self.groups[group] = self.registry.transaction();
    }

    /// Does it, without a turn of any loop.
    pub(crate) fn act(&mut self, act: Act) -> Reply {
        match act {
            Act::Create(place, spec) => self.create(place, spec),
            Act::Do(place, verb) => {
                let real = self.jobs[place].as_mut().expect("there is a job");
                if let Verb::Move(context) = verb {
                    let target = self.contexts[context].handle().clone();
                    real.move_to(&self.contexts[0], target);
                    return Ok(());
                }
                real.apply(verb)
            }
            Act::PauseAll => {
                self.holds.push(self.registry.pause_all());
                Ok(())
            }
            Act::ResumeAll => {
                drop(self.holds.remove(0));
                Ok(())
            }
            Act::CancelAll => {
                let (registry, flag) = (self.registry.clone(), self.cancels_all.clone());
                flag.store(true, Ordering::Relaxed);
                let main = self.contexts[0].handle();
                drop(main.spawn(move |_main| async move {
                    registry.cancel_all().await;
                    flag.store(false, Ordering::Relaxed);
                }));
                Ok(())
            }
            Act::Pass(ms) => {
                self.clock.advance_ns(ms * 1_000_000);
                Ok(())
            }
        }
    }

    fn create(&mut self, place: usize, spec: Spec) -> Reply {
        let actor = Arc::new(Actor::new(place, spec, self.log.clone()));
        let id = match spec.naming {
            Naming::Own => Some(IDS[place].to_owned()),
            Naming::Internal => None,
            Naming::Bad(id) => Some(id.to_owned()),
        };
        let config = JobConfig {
            id,
            driver: actor.clone(),
            context: self.contexts[spec.context].handle().clone(),
            finalize: spec.finalize,
            dismiss: spec.dismiss,
            transaction: spec.group.map(|group| self.groups[group].clone()),
        };
        let created = self.registry.create(config);
        let job = created.map_err(|error| error.to_string())?;
        self.jobs[place] = Some(Real::new(job, actor, self.log.clone()));
        Ok(())
    }

    /// Turns the loops until neither has anything to do.
    pub(crate) fn settle(&self) {
        let is_at_rest = (0..TURNS_MAX).any(|_| !self.turn(0) & !self.turn(1));
        assert!(is_at_rest, "the loops do not come to rest");
    }

    /// Turns one loop once; whether that did anything.
    pub(crate) fn turn(&self, context: usize) -> bool {
        self.contexts[context].poll(Blocking::No)
    }

    pub(crate) fn look(&self) -> Look {
        let query = self.registry.query();
        let place_of = |id: &str| IDS.iter().position(|it| *it == id);
        let ids = query.iter().map(|info| info.id.as_deref());
        let list = ids.map(|id| IDS[id.and_then(place_of).expect("a place has this id")]);
        Look {
            jobs: std::array::from_fn(|place| {
                self.jobs[place]
                    .as_ref()
                    .map(|real| real.look(&self.contexts[1]))
            }),
            list: list.collect(),
            history: self.registry.history().iter().map(past).collect(),
            cancels_all: self.cancels_all(),
        }
    }

    pub(crate) fn status(&self, place: usize) -> JobStatus {
        self.job(place).status()
    }

    /// How the job in a place stands, and how it ended.
    pub(crate) fn end(&self, place: usize) -> (JobStatus, Option<JobOutcome>) {
        (self.status(place), self.job(place).outcome())
    }

    pub(crate) fn is_held(&self, place: usize) -> bool {
        let real = self.jobs[place].as_ref();
        real.is_some_and(|real| !real.holds.is_empty())
    }

    pub(crate) fn is_all_held(&self) -> bool {
        !self.holds.is_empty()
    }

    pub(crate) fn cancels_all(&self) -> bool {
        self.cancels_all.load(Ordering::Relaxed)
    }

    /// Lets everything go that holds a job up, cancels what still lives, and waits for the end.
    pub(crate) fn bring_home(&mut self) {
        self.holds.clear();
        for real in self.jobs.iter_mut().flatten() {
            real.holds.clear();
            for verb in [Verb::Tell, Verb::LetGo, Verb::Cancel] {
                // Refused if it ends or has ended already.
                let _ = real.apply(verb);
            }
        }
        self.settle();
        for real in self.jobs.iter_mut().flatten() {
            let _ = real.apply(Verb::Dismiss);
        }
        self.settle();
        let is_moving = |real: &Real| real.moves.load(Ordering::Relaxed) > 0;
        assert!(
            !self.jobs.iter().flatten().any(is_moving),
            "a move is stuck"
        );
        assert!(!self.cancels_all(), "a cancel of all is stuck");
    }

    fn job(&self, place: usize) -> &Job {
        let real = self.jobs[place].as_ref();
        &real.expect("there is a job").job
    }

    /// How often the job in a place was idle since the last look.
    pub(crate) fn take_idles(&self, place: usize) -> usize {
        let real = self.jobs[place].as_ref();
        real.map_or(0, |real| real.idles.swap(0, Ordering::Relaxed))
    }

    /// Whether the ids find those jobs that have one and live, and no others.
    pub(crate) fn check_ids(&self) {
        for (id, real) in IDS.iter().zip(&self.jobs) {
            let found = self.registry.find(id).map_err(|error| error.to_string());
            let lives = real.as_ref().is_some_and(|real| {
                real.job.id() == Some(*id) && real.job.status() != JobStatus::Null
            });
            match found {
                Ok(job) => assert!(lives && job.id() == Some(*id), "{id} is found"),
                Err(text) => assert!(!lives && text == "Job not found", "{id}: {text}"),
            }
        }
    }
}

impl Real {
    fn new(job: Job, actor: Arc<Actor>, log: Log) -> Self {
        let idles = Arc::new(AtomicUsize::new(0));
        let count = idles.clone();
        let place = actor.place();
        let mut guards = vec![job.notify_on(JobMoment::Idle, move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        })];
        for (moment, name) in [
            (JobMoment::FinalizeCancelled, "FinalizeCancelled"),
            (JobMoment::FinalizeCompleted, "FinalizeCompleted"),
            (JobMoment::Pending, "Pending"),
            (JobMoment::Ready, "Ready"),
        ] {
            let log = log.clone();
            guards.push(job.notify_on(moment, move |_| {
                log.add(Entry::Told(place, Told::Moment(name)));
            }));
        }
        Self {
            job,
            actor,
            holds: Vec::new(),
            moves: Arc::default(),
            idles,
            _guards: guards,
        }
    }

    fn move_to(&self, main: &AioContext, target: Handle) {
        let (job, moves) = (self.job.clone(), self.moves.clone());
        moves.fetch_add(1, Ordering::Relaxed);
        drop(main.handle().spawn(move |_main| async move {
            job.set_context(&target).await.expect("both contexts live");
            moves.fetch_sub(1, Ordering::Relaxed);
        }));
    }

    fn apply(&mut self, verb: Verb) -> Reply {
        let job = &self.job;
        let said = match verb {
            Verb::Start => job.start(),
            Verb::Pause => job.pause(),
            Verb::Resume => job.resume(),
            Verb::SoftCancel => job.cancel(CancelMode::Soft),
            Verb::Cancel => job.cancel(CancelMode::Force),
            Verb::Complete => job.complete(),
            Verb::Finalize => job.finalize(),
            Verb::Dismiss => job.dismiss(),
            Verb::CancelSync => job.cancel_sync(CancelMode::Force),
            Verb::CompleteSync => job.complete_sync(),
            Verb::CheckSetSpeed => job.check_verb(JobVerb::SetSpeed),
            Verb::CheckChange => job.check_verb(JobVerb::Change),
            other => {
                self.nudge(other);
                Ok(())
            }
        };
        said.map_err(|error| error.to_string())
    }

    /// What has no reply.
    fn nudge(&mut self, verb: Verb) {
        let job = &self.job;
        match verb {
            Verb::Discard => job.discard(),
            Verb::Hold => self.holds.push(job.hold_paused()),
            Verb::Release => drop(self.holds.pop()),
            Verb::StopOnError => job.stop_on_error(),
            Verb::ReportError => job.report_error("write", "report"),
            Verb::Wake => job.wake(),
            Verb::Tell => {
                self.actor.tell();
                job.wake();
            }
            Verb::LetGo => self.actor.let_go(),
            _ => {}
        }
    }

    fn look(&self, other: &AioContext) -> JobLook {
        let info = self.job.info();
        let progress = info.progress;
        let outcome = self.job.outcome().as_ref().map(draw);
        let seen = InfoLook {
            is_paused: info.is_paused,
            is_busy: info.is_busy,
            is_quiescent: self.job.is_quiescent(),
            cancel: match (self.job.is_cancel_requested(), self.job.is_cancelled()) {
                (_, true) => Cancel::Force,
                (true, false) => Cancel::Soft,
                (false, false) => Cancel::None,
            },
            error: info.error.as_ref().map(ToString::to_string),
            progress: (progress.current, progress.total),
            context: usize::from(self.job.context().is_same(other.handle())),
        };
        JobLook {
            status: info.status,
            outcome,
            moves: self.moves.load(Ordering::Relaxed),
            info: (info.status != JobStatus::Null).then_some(seen),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for context in &self.contexts {
            context.clone().close();
        }
    }
}

fn draw(outcome: &JobOutcome) -> String {
    match outcome {
        JobOutcome::Completed => "completed".to_owned(),
        JobOutcome::Failed(error) => format!("failed: {error}"),
        JobOutcome::Cancelled(error) => format!("cancelled: {error}"),
    }
}

fn past(entry: &JobHistoryEntry) -> Past {
    Past {
        sequence: entry.sequence,
        id: entry.id.to_string(),
        outcome: draw(&entry.outcome),
        progress: (entry.progress.current, entry.progress.total),
        was_started: entry.started,
    }
}

fn entry(event: &JobEvent) -> Entry {
    let id = &*event.job().id;
    let place = IDS.iter().position(|it| *it == id);
    let told = match event {
        JobEvent::StatusChange { status, .. } => Told::Status(*status),
        JobEvent::Ready(_) => Told::Ready,
        JobEvent::Pending(_) => Told::Pending,
        JobEvent::Completed { error, .. } => {
            Told::Completed(error.as_ref().map(ToString::to_string))
        }
        JobEvent::Cancelled(_) => Told::Cancelled,
        JobEvent::Error {
            operation, action, ..
        } => Told::Error(operation, action),
        other => unreachable!("an event of an unknown kind: {other:?}"),
    };
    Entry::Told(place.expect("a place has this id"), told)
}
