//! [`JobEvent`]: what the outside hears of a job.

use std::{any::Any, fmt, sync::Arc};

use crate::{error::JobError, job_driver::JobDriver, progress::Progress, status::JobStatus};

/// The job an event is about, as it was when the event happened.
///
/// It keeps the job driver: who stores events for long stores what he needs of them.
#[derive(Clone)]
pub struct EventJob {
    /// Its id.
    pub id: Arc<str>,
    /// What its driver calls itself, such as `backup`.
    pub kind: &'static str,
    /// How far it had come.
    pub progress: Progress,
    pub(crate) driver: Arc<dyn JobDriver>,
}

impl EventJob {
    /// What the job driver offers a layer above, as [`Job::extension`](crate::Job::extension): also when the job
    /// itself has been forgotten by the time the event is delivered.
    pub fn extension<T: Any>(&self) -> Option<&T> {
        self.driver.extension()?.downcast_ref()
    }
}

impl fmt::Debug for EventJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventJob")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

/// Something that happened to a job which has an id; internal jobs are silent.
///
/// A status change comes before its partner (`Ready`, `Pending`); `Completed` or `Cancelled`,
/// exactly one and only for a job that was started, comes before the change to concluded;
/// nothing comes after the change to null.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum JobEvent {
    /// The job is now in `status`.
    StatusChange {
        /// The job.
        job: EventJob,
        /// Where it stands now.
        status: JobStatus,
    },
    /// The body has converged: `complete` is accepted.
    Ready(EventJob),
    /// The job waits for its `finalize`.
    Pending(EventJob),
    /// The job ended by itself: well, or with `error`.
    Completed {
        /// The job.
        job: EventJob,
        /// Why it failed, if it did.
        error: Option<JobError>,
    },
    /// The job ended because it was cancelled.
    Cancelled(EventJob),
    /// The body met an error; its error policy chose what to do.
    Error {
        /// The job.
        job: EventJob,
        /// What failed: `read` or `write`.
        operation: &'static str,
        /// What the policy chose: `ignore`, `report` or `stop`.
        action: &'static str,
    },
}

impl JobEvent {
    /// The job it is about.
    pub fn job(&self) -> &EventJob {
        match self {
            Self::Ready(job) | Self::Pending(job) | Self::Cancelled(job) => job,
            Self::StatusChange { job, .. }
            | Self::Completed { job, .. }
            | Self::Error { job, .. } => job,
        }
    }
}
