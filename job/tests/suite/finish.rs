//! Waiting for the end of a job in code that cannot await.

use std::sync::Arc;

use aio::{AioContext, Config, IoThread};
use job::{CancelMode, Job, JobConfig, JobDriver, JobError, JobErrorKind, JobStatus, Trigger};

use crate::world::{Actor, Part, World, lines};

/// An hour that no test waits for.
const LONG: Part = Part::SleepMs(3_600_000);

fn manual(world: &World, id: &str, part: Part) -> crate::world::TestJob {
    let job = world.create_as(id, part, |config| {
        config.finalize = Trigger::Manual;
        config.dismiss = Trigger::Manual;
    });
    job.start().expect("nobody cancelled it");
    world.settle();
    job
}

fn text(result: Result<(), JobError>) -> Option<String> {
    result.err().map(|error| error.to_string())
}

#[test]
fn a_sleeping_job_is_cancelled_without_its_clock() {
    let world = World::new();
    let job = world.start("a", LONG);
    world.settle();

    let result = job.cancel_sync(CancelMode::Force);

    assert_eq!(text(result).as_deref(), Some("Operation canceled"));
    let want = ["aborting", "CANCELLED", "concluded", "null"];
    assert_eq!(world.events()[2..], lines("a", want));
}

#[test]
fn a_ready_job_is_completed() {
    let world = World::new();
    let job = world.start("a", Part::Converge);
    world.settle();

    assert!(job.complete_sync().is_ok());
    assert_eq!(job.status(), JobStatus::Null);
}

#[test]
fn what_the_job_failed_with_is_returned() {
    let world = World::new();
    let job = world.start("a", Part::FailWhenTold);
    world.settle();

    let result = job.finish_sync(|_| job.actor.complete());

    assert_eq!(text(result).as_deref(), Some("boom"));
}

/// The question only sets a flag: it is for the one who waits to wake the body.
#[test]
fn a_body_is_woken_to_look_at_what_it_was_asked() {
    for turns_before in [0, 1] {
        let world = World::new();
        let job = world.start("a", Part::UntilTold);
        if turns_before > 0 {
            world.settle();
        }

        let result = job.finish_sync(|_| job.actor.complete());

        assert!(result.is_ok(), "{turns_before}");
    }
}

#[test]
fn a_refused_question_is_not_waited_for() {
    let world = World::new();
    let job = world.start("a", LONG);
    world.settle();

    let refused = job.complete_sync().unwrap_err();
    let busy = job.finish_sync(|_| Err(JobError::failed("not now")));

    assert_eq!(refused.kind(), JobErrorKind::InvalidVerb);
    assert_eq!(text(busy).as_deref(), Some("not now"));
    assert_eq!(job.status(), JobStatus::Running);
}

#[test]
fn a_job_that_needs_a_finalize_has_ended_when_it_is_pending() {
    let world = World::new();
    let job = manual(&world, "a", Part::Converge);

    let completed = job.complete_sync();
    let pending = job.status();
    let finalized = job.finish_sync(Job::finalize);

    assert!(completed.is_ok() && finalized.is_ok());
    assert_eq!(
        (pending, job.status()),
        (JobStatus::Pending, JobStatus::Concluded)
    );
}

#[test]
fn members_of_a_transaction_end_one_after_the_other() {
    let world = World::new();
    let transaction = world.registry.transaction();
    let [old, new] = ["old", "new"].map(|id| {
        let job = world.create_as(id, Part::Converge, |config| {
            config.transaction = Some(transaction.clone());
        });
        job.start().unwrap();
        job
    });
    world.settle();

    let first = old.complete_sync();
    let waiting = old.status();
    let second = new.complete_sync();

    assert!(first.is_ok() && second.is_ok());
    assert_eq!(waiting, JobStatus::Waiting);
    world.settle();
    assert!(world.registry.list().is_empty());
}

#[test]
fn a_cancel_of_a_pending_job_waits_until_it_is_undone() {
    let world = World::new();
    let job = manual(&world, "a", Part::EndWell);

    let result = job.cancel_sync(CancelMode::Force);

    assert_eq!(text(result).as_deref(), Some("Operation canceled"));
    assert_eq!(job.status(), JobStatus::Concluded);
}

/// The internal cancel, unlike the user's verb: what is concluded is dismissed.
#[test]
fn a_cancel_of_a_concluded_job_dismisses_it_and_tells_its_end() {
    for (part, want) in [(Part::EndWell, None), (Part::Fail, Some("boom"))] {
        let world = World::new();
        let job = world.create_as("a", part, |config| {
            config.dismiss = Trigger::Manual;
        });
        job.start().unwrap();
        world.settle();
        let verb = job.cancel(CancelMode::Force).unwrap_err();

        let result = job.cancel_sync(CancelMode::Force);

        assert_eq!(verb.kind(), JobErrorKind::InvalidVerb);
        assert_eq!(text(result).as_deref(), want);
        assert_eq!(job.status(), JobStatus::Null);
        assert_eq!(text(job.cancel_sync(CancelMode::Force)).as_deref(), want);
    }
}

#[test]
fn a_job_that_aborts_already_is_waited_for() {
    let world = World::new();
    let job = world.start("a", Part::Fail);
    job.actor.slow_abort.set();
    world.settle();
    let actor = job.actor.clone();
    world
        .context
        .handle()
        .schedule(move |_| actor.may_abort.set());

    assert_eq!(job.status(), JobStatus::Aborting);
    let result = job.cancel_sync(CancelMode::Force);

    assert_eq!(text(result).as_deref(), Some("boom"));
    assert_eq!(job.status(), JobStatus::Null);
}

#[test]
fn a_job_that_never_started_is_cancelled() {
    let world = World::new();
    let job = world.create("a", LONG);

    let result = job.cancel_sync(CancelMode::Soft);

    assert_eq!(text(result).as_deref(), Some("Operation canceled"));
    assert_eq!(job.status(), JobStatus::Null);
}

#[test]
fn a_soft_cancel_of_a_job_that_the_user_paused_is_refused() {
    let world = World::new();
    let job = world.start("a", LONG);
    job.pause().unwrap();

    let error = job.cancel_sync(CancelMode::Soft).unwrap_err();

    assert_eq!(error.kind(), JobErrorKind::AlreadyPaused);
}

#[test]
fn all_jobs_are_cancelled_and_forgotten() {
    let world = World::new();
    world.create("created", Part::EndWell);
    world.start("asleep", LONG);
    world.start("paused", LONG).pause().unwrap();
    manual(&world, "pending", Part::EndWell);
    manual(&world, "concluded", Part::Fail);
    let (mut config, _actor) = world.config("internal", LONG);
    config.id = None;
    config.dismiss = Trigger::Manual;
    let internal = world.registry.create(config).unwrap();
    internal.start().unwrap();

    world.registry.cancel_all_sync();

    assert!(world.registry.list().is_empty());
    assert_eq!(internal.status(), JobStatus::Null);
    assert_eq!(world.registry.history().len(), 5);
}

/// Nested turns: the callback of a loop may wait for what the same loop has to do.
#[test]
fn a_callback_of_the_main_loop_may_wait() {
    let world = World::new();
    let job = world.start("a", LONG);
    let result = world.context.handle().call({
        let job = job.clone();
        move |_| job.cancel_sync(CancelMode::Force)
    });

    let result = world.context.block_on(result);

    assert_eq!(text(result).as_deref(), Some("Operation canceled"));
}

#[test]
fn another_thread_blocks_while_the_main_loop_turns() {
    let world = World::new();
    let thread = IoThread::start(Config::default()).unwrap();
    let actor = Arc::new(Actor::new("a", LONG, world.log.clone()));
    let config = JobConfig::new("a", actor, thread.handle().clone());
    let job = world.registry.create(config).unwrap();
    job.start().unwrap();
    let other = world.start("b", LONG);

    let (user, registry) = (job.clone(), world.registry.clone());
    let waits = std::thread::spawn(move || {
        let result = user.cancel_sync(CancelMode::Force);
        registry.cancel_all_sync();
        result
    });
    world.context.block_on(other.wait());

    assert_eq!(
        text(waits.join().unwrap()).as_deref(),
        Some("Operation canceled")
    );
}

#[test]
fn the_main_thread_waits_for_a_body_elsewhere() {
    let world = World::new();
    let thread = IoThread::start(Config::default()).unwrap();
    let actor = Arc::new(Actor::new("a", LONG, world.log.clone()));
    let config = JobConfig::new("a", actor, thread.handle().clone());
    let job = world.registry.create(config).unwrap();
    job.start().unwrap();

    let result = job.cancel_sync(CancelMode::Force);

    assert_eq!(text(result).as_deref(), Some("Operation canceled"));
}

#[test]
#[should_panic(expected = "a task awaits; it does not turn the loop that runs it")]
fn a_task_of_the_main_context_must_not_wait() {
    let world = World::new();
    let job = world.start("a", LONG);
    let job = Job::clone(&job);
    let task = async move { job.cancel_sync(CancelMode::Force) };
    let _ = world.context.block_on(world.context.spawn(task));
}

#[test]
#[should_panic(expected = "a context that blocks for a job stops the job")]
fn the_thread_of_a_body_must_not_wait() {
    let world = World::new();
    let other = AioContext::new(Config::default()).unwrap();
    let actor = Arc::new(Actor::new("a", LONG, world.log.clone()));
    let config = JobConfig::new("a", actor, other.handle().clone());
    let job = world.registry.create(config).unwrap();
    job.start().unwrap();

    let _ = job.cancel_sync(CancelMode::Force);
}
