//! [`Record`]: what the registry knows of one job while it lives.

use std::{fmt, future::Future, sync::Arc, task::Waker};

use crate::{
    callback::{self, Callback, CurrentCallback},
    error::JobError,
    event::EventJob,
    job_driver::JobDriver,
    outcome::{Ending, JobOutcome},
    progress::ProgressMeter,
    registry::Trigger,
    runtime::Handle,
    status::JobStatus,
    verb::CancelMode,
};

/// Names a job, or a transaction, in its registry. Younger ones have greater keys.
pub(crate) type Key = u64;

/// What never changes of a job. Handles keep it, so it outlives the job's record.
pub(crate) struct JobCell {
    pub(crate) key: Key,
    /// Absent in internal jobs.
    pub(crate) id: Option<Arc<str>>,
    /// What its driver calls itself; asked for once, so that no code of others is needed to tell.
    pub(crate) kind: &'static str,
    pub(crate) driver: Arc<dyn JobDriver>,
    pub(crate) finalize: Trigger,
    pub(crate) dismiss: Trigger,
    pub(crate) progress: ProgressMeter,
    pub(crate) ending: Ending,
}

impl JobCell {
    /// The id for error texts.
    pub(crate) fn id_text(&self) -> &str {
        self.id.as_deref().unwrap_or("")
    }

    /// Calls the job driver, so that a panic there says in what.
    pub(crate) fn call<'a, R>(
        &'a self,
        callback: Callback,
        call: impl FnOnce(&'a dyn JobDriver) -> R,
    ) -> R {
        callback::named(self.current(callback), || call(&*self.driver))
    }

    /// The same for a hook that takes its time. It is called here, whether or not what is returned is
    /// ever polled.
    pub(crate) fn call_async<'a, F: Future>(
        &'a self,
        callback: Callback,
        call: impl FnOnce(&'a dyn JobDriver) -> F,
    ) -> impl Future<Output = F::Output> {
        let hook = self.call(callback, call);
        callback::named_future(self.current(callback), hook)
    }

    /// What runs while `callback` of this job does.
    pub(crate) fn current(&self, callback: Callback) -> CurrentCallback {
        let (id, kind) = (self.id.clone(), self.kind);
        CurrentCallback { id, kind, callback }
    }

    /// The job as events show it; `None` for an internal job, which has no events.
    pub(crate) fn event_job(&self) -> Option<EventJob> {
        let id = self.id.clone()?;
        let (kind, progress) = (self.kind, self.progress.snapshot());
        let driver = self.driver.clone();
        Some(EventJob {
            id,
            kind,
            progress,
            driver,
        })
    }
}

impl fmt::Debug for JobCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobCell")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// How far the body is.
#[derive(Debug)]
pub(crate) enum Body {
    /// It was never started.
    NotStarted,
    /// It executes, or waits for something that is not the job's to end, such as a request.
    Busy,
    /// It waits in a pause, a sleep or a park; the waker has it look again.
    Waiting(Until, Waker),
    /// It has returned, and completion is on its way to the main context.
    Returned,
    /// The main context knows that it has returned.
    Ended,
}

/// What a waiting body waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The end of the pause.
    Resumed,
    /// A wake-up, or a reason to look up: a pause or a cancel.
    Woken,
}

/// What the registry knows of one job while it lives. Guarded by the registry's lock.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) cell: Arc<JobCell>,
    /// Changed by `State::move_to` only.
    pub(crate) status: JobStatus,
    pub(crate) body: Body,
    /// Where the body belongs. Changes only while the job stands still.
    pub(crate) context: Handle,
    /// Where the body was polled last. Lags behind `context` until the body has followed.
    pub(crate) whereabouts: Handle,
    /// Reasons to pause: one until the start, one of the user, one per hold.
    pub(crate) pause_count: u32,
    /// One of the reasons is the user's, or that of an error which waits for the user.
    pub(crate) user_paused: bool,
    /// A wake-up came that no wait has used up yet.
    pub(crate) wake_token: bool,
    /// The strongest cancel so far.
    pub(crate) cancel: Option<CancelMode>,
    /// What the body returned; from Aborting on, an error.
    pub(crate) result: Result<(), JobError>,
    /// When it was concluded, by the main context's wall clock.
    pub(crate) ended_unix_ns: Option<u64>,
    pub(crate) transaction: Key,
    /// Those who wait for the job to stand still, to have moved, or to be cancelled.
    pub(crate) watchers: Vec<Waker>,
}

impl Record {
    pub(crate) fn is_force_cancelled(&self) -> bool {
        self.cancel == Some(CancelMode::Force)
    }

    pub(crate) fn is_started(&self) -> bool {
        !matches!(self.body, Body::NotStarted)
    }

    /// How a job has ended that is concluded.
    pub(crate) fn outcome(&self) -> JobOutcome {
        match (&self.result, self.cancel) {
            (Ok(()), _) => JobOutcome::Completed,
            (Err(error), Some(CancelMode::Force)) => JobOutcome::Cancelled(error.clone()),
            (Err(error), _) => JobOutcome::Failed(error.clone()),
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.body, Body::Busy | Body::Returned)
    }

    /// Whether a pause point would pause.
    pub(crate) fn wants_pause(&self) -> bool {
        self.pause_count > 0 && !self.is_force_cancelled()
    }

    /// Whether the body stands at a pause point, whatever the status says.
    pub(crate) fn is_standing(&self) -> bool {
        matches!(self.body, Body::Waiting(Until::Resumed, _))
    }

    /// Whether the job neither does anything nor will before its pause ends.
    pub(crate) fn is_quiescent(&self) -> bool {
        matches!(self.body, Body::NotStarted | Body::Ended) || self.is_standing()
    }

    /// Whether the body is not where it belongs, or was not when it ended.
    pub(crate) fn is_away(&self) -> bool {
        !self.context.is_same(&self.whereabouts)
    }

    /// Whether nothing of the job is on another context than its own.
    pub(crate) fn is_settled(&self) -> bool {
        match self.body {
            Body::NotStarted | Body::Returned | Body::Ended => true,
            Body::Busy | Body::Waiting(..) => !self.is_away(),
        }
    }

    /// Whether the job is cancelled by force; wakes `waker` when that may have changed.
    pub(crate) fn poll_cancelled(&mut self, waker: &Waker) -> bool {
        let is_cancelled = self.is_force_cancelled();
        if !is_cancelled {
            self.watch(waker);
        }
        is_cancelled
    }

    /// Whether a wait of the body is over.
    pub(crate) fn is_over(&self, until: Until) -> bool {
        match until {
            Until::Resumed => !self.wants_pause(),
            Until::Woken => self.wake_token || self.pause_count > 0 || self.is_force_cancelled(),
        }
    }

    /// Adds one reason to pause.
    pub(crate) fn add_pause(&mut self) {
        self.pause_count = self
            .pause_count
            .checked_add(1)
            .expect("nobody has four thousand million reasons to pause a job");
    }

    /// Wakes `waker` when the job may have come to stand still, have moved, or be cancelled.
    pub(crate) fn watch(&mut self, waker: &Waker) {
        if !self.watchers.iter().any(|known| known.will_wake(waker)) {
            self.watchers.push(waker.clone());
        }
    }

    /// Takes away one reason to pause.
    pub(crate) fn remove_pause(&mut self) {
        self.pause_count = self
            .pause_count
            .checked_sub(1)
            .expect("each reason to pause is removed once");
    }
}
