//! The task that runs the body of a job, from start to the hand-over to the main context.

use crate::{
    callback::Callback, error::JobError, job::Job, job_context::JobContext, record::Body,
    runtime::Handle, transaction::complete,
};

/// Runs the body, beginning on `context`. The job is in Running, and was not before.
pub(crate) fn spawn_body(job: &Job, context: &Handle) {
    let end = BodyEnd {
        job: job.clone(),
        result: None,
    };
    drop(context.spawn_migratable(async move {
        let job = JobContext::new(end.job.clone());
        let cell = &end.job.cell;
        job.pause_point().await;
        // A job driver need not handle a cancel that came before its first step.
        let result = match job.is_cancelled() {
            true => Err(JobError::cancelled()),
            false => {
                cell.call_async(Callback::Run, |driver| driver.run(&job))
                    .await
            }
        };
        end.returned(result);
    }));
}

/// Hands the result of a body over to the main context when dropped, whatever happened to it.
struct BodyEnd {
    job: Job,
    /// Absent if the context was closed before the body returned.
    result: Option<Result<(), JobError>>,
}

impl BodyEnd {
    fn returned(mut self, result: Result<(), JobError>) {
        self.result = Some(result);
    }
}

impl Drop for BodyEnd {
    fn drop(&mut self) {
        let result = self.result.take();
        let result = result.unwrap_or_else(|| Err(JobError::context_closed()));
        let shared = self.job.shared.clone();
        let key = self.job.cell.key;
        shared.update(|state| {
            state.leave_pause(key);
            state.record(key).result = result;
            state.set_body(key, Body::Returned);
        });
        let main = shared.main.clone();
        drop(main.spawn(move |main| async move { complete(&shared, &main, key).await }));
    }
}
