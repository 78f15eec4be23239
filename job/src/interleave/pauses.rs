//! Models of a body's waits: wake-ups, pauses, holds.

use std::sync::Arc;

use shuttle::{future::block_on, thread};

use super::{
    explore,
    stage::{Part, Played, Stage, Wait},
};
use crate::{
    CancelMode, Job, JobError, JobErrorKind, JobEvent, JobOutcome, JobRegistry, JobStatus,
    PauseHold, runtime::stand_in::switch_point,
};

/// A wake-up comes at any moment of a wait, and the waits differ.
pub(super) fn a_wait_ends(part: Part) {
    explore(move || {
        let stage = Stage::new();
        let played = stage.start("a", part);
        let other = played.clone();
        let told = thread::spawn(move || other.tell());
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        told.join().expect("it has ended");
        stage.finish();
    });
}

#[test]
fn shuttle_a_wake_up_ends_a_park() {
    a_wait_ends(Part::Park);
}

#[test]
fn shuttle_a_wake_up_ends_a_sleep() {
    a_wait_ends(Part::Sleep);
}

#[test]
fn shuttle_a_wake_up_meets_the_end_of_a_sleep() {
    a_wait_ends(Part::Doze);
}

/// A sleep ends when its time is up, though nobody wakes the body.
pub(super) fn a_sleep_ends(sleep: Wait) {
    explore(move || {
        let stage = Stage::new();
        let played = stage.start("a", Part::Own(sleep));
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        stage.finish();
    });
}

#[test]
fn shuttle_a_sleep_ends_by_itself() {
    a_sleep_ends(|job| Box::pin(job.sleep_ns(1000)));
}

/// Whether a job was cancelled before or after it began to wait, its body sees it.
pub(super) fn a_cancel_ends_a_wait(cancel: fn(&Job)) {
    explore(move || {
        let stage = Stage::new();
        let played = stage.start("a", Part::Sleep);
        cancel(&played.job);
        assert!(matches!(played.outcome(), JobOutcome::Cancelled(_)));
        stage.finish();
    });
}

#[test]
fn shuttle_a_cancel_ends_a_wait() {
    a_cancel_ends_a_wait(|job| job.cancel(CancelMode::Force).expect("it lives"));
}

/// A verb was refused since the job had ended, or was forgotten.
fn assert_too_late(error: &JobError) {
    let expected = [
        JobErrorKind::InvalidVerb,
        JobErrorKind::NotFound,
        JobErrorKind::NotPaused,
    ];
    assert!(expected.contains(&error.kind()), "{error}");
}

/// A pause that is accepted holds until it is undone; one that comes too late is refused.
#[test]
fn shuttle_a_pause_meets_completion() {
    explore(|| {
        let stage = Stage::new();
        let played = stage.start("a", Part::Steps(2));
        match played.job.pause() {
            Ok(()) => {
                block_on(played.job.quiesced());
                let resumed = played.job.resume();
                // The body may have ended beside the pause, and the job is forgotten.
                resumed.unwrap_or_else(|error| assert_too_late(&error));
            }
            Err(error) => assert_too_late(&error),
        }
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        stage.finish();
    });
}

/// Two users pause and resume; each resume that is accepted undoes one pause that was.
pub(super) fn a_resume_meets_a_pause(resume: fn(&Job) -> bool) {
    explore(move || {
        let stage = Stage::new();
        let played = stage.start("a", Part::Park);
        let users = [(); 2].map(|()| {
            let played = played.clone();
            thread::spawn(move || {
                let paused = u32::from(played.job.pause().is_ok());
                let resumed = u32::from(resume(&played.job));
                (paused, resumed)
            })
        });
        let counts = users.map(|user| user.join().expect("it has ended"));
        let paused: u32 = counts.iter().map(|(paused, _)| paused).sum();
        let resumed: u32 = counts.iter().map(|(_, resumed)| resumed).sum();
        assert!(paused >= 1);
        // All pauses are undone: each user resumes after his pause.
        assert_eq!(played.actor.hooks().user_resumes, resumed);
        assert!(!played.job.info().is_paused);
        played.tell();
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        stage.finish();
    });
}

#[test]
fn shuttle_a_resume_meets_a_pause() {
    a_resume_meets_a_pause(|job| job.resume().is_ok());
}

/// A held job comes to stand still however it waits, and stays so until the hold is dropped.
pub(super) fn a_hold_stills(part: Part, quiesced: fn(&Job)) {
    explore(move || {
        let stage = Stage::new();
        let played = stage.start("a", part);
        let other = played.clone();
        let waker = thread::spawn(move || {
            other.job.wake();
            other.tell();
        });
        let hold = played.job.hold_paused();
        quiesced(&played.job);
        for _ in 0..3 {
            assert!(played.job.is_quiescent());
            assert!(!played.actor.is_at_work());
        }
        drop(hold);
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        waker.join().expect("it has ended");
        stage.finish();
    });
}

fn quiesced(job: &Job) {
    block_on(job.quiesced());
}

#[test]
fn shuttle_a_hold_stills_a_parked_job() {
    a_hold_stills(Part::Park, quiesced);
}

#[test]
fn shuttle_a_hold_stills_a_sleeping_job() {
    a_hold_stills(Part::Sleep, quiesced);
}

#[test]
fn shuttle_a_hold_stills_a_busy_job() {
    a_hold_stills(Part::Steps(3), quiesced);
}

/// Two holds and a pause of the user: the job goes on when the last of them is gone.
#[test]
fn shuttle_holds_nest() {
    explore(|| {
        let stage = Stage::new();
        let played = stage.start("a", Part::Park);
        let holders = [(); 2].map(|()| {
            let played = played.clone();
            thread::spawn(move || {
                let hold = played.job.hold_paused();
                block_on(played.job.quiesced());
                assert!(!played.actor.is_at_work());
                drop(hold);
            })
        });
        let is_paused = played.job.pause().is_ok();
        assert!(is_paused);
        played.job.resume().expect("the user has paused it");
        for holder in holders {
            holder.join().expect("it has ended");
        }
        assert!(!played.job.info().is_paused);
        played.tell();
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        stage.finish();
    });
}

/// Who waits for a job to stand still is told when a cancel takes it through the pause to its end.
#[test]
fn shuttle_a_cancel_does_not_forget_who_waits_for_a_still_job() {
    explore(|| {
        let stage = Stage::new();
        let played = stage.start("a", Part::Park);
        let other = played.clone();
        let drainer = thread::spawn(move || {
            let _hold = other.job.hold_paused();
            block_on(other.job.quiesced());
        });
        played.job.cancel(CancelMode::Force).expect("it lives");
        drainer.join().expect("it has ended");
        assert!(matches!(played.outcome(), JobOutcome::Cancelled(_)));
        stage.finish();
    });
}

/// A hold may outlive the job that it holds, and may be dropped while it ends.
pub(super) fn a_hold_is_dropped_while_the_job_ends(drop_hold: fn(&Job, PauseHold)) {
    explore(move || {
        let stage = Stage::new();
        let played = stage.start("a", Part::Steps(1));
        let hold = played.job.hold_paused();
        let other = played.clone();
        let ended = thread::spawn(move || other.outcome());
        drop(hold);
        let late = played.job.hold_paused();
        drop_hold(&played.job, late);
        let outcome = ended.join().expect("it has ended");
        assert!(matches!(outcome, JobOutcome::Completed));
        assert_eq!(played.job.status(), JobStatus::Null);
        stage.finish();
    });
}

#[test]
fn shuttle_a_hold_is_dropped_while_the_job_ends() {
    a_hold_is_dropped_while_the_job_ends(|_, hold| drop(hold));
}

/// A complete is accepted once, and a ready job that is paused completes when it is resumed.
#[test]
fn shuttle_a_complete_meets_a_pause() {
    explore(|| {
        let stage = Stage::new();
        let played = stage.start("a", Part::Converge);
        let other = played.clone();
        let user = thread::spawn(move || {
            let is_paused = other.job.pause().is_ok();
            if is_paused {
                // Refused if the pause came too late to stop the end.
                let _ = other.job.resume();
            }
        });
        let complete = |played: &Played| match played.job.complete() {
            Ok(()) => true,
            Err(error) => {
                assert_too_late(&error);
                played.job.outcome().is_some()
            }
        };
        while !complete(&played) {
            thread::yield_now();
        }
        user.join().expect("it has ended");
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        stage.finish();
    });
}

/// All jobs stand still under a hold on all, those included that are created meanwhile.
pub(super) fn a_hold_on_all_meets_a_creation(hold_all: fn(&JobRegistry, &dyn Fn())) {
    explore(move || {
        let stage = Arc::new(Stage::new());
        let first = stage.start("a", Part::Park);
        let creator = stage.clone();
        let creator = thread::spawn(move || creator.start("b", Part::Steps(1)));
        hold_all(&stage.registry, &|| {
            for _ in 0..3 {
                assert!(stage.played().iter().all(|it| !it.actor.is_at_work()));
                switch_point();
            }
        });
        let second = creator.join().expect("it has ended");
        first.tell();
        for played in [first, second] {
            assert!(matches!(played.outcome(), JobOutcome::Completed));
            assert!(!played.job.info().is_paused);
        }
        Arc::into_inner(stage).expect("nobody else has it").finish();
    });
}

#[test]
fn shuttle_a_hold_on_all_meets_a_creation() {
    a_hold_on_all_meets_a_creation(|registry, meanwhile| {
        let all = registry.pause_all();
        block_on(all.quiesced());
        meanwhile();
        drop(all);
    });
}

/// A request that never returns holds up no cancel by force.
#[test]
fn shuttle_a_cancel_gives_up_a_request() {
    explore(|| {
        let stage = Stage::new();
        let played = stage.start("a", Part::Request);
        played.job.cancel(CancelMode::Force).expect("it lives");
        assert!(matches!(played.outcome(), JobOutcome::Cancelled(_)));
        stage.finish();
    });
}

/// A pause of the user is told as soon as the job stands still, also where a hold had it stand
/// before; it is told once, and what only holds want is not told.
#[test]
fn shuttle_a_pause_meets_a_hold() {
    explore(|| {
        let stage = Stage::new();
        let played = stage.start("a", Part::Park);
        let other = played.clone();
        let holder = thread::spawn(move || {
            for _ in 0..2 {
                let _hold = other.job.hold_paused();
                block_on(other.job.quiesced());
            }
        });
        played.job.pause().expect("it lives");
        block_on(played.job.quiesced());
        assert_eq!(played.job.status(), JobStatus::Paused);
        played.job.resume().expect("the user has paused it");
        holder.join().expect("it has ended");
        played.tell();
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        let events = stage.events.clone();
        stage.finish();
        let events = events.lock().expect("nothing panics");
        let is_pause = |event: &JobEvent| match event {
            JobEvent::StatusChange { status, .. } => *status == JobStatus::Paused,
            _ => false,
        };
        let pauses = events.iter().filter(|event| is_pause(event)).count();
        assert_eq!(pauses, 1, "{events:?}");
    });
}
