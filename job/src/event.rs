//! [`JobEvent`]: what the outside hears of a job.

use std::sync::Arc;

use crate::{error::JobError, progress::Progress, status::JobStatus};

/// The job an event is about, as it was when the event happened.
#[derive(Clone, Debug)]
pub struct EventJob {
    /// Its id.
    pub id: Arc<str>,
    /// What its driver calls itself, such as `backup`.
    pub kind: &'static str,
    /// How far it had come.
    pub progress: Progress,
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
