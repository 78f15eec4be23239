//! [`JobStatus`]: where a job stands, and the only moves there are.
//!
//! ```text
//!  Created ---> Running <---> Paused          each arrow also emits one
//!   |  |        |  |  \                       JobEvent::StatusChange
//!   |  |        |  |   +--> Ready <---> Standby
//!   |  |        |  |        |  |
//!   |  |        |  +--------+--|--> Waiting --> Pending
//!   |  |        |              |      |         |    |
//!   |  +--------+--------------+------+----> Aborting |
//!   |                                           |    |
//!   v                                           v    v
//!  Null <------------------------------------- Concluded
//! ```
//!
//! Who moves a job, and what is true while it is there:
//!
//! - **Created**: `JobRegistry::create`. The body has not run; the pause count is at least 1.
//! - **Running**: `Job::start`, or the end of a pause. The body runs, or waits inside `run`, or
//!   stands at a pause point because of holds alone (drains, moves): they are quiet.
//! - **Paused**, **Standby**: the user or an error wants a pause, and the body stands at a pause
//!   point, from Running and Ready. The job has no request in flight. There is no way out but back,
//!   when user and holds have all let go: a job cancelled here is first seen to run.
//! - **Ready**: the body, through `JobContext::become_ready`. `complete` is accepted.
//! - **Waiting**: the body has ended well, that of another member of the transaction has not.
//! - **Pending**: all members have ended well and nothing is decided: `finalize` or `cancel`.
//! - **Aborting**: this job failed or was cancelled; its result holds the error.
//! - **Concluded**: exactly one of commit and abort has run, and clean. The result is kept.
//! - **Null**: the registry has forgotten the job; only handles still know it.

use std::fmt;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobStatus {
    /// Made, not started.
    Created,
    /// The body runs.
    Running,
    /// Stopped by the user or an error, at a pause point.
    Paused,
    /// Converged; waits for `complete`.
    Ready,
    /// The same while ready.
    Standby,
    /// Done, unlike another member of its transaction.
    Waiting,
    /// All members are done; waits for `finalize`.
    Pending,
    /// Failed or cancelled, being undone.
    Aborting,
    /// Ended; the result is kept until `dismiss`.
    Concluded,
    /// Forgotten.
    Null,
}

impl JobStatus {
    /// Every status, in the order of a life.
    pub const ALL: [Self; 10] = [
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Ready,
        Self::Standby,
        Self::Waiting,
        Self::Pending,
        Self::Aborting,
        Self::Concluded,
        Self::Null,
    ];

    /// Whether the table has a move from this status to `to`.
    pub fn can_become(self, to: Self) -> bool {
        self.moves().contains(&to)
    }

    /// Whether the body has converged: Ready or Standby.
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Ready | Self::Standby)
    }

    /// Whether the body has ended: Waiting and everything after it.
    pub fn is_completed(self) -> bool {
        match self {
            Self::Waiting | Self::Pending | Self::Aborting | Self::Concluded | Self::Null => true,
            Self::Created | Self::Running | Self::Paused | Self::Ready | Self::Standby => false,
        }
    }

    /// The name that clients see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ready => "ready",
            Self::Standby => "standby",
            Self::Waiting => "waiting",
            Self::Pending => "pending",
            Self::Aborting => "aborting",
            Self::Concluded => "concluded",
            Self::Null => "null",
        }
    }

    /// Moves to `to`; anything that the table does not have is our own bug and panics.
    pub(crate) fn advance(&mut self, to: Self) {
        assert!(self.can_become(to), "a job went from {self} to {to}");
        *self = to;
    }

    fn moves(self) -> &'static [Self] {
        match self {
            Self::Created => &[Self::Running, Self::Aborting, Self::Null],
            Self::Running => &[Self::Paused, Self::Ready, Self::Waiting, Self::Aborting],
            Self::Paused => &[Self::Running],
            Self::Ready => &[Self::Standby, Self::Waiting, Self::Aborting],
            Self::Standby => &[Self::Ready],
            Self::Waiting => &[Self::Pending, Self::Aborting],
            Self::Pending | Self::Aborting => &[Self::Aborting, Self::Concluded],
            Self::Concluded => &[Self::Null],
            Self::Null => &[],
        }
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standby_job_resumes_as_ready_never_as_running() {
        let mut status = JobStatus::Ready;
        status.advance(JobStatus::Standby);

        assert!(!status.can_become(JobStatus::Running));

        status.advance(JobStatus::Ready);
        assert_eq!(status, JobStatus::Ready);
    }

    /// The whole table as a picture: row is from, column is to.
    #[test]
    fn only_these_moves_exist() {
        let drawn = JobStatus::ALL.map(|from| {
            let mark = |to| if from.can_become(to) { 'x' } else { '.' };
            JobStatus::ALL.map(mark).iter().collect::<String>()
        });

        let want = [
            //C R P R S W P A C N
            ". x . . . . . x . x", // Created
            ". . x x . x . x . .", // Running
            ". x . . . . . . . .", // Paused
            ". . . . x x . x . .", // Ready
            ". . . x . . . . . .", // Standby
            ". . . . . . x x . .", // Waiting
            ". . . . . . . x x .", // Pending
            ". . . . . . . x x .", // Aborting
            ". . . . . . . . . x", // Concluded
            ". . . . . . . . . .", // Null
        ]
        .map(|row| row.replace(' ', ""));
        assert_eq!(drawn, want);
    }

    #[test]
    #[should_panic(expected = "a job went from paused to aborting")]
    fn a_move_outside_the_table_is_refused_loudly() {
        let mut status = JobStatus::Paused;
        status.advance(JobStatus::Aborting);
    }
}
