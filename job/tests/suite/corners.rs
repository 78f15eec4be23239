//! Corners of the interface: what bodies and hooks may do, and what they meet there.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
};

use aio::{AioContext, Config, IoThread};
use job::{
    BoxFuture, CancelMode, Job, JobConfig, JobContext, JobDriver, JobError, JobOutcome,
    JobRegistry, JobStatus, JobVerb, LocalBoxFuture, Trigger,
};

use crate::world::{Flag, Log, Part, World, lines};

type Body = for<'a> fn(&'a Script, &'a JobContext) -> BoxFuture<'a, Result<(), JobError>>;

/// A job driver whose body is a function, and whose pause takes as long as a test wants.
struct Script {
    body: Body,
    log: Log,
    /// What the body or the pause waits for.
    gate: Flag,
    is_pause_slow: Flag,
}

impl Script {
    fn new(world: &World, body: Body) -> Arc<Self> {
        Arc::new(Self {
            body,
            log: world.log.clone(),
            gate: Flag::default(),
            is_pause_slow: Flag::default(),
        })
    }

    /// Waits for the gate in a way that the job knows nothing of, as for a request.
    async fn at_the_gate(&self) {
        std::future::poll_fn(|cx| match self.gate.is_set() {
            true => Poll::Ready(()),
            false => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await;
    }
}

impl JobDriver for Script {
    fn kind(&self) -> &'static str {
        "script"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        (self.body)(self, job)
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        self.log.add("a.pause".to_owned());
        Box::pin(async {
            if self.is_pause_slow.is_set() {
                self.at_the_gate().await;
            }
        })
    }

    fn resume(&self) {
        self.log.add("a.resume".to_owned());
    }
}

fn start(world: &World, driver: Arc<dyn JobDriver>) -> Job {
    let config = JobConfig::new("a", driver, world.context.handle().clone());
    let job = world.registry.create(config).expect("the id is free");
    job.start().expect("nobody cancelled it");
    world.settle();
    job
}

#[test]
fn a_body_is_busy_but_for_its_own_waits() {
    let world = World::new();
    let driver = Script::new(&world, |script, job| {
        Box::pin(async {
            script.at_the_gate().await;
            job.park().await;
            Ok(())
        })
    });
    let job = start(&world, driver.clone());
    let in_request = (job.info().is_busy, job.is_quiescent());

    driver.gate.set();
    world.settle();
    let in_park = (job.info().is_busy, job.is_quiescent());
    job.wake();
    world.settle();

    assert_eq!(in_request, (true, false));
    // It does nothing now, and yet it may at any time: nobody asked it to stand still.
    assert_eq!(in_park, (false, false));
    assert!(matches!(job.outcome(), Some(JobOutcome::Completed)));
}

#[test]
fn a_body_that_has_returned_is_busy_until_the_main_context_knows() {
    let world = World::new();
    let thread = IoThread::start(Config::default()).unwrap();
    let driver = Script::new(&world, |_, _| Box::pin(async { Ok(()) }));
    let config = JobConfig::new("a", driver, thread.handle().clone());
    let job = world.registry.create(config).unwrap();
    job.start().unwrap();
    // Each round trip lets the job's context turn; the main one does not.
    for _ in 0..20 {
        thread.handle().call(|_| ()).wait();
    }
    let returned = (job.status(), job.info().is_busy, job.is_quiescent());

    world.context.block_on(job.wait());

    assert_eq!(returned, (JobStatus::Running, true, false));
    assert!(!job.info().is_busy);
}

#[test]
fn waking_a_job_that_does_not_run_does_nothing() {
    let world = World::new();
    let job = world.create_as("a", Part::EndWell, |config| {
        config.dismiss = Trigger::Manual;
    });
    job.wake();
    world.settle();
    let created = job.status();
    job.start().unwrap();
    world.settle();
    job.wake();
    let concluded = job.status();
    job.dismiss().unwrap();
    job.wake();

    assert_eq!(created, JobStatus::Created);
    assert_eq!(concluded, JobStatus::Concluded);
    assert_eq!(job.status(), JobStatus::Null);
}

#[test]
fn a_pause_that_is_called_off_in_time_cuts_no_sleep_short() {
    let world = World::new();
    let job = world.start("a", Part::SleepMs(100));
    world.settle();
    world.log();
    world.advance_ms(40);

    drop(job.hold_paused());
    job.pause().unwrap();
    job.resume().unwrap();
    world.settle();
    let called_off = world.log();
    world.advance_ms(60);

    assert_eq!(called_off, ["a.user_resume"]);
    assert_eq!(world.log()[0], "a.woke 100");
}

#[test]
fn resume_follows_pause_even_if_the_pause_was_called_off() {
    let world = World::new();
    let driver = Script::new(&world, |_, job| {
        Box::pin(async {
            while !job.is_cancelled() {
                job.park().await;
            }
            Ok(())
        })
    });
    driver.is_pause_slow.set();
    let job = start(&world, driver.clone());
    world.log();

    job.pause().unwrap();
    world.settle();
    let pausing = (world.log(), job.status());
    job.resume().unwrap();
    driver.gate.set();
    world.settle();

    assert_eq!(
        pausing,
        (lines("a", [".pause"]).to_vec(), JobStatus::Running)
    );
    assert_eq!(world.log(), lines("a", [".resume"]));
    job.cancel(CancelMode::Force).unwrap();
    world.settle();
}

#[test]
fn a_cancelled_body_waits_for_nothing() {
    let world = World::new();
    let driver = Script::new(&world, |script, job| {
        Box::pin(async {
            script.at_the_gate().await;
            for _ in 0..3 {
                job.sleep_ns(u64::MAX).await;
                job.park().await;
                job.yield_now().await;
                job.pause_point().await;
            }
            Ok(())
        })
    });
    let job = start(&world, driver.clone());
    let _hold = job.hold_paused();
    world.log();

    job.cancel(CancelMode::Force).unwrap();
    driver.gate.set();
    world.settle();

    let want = ["aborting", "CANCELLED", "concluded", "null"];
    assert_eq!(world.log(), lines("a", want));
}

#[test]
fn a_job_in_standby_is_first_seen_to_be_ready_again() {
    let world = World::new();
    let job = world.start("a", Part::Converge);
    world.settle();
    job.pause().unwrap();
    world.settle();
    world.log();

    job.cancel(CancelMode::Force).unwrap();
    world.settle();

    let want = ["ready", "aborting", "CANCELLED", "concluded", "null"];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn a_second_complete_is_accepted_or_finds_the_job_gone() {
    let world = World::new();
    let job = world.start("a", Part::Converge);
    world.settle();

    job.complete().unwrap();
    job.complete().unwrap();
    world.settle();

    assert_eq!(job.complete().unwrap_err().to_string(), "Job not found");
    assert!(matches!(job.outcome(), Some(JobOutcome::Completed)));
}

#[test]
fn a_wait_ends_after_the_events_of_the_end() {
    let world = World::new();
    let job = world.create_as("a", Part::EndWell, |config| {
        config.finalize = Trigger::Manual;
    });
    job.start().unwrap();
    world.settle();
    world.log();

    let (waits, log) = (job.wait(), world.log.clone());
    let waiting = world.context.spawn(async move {
        waits.await;
        log.add("a replies".to_owned());
    });
    job.finalize().unwrap();
    world.context.block_on(waiting);

    let want = ["COMPLETED", "concluded", "null", "replies"];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn a_query_shows_the_error_of_a_cancelled_job_until_it_is_dismissed() {
    let world = World::new();
    let job = world.create_as("a", Part::UntilTold, |config| {
        config.dismiss = Trigger::Manual;
    });
    job.start().unwrap();
    world.settle();
    let errors = || {
        let text = |info: job::JobInfo| info.error.map(|error| error.to_string());
        world
            .registry
            .query()
            .into_iter()
            .map(text)
            .collect::<Vec<_>>()
    };
    let running = errors();

    job.cancel(CancelMode::Force).unwrap();
    world.settle();
    let concluded = errors();
    job.dismiss().unwrap();

    assert_eq!(running, [None]);
    assert_eq!(concluded, [Some("Operation canceled".to_owned())]);
    assert!(errors().is_empty());
}

#[test]
fn the_failure_of_a_lone_job_touches_no_other() {
    let world = World::new();
    world.start("bad", Part::Fail);
    let other = world.start("other", Part::UntilTold);
    world.settle();
    let while_failed = other.status();
    other.tell();
    world.settle();

    assert_eq!(while_failed, JobStatus::Running);
    assert!(matches!(other.outcome(), Some(JobOutcome::Completed)));
}

#[test]
fn an_abort_waits_for_the_bodies_of_the_others() {
    let world = World::new();
    let transaction = world.registry.transaction();
    let old = world.create_as("old", Part::Fail, |config| {
        config.transaction = Some(transaction.clone());
    });
    let driver = Script::new(&world, |script, _| {
        Box::pin(async {
            script.at_the_gate().await;
            Ok(())
        })
    });
    let mut config = JobConfig::new("a", driver.clone(), world.context.handle().clone());
    config.transaction = Some(transaction);
    let new = world.registry.create(config).unwrap();
    new.start().unwrap();
    old.start().unwrap();
    world.settle();
    let stuck = (world.events(), new.status());

    driver.gate.set();
    world.settle();

    assert_eq!(stuck.0.last().unwrap(), "old aborting");
    assert_eq!(stuck.1, JobStatus::Running);
    let want = [
        lines("a", ["aborting", "CANCELLED", "concluded", "null"]),
        lines("old", ["COMPLETED boom", "concluded", "null"]).to_vec(),
    ];
    assert_eq!(world.events(), want.concat());
}

/// What a job driver may ask for, whatever hook it is in.
#[derive(Default)]
struct Curious {
    known: OnceLock<(Job, JobRegistry)>,
    asked: AtomicU32,
}

impl Curious {
    fn ask(&self) {
        let Some((job, registry)) = self.known.get() else {
            return;
        };
        let _ = (job.info(), job.kind(), registry.query(), registry.find("a"));
        let _ = job.check_verb(JobVerb::SetSpeed);
        drop(job.hold_paused());
        self.asked.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Curious {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Curious").finish_non_exhaustive()
    }
}

impl JobDriver for Curious {
    fn kind(&self) -> &'static str {
        self.ask();
        "curious"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async {
            self.ask();
            job.become_ready();
            while !job.is_cancelled() {
                job.park().await;
                self.ask();
            }
            Ok(())
        })
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.ask() })
    }

    fn resume(&self) {
        self.ask();
    }

    fn user_resume(&self) {
        self.ask();
    }

    fn cancel(&self, mode: CancelMode) -> CancelMode {
        self.ask();
        mode
    }

    fn can_complete(&self) -> bool {
        self.ask();
        true
    }

    fn complete(&self) -> Result<(), JobError> {
        self.ask();
        Ok(())
    }

    fn prepare<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, Result<(), JobError>> {
        Box::pin(async {
            self.ask();
            Ok(())
        })
    }

    fn abort<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        Box::pin(async { self.ask() })
    }

    fn clean<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        Box::pin(async { self.ask() })
    }
}

impl Drop for Curious {
    fn drop(&mut self) {
        self.ask();
    }
}

#[test]
fn hooks_may_use_their_job_and_the_registry() {
    let world = World::new();
    let driver = Arc::new(Curious::default());
    let config = JobConfig::new("a", driver.clone(), world.context.handle().clone());
    let job = world.registry.create(config).unwrap();
    let known = (job.clone(), world.registry.clone());
    assert!(driver.known.set(known).is_ok(), "once");

    job.start().unwrap();
    world.settle();
    job.pause().unwrap();
    world.settle();
    job.resume().unwrap();
    job.complete().unwrap();
    job.cancel(CancelMode::Soft).unwrap();
    job.cancel(CancelMode::Force).unwrap();
    world.settle();

    assert!(matches!(job.outcome(), Some(JobOutcome::Cancelled(_))));
    assert!(driver.asked.load(Ordering::Relaxed) > 10);
}

/// Tells when it is dropped, and uses the registry meanwhile.
struct Dropped {
    registry: JobRegistry,
    log: Log,
}

impl JobDriver for Dropped {
    fn kind(&self) -> &'static str {
        "dropped"
    }

    fn run<'a>(&'a self, _job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async { Ok(()) })
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        let left = self.registry.query().len();
        self.log.add(format!("a dropped, {left} left"));
    }
}

#[test]
fn a_job_driver_is_dropped_when_its_job_is_forgotten_and_no_handle_is_left() {
    for is_handle_last in [false, true] {
        let world = World::new();
        let driver = Arc::new(Dropped {
            registry: world.registry.clone(),
            log: world.log.clone(),
        });
        let config = JobConfig {
            dismiss: Trigger::Manual,
            ..JobConfig::new("a", driver, world.context.handle().clone())
        };
        let job = world.registry.create(config).unwrap();
        job.start().unwrap();
        world.settle();
        world.log();

        let handle = is_handle_last.then(|| job.clone());
        job.dismiss().unwrap();
        drop(job);
        let dismissed = world.events();
        drop(handle);

        let (null, dropped) = ("a null".to_owned(), "a dropped, 0 left".to_owned());
        let (first, second) = match is_handle_last {
            false => (vec![null, dropped], vec![]),
            true => (vec![null], vec![dropped]),
        };
        assert_eq!((dismissed, world.events()), (first, second));
    }
}

#[test]
fn the_job_driver_of_a_job_that_is_refused_is_dropped_outside_of_the_lock() {
    let world = World::new();
    world.create("a", Part::EndWell);
    let driver = Arc::new(Dropped {
        registry: world.registry.clone(),
        log: world.log.clone(),
    });
    world.log();

    let config = JobConfig::new("a", driver, world.context.handle().clone());
    let refused = world.registry.create(config).unwrap_err();

    assert_eq!(refused.to_string(), "Job ID 'a' already in use");
    assert_eq!(world.log(), ["a dropped, 1 left"]);
}
