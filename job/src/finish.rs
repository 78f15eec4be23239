//! Synchronous waiting: ask a job to end, and stay here until it has.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Poll, Waker},
};

use crate::{
    error::{JobError, JobErrorKind},
    job::Job,
    record::Key,
    registry::JobRegistry,
    runtime::AioContext,
    state::{Shared, State},
    status::JobStatus,
    transaction::Phase,
    verb::CancelMode,
};

impl Job {
    /// Asks the job by `ask` to end, and waits until its body has ended and nothing more will become
    /// of it by itself: it is concluded, or it stands in Waiting or Pending until others go on.
    ///
    /// For embedders and tests; what can await had better use the verbs and [`wait`](Self::wait). On
    /// the home thread of the main context this turns its loop, so everything else goes on; on
    /// another thread it blocks. The body is woken once after `ask`, or its next sleep or park ends
    /// at once, so that it looks at what `ask` has changed. A job that is paused, or that `ask` does
    /// not bring to its end, is waited for all the same.
    ///
    /// # Errors
    ///
    /// That of `ask`, without waiting; else why the job failed, `Cancelled` if it was cancelled by
    /// force and there is nothing worse.
    ///
    /// # Panics
    ///
    /// Within a task of the main context, thus also in what the registry calls there (hooks,
    /// subscribers, moments); on the thread of the job's context, if that is another: the job could
    /// never end; and when the main context is closed meanwhile.
    pub fn finish_sync(
        &self,
        ask: impl FnOnce(&Self) -> Result<(), JobError>,
    ) -> Result<(), JobError> {
        self.assert_others_run_it();
        ask(self)?;
        self.wake();
        let job = self.clone();
        wait_here(&self.shared, async move { job.settled().await })
    }

    /// Cancels the job and waits for its end. One that ends already is only waited for, and one that
    /// is concluded already is dismissed.
    ///
    /// # Errors
    ///
    /// As [`finish_sync`](Self::finish_sync): a job that was cancelled by force says so. Also
    /// `AlreadyPaused`, as [`cancel`](Self::cancel).
    ///
    /// # Panics
    ///
    /// As [`finish_sync`](Self::finish_sync).
    pub fn cancel_sync(&self, mode: CancelMode) -> Result<(), JobError> {
        self.finish_sync(|job| {
            if job.dismiss().is_ok() {
                return Ok(());
            }
            match job.cancel(mode).map_err(|error| (error.kind(), error)) {
                Err((JobErrorKind::InvalidVerb | JobErrorKind::NotFound, _)) | Ok(()) => Ok(()),
                Err((_, error)) => Err(error),
            }
        })
    }

    /// Completes a ready job and waits for its end.
    ///
    /// # Errors
    ///
    /// Those of [`complete`](Self::complete), without waiting; else as
    /// [`finish_sync`](Self::finish_sync).
    ///
    /// # Panics
    ///
    /// As [`finish_sync`](Self::finish_sync).
    pub fn complete_sync(&self) -> Result<(), JobError> {
        self.finish_sync(Self::complete)
    }

    /// Ends when the job is concluded, or when only others can bring it on.
    async fn settled(&self) -> Result<(), JobError> {
        let mut end = self.wait();
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = Pin::new(&mut end).poll(cx) {
                return Poll::Ready(outcome.into_result());
            }
            let key = self.cell.key;
            let look = |state: &mut State| state.poll_left_to_others(key, cx.waker());
            self.shared.update(look).map(Ok)
        })
        .await
    }

    fn assert_others_run_it(&self) {
        let context = self.context();
        let is_run_here = context.is_home() && !context.is_same(&self.shared.main);
        assert!(
            !is_run_here,
            "a context that blocks for a job stops the job"
        );
    }
}

impl JobRegistry {
    /// [`cancel_all`](Self::cancel_all), waiting as [`Job::finish_sync`] does.
    ///
    /// # Panics
    ///
    /// As [`Job::finish_sync`], for any of the jobs.
    pub fn cancel_all_sync(&self) {
        self.jobs().iter().for_each(Job::assert_others_run_it);
        let registry = self.clone();
        wait_here(&self.shared, async move { registry.cancel_all().await });
    }
}

/// Turns the main loop until `future` ends, or has it run there while this thread blocks.
fn wait_here<T: Send + 'static>(
    shared: &Arc<Shared>,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    match AioContext::of(&shared.main) {
        Some(main) => main.block_on(future),
        None => shared.main.spawn(move |_main| future).wait(),
    }
}

impl State {
    /// Ready if the job waits for other members or for a finalize, and nothing is decided; registers
    /// `waker` otherwise.
    fn poll_left_to_others(&mut self, key: Key, waker: &Waker) -> Poll<()> {
        let Some(record) = self.jobs.get_mut(&key) else {
            return Poll::Pending;
        };
        let group = self.groups.get(&record.transaction);
        let is_open = group.is_some_and(|group| group.phase == Phase::Open);
        let stands = matches!(record.status, JobStatus::Waiting | JobStatus::Pending);
        if stands && is_open && !record.is_force_cancelled() {
            return Poll::Ready(());
        }
        record.watch(waker);
        Poll::Pending
    }
}
