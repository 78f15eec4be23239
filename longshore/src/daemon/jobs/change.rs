//! Changes of running jobs: `block-job-change`, and `x-longshore-job-set` for all that can be changed.

use std::{num::NonZeroU32, rc::Rc};

use block::mirror::CopyMode;
use blockjob::{BlockJob, JobChange, speed_from_client};
use drivers::{
    Tuning,
    backup::Backup,
    mirror::{Mirror, MirrorChange},
};
use job::{Job, JobVerb};
use qmp::{QmpError, qapi_struct, qapi_union};

use super::{
    super::{Daemon, command::Command, error::IntoQmp},
    find, find_block,
    types::MirrorCopyMode,
};

pub(super) fn commands() -> Vec<Command> {
    vec![
        Command::new("block-job-change", block_job_change),
        Command::new("x-longshore-job-set", job_set),
    ]
}

qapi_union! {
    /// Arguments of `block-job-change`.
    pub(crate) struct BlockJobChange {
        /// The job's id.
        id: String,
    }
    /// What kind of job it is, and what to change.
    tag r#type: JobType,
    pub(crate) enum BlockJobChangeOf {
        /// A commit.
        Commit(()),
        /// A stream.
        Stream(()),
        /// A mirror.
        Mirror(BlockJobChangeMirror),
        /// A backup.
        Backup(()),
        /// The creation of an image.
        Create(()),
        /// A change of an image.
        Amend(()),
        /// Going back to a snapshot.
        SnapshotLoad(()),
        /// Taking a snapshot.
        SnapshotSave(()),
        /// Deleting a snapshot.
        SnapshotDelete(()),
    }
}

qapi_struct! {
    /// What can be changed of a mirror.
    pub(crate) struct BlockJobChangeMirror {
        /// When guests' writes get to the target.
        copy_mode: MirrorCopyMode,
    }
}

qapi_struct! {
    /// Arguments of `x-longshore-job-set`. What is not given stays as it is.
    pub(crate) struct JobSet {
        /// The job's id.
        id: String,
        /// Speed limit in bytes per second; zero is none.
        speed: Option<i64>,
        /// Most that the copy may add to the 99th percentile of guest writes, in nanoseconds; zero is no such bound.
        latency_budget: Option<u64>,
        /// Most requests in flight; zero for what the devices take.
        max_workers: Option<u32>,
        /// Of a mirror: when guests' writes get to the target. Both ways.
        copy_mode: Option<MirrorCopyMode>,
    }
}

async fn block_job_change(daemon: &Rc<Daemon>, args: BlockJobChange) -> Result<(), QmpError> {
    let (job, block_job) = find_block(daemon, &args.id)?;
    job.check_verb(JobVerb::Change).map_err(IntoQmp::into_qmp)?;
    let unchangeable = || QmpError::generic("Job type does not support change");
    let BlockJobChangeOf::Mirror(BlockJobChangeMirror { copy_mode }) = args.r#type else {
        return Err(unchangeable());
    };
    let mirror = Mirror::of(&job).ok_or_else(unchangeable)?;
    let copy_mode = CopyMode::from(copy_mode);
    let was = mirror.copy_mode();
    if was == Some(CopyMode::WriteBlocking) && copy_mode == CopyMode::Background {
        // Clients count on the one direction only.
        let text = "Change to copy mode 'background' is not implemented";
        return Err(QmpError::generic(text));
    }
    let change = JobChange::new("mirror", MirrorChange { copy_mode });
    block_job.change(&change).map_err(IntoQmp::into_qmp)
}

async fn job_set(daemon: &Rc<Daemon>, args: JobSet) -> Result<(), QmpError> {
    let job = find(daemon, &args.id)?;
    let refused = || QmpError::generic(format!("Job '{}' cannot be changed so", args.id));
    let block_job = BlockJob::of(&job).ok_or_else(refused)?;
    let copy = Copy::of(&job).ok_or_else(refused)?;
    // Everything is looked at before anything is changed.
    let speed = args.speed.map(speed_from_client).transpose();
    let speed = speed.map_err(|negative| QmpError::generic(negative.to_string()))?;
    job.check_verb(JobVerb::Change).map_err(IntoQmp::into_qmp)?;
    if let Some(mode) = args.copy_mode {
        let Copy::Mirror(mirror) = &copy else {
            return Err(refused());
        };
        mirror
            .set_copy_mode(mode.into())
            .map_err(IntoQmp::into_qmp)?;
    }
    if let Some(speed) = speed {
        block_job.set_speed(speed);
    }
    let tuning = Tuning {
        max_workers: args.max_workers.map(NonZeroU32::new),
        guest_latency_ns: args.latency_budget.map(|ns| (ns > 0).then_some(ns)),
    };
    let tuned = match copy {
        Copy::Backup(backup) => backup.tune(tuning),
        Copy::Mirror(mirror) => mirror.tune(tuning),
    };
    tuned.map_err(IntoQmp::into_qmp)
}

/// A job that copies.
enum Copy {
    Backup(Backup),
    Mirror(Mirror),
}

impl Copy {
    fn of(job: &Job) -> Option<Self> {
        let backup = Backup::of(job).map(Self::Backup);
        backup.or_else(|| Mirror::of(job).map(Self::Mirror))
    }
}
