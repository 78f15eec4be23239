//! [`PauseAll`]: a hold on every job there is and will be.

use std::sync::Arc;

use crate::{
    record::Key,
    registry::JobRegistry,
    state::{Shared, State},
};

/// A reason to pause for every job, internal ones too, and for those that are created meanwhile;
/// ends when dropped. Made by [`JobRegistry::pause_all`].
#[derive(Debug)]
#[must_use = "the jobs may go on as soon as this is dropped"]
pub struct PauseAll {
    registry: JobRegistry,
}

impl JobRegistry {
    /// Holds every job, as [`Job::hold_paused`](crate::Job::hold_paused) does for one, until the
    /// returned guard is dropped: what others call pause-all and resume-all. Any thread.
    ///
    /// Returns at once; [`PauseAll::quiesced`] tells when all stand still. It nests, and is not
    /// seen by the user's verbs: a job that he has paused stays paused.
    pub fn pause_all(&self) -> PauseAll {
        self.shared.update(|state| {
            state.holds_on_all += 1;
            for key in keys(state) {
                state.record(key).add_pause();
                state.wake_body(key);
            }
        });
        PauseAll {
            registry: self.clone(),
        }
    }
}

impl PauseAll {
    /// Ends when no job does anything, nor will before the guard is dropped or a job is cancelled.
    ///
    /// Any thread, any executor. A job that someone starts while this waits is waited for, too.
    pub async fn quiesced(&self) {
        let jobs = || self.registry.jobs();
        while let Some(job) = jobs().into_iter().find(|job| !job.is_quiescent()) {
            job.quiesced().await;
        }
    }
}

impl Drop for PauseAll {
    fn drop(&mut self) {
        let shared: &Arc<Shared> = &self.registry.shared;
        shared.update(|state| {
            state.holds_on_all -= 1;
            for key in keys(state) {
                state.record(key).remove_pause();
                state.wake_body(key);
            }
        });
    }
}

fn keys(state: &State) -> Vec<Key> {
    state.jobs.keys().copied().collect()
}
