//! What is left of a job that is dismissed.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use job::{
    CancelMode, Job, JobError, JobHistoryEntry, JobOutcome, JobRegistry, RegistryConfig, Trigger,
};

use crate::world::{Part, World};

/// Runs a job of another registry to its end.
fn run(world: &World, registry: &JobRegistry, id: &str, part: Part) -> Job {
    let job = registry
        .create(world.config(id, part).0)
        .expect("the id is free");
    job.start().expect("nobody cancelled it");
    world.settle();
    job
}

/// `sequence id` of each entry.
fn drawn(history: &[JobHistoryEntry]) -> Vec<String> {
    let draw = |entry: &JobHistoryEntry| format!("{} {}", entry.sequence, entry.id);
    history.iter().map(draw).collect()
}

#[test]
fn who_comes_too_late_still_learns_how_a_job_ended() {
    let world = World::new();
    let job = world.start("a", Part::Fail);
    job.progress().set_remaining(10);
    job.progress().work_done(4);
    world.wall_clock.set_ns(1_234_567);
    world.settle();

    let entry = &world.registry.history()[0];

    assert!(world.registry.list().is_empty());
    assert_eq!((&*entry.id, entry.kind), ("a", "part"));
    assert!(entry.started);
    assert_eq!((entry.progress.current, entry.progress.total), (4, 10));
    assert_eq!(entry.outcome.error().unwrap().to_string(), "boom");
    assert!(matches!(entry.outcome, JobOutcome::Failed(_)));
    assert_eq!(entry.ended_unix_ns, 1_234_567);
}

#[test]
fn a_job_is_history_from_its_dismissal_on_but_keeps_the_time_of_its_end() {
    let world = World::new();
    let job = world.create_as("a", Part::EndWell, |config| {
        config.dismiss = Trigger::Manual;
    });
    job.start().unwrap();
    world.wall_clock.set_ns(1000);
    world.settle();
    let concluded = world.registry.history();

    world.wall_clock.set_ns(2000);
    job.dismiss().unwrap();

    assert_eq!(concluded.len(), 0);
    assert_eq!(world.registry.history()[0].ended_unix_ns, 1000);
}

#[test]
fn history_is_newest_first_and_an_id_may_occur_again() {
    let world = World::new();
    for (id, part) in [
        ("a", Part::Fail),
        ("b", Part::EndWell),
        ("a", Part::EndWell),
    ] {
        world.start(id, part);
        world.settle();
    }

    let history = world.registry.history();

    assert_eq!(drawn(&history), ["3 a", "2 b", "1 a"]);
    assert!(matches!(history[0].outcome, JobOutcome::Completed));
    assert!(matches!(history[2].outcome, JobOutcome::Failed(_)));
}

#[test]
fn a_job_that_was_cancelled_before_its_start_is_in_history() {
    let world = World::new();
    let job = world.create("a", Part::EndWell);
    job.cancel(CancelMode::Force).unwrap();
    world.settle();

    let entry = &world.registry.history()[0];

    assert!(!entry.started);
    assert!(matches!(entry.outcome, JobOutcome::Cancelled(_)));
}

#[test]
fn internal_jobs_and_failed_creations_are_not_history() {
    let world = World::new();
    let (mut config, _actor) = world.config("a", Part::EndWell);
    config.id = None;
    world.registry.create(config).unwrap().start().unwrap();
    world.create("b", Part::EndWell).discard();
    world.settle();

    assert_eq!(world.registry.history().len(), 0);
}

#[test]
fn history_forgets_its_oldest_entries() {
    let world = World::new();
    let config = RegistryConfig { history_max: 2 };
    let registry = JobRegistry::with_config(world.context.handle().clone(), config);
    for id in ["a", "b", "c", "d"] {
        run(&world, &registry, id, Part::EndWell);
    }

    assert_eq!(drawn(&registry.history()), ["4 d", "3 c"]);
}

#[test]
fn a_registry_can_do_without_history() {
    let world = World::new();
    let config = RegistryConfig { history_max: 0 };
    let registry = JobRegistry::with_config(world.context.handle().clone(), config);
    let job = run(&world, &registry, "a", Part::EndWell);

    assert!(matches!(job.outcome(), Some(JobOutcome::Completed)));
    assert_eq!(registry.history().len(), 0);
}

/// An error that looks at the registry when it goes, as the lock would not let it.
#[derive(Debug)]
struct Curious(JobRegistry, Arc<AtomicUsize>);

impl std::fmt::Display for Curious {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("curious")
    }
}

impl std::error::Error for Curious {}

impl Drop for Curious {
    fn drop(&mut self) {
        self.1.store(self.0.list().len() + 1, Ordering::Relaxed);
    }
}

/// A job driver that fails with a [`Curious`] error.
struct Failing(JobRegistry, Arc<AtomicUsize>);

impl job::JobDriver for Failing {
    fn kind(&self) -> &'static str {
        "failing"
    }

    fn run<'a>(&'a self, _job: &'a job::JobContext) -> job::BoxFuture<'a, Result<(), JobError>> {
        let source = Curious(self.0.clone(), self.1.clone());
        Box::pin(async { Err(JobError::failed("curious").with_source(source)) })
    }
}

#[test]
fn what_leaves_history_is_dropped_without_the_lock() {
    let world = World::new();
    let config = RegistryConfig { history_max: 1 };
    let registry = JobRegistry::with_config(world.context.handle().clone(), config);
    let seen = Arc::new(AtomicUsize::new(0));
    let failing = Arc::new(Failing(registry.clone(), seen.clone()));
    let config = job::JobConfig::new("a", failing, world.context.handle().clone());
    registry.create(config).unwrap().start().unwrap();
    world.settle();
    let kept = seen.load(Ordering::Relaxed);

    run(&world, &registry, "b", Part::EndWell);

    assert_eq!(kept, 0, "history keeps the error of the last job");
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}
