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
use qmp::{Schema, Value};
use serde_json::json;

use super::Daemon;

/// Something that clients are told of.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// Its name in the protocol.
    pub(crate) name: &'static str,
    /// Its data; null if it has none.
    pub(crate) data: Value,
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
    pub(crate) fn emit(&self, name: &'static str, data: Value) {
        let mut waiting = self.waiting();
        waiting.events.push_back(Event { name, data });
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

/// Adds what events there are, with their data, to what clients can ask for.
pub(super) fn describe(_schema: &mut Schema) {}

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
        if let Some((name, data)) = words(event) {
            events.emit(name, data);
        }
    })
}

/// An event of a job in the words of the protocol; jobs that are not block jobs have statuses only.
fn words(event: &JobEvent) -> Option<(&'static str, Value)> {
    let told = match event {
        JobEvent::StatusChange { job, status } => {
            let data = json!({ "id": &*job.id, "status": status.as_str() });
            ("JOB_STATUS_CHANGE", data)
        }
        JobEvent::Ready(job) => ("BLOCK_JOB_READY", how_far(job)?),
        JobEvent::Pending(job) => {
            job.extension::<BlockJob>()?;
            let data = json!({ "type": job.kind, "id": &*job.id });
            ("BLOCK_JOB_PENDING", data)
        }
        JobEvent::Completed { job, error } => {
            let mut data = how_far(job)?;
            if let Some(error) = error {
                data["error"] = json!(error.to_string());
            }
            ("BLOCK_JOB_COMPLETED", data)
        }
        JobEvent::Cancelled(job) => ("BLOCK_JOB_CANCELLED", how_far(job)?),
        JobEvent::Error {
            job,
            operation,
            action,
        } => {
            let data = json!({ "device": &*job.id, "operation": operation, "action": action });
            ("BLOCK_JOB_ERROR", data)
        }
        // A kind of event that is newer than this table has no words yet.
        _ => return None,
    };
    Some(told)
}

fn how_far(job: &EventJob) -> Option<Value> {
    let block_job = job.extension::<BlockJob>()?;
    Some(json!({
        "type": job.kind,
        "device": &*job.id,
        "len": job.progress.total,
        "offset": job.progress.current,
        "speed": block_job.speed_bytes_per_s(),
    }))
}
