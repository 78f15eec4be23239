//! Backup: the source as it was at the instant the job began, while guests write on.
//!
//! ```text
//!   before          during                       after
//!
//!   guest           guest                        guest
//!     |               |                            |
//!   source          copy-before-write --job        source      target: complete and durable
//!                     |          |
//!                   source     target
//! ```
//!
//! The filter goes in under drain; that is the instant. From then on a guest write waits until the
//! old data of the clusters that it touches are in the target, and the job copies everything
//! else in the background. The job is done when no cluster is left to copy and the target has been
//! flushed: a backup that completed is durable.

mod driver;
mod group;
mod held;
mod options;
mod request;
mod start;

use std::{slice, sync::Arc};

use aio::Handle;
use block::{BlockError, Graph, Node, copy::CopyCounters, nodes::copy_before_write::AddedLatency};
use blockjob::{BlockJob, IoStatus};
use job::{Job, JobError, JobRegistry};

use crate::pace::{PaceReport, Tuning};

use driver::BackupDriver;
pub use group::{Action, Completion};
pub use options::{BackupBitmap, BackupOptions, BackupSpec, BackupSync};
pub use request::{BackupRequest, RequestedSync};

/// Why a backup could not be started. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A node cannot take part.
    #[error("cannot back up '{from}' to '{to}'")]
    Node {
        /// The source's name.
        from: String,
        /// The target's name.
        to: String,
        /// Why.
        #[source]
        source: Box<BlockError>,
    },
    /// The job cannot be made.
    #[error(transparent)]
    Job(#[from] JobError),
    /// A bitmap cannot be used or changed so.
    #[error(transparent)]
    Bitmap(Box<BlockError>),
    /// What was asked for makes no sense. The text is part of the control protocol.
    #[error("{0}")]
    Refused(String),
}

impl From<BlockError> for BackupError {
    fn from(error: BlockError) -> Self {
        Self::Bitmap(Box::new(error))
    }
}

/// How a backup stands, or how it ended. All from about one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// Length of the source in bytes.
    pub len_bytes: u64,
    /// Bytes copied, zeroed or skipped.
    pub done_bytes: u64,
    /// The same by the way they went.
    pub counters: CopyCounters,
    /// Requests of the background copy in flight; after a forced cancel, those that have not returned yet.
    pub requests_in_flight: u32,
    /// What bounds them.
    pub pace: PaceReport,
    /// What the filter has cost guest requests.
    pub guest: AddedLatency,
    /// Why the job stands still because of an error, if it does.
    pub io_status: IoStatus,
    /// Guests still use the filter. After the end, because requests of theirs inside it do not return: then it passes
    /// everything through, and goes when they are back.
    pub filter_is_in_place: bool,
    /// The target may change. After the end, because a request of the backup has not returned: until it
    /// has, the target is refused to other users.
    pub target_may_change: bool,
}

/// A backup under way, or ended. Cheap to clone; any thread; dropping it does nothing to the job.
#[derive(Clone, Debug)]
pub struct Backup {
    job: Job,
    driver: Arc<BackupDriver>,
}

impl Backup {
    /// Starts a backup of `source` to `target`; both stay in the graph.
    ///
    /// When this returns the instant has been taken: what guests write from now on is not in the
    /// backup, and everything they had been told was written before is. To be called on the main
    /// context; the job runs on the context behind `context`.
    ///
    /// Dropping the future before it is ready leaves everything as it was.
    ///
    /// # Errors
    ///
    /// [`BackupError`]; nothing has changed then.
    pub async fn start(
        (graph, jobs): (&Graph, &JobRegistry),
        context: &Handle,
        (source, target): (&Node, &Node),
        options: BackupOptions,
    ) -> Result<Self, BackupError> {
        let spec = BackupSpec {
            source: source.clone(),
            target: target.clone(),
            context: context.clone(),
            options,
        };
        start::check(graph, &spec)?;
        let section = graph.drain(slice::from_ref(source)).await;
        let backup = start::prepare((graph, jobs), spec, None).await?;
        let started = backup.job.start();
        drop(section);
        if let Err(error) = started {
            // Somebody has cancelled it already, and its end takes the filter out.
            backup.job.wait().await;
            return Err(error.into());
        }
        Ok(backup)
    }

    /// The backup that `job` is, if it is one.
    #[must_use]
    pub fn of(job: &Job) -> Option<Self> {
        let driver = BlockJob::of(job)?.driver::<BackupDriver>()?;
        let job = job.clone();
        Some(Self { job, driver })
    }

    /// The job.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// How it stands; after its end, how it ended.
    #[must_use]
    pub fn report(&self) -> BackupReport {
        self.driver.report()
    }

    /// Sets the speed limit in bytes per second; zero is none.
    ///
    /// # Errors
    ///
    /// As [`Job::check_verb`] for `set-speed`.
    pub fn set_speed(&self, speed_bytes_per_s: u64) -> Result<(), JobError> {
        self.job.check_verb(job::JobVerb::SetSpeed)?;
        self.driver.block_job.set_speed(speed_bytes_per_s);
        Ok(())
    }

    /// Changes what bounds the copy under way.
    ///
    /// # Errors
    ///
    /// As [`Job::check_verb`] for `change`.
    pub fn tune(&self, tuning: Tuning) -> Result<(), JobError> {
        self.job.check_verb(job::JobVerb::Change)?;
        self.driver.tune(tuning);
        self.job.wake();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
