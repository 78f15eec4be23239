//! Models of jobs that move to another context.

use shuttle::{future::block_on, thread};

use super::{
    explore,
    stage::{Part, Stage},
};
use crate::{CancelMode, Job, JobOutcome, runtime::Handle};

/// A body that moves misses no wake-up, however it waits.
pub(super) fn a_move_meets_a_wake_up(part: Part, set_context: fn(&Job, &Handle)) {
    explore(move || {
        let (stage, target) = Stage::with_target();
        let played = stage.start("a", part);
        let other = played.clone();
        let user = thread::spawn(move || other.tell());
        set_context(&played.job, &target);
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        user.join().expect("it has ended");
        stage.finish();
    });
}

fn set_context(job: &Job, context: &Handle) {
    block_on(job.set_context(context)).expect("no context is closed");
}

#[test]
fn shuttle_a_move_meets_the_wake_up_of_a_parked_body() {
    a_move_meets_a_wake_up(Part::Park, set_context);
}

#[test]
fn shuttle_a_move_meets_the_wake_up_of_a_sleeping_body() {
    a_move_meets_a_wake_up(Part::Sleep, set_context);
}

#[test]
fn shuttle_a_move_meets_the_end_of_a_sleep() {
    a_move_meets_a_wake_up(Part::Doze, set_context);
}

/// The move ends, wherever the cancel finds the body.
#[test]
fn shuttle_a_move_meets_a_cancel() {
    explore(|| {
        let (stage, target) = Stage::with_target();
        let played = stage.start("a", Part::Park);
        let other = played.clone();
        let user = thread::spawn(move || other.job.cancel(CancelMode::Force));
        let moved = block_on(played.job.set_context(&target));
        moved.expect("no context is closed");
        user.join().expect("it has ended").expect("it lived");
        assert!(matches!(played.outcome(), JobOutcome::Cancelled(_)));
        stage.finish();
    });
}

/// Two moves at once are done one after the other, among pauses of the user.
#[test]
fn shuttle_two_moves_and_a_pause_end() {
    explore(|| {
        let (stage, target) = Stage::with_target();
        let played = stage.start("a", Part::Park);
        let home = played.job.context();
        let mover = played.clone();
        let mover = thread::spawn(move || block_on(mover.job.set_context(&target)));
        let user = played.clone();
        let user = thread::spawn(move || {
            user.job.pause().expect("it lives");
            user.job.resume().expect("it was paused");
        });
        let back = block_on(played.job.set_context(&home));
        back.expect("no context is closed");
        let moved = mover.join().expect("it has ended");
        moved.expect("no context is closed");
        user.join().expect("it has ended");
        played.tell();
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        stage.finish();
    });
}

/// Nothing of a job is left on the context that it has moved away from.
#[test]
fn shuttle_the_context_before_a_move_may_be_closed() {
    explore(|| {
        let (mut stage, target) = Stage::with_target();
        let played = stage.start("a", Part::Park);
        let moved = block_on(played.job.set_context(&target));
        moved.expect("no context is closed");
        stage.close_side();
        played.tell();
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        stage.finish();
    });
}

/// A move to a context that is being closed ends, and so does the job if that took its body.
#[test]
fn shuttle_a_move_to_a_closing_context_ends() {
    explore(|| {
        let (mut stage, target) = Stage::with_target();
        let played = stage.start("a", Part::Park);
        let other = played.clone();
        let mover = thread::spawn(move || block_on(other.job.set_context(&target)).is_ok());
        stage.target = None;
        played.tell();
        let outcome = played.outcome();
        assert!(!matches!(outcome, JobOutcome::Cancelled(_)));
        let is_moved = mover.join().expect("it has ended");
        assert!(is_moved || matches!(outcome, JobOutcome::Failed(_)));
        stage.finish();
    });
}

/// A job that begins while it moves begins at one of the two contexts, and is then where it should be.
#[test]
fn shuttle_a_start_meets_a_move() {
    explore(|| {
        let (stage, target) = Stage::with_target();
        let played = stage.create("a", Part::Steps(1), |_| ());
        let other = played.clone();
        let mover = thread::spawn(move || block_on(other.job.set_context(&target)));
        played.job.start().expect("nobody has cancelled it");
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        mover
            .join()
            .expect("it has ended")
            .expect("no context is closed");
        stage.finish();
    });
}
