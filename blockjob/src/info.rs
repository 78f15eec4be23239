//! [`BlockJobInfo`]: block jobs as queries show them, and how to find one.

use job::{Job, JobError, JobInfo, JobRegistry, JobStatus};

use crate::{BlockJob, IoStatus};

/// One block job as a query shows it.
///
/// | Name in the control protocol | Here |
/// |---|---|
/// | `type`, `device` | `job.kind`, `job.id` |
/// | `len`, `offset` | `job.progress.total`, `job.progress.current` |
/// | `busy`, `paused` | `job.is_busy`, `job.is_paused` |
/// | `status`, `ready` | `job.status`, and its `is_ready()` |
/// | `auto-finalize`, `auto-dismiss` | `job.finalize`, `job.dismiss` |
/// | `error` | `job.error` |
/// | `speed`, `io-status`, `actively-synced` | `speed_bytes_per_s`, `io_status`, `actively_synced` |
#[derive(Clone, Debug)]
pub struct BlockJobInfo {
    /// What every job has.
    pub job: JobInfo,
    /// Speed limit in bytes per second; zero is none.
    pub speed_bytes_per_s: u64,
    /// Why it stands still because of an error, if it does.
    pub io_status: IoStatus,
    /// Whether writes to the source are in the target before they are acknowledged; only of jobs that can do that.
    pub actively_synced: Option<bool>,
}

impl BlockJobInfo {
    /// A job as a query shows it; `None` if it is not a block job. Any thread.
    #[must_use]
    pub fn of(job: &Job) -> Option<Self> {
        let block_job = job.extension::<BlockJob>()?;
        Some(Self {
            job: job.info(),
            speed_bytes_per_s: block_job.speed_bytes_per_s(),
            io_status: block_job.io_status(),
            actively_synced: block_job.actively_synced(),
        })
    }
}

/// All block jobs but internal ones, newest first. Any thread.
#[must_use]
pub fn block_jobs(jobs: &JobRegistry) -> Vec<BlockJobInfo> {
    let listed = jobs.list();
    let mut infos: Vec<_> = listed.iter().filter_map(BlockJobInfo::of).collect();
    // Dismissed since it was listed.
    infos.retain(|info| info.job.status != JobStatus::Null);
    infos
}

/// The block job with this id, and the job that it belongs to. Any thread.
///
/// # Errors
///
/// `NotFound`, in the words of commands for block jobs: also for a job that is not a block job.
pub fn find_block_job(jobs: &JobRegistry, id: &str) -> Result<(Job, BlockJob), JobError> {
    let job = jobs.find(id).ok();
    let found = job.and_then(|job| BlockJob::of(&job).map(|block_job| (job, block_job)));
    found.ok_or_else(|| JobError::block_job_not_found(id))
}
