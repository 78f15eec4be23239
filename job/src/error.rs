//! [`JobError`]: why a verb was refused or a job ended badly.

use std::{error::Error, fmt, io, sync::Arc};

use crate::{status::JobStatus, verb::JobVerb};

/// What went wrong, to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobErrorKind {
    /// No job has this id.
    NotFound,
    /// The status of the job does not accept the verb.
    InvalidVerb,
    /// The id breaks the rules for ids.
    InvalidId,
    /// A job that is not dismissed yet has this id.
    IdInUse,
    /// Resume without a pause.
    NotPaused,
    /// The user has paused the job and must resume it first.
    AlreadyPaused,
    /// The job driver cannot complete, or a cancel came first.
    CannotComplete,
    /// The job was cancelled.
    Cancelled,
    /// The job driver failed.
    Failed,
    /// What was asked makes no sense for this job: a value, or the kind of change.
    Refused,
}

/// Why a verb was refused or a job ended badly.
///
/// The text of the first seven kinds is part of the control protocol: clients match on it.
/// Cheap to clone, since a job keeps its error and shows it to everybody who asks.
#[derive(Clone, Debug)]
pub struct JobError {
    kind: JobErrorKind,
    text: String,
    errno: Option<i32>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl JobError {
    /// The job driver failed; `text` says what it was doing and what went wrong.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::new(JobErrorKind::Failed, text.into())
    }

    /// Something was asked of the job that it does not take; `text` says what.
    pub fn refused(text: impl Into<String>) -> Self {
        Self::new(JobErrorKind::Refused, text.into())
    }

    /// The job driver failed with a system error and has nothing to add to its text.
    pub fn from_errno(errno: i32) -> Self {
        let text = io::Error::from_raw_os_error(errno).to_string();
        // Clients know the bare text; the number has its own field.
        let bare = text
            .strip_suffix(&format!(" (os error {errno})"))
            .unwrap_or(&text);
        Self::failed(bare).with_errno(errno)
    }

    /// The job was cancelled; also for a job driver that ends because it saw the cancel.
    pub fn cancelled() -> Self {
        Self::new(JobErrorKind::Cancelled, "Operation canceled".to_owned())
    }

    /// The same refusal as an unknown id, in the words that commands for block jobs use.
    pub fn block_job_not_found(id: &str) -> Self {
        Self::new(
            JobErrorKind::NotFound,
            format!("Block job '{id}' not found"),
        )
    }

    /// Adds the system error number behind a failure.
    #[must_use]
    pub fn with_errno(mut self, errno: i32) -> Self {
        self.errno = Some(errno);
        self
    }

    /// Adds the error behind a failure; the text must not repeat it.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// What went wrong, to branch on.
    pub fn kind(&self) -> JobErrorKind {
        self.kind
    }

    /// The system error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    /// The body was dropped with the context that it was on.
    pub(crate) fn context_closed() -> Self {
        Self::failed("the context of the job was closed")
    }

    /// Nobody can end the job any more.
    pub(crate) fn main_context_closed() -> Self {
        Self::failed("the main context of the jobs was closed")
    }

    pub(crate) fn not_found() -> Self {
        Self::new(JobErrorKind::NotFound, "Job not found".to_owned())
    }

    pub(crate) fn invalid_verb(id: &str, status: JobStatus, verb: JobVerb) -> Self {
        Self::new(
            JobErrorKind::InvalidVerb,
            format!("Job '{id}' in state '{status}' cannot accept command verb '{verb}'"),
        )
    }

    pub(crate) fn invalid_id(id: &str) -> Self {
        Self::new(JobErrorKind::InvalidId, format!("Invalid job ID '{id}'"))
    }

    pub(crate) fn id_in_use(id: &str) -> Self {
        Self::new(
            JobErrorKind::IdInUse,
            format!("Job ID '{id}' already in use"),
        )
    }

    pub(crate) fn not_paused() -> Self {
        Self::new(
            JobErrorKind::NotPaused,
            "Can't resume a job that was not paused".to_owned(),
        )
    }

    pub(crate) fn already_paused() -> Self {
        Self::new(
            JobErrorKind::AlreadyPaused,
            "Job is already paused".to_owned(),
        )
    }

    /// A soft cancel of a job that its user has paused.
    pub(crate) fn currently_paused(id: &str) -> Self {
        Self::new(
            JobErrorKind::AlreadyPaused,
            format!("The block job for device '{id}' is currently paused"),
        )
    }

    pub(crate) fn cannot_complete(id: &str) -> Self {
        Self::new(
            JobErrorKind::CannotComplete,
            format!("The active block job '{id}' cannot be completed"),
        )
    }

    fn new(kind: JobErrorKind, text: String) -> Self {
        Self {
            kind,
            text,
            errno: None,
            source: None,
        }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for JobError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients match on these, letter by letter.
    #[test]
    fn the_texts_are_those_of_the_protocol() {
        let texts = [
            JobError::invalid_verb("b1", JobStatus::Waiting, JobVerb::SetSpeed),
            JobError::already_paused(),
            JobError::not_paused(),
            JobError::cannot_complete("m1"),
            JobError::invalid_id("1x"),
            JobError::id_in_use("b1"),
            JobError::currently_paused("b1"),
            JobError::not_found(),
            JobError::block_job_not_found("b1"),
            JobError::cancelled(),
            JobError::from_errno(28),
        ]
        .map(|error| error.to_string());

        let want = [
            "Job 'b1' in state 'waiting' cannot accept command verb 'set-speed'",
            "Job is already paused",
            "Can't resume a job that was not paused",
            "The active block job 'm1' cannot be completed",
            "Invalid job ID '1x'",
            "Job ID 'b1' already in use",
            "The block job for device 'b1' is currently paused",
            "Job not found",
            "Block job 'b1' not found",
            "Operation canceled",
            "No space left on device",
        ];
        assert_eq!(texts, want);
    }

    #[test]
    fn a_failure_keeps_its_cause_apart_from_its_text() {
        let error = JobError::failed("cannot read the source")
            .with_errno(5)
            .with_source(io::Error::from_raw_os_error(5));

        assert_eq!(error.to_string(), "cannot read the source");
        assert_eq!(error.errno(), Some(5));
        assert!(error.source().is_some());
    }
}
