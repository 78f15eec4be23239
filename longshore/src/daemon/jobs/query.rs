//! What queries tell of jobs, those that are there and those that are gone.

use std::rc::Rc;

use blockjob::{BlockJobInfo, block_jobs};
use job::{JobHistoryEntry, JobInfo, JobOutcome, Trigger};
use qmp::{QmpError, qapi_enum, qapi_struct};

use super::{
    super::{Daemon, command::Command},
    change::JobType,
    types::{BlockDeviceIoStatus, JobStatus, named},
};

pub(super) fn commands() -> Vec<Command> {
    vec![
        Command::new("query-jobs", query_jobs),
        Command::new("query-block-jobs", query_block_jobs),
        Command::new("x-longshore-query-job-history", query_job_history),
    ]
}

qapi_struct! {
    /// A job.
    pub(crate) struct JobInfoReply {
        /// Its id.
        id: String,
        /// What kind of job it is.
        r#type: JobType,
        /// Where it stands.
        status: JobStatus,
        /// Work done, in bytes.
        current_progress: u64,
        /// Work done and work to do, in bytes.
        total_progress: u64,
        /// Why it fails or has failed.
        error: Option<String>,
    }
}

qapi_struct! {
    /// A block job.
    pub(crate) struct BlockJobInfoReply {
        /// What kind of job it is.
        r#type: JobType,
        /// Its id.
        device: String,
        /// Work done and work to do, in bytes.
        len: u64,
        /// Work done, in bytes.
        offset: u64,
        /// Whether it has something in flight.
        busy: bool,
        /// Whether somebody wants it to pause.
        paused: bool,
        /// Speed limit in bytes per second; zero is none.
        speed: u64,
        /// Why it stands still, if that is because of an error.
        io_status: BlockDeviceIoStatus,
        /// Whether it can be completed.
        ready: bool,
        /// Where it stands.
        status: JobStatus,
        /// Whether it makes its result permanent by itself.
        auto_finalize: bool,
        /// Whether it is forgotten by itself.
        auto_dismiss: bool,
        /// Why it fails or has failed.
        error: Option<String>,
        /// Of a mirror: whether every acknowledged write is on both sides.
        actively_synced: Option<bool>,
    }
}

qapi_enum! {
    /// How a job came to its end.
    pub(crate) enum JobEnd {
        /// Well.
        Completed,
        /// By itself, with an error.
        Failed,
        /// By a cancel.
        Cancelled,
    }
}

qapi_struct! {
    /// A job that was dismissed, by its user or by itself.
    pub(crate) struct JobHistoryReply {
        /// Counts the jobs that have ended, from 1.
        sequence: u64,
        /// The id that it had.
        id: String,
        /// What kind of job it was.
        r#type: JobType,
        /// How it ended.
        end: JobEnd,
        /// Why it did not complete.
        error: Option<String>,
        /// Work done, in bytes.
        current_progress: u64,
        /// Work done and work that was left, in bytes.
        total_progress: u64,
        /// Whether it was ever started.
        started: bool,
        /// When it ended, in nanoseconds since 1970, UTC.
        ended_ns: u64,
    }
}

async fn query_jobs(daemon: &Rc<Daemon>, (): ()) -> Result<Vec<JobInfoReply>, QmpError> {
    let jobs = daemon.registry().query();
    Ok(jobs.into_iter().filter_map(job).collect())
}

async fn query_block_jobs(daemon: &Rc<Daemon>, (): ()) -> Result<Vec<BlockJobInfoReply>, QmpError> {
    let infos = block_jobs(daemon.registry());
    Ok(infos.into_iter().filter_map(block_job).collect())
}

async fn query_job_history(daemon: &Rc<Daemon>, (): ()) -> Result<Vec<JobHistoryReply>, QmpError> {
    let entries = daemon.registry().history();
    Ok(entries.into_iter().filter_map(ended).collect())
}

/// Of the types that clients know; the daemon starts no others.
fn job(info: JobInfo) -> Option<JobInfoReply> {
    Some(JobInfoReply {
        id: id_of(&info),
        r#type: named(info.kind)?,
        status: info.status.into(),
        current_progress: info.progress.current,
        total_progress: info.progress.total,
        error: info.error.map(|error| error.to_string()),
    })
}

fn block_job(info: BlockJobInfo) -> Option<BlockJobInfoReply> {
    let BlockJobInfo { job, .. } = info;
    Some(BlockJobInfoReply {
        r#type: named(job.kind)?,
        device: id_of(&job),
        len: job.progress.total,
        offset: job.progress.current,
        busy: job.is_busy,
        paused: job.is_paused,
        speed: info.speed_bytes_per_s,
        io_status: info.io_status.into(),
        ready: job.status.is_ready(),
        status: job.status.into(),
        auto_finalize: job.finalize == Trigger::Auto,
        auto_dismiss: job.dismiss == Trigger::Auto,
        error: job.error.map(|error| error.to_string()),
        actively_synced: info.actively_synced,
    })
}

fn ended(entry: JobHistoryEntry) -> Option<JobHistoryReply> {
    let end = match &entry.outcome {
        JobOutcome::Completed => JobEnd::Completed,
        JobOutcome::Failed(_) => JobEnd::Failed,
        JobOutcome::Cancelled(_) => JobEnd::Cancelled,
    };
    Some(JobHistoryReply {
        sequence: entry.sequence,
        id: entry.id.as_ref().to_owned(),
        r#type: named(entry.kind)?,
        end,
        error: entry.outcome.error().map(ToString::to_string),
        current_progress: entry.progress.current,
        total_progress: entry.progress.total,
        started: entry.started,
        ended_ns: entry.ended_unix_ns,
    })
}

/// Internal jobs, which have none, are not listed.
fn id_of(info: &JobInfo) -> String {
    info.id.as_deref().unwrap_or_default().to_owned()
}
