//! Commands for jobs: what a user may ask of one that is there.
//!
//! `job-*` takes any job and `block-job-*` block jobs only; the two differ in the class of the error for an unknown id,
//! and in that `block-job-cancel` is soft unless it is forced.

mod backup;
mod change;
mod create;
mod drive;
mod mirror;
mod progress;
mod query;
mod stream;
mod types;

use std::rc::Rc;

use blockjob::{BlockJob, find_block_job};
use job::{CancelMode, Job};
use qmp::{QmpError, qapi_struct};

pub(super) use self::{
    backup::{BlockdevBackup, spec as backup_spec},
    change::JobType,
    drive::{DriveBackup, backup_target},
    types::{JobStatus, named},
};
use super::{Daemon, command::Command, error::IntoQmp};

/// How long `job-finalize` waits for the end that it leads to, in nanoseconds: clients expect its events before the
/// reply, but a node that hangs must not take the monitor with it.
const FINALIZE_WAIT_NS: u64 = 5_000_000_000;

/// The commands of this module.
pub(super) fn commands() -> Vec<Command> {
    let mut commands = vec![
        Command::new("job-pause", job_pause),
        Command::new("job-resume", job_resume),
        Command::new("job-cancel", job_cancel),
        Command::new("job-complete", job_complete),
        Command::new("job-finalize", job_finalize),
        Command::new("job-dismiss", job_dismiss),
        Command::new("block-job-pause", block_job_pause),
        Command::new("block-job-resume", block_job_resume),
        Command::new("block-job-cancel", block_job_cancel),
        Command::new("block-job-complete", block_job_complete),
        Command::new("block-job-finalize", block_job_finalize),
        Command::new("block-job-dismiss", block_job_dismiss),
        Command::new("block-job-set-speed", block_job_set_speed),
    ];
    commands.extend(query::commands());
    commands.extend(progress::commands());
    commands.extend(change::commands());
    commands.extend(backup::commands());
    commands.extend(create::commands());
    commands.extend(mirror::commands());
    commands.extend(drive::commands());
    commands.extend(stream::commands());
    commands
}

qapi_struct! {
    /// Names a job.
    pub(crate) struct JobId {
        /// Its id.
        id: String,
    }
}

qapi_struct! {
    /// Names a block job.
    pub(crate) struct BlockJobId {
        /// Its id.
        device: String,
    }
}

qapi_struct! {
    /// Arguments of `block-job-cancel`.
    pub(crate) struct BlockJobCancel {
        /// The job's id.
        device: String,
        /// Whether a job that is ready is to end as cancelled, and not with what the target holds by then.
        force: Option<bool>,
    }
}

qapi_struct! {
    /// Arguments of `block-job-set-speed`.
    pub(crate) struct BlockJobSetSpeed {
        /// The job's id.
        device: String,
        /// Bytes per second; zero is no limit.
        speed: i64,
    }
}

/// What is known of jobs besides the registry.
#[derive(Debug, Default)]
pub(crate) struct Jobs {}

/// Cancels all jobs by force and waits for their ends: the daemon ends.
pub(super) async fn end_all(daemon: &Rc<Daemon>) {
    let Jobs {} = &daemon.jobs;
    daemon.registry().cancel_all().await;
}

/// The job that has this id.
pub(super) fn find(daemon: &Daemon, id: &str) -> Result<Job, QmpError> {
    daemon.registry().find(id).map_err(IntoQmp::into_qmp)
}

/// The block job that has this id, in the words and with the class of commands for block jobs.
fn find_block(daemon: &Daemon, id: &str) -> Result<(Job, BlockJob), QmpError> {
    find_block_job(daemon.registry(), id).map_err(IntoQmp::into_qmp)
}

async fn job_pause(daemon: &Rc<Daemon>, args: JobId) -> Result<(), QmpError> {
    find(daemon, &args.id)?.pause().map_err(IntoQmp::into_qmp)
}

async fn job_resume(daemon: &Rc<Daemon>, args: JobId) -> Result<(), QmpError> {
    find(daemon, &args.id)?.resume().map_err(IntoQmp::into_qmp)
}

async fn job_cancel(daemon: &Rc<Daemon>, args: JobId) -> Result<(), QmpError> {
    let job = find(daemon, &args.id)?;
    job.cancel(CancelMode::Force).map_err(IntoQmp::into_qmp)
}

async fn job_complete(daemon: &Rc<Daemon>, args: JobId) -> Result<(), QmpError> {
    find(daemon, &args.id)?
        .complete()
        .map_err(IntoQmp::into_qmp)
}

async fn job_finalize(daemon: &Rc<Daemon>, args: JobId) -> Result<(), QmpError> {
    finalize(daemon, &find(daemon, &args.id)?).await
}

async fn job_dismiss(daemon: &Rc<Daemon>, args: JobId) -> Result<(), QmpError> {
    find(daemon, &args.id)?.dismiss().map_err(IntoQmp::into_qmp)
}

async fn block_job_pause(daemon: &Rc<Daemon>, args: BlockJobId) -> Result<(), QmpError> {
    find_block(daemon, &args.device)?
        .0
        .pause()
        .map_err(IntoQmp::into_qmp)
}

async fn block_job_resume(daemon: &Rc<Daemon>, args: BlockJobId) -> Result<(), QmpError> {
    let (job, _) = find_block(daemon, &args.device)?;
    job.resume().map_err(IntoQmp::into_qmp)
}

async fn block_job_cancel(daemon: &Rc<Daemon>, args: BlockJobCancel) -> Result<(), QmpError> {
    let (job, _) = find_block(daemon, &args.device)?;
    // What only waits for its end cannot end more softly any more, and to cancel it means to undo it.
    let only_waits = matches!(
        job.status(),
        job::JobStatus::Waiting | job::JobStatus::Pending
    );
    let mode = match args.force {
        Some(true) => CancelMode::Force,
        Some(false) | None if only_waits => CancelMode::Force,
        Some(false) | None => CancelMode::Soft,
    };
    job.cancel(mode).map_err(IntoQmp::into_qmp)
}

async fn block_job_complete(daemon: &Rc<Daemon>, args: BlockJobId) -> Result<(), QmpError> {
    let (job, _) = find_block(daemon, &args.device)?;
    job.complete().map_err(IntoQmp::into_qmp)
}

async fn block_job_finalize(daemon: &Rc<Daemon>, args: JobId) -> Result<(), QmpError> {
    let (job, _) = find_block(daemon, &args.id)?;
    finalize(daemon, &job).await
}

async fn block_job_dismiss(daemon: &Rc<Daemon>, args: JobId) -> Result<(), QmpError> {
    find_block(daemon, &args.id)?
        .0
        .dismiss()
        .map_err(IntoQmp::into_qmp)
}

async fn block_job_set_speed(daemon: &Rc<Daemon>, args: BlockJobSetSpeed) -> Result<(), QmpError> {
    let (_, block_job) = find_block(daemon, &args.device)?;
    block_job
        .set_speed_from_client(args.speed)
        .map_err(IntoQmp::into_qmp)
}

/// Ends once the job has, or after a while.
async fn finalize(daemon: &Daemon, job: &Job) -> Result<(), QmpError> {
    job.finalize().map_err(IntoQmp::into_qmp)?;
    // Whether it ended well is for its events to say.
    let _ = daemon
        .context
        .timeout_ns(FINALIZE_WAIT_NS, job.wait())
        .await;
    Ok(())
}
