//! Cancelling: how a cancel reaches a job driver and its body.

use std::sync::Arc;

use crate::{
    callback::Callback,
    job_driver::JobDriver,
    record::{Body, JobCell},
    state::Shared,
    verb::CancelMode,
};

/// Asks a job to end early: tells its driver, undoes a pause of the user, wakes the body.
///
/// Pauses for other reasons stay; a forced cancel goes through them. A job that does not live, or
/// that is being committed, is left alone. Any thread.
pub(crate) fn request_cancel(shared: &Arc<Shared>, cell: &Arc<JobCell>, mode: CancelMode) {
    if !shared.update(|state| state.can_cancel(cell.key)) {
        return;
    }
    let answer = cell.call(Callback::Cancel, |driver| driver.cancel(mode));
    let is_force = answer == CancelMode::Force || mode == CancelMode::Force;
    undo_user_pause(shared, cell);

    shared.update(|state| {
        // The hook ran without the lock, so the job may have moved on.
        if !state.can_cancel(cell.key) {
            return;
        }
        let record = state.record(cell.key);
        let has_returned = matches!(record.body, Body::Returned | Body::Ended);
        if is_force || !record.is_started() {
            record.cancel = Some(CancelMode::Force);
        } else if !has_returned {
            // A soft cancel never takes back a forced one.
            record.cancel.get_or_insert(CancelMode::Soft);
        }
        state.leave_wake_token(cell.key);
        state.wake_watchers(cell.key);
    });
}

/// Takes away the user's reason to pause after telling the job driver; false if there is none, or
/// if somebody else is doing so.
pub(crate) fn undo_user_pause(shared: &Arc<Shared>, cell: &Arc<JobCell>) -> bool {
    let is_claimed = shared.update(|state| {
        let record = state.jobs.get_mut(&cell.key);
        record.is_some_and(|record| std::mem::take(&mut record.user_paused))
    });
    if !is_claimed {
        return false;
    }
    cell.call(Callback::UserResume, JobDriver::user_resume);
    shared.update(|state| {
        if let Some(record) = state.jobs.get_mut(&cell.key) {
            record.remove_pause();
            state.wake_body(cell.key);
        }
    });
    true
}
