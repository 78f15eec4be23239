//! What can be seen of jobs while nothing happens.

use job::JobStatus;

use super::{Body, JobModel, Model};
use crate::act::{IDS, Naming, PLACES};

/// Everything that can be seen at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) jobs: [Option<JobLook>; PLACES],
    /// The ids of a query, in its order.
    pub(crate) list: Vec<&'static str>,
    pub(crate) history: Vec<Past>,
    pub(crate) cancels_all: bool,
}

/// What can be seen of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobLook {
    pub(crate) status: JobStatus,
    pub(crate) outcome: Option<String>,
    /// Moves that are not done.
    pub(crate) moves: usize,
    /// What a query says, until it is forgotten.
    pub(crate) info: Option<InfoLook>,
}

/// Which cancel came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancel {
    None,
    Soft,
    Force,
}

/// What can be seen of one that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InfoLook {
    pub(crate) is_paused: bool,
    pub(crate) is_busy: bool,
    pub(crate) is_quiescent: bool,
    pub(crate) cancel: Cancel,
    pub(crate) error: Option<String>,
    pub(crate) progress: (u64, u64),
    pub(crate) context: usize,
}

/// A forgotten job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) sequence: u64,
    pub(crate) id: String,
    pub(crate) outcome: String,
    pub(crate) progress: (u64, u64),
    pub(crate) was_started: bool,
}

impl Model {
    /// What can be seen now.
    pub(crate) fn look(&self) -> Look {
        let is_named = |place: &&usize| self.job(**place).spec.naming == Naming::Own;
        let named = self.order.iter().filter(is_named);
        Look {
            jobs: std::array::from_fn(|place| {
                let job = self.job_in(place)?;
                Some(job.look(self.holds))
            }),
            list: named.map(|&place| IDS[place]).collect(),
            history: self.history.clone(),
            cancels_all: self.cancels_all.is_some(),
        }
    }

    /// Whether the job must, and whether it may, have told that it was idle since the act.
    pub(crate) fn idles(&self, place: usize) -> (bool, bool) {
        let Some(job) = self.job_in(place) else {
            return (false, false);
        };
        let may_run = !matches!(job.body, Body::Absent | Body::Returned);
        (job.has_run && !job.is_busy(), job.has_run || may_run)
    }
}

impl JobModel {
    /// It does something, or waits for something that it has asked for.
    fn is_busy(&self) -> bool {
        matches!(self.body, Body::InRequest | Body::Pausing(_))
    }

    fn look(&self, holds_on_all: usize) -> JobLook {
        let moves = self.moves.len();
        let holds = holds_on_all + self.holds + moves;
        let info = InfoLook {
            is_paused: self.body == Body::Absent || self.is_user_paused || holds > 0,
            is_busy: self.is_busy(),
            is_quiescent: self.is_quiescent(),
            cancel: match (self.is_cancel_requested, self.is_forced) {
                (_, true) => Cancel::Force,
                (true, false) => Cancel::Soft,
                (false, false) => Cancel::None,
            },
            error: self.result.clone().and_then(Result::err),
            progress: self.progress,
            context: self.context,
        };
        JobLook {
            status: self.status,
            outcome: self.outcome.clone(),
            moves,
            info: (self.status != JobStatus::Null).then_some(info),
        }
    }
}
