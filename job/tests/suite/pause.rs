//! Pauses: of the user, of holds, of errors; and what they do to sleeps.

use job::{CancelMode, JobErrorKind, JobStatus};

use crate::world::{Part, World, lines};

#[test]
fn a_pause_stops_the_body_at_its_pause_point_and_a_resume_undoes_it() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    world.settle();
    world.log();

    job.pause().unwrap();
    let asked = job.info();
    world.settle();
    let paused = (world.log(), job.info());
    job.resume().unwrap();
    world.settle();

    assert!(asked.is_paused);
    assert_eq!(asked.status, JobStatus::Running);
    assert_eq!(paused.0, lines("a", [".pause", "paused"]));
    assert!(!paused.1.is_busy);
    assert_eq!(
        world.log(),
        lines("a", [".user_resume", "running", ".resume"])
    );
}

#[test]
fn a_held_job_starts_with_a_pause_before_its_body() {
    let world = World::new();
    let job = world.create("a", Part::EndWell);
    let hold = job.hold_paused();
    job.start().unwrap();
    world.settle();
    let held = world.log();

    drop(hold);
    world.settle();

    assert_eq!(held, lines("a", ["created", "running", ".pause"]));
    assert_eq!(world.log()[..2], lines("a", [".resume", ".run"]));
}

#[test]
fn a_ready_job_pauses_in_standby_and_comes_back_as_ready() {
    let world = World::new();
    let job = world.start("a", Part::Converge);
    world.settle();
    world.log();

    job.pause().unwrap();
    world.settle();
    job.resume().unwrap();
    world.settle();

    assert_eq!(world.events(), lines("a", ["standby", "ready"]));
}

#[test]
fn complete_in_standby_takes_effect_on_resume() {
    let world = World::new();
    let job = world.start("a", Part::Converge);
    world.settle();
    job.pause().unwrap();
    world.settle();
    world.log();

    job.complete().unwrap();
    world.settle();
    let in_standby = world.events();
    job.resume().unwrap();
    world.settle();

    assert_eq!(in_standby, Vec::<String>::new());
    let want = [
        "ready",
        "waiting",
        "pending",
        "COMPLETED",
        "concluded",
        "null",
    ];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn a_job_stays_paused_until_user_and_holds_are_gone() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    world.settle();
    let (outer, inner) = (job.hold_paused(), job.hold_paused());
    job.pause().unwrap();
    world.settle();
    world.log();

    drop(inner);
    job.resume().unwrap();
    world.settle();
    let still_held = (world.events(), job.status());
    drop(outer);
    world.settle();

    assert_eq!(still_held, (vec![], JobStatus::Paused));
    assert_eq!(world.events(), lines("a", ["running"]));
}

#[test]
fn a_hold_is_not_the_users_to_resume() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    let _hold = job.hold_paused();
    world.settle();

    let error = job.resume().unwrap_err();

    assert_eq!(error.kind(), JobErrorKind::NotPaused);
    assert_eq!(error.to_string(), "Can't resume a job that was not paused");
}

#[test]
fn a_second_pause_is_refused_and_does_not_count() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    job.pause().unwrap();
    let refused = job.pause().unwrap_err();
    job.resume().unwrap();
    world.settle();

    assert_eq!(refused.to_string(), "Job is already paused");
    assert_eq!(job.status(), JobStatus::Running);
    assert!(!job.info().is_paused);
}

#[test]
fn a_forced_cancel_leaves_a_pause_that_waits_for_what_never_comes() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    world.settle();
    job.actor.hangs_in_pause.set();
    let _hold = job.hold_paused();
    world.settle();
    let stands_still = job.is_quiescent();
    world.log();

    job.cancel(CancelMode::Force).unwrap();
    world.settle();

    assert!(!stands_still);
    let want = [
        ".cancel Force",
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
fn a_pause_that_is_called_off_in_time_is_not_seen() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    world.settle();
    world.log();

    drop(job.hold_paused());
    world.settle();

    assert_eq!(world.log(), Vec::<String>::new());
}

#[test]
fn two_errors_at_once_pause_once() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    world.settle();
    world.log();

    job.report_error("write", "stop");
    job.stop_on_error();
    job.stop_on_error();
    world.settle();
    let stopped = world.events();
    job.resume().unwrap();
    world.settle();

    assert_eq!(stopped, lines("a", ["ERROR write stop", "paused"]));
    assert_eq!(world.events(), lines("a", ["running"]));
}

#[test]
fn a_job_that_stands_still_is_quiescent() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    world.settle();
    let running = job.is_quiescent();

    let _hold = job.hold_paused();
    let asked = job.is_quiescent();
    world.context.block_on(job.quiesced());

    assert_eq!((running, asked), (false, false));
    assert!(job.is_quiescent());
    let info = job.info();
    assert_eq!(info.status, JobStatus::Running);
    assert!(info.is_paused && !info.is_busy);
}

#[test]
fn a_sleep_ends_in_its_time() {
    let world = World::new();
    world.start("a", Part::SleepMs(100));
    world.settle();
    world.log();

    world.advance_ms(99);
    let early = world.log();
    world.advance_ms(1);

    assert_eq!(early, Vec::<String>::new());
    assert_eq!(world.log()[0], "a.woke 100");
}

#[test]
fn a_pause_interrupts_a_sleep_and_the_body_sleeps_the_rest_afterwards() {
    let world = World::new();
    let job = world.start("a", Part::SleepMs(100));
    world.settle();
    world.log();
    world.advance_ms(40);

    job.pause().unwrap();
    world.settle();
    let paused = world.events();
    world.advance_ms(20);
    job.resume().unwrap();
    world.settle();
    let resumed = world.log();
    world.advance_ms(40);

    assert_eq!(paused, lines("a", ["paused"]));
    let want = [".user_resume", "running", ".resume", ".woke 60"];
    assert_eq!(resumed, lines("a", want));
    assert_eq!(world.log()[0], "a.woke 100");
}

#[test]
fn a_wake_up_ends_a_sleep_early() {
    let world = World::new();
    let job = world.start("a", Part::SleepMs(100));
    world.settle();
    world.log();
    world.advance_ms(30);

    job.wake();
    world.settle();

    assert_eq!(world.log(), ["a.woke 30"]);
}

#[test]
fn a_wake_up_before_the_sleep_is_not_lost() {
    let world = World::new();
    let job = world.start("a", Part::SleepMs(100));

    // The body has not taken its first step yet, let alone armed its sleep.
    job.wake();
    world.settle();

    assert_eq!(world.log().last().unwrap(), "a.woke 0");
}

#[test]
fn a_wake_up_during_a_pause_is_for_the_next_sleep() {
    let world = World::new();
    let job = world.start("a", Part::SleepMs(100));
    world.settle();
    job.pause().unwrap();
    world.settle();
    world.log();

    job.wake();
    job.resume().unwrap();
    world.settle();

    // The sleep that the pause ended, and the one that the wake-up ends.
    assert_eq!(world.log()[3..], ["a.woke 0", "a.woke 0"]);
}

#[test]
fn a_wake_up_does_not_end_a_pause() {
    let world = World::new();
    let job = world.start("a", Part::SleepMs(100));
    job.pause().unwrap();
    world.settle();
    world.log();

    job.wake();
    world.settle();

    assert_eq!(world.log(), Vec::<String>::new());
    assert_eq!(job.status(), JobStatus::Paused);
}
