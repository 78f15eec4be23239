//! [`Events`]: what has happened, on its way to the monitors; and what clients are told of jobs.

use std::{
    collections::VecDeque,
    future::poll_fn,
    rc::Rc,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use blockjob::BlockJob;
use job::{EventJob, JobEvent, Subscription};
use qmp::{qapi_enum, qapi_events, qapi_struct};

use super::{
    Daemon,
    jobs::{JobStatus, JobType, named},
};

qapi_events! {
    /// What clients are told of.
    pub(crate) enum Event {
        /// A job is in another status.
        JobStatusChange(JobStatusChange) = "JOB_STATUS_CHANGE",
        /// A block job has converged: it can be completed.
        BlockJobReady(BlockJobMoment) = "BLOCK_JOB_READY",
        /// A block job waits to be finalized.
        BlockJobPending(BlockJobPending) = "BLOCK_JOB_PENDING",
        /// A block job has ended by itself.
        BlockJobCompleted(BlockJobCompleted) = "BLOCK_JOB_COMPLETED",
        /// A block job has ended because it was cancelled.
        BlockJobCancelled(BlockJobMoment) = "BLOCK_JOB_CANCELLED",
        /// A block job has met an error.
        BlockJobError(BlockJobError) = "BLOCK_JOB_ERROR",
        /// A write goes beyond the threshold of its node.
        BlockWriteThreshold(BlockWriteThreshold) = "BLOCK_WRITE_THRESHOLD",
        /// An export is gone.
        BlockExportDeleted(BlockExportDeleted) = "BLOCK_EXPORT_DELETED",
    }
}

qapi_struct! {
    /// Where a job stands.
    pub(crate) struct JobStatusChange {
        /// The job's id.
        id: String,
        /// Where it stands now.
        status: JobStatus,
    }
}

qapi_struct! {
    /// How far a block job has come.
    pub(crate) struct BlockJobMoment {
        /// What kind of job it is.
        r#type: JobType,
        /// Its id.
        device: String,
        /// Work done and work to do, in bytes.
        len: u64,
        /// Work done, in bytes.
        offset: u64,
        /// Speed limit in bytes per second; zero is none.
        speed: u64,
    }
}

qapi_struct! {
    /// How a block job has ended.
    pub(crate) struct BlockJobCompleted {
        /// What kind of job it is.
        r#type: JobType,
        /// Its id.
        device: String,
        /// Work done and work that was left, in bytes.
        len: u64,
        /// Work done, in bytes.
        offset: u64,
        /// Speed limit in bytes per second; zero is none.
        speed: u64,
        /// Why it has failed, if it has.
        error: Option<String>,
    }
}

qapi_struct! {
    /// A block job that waits.
    pub(crate) struct BlockJobPending {
        /// What kind of job it is.
        r#type: JobType,
        /// Its id.
        id: String,
    }
}

qapi_enum! {
    /// What a job could not do.
    pub(crate) enum IoOperationType {
        /// Read its source.
        Read,
        /// Write its target.
        Write,
    }
}

qapi_enum! {
    /// What is done about an error.
    pub(crate) enum BlockErrorAction {
        /// Nothing.
        Ignore,
        /// The job fails.
        Report,
        /// The job stops.
        Stop,
    }
}

qapi_struct! {
    /// An error of a block job.
    pub(crate) struct BlockJobError {
        /// The job's id.
        device: String,
        /// What it could not do.
        operation: IoOperationType,
        /// What is done about it.
        action: BlockErrorAction,
    }
}

qapi_struct! {
    /// A write that goes beyond the threshold of its node.
    pub(crate) struct BlockWriteThreshold {
        /// The node.
        node_name: String,
        /// By how many bytes.
        amount_exceeded: u64,
        /// The threshold that there was.
        write_threshold: u64,
    }
}

qapi_struct! {
    /// An export that is gone.
    pub(crate) struct BlockExportDeleted {
        /// Its id.
        id: String,
    }
}

/// What has happened and has not been passed on. Any thread.
#[derive(Debug, Default)]
pub(crate) struct Events {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    waker: Option<Waker>,
}

impl Events {
    /// Tells the clients of all monitors, in order. Never blocks. Any thread.
    pub(crate) fn emit(&self, event: Event) {
        let mut waiting = self.waiting();
        waiting.events.push_back(event);
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What has happened since it was last asked.
    pub(super) fn take(&self) -> VecDeque<Event> {
        std::mem::take(&mut self.waiting().events)
    }

    /// Waits until something has happened.
    async fn some(&self) {
        poll_fn(|cx| {
            let mut waiting = self.waiting();
            if waiting.events.is_empty() {
                waiting.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the monitors what happens while no command runs.
pub(super) async fn pass_on(daemon: Rc<Daemon>) {
    loop {
        daemon.events.some().await;
        daemon.deliver_events();
    }
}

/// Has what happens to jobs told.
pub(super) fn follow_jobs(daemon: &Daemon) -> Subscription {
    let events = daemon.events.clone();
    daemon.registry().subscribe(move |event| {
        if let Some(told) = told(event) {
            events.emit(told);
        }
    })
}

/// What clients are told of a job's event; of jobs that are not block jobs, statuses only.
fn told(event: &JobEvent) -> Option<Event> {
    let told = match event {
        JobEvent::StatusChange { job, status } => Event::JobStatusChange(JobStatusChange {
            id: id_of(job),
            status: (*status).into(),
        }),
        JobEvent::Ready(job) => Event::BlockJobReady(moment(job)?),
        JobEvent::Pending(job) => {
            job.extension::<BlockJob>()?;
            Event::BlockJobPending(BlockJobPending {
                r#type: named(job.kind)?,
                id: id_of(job),
            })
        }
        JobEvent::Completed { job, error } => {
            let moment = moment(job)?;
            Event::BlockJobCompleted(BlockJobCompleted {
                r#type: moment.r#type,
                device: moment.device,
                len: moment.len,
                offset: moment.offset,
                speed: moment.speed,
                error: error.as_ref().map(ToString::to_string),
            })
        }
        JobEvent::Cancelled(job) => Event::BlockJobCancelled(moment(job)?),
        JobEvent::Error {
            job,
            operation,
            action,
        } => Event::BlockJobError(BlockJobError {
            device: id_of(job),
            operation: named(operation)?,
            action: named(action)?,
        }),
        // A kind of event that is newer than this table has no words yet.
        _ => return None,
    };
    Some(told)
}

fn moment(job: &EventJob) -> Option<BlockJobMoment> {
    let block_job = job.extension::<BlockJob>()?;
    Some(BlockJobMoment {
        r#type: named(job.kind)?,
        device: id_of(job),
        len: job.progress.total,
        offset: job.progress.current,
        speed: block_job.speed_bytes_per_s(),
    })
}

fn id_of(job: &EventJob) -> String {
    job.id.as_ref().to_owned()
}

#[cfg(test)]
mod tests {
    use blockjob::{ErrorAction, ErrorSide};

    use super::*;

    #[test]
    fn every_word_of_a_job_has_its_place_in_the_types() {
        for side in [ErrorSide::Read, ErrorSide::Write] {
            let found = named::<IoOperationType>(side.as_str()).map(IoOperationType::as_str);
            assert_eq!(found, Some(side.as_str()));
        }
        for action in [ErrorAction::Report, ErrorAction::Ignore, ErrorAction::Stop] {
            let found = named::<BlockErrorAction>(action.as_str()).map(BlockErrorAction::as_str);
            assert_eq!(found, Some(action.as_str()));
        }
        for status in job::JobStatus::ALL {
            assert_eq!(JobStatus::from(status).as_str(), status.as_str());
        }
        assert_eq!(named("backup"), Some(JobType::Backup));
        assert_eq!(named("mirror"), Some(JobType::Mirror));
    }
}
