//! Bodies on other threads, verbs from other threads, both backends.

use std::sync::Arc;

use aio::{BackendKind, Config, IoThread};
use job::{CancelMode, JobConfig, JobOutcome};

use crate::world::{Actor, Part, World, lines};

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
