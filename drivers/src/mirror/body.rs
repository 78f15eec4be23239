//! The body of a mirror: copy until nothing differs, be ready, follow, and end with guests held up.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Poll, Wake, Waker},
};

use block::{BlockError, Graph, Node, mirror::MirrorCopy};
use blockjob::{BlockJob, ErrorAction, ErrorSide, OnError};
use job::{JobContext, JobError, WeakJob};

use super::{driver::Wishes, gain::Gain, held::Barrier, work::MirrorWork};
use crate::copy_engine::{CopyEngine, job_error};

/// What may still differ when guests are held up for the end, in bytes: they wait until it is copied.
///
/// Under guests that go on writing something always differs. A megabyte takes a disk a few milliseconds.
const LAST_STRETCH_BYTES: u64 = 1 << 20;
/// How long the copy may take to come so close, in nanoseconds, before twice as much may differ.
const APPROACH_NS: u64 = 250_000_000;
/// Longest time in nanoseconds that one attempt to end holds guests up.
const ATTEMPT_MAX_NS: u64 = 1_000_000_000;
/// How long guests go on before the next attempt, in nanoseconds.
const ATTEMPT_PAUSE_NS: u64 = 1_000_000_000;

/// What the body works with.
pub(super) struct Body {
    pub(super) graph: Graph,
    pub(super) filter: Node,
    pub(super) copy: Arc<MirrorCopy>,
    pub(super) work: Arc<MirrorWork>,
    pub(super) engine: Arc<CopyEngine<MirrorWork>>,
    pub(super) gain: Arc<Gain>,
    pub(super) barrier: Arc<Barrier>,
    pub(super) block_job: BlockJob,
    pub(super) on_target_error: OnError,
    pub(super) wishes: Arc<Wishes>,
}

/// Wakes a job from any thread.
struct JobWaker(WeakJob);

impl Wake for JobWaker {
    fn wake(self: Arc<Self>) {
        if let Some(job) = self.0.upgrade() {
            job.wake();
        }
    }
}

impl Body {
    /// Ends with guests held up and both sides equal and stable, or with an error.
    pub(super) async fn run(&self, job: &JobContext) -> Result<(), JobError> {
        let waker = Arc::new(JobWaker(job.job().downgrade()));
        self.copy.set_alarm(Waker::from(waker));
        self.become_ready(job).await?;
        loop {
            if !self.is_to_end(job) {
                self.follow(job).await?;
                continue;
            }
            if self.try_to_end(job).await? {
                return Ok(());
            }
        }
    }

    /// Copies what differs at first; returns when the job is ready.
    async fn become_ready(&self, job: &JobContext) -> Result<(), JobError> {
        let mut is_flushed = false;
        loop {
            self.copy_all(job).await?;
            if !is_flushed {
                is_flushed = self.flush(job).await?;
                continue;
            }
            // Nothing has been awaited since, so that it holds now.
            if self.copy.is_synced() {
                self.wishes.set_ready();
                job.become_ready();
                return Ok(());
            }
        }
    }

    /// Copies what differs, or waits until something does or the user wants something.
    async fn follow(&self, job: &JobContext) -> Result<(), JobError> {
        self.copy_all(job).await?;
        if !self.is_to_end(job) && self.copy.arm() {
            job.park().await;
        }
        still_wanted(job)
    }

    fn is_to_end(&self, job: &JobContext) -> bool {
        self.wishes.completes() || job.is_cancel_requested()
    }

    /// Copies until nothing differs, or no more than is allowed.
    async fn copy_all(&self, job: &JobContext) -> Result<(), JobError> {
        let check = || {
            self.gain.note(job.now_ns());
            if let Some(error) = self.copy.take_guest_error() {
                self.engine.note_error(error);
                // The engine looks again at once.
                job.job().wake();
            }
            Ok(())
        };
        loop {
            self.engine.run(job, check).await?;
            if !self.engine.has_error() {
                return still_wanted(job);
            }
        }
    }

    /// Makes what the target has stable, and decides about an error; returns whether it is.
    async fn flush(&self, job: &JobContext) -> Result<bool, JobError> {
        match flush(job, &self.copy).await? {
            Ok(()) => Ok(true),
            Err(error) => self.recover(job, error).await.map(|()| false),
        }
    }

    async fn recover(&self, job: &JobContext, error: BlockError) -> Result<(), JobError> {
        self.barrier.open();
        let policy = match self.on_target_error {
            // A job that says that it is complete without a flush would lie.
            OnError::Ignore => OnError::Report,
            policy => policy,
        };
        if self.block_job.decide(policy, ErrorSide::Write, &error) != ErrorAction::Stop {
            return Err(job_error(error));
        }
        job.pause_point().await;
        still_wanted(job)
    }

    /// One attempt: holds guests up, copies what is left, looks, and makes it stable. Returns whether that is done;
    /// if so, guests stay held up.
    async fn try_to_end(&self, job: &JobContext) -> Result<bool, JobError> {
        self.work.allow(self.last_stretch_bytes());
        // Most of it beside guests, so that the flush that they wait for has little to do.
        self.approach(job).await?;
        if !self.flush(job).await? {
            return Ok(false);
        }
        self.approach(job).await?;
        self.block_job.throttle(job).await;
        still_wanted(job)?;
        self.work.allow(0);
        if !self.hold_guests_up(job).await? {
            self.rest(job).await?;
            return Ok(false);
        }
        let done = self.in_time(job, self.last_stretch(job)).await?;
        if !done {
            self.rest(job).await?;
        }
        Ok(done)
    }

    /// Copies until no more differs than is allowed, and allows more as time goes by: guests that change as much as is
    /// copied wait longer in the end, but there is one. What takes too long is given up by [`Self::in_time`].
    async fn approach(&self, job: &JobContext) -> Result<(), JobError> {
        let wait = || Box::pin(job.on_context(|cx| async move { cx.sleep_ns(APPROACH_NS).await }));
        let (mut copying, mut time_up) = (pin!(self.copy_all(job)), wait());
        poll_fn(|cx| {
            if let Poll::Ready(done) = copying.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            while time_up.as_mut().poll(cx).is_ready() {
                self.work.allow_twice();
                // The engine looks again at once.
                job.job().wake();
                time_up = wait();
            }
            Poll::Pending
        })
        .await
    }

    /// What may be copied while guests wait, at first: not more than the speed limit allows in a tenth of a second.
    fn last_stretch_bytes(&self) -> u64 {
        match self.block_job.speed_bytes_per_s() {
            0 => LAST_STRETCH_BYTES,
            speed => LAST_STRETCH_BYTES.min(speed / 10),
        }
    }

    /// Closes the way for guests' requests, and waits for those under way; returns whether none is left.
    async fn hold_guests_up(&self, job: &JobContext) -> Result<bool, JobError> {
        let (graph, filter) = (self.graph.clone(), self.filter.clone());
        let draining = job.on_context(move |cx| async move {
            let draining = graph.drain(std::slice::from_ref(&filter));
            cx.timeout_ns(ATTEMPT_MAX_NS, draining).await.ok()
        });
        let section = job.or_cancelled(draining).await;
        let section = section.ok_or_else(JobError::cancelled)?;
        if let Some(section) = section {
            self.barrier.close(section);
            return Ok(true);
        }
        tracing::warn!(
            requests = self.filter.in_flight(),
            "requests of guests do not return: the mirror cannot end yet"
        );
        Ok(false)
    }

    /// Copies what is left, looks and flushes. A pause, or too long a time, lets guests go on.
    async fn last_stretch(&self, job: &JobContext) -> Result<bool, JobError> {
        self.copy_all(job).await?;
        if !self.barrier.is_closed() || !self.flush(job).await? {
            return Ok(false);
        }
        // In this order: what is closed now was closed all the time, so that nothing has come in since the look.
        Ok(self.copy.is_synced() && self.barrier.is_closed())
    }

    /// Lets guests go on if `attempt` takes too long; it goes on itself all the same.
    async fn in_time(
        &self,
        job: &JobContext,
        attempt: impl Future<Output = Result<bool, JobError>>,
    ) -> Result<bool, JobError> {
        let mut attempt = pin!(attempt);
        let mut time_up =
            pin!(job.on_context(|cx| async move { cx.sleep_ns(ATTEMPT_MAX_NS).await }));
        let mut is_time_up = false;
        poll_fn(|cx| {
            if let Poll::Ready(done) = attempt.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            if !is_time_up && time_up.as_mut().poll(cx).is_ready() {
                is_time_up = true;
                self.barrier.open();
            }
            Poll::Pending
        })
        .await
    }

    /// Lets guests have their way for a while before the next attempt.
    async fn rest(&self, job: &JobContext) -> Result<(), JobError> {
        self.barrier.open();
        let until_ns = job.now_ns().saturating_add(ATTEMPT_PAUSE_NS);
        while job.now_ns() < until_ns && !job.is_cancelled() {
            job.sleep_ns(until_ns - job.now_ns()).await;
        }
        still_wanted(job)
    }
}

fn still_wanted(job: &JobContext) -> Result<(), JobError> {
    match job.is_cancelled() {
        true => Err(JobError::cancelled()),
        false => Ok(()),
    }
}

/// Makes what the target has been given durable, unless the job is cancelled: then it is left to itself.
async fn flush(
    job: &JobContext,
    copy: &Arc<MirrorCopy>,
) -> Result<Result<(), BlockError>, JobError> {
    let copy = copy.clone();
    let flushing = job.spawn(|cx| async move { copy.flush(&cx).await });
    let flushed = job.or_cancelled(flushing).await;
    flushed.ok_or_else(JobError::cancelled)
}
