//! [`JobContext`]: what the body of a job sees of its job; pause points and interruptible sleep.

use std::{fmt, future::Future, pin::pin, task::Poll};

use aio::AioContext;

use crate::{
    event::JobEvent,
    job::Job,
    moment::JobMoment,
    progress::ProgressMeter,
    record::{Body, Until},
    status::JobStatus,
};

/// What the body of a job sees of its job. Stays on the thread of the job's context.
///
/// The waits here (`pause_point`, `sleep_ns`, `park`, `yield_now`) belong to the one future that
/// [`JobDriver::run`](crate::JobDriver::run) returned: only one of them is awaited at a time.
/// Others who work for the job hold a [`Job`].
pub struct JobContext {
    job: Job,
    context: AioContext,
}

impl JobContext {
    pub(crate) fn new(job: Job, context: AioContext) -> Self {
        Self { job, context }
    }

    /// The context that the body runs on.
    pub fn context(&self) -> &AioContext {
        &self.context
    }

    /// A handle of the job, for those who work for it.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// How far the job has come.
    pub fn progress(&self) -> &ProgressMeter {
        self.job.progress()
    }

    /// Whether the job was cancelled by force: the body should return soon, with any result.
    pub fn is_cancelled(&self) -> bool {
        self.job.is_cancelled()
    }

    /// Whether any cancel came, also a soft one that asks a ready job to finish as it is.
    pub fn is_cancel_requested(&self) -> bool {
        self.job.is_cancel_requested()
    }

    /// The body has converged: the job becomes ready, and `complete` is accepted from now on.
    ///
    /// # Panics
    ///
    /// When the job is ready already, which is our own bug.
    pub fn become_ready(&self) {
        let key = self.job.cell.key;
        self.job.shared.update(|state| {
            state.move_to(key, JobStatus::Ready);
            state.emit(key, JobEvent::Ready);
            state.note_moment(key, JobMoment::Ready);
        });
    }

    /// Stays here while anybody wants the job to pause; returns at once if nobody does, or if the
    /// job is cancelled by force. A pause that comes while one ends is for the next pause point.
    ///
    /// The job driver's `pause` hook ends all requests first, so a job that is seen as paused has
    /// none in flight.
    pub async fn pause_point(&self) {
        if self.look(|record| record.wants_pause()) {
            let driver = &self.job.cell.driver;
            driver.pause().await;
            if self.enter_pause() {
                self.wait(Until::Resumed, std::future::pending()).await;
            }
            driver.resume();
        }
    }

    /// Sleeps for `ns` nanoseconds of the context's clock, then passes a pause point.
    ///
    /// A pause, a cancel and [`Job::wake`] end the sleep early, also one that came since the last
    /// sleep: who needs the whole delay computes again how much is left, and loops. Returns at once
    /// if the job is cancelled by force. Zero is [`Self::yield_now`].
    pub async fn sleep_ns(&self, ns: u64) {
        if ns == 0 {
            return self.yield_now().await;
        }
        if !self.is_cancelled() {
            self.wait(Until::Woken, self.context.sleep_ns(ns)).await;
            self.pause_point().await;
        }
    }

    /// Waits for [`Job::wake`], a pause or a cancel, then passes a pause point.
    ///
    /// A wake-up that came since the last wait counts, so none is lost between a check and the wait.
    /// May end for no reason. Returns at once if the job is cancelled by force.
    pub async fn park(&self) {
        if !self.is_cancelled() {
            self.wait(Until::Woken, std::future::pending()).await;
            self.pause_point().await;
        }
    }

    /// Lets everything else on the context run once, then passes a pause point.
    ///
    /// Returns at once if the job is cancelled by force.
    pub async fn yield_now(&self) {
        if !self.is_cancelled() {
            self.context.yield_now().await;
            self.pause_point().await;
        }
    }

    /// Moves to Paused or Standby, unless the reasons to pause went away while requests ended.
    fn enter_pause(&self) -> bool {
        let key = self.job.cell.key;
        self.job.shared.update(|state| {
            let record = state.record(key);
            if !record.wants_pause() {
                return false;
            }
            let to = match record.status {
                JobStatus::Ready => JobStatus::Standby,
                _ => JobStatus::Paused,
            };
            state.move_to(key, to);
            true
        })
    }

    /// Waits until the job's state or `timer` ends the wait; the job is not busy meanwhile.
    async fn wait(&self, until: Until, timer: impl Future<Output = ()>) {
        let mut timer = pin!(timer);
        let _busy_again = BusyAgain(&self.job);
        std::future::poll_fn(|cx| {
            let Job { shared, cell } = &self.job;
            if shared.update(|state| state.poll_wait(cell.key, until, cx.waker())) {
                return Poll::Ready(());
            }
            timer.as_mut().poll(cx)
        })
        .await;
    }

    fn look<R>(&self, look: impl FnOnce(&mut crate::record::Record) -> R) -> R {
        let key = self.job.cell.key;
        self.job.shared.update(|state| look(state.record(key)))
    }
}

impl fmt::Debug for JobContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobContext")
            .field("job", &self.job)
            .finish_non_exhaustive()
    }
}

/// Makes a body that waited busy again, however its wait ended: also when a timer ended it, or
/// when the waiting future was dropped.
struct BusyAgain<'a>(&'a Job);

impl Drop for BusyAgain<'_> {
    fn drop(&mut self) {
        let key = self.0.cell.key;
        self.0.shared.update(|state| {
            if matches!(state.record(key).body, Body::Waiting(_)) {
                state.set_body(key, Body::Busy);
            }
        });
    }
}
