//! [`WeakJob`]: knows a job without keeping it.

use std::sync::{Arc, Weak};

use crate::{job::Job, record::JobCell, state::Shared};

/// Knows a job without keeping it or its registry: for what a job driver holds, and so the job itself keeps.
///
/// Any thread. What a job driver knows its own job by is one of these, or the two keep each other for ever.
#[derive(Clone, Debug)]
pub struct WeakJob {
    shared: Weak<Shared>,
    cell: Weak<JobCell>,
}

impl Job {
    /// The same job, without keeping it.
    #[must_use]
    pub fn downgrade(&self) -> WeakJob {
        WeakJob {
            shared: Arc::downgrade(&self.shared),
            cell: Arc::downgrade(&self.cell),
        }
    }
}

impl WeakJob {
    /// The job, while its registry knows it or somebody has a handle of it.
    #[must_use]
    pub fn upgrade(&self) -> Option<Job> {
        let (shared, cell) = (self.shared.upgrade()?, self.cell.upgrade()?);
        Some(Job { shared, cell })
    }
}
