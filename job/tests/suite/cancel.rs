//! Cancels at every point of a life, soft and by force.

use aio::Blocking;
use job::{CancelMode, JobErrorKind, JobOutcome, JobStatus, Trigger};

use crate::world::{Part, World, lines};

#[test]
fn a_running_job_aborts() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    world.settle();
    world.log();

    job.cancel(CancelMode::Force).unwrap();
    world.settle();

    let want = [
        ".cancel Force",
        "aborting",
        ".abort",
        ".clean",
        "CANCELLED",
        "concluded",
        "null",
    ];
    assert_eq!(world.log(), lines("a", want));
    let outcome = job.outcome().unwrap();
    assert!(matches!(outcome, JobOutcome::Cancelled(_)));
    assert_eq!(outcome.error().unwrap().to_string(), "Operation canceled");
}

#[test]
fn a_paused_job_is_first_seen_to_run() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    job.pause().unwrap();
    world.settle();
    world.log();

    job.cancel(CancelMode::Force).unwrap();
    world.settle();

    let want = [
        ".cancel Force",
        ".user_resume",
        "running",
        ".resume",
        "aborting",
        ".abort",
        ".clean",
        "CANCELLED",
        "concluded",
        "null",
    ];
    assert_eq!(world.log(), lines("a", want));
}

#[test]
fn a_force_cancel_goes_through_a_hold() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    let _hold = job.hold_paused();
    world.settle();
    world.log();

    job.cancel(CancelMode::Force).unwrap();
    world.settle();

    let want = ["aborting", "CANCELLED", "concluded", "null"];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn a_soft_cancel_waits_for_a_hold() {
    let world = World::new();
    let job = world.start("a", Part::Converge);
    world.settle();
    let hold = job.hold_paused();
    world.settle();
    world.log();

    job.cancel(CancelMode::Soft).unwrap();
    world.settle();
    let held = world.events();
    drop(hold);
    world.settle();

    assert_eq!(held, Vec::<String>::new());
    let want = ["waiting", "pending", "COMPLETED", "concluded", "null"];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn a_sleeping_job_does_not_sleep_to_the_end() {
    let world = World::new();
    let job = world.start("a", Part::SleepMs(100));
    world.settle();
    world.log();

    job.cancel(CancelMode::Force).unwrap();
    world.settle();

    let want = ["aborting", "CANCELLED", "concluded", "null"];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn a_created_job_ends_without_an_end_event_and_is_forgotten() {
    let world = World::new();
    let job = world.create_as("a", Part::EndWell, |config| {
        config.dismiss = Trigger::Manual;
    });
    world.log();

    job.cancel(CancelMode::Soft).unwrap();
    let start = job.start().unwrap_err();
    world.settle();

    let want = [
        ".cancel Soft",
        "aborting",
        ".abort",
        ".clean",
        "concluded",
        "null",
    ];
    assert_eq!(world.log(), lines("a", want));
    assert_eq!(start.kind(), JobErrorKind::Cancelled);
}

#[test]
fn a_created_job_has_nothing_that_a_soft_cancel_could_finish() {
    let world = World::new();
    let job = world.create("a", Part::EndWell);
    job.actor.stays_soft.set();

    job.cancel(CancelMode::Soft).unwrap();
    world.settle();

    let want = ["created", "aborting", "concluded", "null"];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn a_job_cancelled_before_its_first_step_does_not_run() {
    let world = World::new();
    let job = world.start("a", Part::EndWell);
    job.cancel(CancelMode::Force).unwrap();
    world.settle();

    assert!(!world.log().contains(&"a.run".to_owned()));
}

#[test]
fn a_pending_job_aborts() {
    let world = World::new();
    let job = world.create_as("a", Part::EndWell, |config| {
        config.finalize = Trigger::Manual;
    });
    job.start().unwrap();
    world.settle();
    world.log();

    job.cancel(CancelMode::Force).unwrap();
    world.settle();

    let want = [
        ".cancel Force",
        "aborting",
        ".abort",
        ".clean",
        "CANCELLED",
        "concluded",
        "null",
    ];
    assert_eq!(world.log(), lines("a", want));
}

#[test]
fn a_cancel_during_prepare_aborts_after_it() {
    let world = World::new();
    let job = world.start("a", Part::EndWell);
    job.actor.slow_prepare.set();
    world.settle();
    world.log();

    job.cancel(CancelMode::Force).unwrap();
    world.settle();
    let during = world.events();
    job.actor.may_prepare.set();
    world.settle();

    assert_eq!(during, Vec::<String>::new());
    let want = ["aborting", "CANCELLED", "concluded", "null"];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn a_soft_cancel_of_a_ready_job_is_a_success() {
    let world = World::new();
    let job = world.start("a", Part::Converge);
    world.settle();
    world.log();

    job.cancel(CancelMode::Soft).unwrap();
    let complete = job.complete().unwrap_err();
    world.settle();

    let want = [
        ".cancel Soft",
        "waiting",
        "pending",
        ".prepare",
        ".commit",
        ".clean",
        "COMPLETED",
        "concluded",
        "null",
    ];
    assert_eq!(world.log(), lines("a", want));
    assert_eq!(
        complete.to_string(),
        "The active block job 'a' cannot be completed"
    );
}

#[test]
fn a_forced_cancel_after_a_soft_one_counts() {
    let world = World::new();
    let job = world.start("a", Part::Converge);
    world.settle();
    world.log();

    job.cancel(CancelMode::Soft).unwrap();
    job.cancel(CancelMode::Force).unwrap();
    job.cancel(CancelMode::Soft).unwrap();
    world.settle();

    let want = ["aborting", "CANCELLED", "concluded", "null"];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn a_soft_cancel_of_a_job_whose_body_has_ended_changes_nothing() {
    let world = World::new();
    let job = world.create_as("a", Part::Converge, |config| {
        config.finalize = Trigger::Manual;
    });
    job.start().unwrap();
    world.settle();
    job.complete().unwrap();
    world.settle();
    world.log();

    job.cancel(CancelMode::Soft).unwrap();
    world.settle();

    assert_eq!(job.status(), JobStatus::Pending);
    assert!(!job.is_cancel_requested());
}

#[test]
fn a_soft_cancel_of_a_waiting_job_changes_nothing() {
    let world = World::new();
    let transaction = world.registry.transaction();
    let [waiting, other] = [("a", Part::EndWell), ("b", Part::UntilTold)].map(|(id, part)| {
        let job = world.create_as(id, part, |config| {
            config.transaction = Some(transaction.clone());
        });
        job.actor.stays_soft.set();
        job.start().expect("nobody cancelled it");
        job
    });
    world.settle();
    world.log();

    waiting.cancel(CancelMode::Soft).unwrap();
    world.settle();
    let ignored = world.events();
    other.tell();
    world.settle();

    assert_eq!(ignored, Vec::<String>::new());
    assert!(matches!(waiting.outcome(), Some(JobOutcome::Completed)));
}

/// As a mirror that waits for its finalize: it is not ready any more, so nothing is soft.
#[test]
fn a_soft_cancel_of_a_pending_job_aborts_it_if_the_driver_says_so() {
    let world = World::new();
    let job = world.create_as("a", Part::EndWell, |config| {
        config.finalize = Trigger::Manual;
    });
    job.start().unwrap();
    world.settle();
    world.log();

    job.cancel(CancelMode::Soft).unwrap();
    world.settle();

    let want = ["aborting", "CANCELLED", "concluded", "null"];
    assert_eq!(world.events(), lines("a", want));
}

/// Also between the return of the body and the moment when the main context hears of it.
#[test]
fn a_soft_cancel_never_spoils_a_job_that_ends_well_at_it() {
    for turns in 0..12 {
        let world = World::new();
        let job = world.start("a", Part::EndWell);
        job.actor.stays_soft.set();
        for _ in 0..turns {
            world.context.poll(Blocking::No);
        }
        let _ = job.cancel(CancelMode::Soft);
        world.settle();

        let is_completed = matches!(job.outcome(), Some(JobOutcome::Completed));
        assert!(is_completed, "after {turns} turns");
    }
}

/// The transaction is aborted or committed, whole, whenever the cancel comes.
#[test]
fn a_forced_cancel_at_any_turn_comes_in_time_or_too_late() {
    let mut seen = [false; 2];
    for turns in 0..12 {
        let world = World::new();
        let job = world.start("a", Part::EndWell);
        for _ in 0..turns {
            world.context.poll(Blocking::No);
        }
        let is_accepted = job.cancel(CancelMode::Force).is_ok();
        world.settle();

        let log = world.log();
        let has = |line: &str| log.contains(&line.to_owned());
        let is_cancelled = matches!(job.outcome(), Some(JobOutcome::Cancelled(_)));
        assert_eq!(is_accepted, is_cancelled, "after {turns} turns");
        assert_eq!(has("a.abort"), is_cancelled, "{log:?}");
        assert_eq!(has("a.commit"), !is_cancelled, "{log:?}");
        assert_eq!(has("a CANCELLED"), is_cancelled, "{log:?}");
        seen[usize::from(is_cancelled)] = true;
    }
    assert_eq!(seen, [true; 2]);
}

#[test]
fn a_cancel_may_be_repeated_while_the_table_accepts_it() {
    let world = World::new();
    let job = world.start("a", Part::Deaf);
    world.settle();

    for _ in 0..3 {
        job.cancel(CancelMode::Force).unwrap();
        world.settle();
    }
    job.tell();
    world.settle();

    assert!(matches!(job.outcome(), Some(JobOutcome::Cancelled(_))));
}

#[test]
fn a_soft_cancel_of_a_user_paused_job_is_refused() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    job.pause().unwrap();

    let error = job.cancel(CancelMode::Soft).unwrap_err();

    assert_eq!(
        error.to_string(),
        "The block job for device 'a' is currently paused"
    );
    assert!(!job.is_cancel_requested());
}

#[test]
fn the_way_to_the_exit_ends_every_job() {
    let world = World::new();
    world.create("created", Part::EndWell);
    world.start("running", Part::UntilTold);
    world.start("ready", Part::Converge);
    let kept = world.create_as("kept", Part::EndWell, |config| {
        config.dismiss = Trigger::Manual;
    });
    kept.start().unwrap();
    let paused = world.start("paused", Part::UntilTold);
    paused.pause().unwrap();
    world.settle();

    world.context.block_on(world.registry.cancel_all());

    assert!(world.registry.list().is_empty());
    let events = world.events();
    let ends = events.iter().filter(|line| line.ends_with("null")).count();
    assert_eq!(ends, 5);
}

#[test]
fn on_the_way_to_the_exit_a_deaf_job_holds_up_nobody_else() {
    let world = World::new();
    let other = world.start("other", Part::UntilTold);
    let deaf = world.start("deaf", Part::Deaf);
    world.settle();

    let registry = world.registry.clone();
    let all = world
        .context
        .spawn(async move { registry.cancel_all().await });
    world.settle();
    assert!(other.outcome().is_some());
    assert!(deaf.outcome().is_none());
    deaf.tell();
    world.context.block_on(all);

    assert!(world.registry.list().is_empty());
}
