//! [`Job`]: what users of a job hold; the verbs.

use std::{
    any::Any,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    body::spawn_body,
    callback::Callback,
    cancel::{request_cancel, undo_user_pause},
    error::JobError,
    event::JobEvent,
    job_driver::JobDriver,
    outcome::{JobOutcome, JobWait},
    progress::{Progress, ProgressMeter},
    record::{Body, JobCell, Record},
    registry::Trigger,
    state::{Shared, State},
    status::JobStatus,
    transaction::spawn_step,
    verb::{CancelMode, JobVerb},
};

/// A handle of one job. Cheap to clone; any thread; dropping it does nothing to the job.
///
/// A verb returns once it is accepted; what it leads to is told by events. Events of verbs that
/// were used on the main context are delivered before the verb returns.
#[derive(Clone, Debug)]
pub struct Job {
    pub(crate) shared: Arc<Shared>,
    pub(crate) cell: Arc<JobCell>,
}

/// One job as a query shows it, all from one moment.
#[derive(Clone, Debug)]
pub struct JobInfo {
    /// Its id; absent in internal jobs.
    pub id: Option<Arc<str>>,
    /// What its driver calls itself, such as `backup`.
    pub kind: &'static str,
    /// Where it stands.
    pub status: JobStatus,
    /// How far it has come.
    pub progress: Progress,
    /// The body executes or has requests in flight.
    pub is_busy: bool,
    /// Somebody wants it to pause, whether or not it stands still by now.
    pub is_paused: bool,
    /// Whether `finalize` is automatic.
    pub finalize: Trigger,
    /// Whether `dismiss` is automatic.
    pub dismiss: Trigger,
    /// Why it fails or has failed, from Aborting on.
    pub error: Option<JobError>,
}

impl Job {
    /// The id; `None` for an internal job.
    pub fn id(&self) -> Option<&str> {
        self.cell.id.as_deref()
    }

    /// What the job driver calls itself, such as `backup`.
    pub fn kind(&self) -> &'static str {
        self.cell.kind
    }

    /// What the job driver offers to a layer above, if it is a `T`: how that layer tells its own
    /// jobs from others.
    pub fn extension<T: Any>(&self) -> Option<&T> {
        self.cell.driver.extension()?.downcast_ref()
    }

    /// Where the job stands.
    pub fn status(&self) -> JobStatus {
        self.look(|record| record.map_or(JobStatus::Null, |record| record.status))
    }

    /// The job as a query shows it.
    pub fn info(&self) -> JobInfo {
        self.look(|record| info(&self.cell, record))
    }

    /// How far the job has come.
    pub fn progress(&self) -> &ProgressMeter {
        &self.cell.progress
    }

    /// Whether the job was cancelled by force.
    pub fn is_cancelled(&self) -> bool {
        self.look(|record| record.is_none_or(|record| record.is_force_cancelled()))
    }

    /// Whether any cancel came, also a soft one.
    pub fn is_cancel_requested(&self) -> bool {
        self.look(|record| record.is_none_or(|record| record.cancel.is_some()))
    }

    /// Starts the body on the job's context. Its first step is a pause point.
    ///
    /// # Errors
    ///
    /// `Cancelled` when a cancel came first.
    ///
    /// # Panics
    ///
    /// When the job was started before, which is our own bug.
    pub fn start(&self) -> Result<(), JobError> {
        let key = self.cell.key;
        let context = self.shared.update(|state| {
            let record = state.jobs.get_mut(&key).ok_or_else(JobError::cancelled)?;
            assert!(!record.is_started(), "a job starts once");
            if record.status != JobStatus::Created || record.is_force_cancelled() {
                return Err(JobError::cancelled());
            }
            record.remove_pause();
            record.body = Body::Busy;
            let context = record.context.clone();
            state.move_to(key, JobStatus::Running);
            Ok(context)
        })?;
        spawn_body(self, &context);
        Ok(())
    }

    /// Gives up a job whose creation failed after it was listed: Created becomes Null.
    ///
    /// No hook runs, and the rest of its transaction goes on without it. A job that is not in
    /// Created any more is left alone.
    pub fn discard(&self) {
        let key = self.cell.key;
        let discarded = self.shared.update(|state| {
            let record = state.jobs.get(&key);
            record.filter(|record| record.status == JobStatus::Created)?;
            Some(state.discard(key))
        });
        let Some(step) = discarded else { return };
        let outcome = JobOutcome::Cancelled(JobError::cancelled());
        self.cell.ending.set_if_open(outcome);
        if let Some(step) = step {
            spawn_step(&self.shared, step);
        }
    }

    /// Asks the job to pause. It stops at its next pause point, which its status then tells; at once
    /// if a hold has it stand there already.
    ///
    /// # Errors
    ///
    /// `InvalidVerb` by the verb table, `AlreadyPaused` when the user has paused it before.
    pub fn pause(&self) -> Result<(), JobError> {
        self.apply(JobVerb::Pause, |state, key| {
            if state.record(key).user_paused {
                return Err(JobError::already_paused());
            }
            state.add_user_pause(key);
            Ok(())
        })
    }

    /// Undoes the pause of the user, or one that an error made. Other reasons to pause stay.
    ///
    /// # Errors
    ///
    /// `NotPaused` when there is nothing to undo, else `InvalidVerb` by the verb table.
    pub fn resume(&self) -> Result<(), JobError> {
        if !self.is_user_paused() {
            return Err(JobError::not_paused());
        }
        self.check_verb(JobVerb::Resume)?;
        // Of two at once, one finds nothing to undo any more.
        match undo_user_pause(&self.shared, &self.cell) {
            true => Ok(()),
            false => Err(JobError::not_paused()),
        }
    }

    /// Asks the job to end early. A pause of the user is undone, other reasons to pause stay.
    ///
    /// A soft cancel of a ready job may, as the job driver decides, end it well; of a job whose
    /// body has ended it changes nothing. A cancel that comes while the transaction is being
    /// committed is accepted but too late. A concluded job refuses it, as this is the user's verb: those
    /// who end jobs for good ([`Self::cancel_sync`], `JobRegistry::cancel_all`) dismiss it instead.
    ///
    /// # Errors
    ///
    /// `AlreadyPaused` for a soft cancel of a job that the user has paused, else `InvalidVerb` by
    /// the verb table.
    pub fn cancel(&self, mode: CancelMode) -> Result<(), JobError> {
        if mode == CancelMode::Soft && self.is_user_paused() {
            return Err(JobError::currently_paused(self.cell.id_text()));
        }
        self.check_verb(JobVerb::Cancel)?;
        request_cancel(&self.shared, &self.cell, mode);
        let step = self.shared.update(|state| state.start_abort(self.cell.key));
        if let Some(step) = step {
            spawn_step(&self.shared, step);
        }
        Ok(())
    }

    /// Asks a ready job to finish. A paused one does so once it is resumed.
    ///
    /// # Errors
    ///
    /// `InvalidVerb` by the verb table; `CannotComplete` when the job driver has no such step or a
    /// cancel came first; what the job driver's hook returns.
    pub fn complete(&self) -> Result<(), JobError> {
        let can_complete = self.cell.call(Callback::Complete, JobDriver::can_complete);
        self.apply(JobVerb::Complete, |state, key| {
            if !can_complete || state.record(key).cancel.is_some() {
                return Err(JobError::cannot_complete(self.cell.id_text()));
            }
            Ok(())
        })?;
        self.cell.call(Callback::Complete, JobDriver::complete)?;
        self.wake();
        Ok(())
    }

    /// Decides that the job's transaction, with all its members, is to be made permanent.
    ///
    /// Returns before that is done; [`Self::wait`] tells.
    ///
    /// # Errors
    ///
    /// `InvalidVerb` by the verb table.
    pub fn finalize(&self) -> Result<(), JobError> {
        let step = self.apply(
            JobVerb::Finalize,
            |state, key| Ok(state.start_finalize(key)),
        )?;
        if let Some(step) = step {
            spawn_step(&self.shared, step);
        }
        Ok(())
    }

    /// Forgets a concluded job: its id is free again.
    ///
    /// # Errors
    ///
    /// `InvalidVerb` by the verb table; `NotFound` when it is forgotten already.
    pub fn dismiss(&self) -> Result<(), JobError> {
        self.apply(JobVerb::Dismiss, |state, key| {
            state.forget(key);
            Ok(())
        })
    }

    /// Whether the job takes `verb` now, for verbs that others carry out (`SetSpeed`, `Change`).
    ///
    /// # Errors
    ///
    /// `InvalidVerb` by the verb table; `NotFound` when the job is forgotten.
    pub fn check_verb(&self, verb: JobVerb) -> Result<(), JobError> {
        self.apply(verb, |_, _| Ok(()))
    }

    /// Ends a sleep or park of the body, or the next one if it does not wait now; never a pause.
    pub fn wake(&self) {
        let key = self.cell.key;
        self.shared.update(|state| {
            if state.jobs.contains_key(&key) {
                state.leave_wake_token(key);
            }
        });
    }

    /// Adds a reason to pause which lasts until the returned hold is dropped.
    ///
    /// Returns at once; [`Self::quiesced`] tells when the job stands still. Holds nest, with each
    /// other and with a pause of the user, and are not seen by his verbs. They are quiet: as long as
    /// only holds keep the job at its pause point, its status does not change.
    pub fn hold_paused(&self) -> PauseHold {
        let key = self.cell.key;
        self.shared.update(|state| {
            if let Some(record) = state.jobs.get_mut(&key) {
                record.add_pause();
                state.wake_body(key);
            }
        });
        PauseHold { job: self.clone() }
    }

    /// Ends when the job neither does anything nor will before its pause ends: it is at a pause
    /// point, or has not started, or its body has ended.
    ///
    /// Any thread, any executor. Waits for ever if nobody wants the job to pause or end.
    pub async fn quiesced(&self) {
        poll_fn(|cx| self.poll_quiesced(cx)).await;
    }

    /// The same, for those who look again by themselves: ready if [`Self::quiesced`] would end at
    /// once, else the task is woken when that may have changed.
    pub fn poll_quiesced(&self, cx: &mut Context<'_>) -> Poll<()> {
        let key = self.cell.key;
        self.shared
            .update(|state| state.poll_quiesced(key, cx.waker()))
    }

    /// Whether [`Self::quiesced`] would end at once.
    pub fn is_quiescent(&self) -> bool {
        self.look(|record| record.is_none_or(|record| record.is_quiescent()))
    }

    /// Pauses the job because of an error, until the user resumes it. Once: if the user or another
    /// error has paused it already, nothing changes.
    pub fn stop_on_error(&self) {
        let key = self.cell.key;
        self.shared.update(|state| {
            if state
                .jobs
                .get(&key)
                .is_some_and(|record| !record.user_paused)
            {
                state.add_user_pause(key);
            }
        });
    }

    /// Tells subscribers that an `operation` (`read`, `write`) failed and what the error policy
    /// chose (`ignore`, `report`, `stop`).
    pub fn report_error(&self, operation: &'static str, action: &'static str) {
        let key = self.cell.key;
        let event = |job| JobEvent::Error {
            job,
            operation,
            action,
        };
        self.shared.update(|state| {
            if state.jobs.contains_key(&key) {
                state.emit(key, event);
            }
        });
    }

    /// Ends with the job's outcome, once it is concluded and its events have been delivered; as failed,
    /// without either, if the main context is closed before.
    ///
    /// Also for a job that was dismissed meanwhile, or long ago.
    pub fn wait(&self) -> JobWait {
        let cell = self.cell.clone();
        JobWait { cell }
    }

    /// Blocks until the job is concluded, or its main context is closed: see [`Self::wait`].
    ///
    /// # Panics
    ///
    /// On the thread of the main context or of the job's: the job could never end.
    pub fn wait_blocking(&self) -> JobOutcome {
        let is_context = self.shared.main.is_home() || self.context().is_home();
        assert!(!is_context, "a context that blocks for a job stops the job");
        self.cell.ending.wait_blocking()
    }

    /// The outcome, if [`Self::wait`] would end at once.
    pub fn outcome(&self) -> Option<JobOutcome> {
        self.cell.ending.get()
    }

    fn is_user_paused(&self) -> bool {
        self.look(|record| record.is_some_and(|record| record.user_paused))
    }

    pub(crate) fn look<R>(&self, look: impl FnOnce(Option<&Record>) -> R) -> R {
        let key = self.cell.key;
        self.shared.update(|state| look(state.jobs.get(&key)))
    }

    /// Makes a change if the status of the job accepts `verb`.
    fn apply<R>(
        &self,
        verb: JobVerb,
        change: impl FnOnce(&mut State, u64) -> Result<R, JobError>,
    ) -> Result<R, JobError> {
        let key = self.cell.key;
        self.shared.update(|state| {
            let record = state.jobs.get(&key).ok_or_else(JobError::not_found)?;
            let status = record.status;
            if !verb.is_accepted_in(status) {
                return Err(JobError::invalid_verb(self.cell.id_text(), status, verb));
            }
            change(state, key)
        })
    }
}

/// A reason for a job to pause, such as a drain of a node that it uses; ends when dropped.
#[derive(Debug)]
#[must_use = "the job may go on as soon as this is dropped"]
pub struct PauseHold {
    job: Job,
}

impl Drop for PauseHold {
    fn drop(&mut self) {
        let Job { shared, cell } = &self.job;
        shared.update(|state| {
            if let Some(record) = state.jobs.get_mut(&cell.key) {
                record.remove_pause();
                state.wake_body(cell.key);
            }
        });
    }
}

/// The job as a query shows it; without a record it has been forgotten.
pub(crate) fn info(cell: &JobCell, record: Option<&Record>) -> JobInfo {
    let outcome = cell.ending.get();
    let error = match record {
        Some(record) => record.result.as_ref().err().cloned(),
        None => outcome.and_then(|outcome| outcome.into_result().err()),
    };
    JobInfo {
        id: cell.id.clone(),
        kind: cell.kind,
        status: record.map_or(JobStatus::Null, |record| record.status),
        progress: cell.progress.snapshot(),
        is_busy: record.is_some_and(Record::is_busy),
        is_paused: record.is_some_and(|record| record.pause_count > 0),
        finalize: cell.finalize,
        dismiss: cell.dismiss,
        error,
    }
}
