//! Bodies on other threads, verbs from other threads, both backends.

use std::sync::Arc;

use aio::{BackendKind, Config, IoThread};
use job::{CancelMode, JobConfig, JobError, JobOutcome, JobRegistry};

use crate::world::{Actor, Log, Part, World, lines};

/// Runs one job on a thread of its own, its end on the calling thread.
fn end_to_end(backend: BackendKind) {
    let world = World::on(backend);
    let config = Config {
        backend: Some(backend),
        ..Config::default()
    };
    let thread = IoThread::start(config).expect("the backend exists");
    let actor = Arc::new(Actor::new("a", Part::SleepMs(5), world.log.clone()));
    let config = JobConfig::new("a", actor, thread.handle().clone());
    let job = world.registry.create(config).expect("the id is free");
    job.start().expect("nobody cancelled it");

    let outcome = world.context.block_on(job.wait());

    assert!(matches!(outcome, JobOutcome::Completed));
    let want = [
        "created",
        "running",
        "waiting",
        "pending",
        "COMPLETED",
        "concluded",
        "null",
    ];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn a_job_runs_on_its_context_and_ends_on_the_main_one() {
    end_to_end(BackendKind::Epoll);
}

#[test]
fn a_job_runs_the_same_on_the_ring() {
    let config = Config {
        backend: Some(BackendKind::IoUring),
        ..Config::default()
    };
    if aio::run(config, |_| async {}).is_ok() {
        end_to_end(BackendKind::IoUring);
    }
}

#[test]
fn verbs_from_another_thread_all_arrive() {
    let world = World::new();
    let thread = IoThread::start(Config::default()).unwrap();
    let actor = Arc::new(Actor::new("a", Part::UntilTold, world.log.clone()));
    let config = JobConfig::new("a", actor, thread.handle().clone());
    let job = world.registry.create(config).unwrap();
    job.start().unwrap();

    let user = job.clone();
    let storm = std::thread::spawn(move || {
        for _ in 0..500 {
            user.pause().unwrap();
            let hold = user.hold_paused();
            user.wake();
            user.resume().unwrap();
            drop(hold);
        }
        user.cancel(CancelMode::Force).unwrap();
        user.wait_blocking()
    });
    world.context.block_on(job.wait());

    assert!(matches!(storm.join().unwrap(), JobOutcome::Cancelled(_)));
    let events = world.events();
    let end = lines(
        "a",
        ["running", "aborting", "CANCELLED", "concluded", "null"],
    );
    assert!(events.ends_with(&end[1..]), "{events:?}");
    let pauses = events[2..events.len() - 4].iter();
    let want = ["a paused", "a running"].iter().cycle();
    assert!(
        pauses.zip(want).all(|(got, want)| got == want),
        "{events:?}"
    );
}

#[test]
fn a_job_whose_context_is_closed_fails_instead_of_hanging() {
    let world = World::new();
    let thread = IoThread::start(Config::default()).unwrap();
    let actor = Arc::new(Actor::new("a", Part::UntilTold, world.log.clone()));
    let config = JobConfig::new("a", actor, thread.handle().clone());
    let job = world.registry.create(config).unwrap();
    job.start().unwrap();
    let hold = job.hold_paused();
    world.context.block_on(job.quiesced());

    drop(thread);
    let outcome = world.context.block_on(job.wait());
    drop(hold);

    assert_eq!(
        outcome.error().unwrap().to_string(),
        "the context of the job was closed"
    );
    assert_eq!(world.events()[2..3], lines("a", ["aborting"]));
}

#[test]
#[should_panic(expected = "a context that blocks for a job stops the job")]
fn a_context_must_not_block_for_a_job() {
    let world = World::new();
    let job = world.start("a", Part::EndWell);
    job.wait_blocking();
}

/// A registry whose main context is on a thread of its own, and a job that waits for ever, there (0)
/// or on another (1).
fn left_behind(home: usize) {
    let told = |error: JobError| error.to_string();
    let closed = || Err("the main context of the jobs was closed".to_owned());
    let main = IoThread::start(Config::default()).expect("there is a backend");
    let other = IoThread::start(Config::default()).expect("there is a backend");
    let registry = JobRegistry::new(main.handle().clone());
    let home = [&main, &other][home];
    let config = |id: &str| {
        let actor = Arc::new(Actor::new(id, Part::UntilTold, Log::default()));
        JobConfig::new(id, actor, home.handle().clone())
    };
    let running = registry.create(config("a")).expect("the id is free");
    running.start().expect("nobody cancelled it");
    let created = registry.create(config("b")).expect("the id is free");
    let waiting = {
        let running = running.clone();
        std::thread::spawn(move || running.wait_blocking())
    };
    let next = config("c");

    drop(main);

    for outcome in [
        waiting.join().expect("it only waits"),
        created.wait_blocking(),
    ] {
        assert!(matches!(outcome, JobOutcome::Failed(_)), "{outcome:?}");
        assert_eq!(outcome.into_result().map_err(told), closed());
    }
    created.discard();
    let refused = registry.create(next).map(drop).map_err(told);
    assert_eq!(refused, closed());
}

#[test]
fn who_waits_for_a_job_is_told_when_the_main_context_is_closed() {
    left_behind(0);
    left_behind(1);
}

#[test]
fn a_registry_leaves_nothing_on_its_main_context() {
    let world = World::new();
    let job = world.start("a", Part::EndWell);
    world.context.block_on(job.wait());
    world.settle();
    let before = world.context.stats().tasks;
    for _ in 0..10 {
        drop(JobRegistry::new(world.context.handle().clone()));
    }
    world.settle();
    assert_eq!(world.context.stats().tasks, before);
}
