//! [`JobVerb`]: what a user may ask of a job, and in which status.

use std::fmt;

use crate::status::JobStatus;

/// What a user may ask of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobVerb {
    /// Stop and undo.
    Cancel,
    /// Stop at the next pause point.
    Pause,
    /// Undo a pause.
    Resume,
    /// Set the speed limit.
    SetSpeed,
    /// Finish a ready job.
    Complete,
    /// Make the graph changes.
    Finalize,
    /// Forget a concluded job.
    Dismiss,
    /// Change an option of the job driver.
    Change,
}

impl JobVerb {
    /// Every verb.
    pub const ALL: [Self; 8] = [
        Self::Cancel,
        Self::Pause,
        Self::Resume,
        Self::SetSpeed,
        Self::Complete,
        Self::Finalize,
        Self::Dismiss,
        Self::Change,
    ];

    /// Whether a job in `status` takes this verb.
    pub fn is_accepted_in(self, status: JobStatus) -> bool {
        let live = !status.is_completed();
        match self {
            Self::Cancel => live || matches!(status, JobStatus::Waiting | JobStatus::Pending),
            Self::Pause | Self::Resume | Self::SetSpeed | Self::Change => live,
            Self::Complete => status.is_ready(),
            Self::Finalize => status == JobStatus::Pending,
            Self::Dismiss => status == JobStatus::Concluded,
        }
    }

    /// The name in error texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::SetSpeed => "set-speed",
            Self::Complete => "complete",
            Self::Finalize => "finalize",
            Self::Dismiss => "dismiss",
            Self::Change => "change",
        }
    }
}

impl fmt::Display for JobVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much a cancel insists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CancelMode {
    /// Asks the job driver to end early; one that is ready may take it as "finish as you are".
    Soft,
    /// Ends the job as cancelled. Cannot be taken back.
    Force,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row is the verb, column the status.
    #[test]
    fn only_these_verbs_are_accepted() {
        let mark = |is_accepted| if is_accepted { 'x' } else { '.' };
        let drawn = JobVerb::ALL.map(|verb| {
            let row = JobStatus::ALL.map(|status| mark(verb.is_accepted_in(status)));
            row.iter().collect::<String>()
        });

        let want = [
            //C R P R S W P A C N
            "x x x x x x x . . .", // cancel
            "x x x x x . . . . .", // pause
            "x x x x x . . . . .", // resume
            "x x x x x . . . . .", // set-speed
            ". . . x x . . . . .", // complete
            ". . . . . . x . . .", // finalize
            ". . . . . . . . x .", // dismiss
            "x x x x x . . . . .", // change
        ]
        .map(|row| row.replace(' ', ""));
        assert_eq!(drawn, want);
    }
}
