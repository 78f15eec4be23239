//! [`OnError`]: what a job does about a failed read or write.

use std::fmt;

/// `ENOSPC`, the number that Linux uses on every architecture we know.
const NO_SPACE_ERRNO: i32 = 28;

/// What the user wants done about errors of one side of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The job fails.
    #[default]
    Report,
    /// The job goes on.
    Ignore,
    /// The job stops if space ran out, and fails otherwise.
    Enospc,
    /// The job stops until the user resumes it.
    Stop,
    /// What is best for a job: as `Enospc`.
    Auto,
}

impl OnError {
    /// Every policy.
    pub const ALL: [Self; 5] = [
        Self::Report,
        Self::Ignore,
        Self::Enospc,
        Self::Stop,
        Self::Auto,
    ];

    /// What to do about an error with this system error number.
    #[must_use]
    pub fn action(self, errno: i32) -> ErrorAction {
        match self {
            Self::Report => ErrorAction::Report,
            Self::Ignore => ErrorAction::Ignore,
            Self::Stop => ErrorAction::Stop,
            Self::Enospc | Self::Auto if errno == NO_SPACE_ERRNO => ErrorAction::Stop,
            Self::Enospc | Self::Auto => ErrorAction::Report,
        }
    }

    /// The name that clients use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Ignore => "ignore",
            Self::Enospc => "enospc",
            Self::Stop => "stop",
            Self::Auto => "auto",
        }
    }

    /// The policy with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == name)
    }
}

impl fmt::Display for OnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is done about one error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorAction {
    /// The job fails with it.
    Report,
    /// The job goes on: it tries again, or leaves the range out, as its driver defines.
    Ignore,
    /// The job pauses as if the user had paused it, once however many requests failed, and tries
    /// again when resumed.
    Stop,
}

impl ErrorAction {
    /// The name in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Ignore => "ignore",
            Self::Stop => "stop",
        }
    }
}

/// Which side of a job failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorSide {
    /// The source.
    Read,
    /// The target; also a flush of it.
    Write,
}

impl ErrorSide {
    /// The name in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Why a job stands still, for queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoStatus {
    /// No error stopped it.
    #[default]
    Ok,
    /// An error stopped it.
    Failed,
    /// Running out of space stopped it.
    NoSpace,
}

impl IoStatus {
    /// Notes an error and what is done about it. Only a stop counts, and only the first.
    pub fn note(&mut self, errno: i32, action: ErrorAction) {
        if *self == Self::Ok && action == ErrorAction::Stop {
            *self = match errno {
                NO_SPACE_ERRNO => Self::NoSpace,
                _ => Self::Failed,
            };
        }
    }

    /// The user resumes the job, or a cancel undoes its pause.
    pub fn reset(&mut self) {
        *self = Self::Ok;
    }

    /// The name in queries.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::NoSpace => "nospace",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EIO: i32 = 5;

    #[test]
    fn each_policy_has_its_action() {
        let actions = OnError::ALL.map(|policy| {
            let names = [EIO, NO_SPACE_ERRNO].map(|errno| policy.action(errno).as_str());
            format!("{policy}: {} {}", names[0], names[1])
        });

        let want = [
            // policy, any error, no space
            "report: report report",
            "ignore: ignore ignore",
            "enospc: report stop",
            "stop: stop stop",
            "auto: report stop",
        ];
        assert_eq!(actions, want);
    }

    #[test]
    fn the_default_is_to_report() {
        assert_eq!(OnError::default(), OnError::Report);
    }

    #[test]
    fn names_are_read_back() {
        let read = OnError::ALL.map(|policy| OnError::from_name(policy.as_str()));

        assert_eq!(read, OnError::ALL.map(Some));
        assert_eq!(OnError::from_name("panic"), None);
    }

    #[test]
    fn the_first_error_that_stops_a_job_names_its_io_status() {
        let mut status = IoStatus::default();
        status.note(EIO, ErrorAction::Report);
        status.note(EIO, ErrorAction::Ignore);
        let untouched = status;

        status.note(NO_SPACE_ERRNO, ErrorAction::Stop);
        status.note(EIO, ErrorAction::Stop);

        assert_eq!(untouched.as_str(), "ok");
        assert_eq!(status.as_str(), "nospace");
    }

    #[test]
    fn a_resume_makes_the_io_status_good_again() {
        let mut status = IoStatus::default();
        status.note(EIO, ErrorAction::Stop);
        let stopped = status;

        status.reset();

        assert_eq!((stopped.as_str(), status.as_str()), ("failed", "ok"));
    }

    #[test]
    fn sides_have_the_names_of_the_protocol() {
        assert_eq!(
            [ErrorSide::Read, ErrorSide::Write].map(ErrorSide::as_str),
            ["read", "write"]
        );
    }
}
