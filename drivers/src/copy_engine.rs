//! The background copy under every job driver: walks what is still to copy, a window of requests at a time.

use std::{
    collections::VecDeque,
    future::poll_fn,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use block::{
    BlockError, ByteRange, Node,
    copy::{BlockCopy, CopyClass, CopyError, CopySide, Outcome},
};
use blockjob::{BlockJob, ErrorAction, ErrorSide, OnError};
use job::{JobContext, JobError};

use crate::pace::{Pace, PaceReport};

/// What to do about errors of each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorPolicies {
    pub(crate) source: OnError,
    pub(crate) target: OnError,
}

/// Copies in the background all that a [`BlockCopy`] has still to copy.
///
/// The body of a job calls [`run`](Self::run) on the job's context; everything else may be called on any thread.
#[derive(Debug)]
pub(crate) struct CopyEngine {
    copy: Arc<BlockCopy>,
    block_job: BlockJob,
    policies: ErrorPolicies,
    /// The node whose other users are given way.
    guest_node: Node,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    in_flight: u32,
    /// Results that the body has not looked at.
    done: VecDeque<Done>,
    /// Waits until nothing is in flight.
    idle_waker: Option<Waker>,
    pace: PaceReport,
    /// How far to look for the end of a run of zeroes.
    zero_hunt_bytes: u64,
}

#[derive(Debug)]
struct Done {
    result: Result<Outcome, CopyError>,
    took_ns: u64,
}

impl CopyEngine {
    pub(crate) fn new(
        copy: Arc<BlockCopy>,
        block_job: BlockJob,
        policies: ErrorPolicies,
        guest_node: Node,
    ) -> Self {
        Self {
            copy,
            block_job,
            policies,
            guest_node,
            state: Arc::default(),
        }
    }

    /// Requests in flight, and what bounds them.
    pub(crate) fn pace(&self) -> (u32, PaceReport) {
        let state = lock(&self.state);
        (state.in_flight, state.pace)
    }

    /// Ends once no request of this engine is in flight.
    pub(crate) async fn idle(&self) {
        poll_fn(|cx| {
            let mut state = lock(&self.state);
            if state.in_flight == 0 {
                return Poll::Ready(());
            }
            state.idle_waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Copies until nothing is left, the job is cancelled, `check` objects, or an error is not to be survived.
    ///
    /// Nothing of it is in flight when it returns.
    pub(crate) async fn run(
        &self,
        job: &JobContext,
        check: impl Fn() -> Result<(), JobError>,
    ) -> Result<(), JobError> {
        let result = self.run_until_done(job, check).await;
        self.idle().await;
        result
    }

    async fn run_until_done(
        &self,
        job: &JobContext,
        check: impl Fn() -> Result<(), JobError>,
    ) -> Result<(), JobError> {
        let mut pace = Pace::new();
        loop {
            if job.is_cancelled() {
                return Err(JobError::cancelled());
            }
            check()?;
            self.take_results(job, &mut pace)?;
            let delay_ns = self.launch(job, &mut pace);
            if self.copy.is_complete() {
                return Ok(());
            }
            job.progress()
                .set_remaining(self.copy.len_bytes() - self.copy.done_bytes());
            match delay_ns {
                // Nothing to start and nothing of ours in flight: guests are copying the rest.
                None if self.pace().0 == 0 => self.finish_with_guests(job).await?,
                None | Some(0) => job.park().await,
                Some(delay_ns) => job.sleep_ns(delay_ns).await,
            }
        }
    }

    /// Looks at what has completed since the last time.
    fn take_results(&self, job: &JobContext, pace: &mut Pace) -> Result<(), JobError> {
        let now_ns = job.context().now_ns();
        let done = mem::take(&mut lock(&self.state).done);
        let mut failure = None;
        for Done { result, took_ns } in done {
            match result {
                Ok(Outcome {
                    range,
                    class: CopyClass::Copied(_),
                }) => pace.learn(range.len(), took_ns, now_ns),
                Ok(_) => {}
                Err(error) => failure = failure.or(self.survive(error).err()),
            }
        }
        let len_done = self.copy.done_bytes();
        let meter = job.progress();
        meter.work_done(len_done.saturating_sub(meter.snapshot().current));
        failure.map_or(Ok(()), Err)
    }

    /// Starts requests as far as window and speed limit allow.
    ///
    /// Returns how long to wait before more may start, zero if a completion decides that; `None`
    /// when there was nothing left to start.
    fn launch(&self, job: &JobContext, pace: &mut Pace) -> Option<u64> {
        let cx = job.context();
        loop {
            let now_ns = cx.now_ns();
            let guest = self.guest_node.statistics();
            pace.guest(guest.reads + guest.writes, now_ns);
            let report = pace.report(now_ns);
            let mut state = lock(&self.state);
            state.pace = report;
            if state.in_flight >= report.window {
                return Some(0);
            }
            let delay_ns = self.block_job.delay_ns(now_ns);
            if delay_ns > 0 {
                return Some(delay_ns);
            }
            state.in_flight += 1;
            drop(state);
            if !self.start_one(job, report.chunk_bytes) {
                lock(&self.state).in_flight -= 1;
                return None;
            }
        }
    }

    /// Starts the next request; returns whether there was anything to start.
    fn start_one(&self, job: &JobContext, chunk_bytes: u64) -> bool {
        let whole = ByteRange::between(0, self.copy.len_bytes());
        let hunt_bytes = chunk_bytes.max(lock(&self.state).zero_hunt_bytes);
        let Some(claim) = self.copy.claim(whole, hunt_bytes) else {
            return false;
        };
        let claim = claim.with_data_max(chunk_bytes);
        let (cx, copy, state) = (job.context().clone(), self.copy.clone(), self.state.clone());
        let (block_job, job) = (self.block_job.clone(), job.job().clone());
        block_job.account(claim.range().len().min(chunk_bytes), cx.now_ns());
        drop(cx.clone().spawn(async move {
            let started_ns = cx.now_ns();
            let result = copy.copy(&cx, claim).await;
            let took_ns = cx.now_ns().saturating_sub(started_ns);
            let waker = lock(&state).note(Done { result, took_ns });
            job.wake();
            if let Some(waker) = waker {
                waker.wake();
            }
        }));
        true
    }

    /// What is left is being copied for guests: waits for them, and copies what they give back.
    async fn finish_with_guests(&self, job: &JobContext) -> Result<(), JobError> {
        let whole = ByteRange::between(0, self.copy.len_bytes());
        match self.copy.ensure_copied(job.context(), whole).await {
            Ok(()) => Ok(()),
            Err(error) => self.survive(error),
        }
    }

    /// Decides about an error; `Err` if the job is to fail with it.
    ///
    /// Otherwise the range is still to copy, and will be tried again, after the user has resumed the job if it stops.
    fn survive(&self, error: CopyError) -> Result<(), JobError> {
        let (policy, side) = match error.side() {
            CopySide::Read => (self.policies.source, ErrorSide::Read),
            CopySide::Write => (self.policies.target, ErrorSide::Write),
        };
        match self.block_job.decide(policy, side, error.error()) {
            ErrorAction::Report => Err(job_error(error.into_error())),
            ErrorAction::Ignore | ErrorAction::Stop => Ok(()),
        }
    }
}

impl State {
    /// Takes a result in; returns who waits for the last one.
    fn note(&mut self, done: Done) -> Option<Waker> {
        self.in_flight -= 1;
        if let Ok(Outcome { range, class }) = &done.result {
            // A run of zeroes that filled its claim may go on: look further next time.
            self.zero_hunt_bytes = match class {
                CopyClass::Zero | CopyClass::Skipped => range.len().saturating_mul(4),
                CopyClass::Copied(_) => 0,
            };
        }
        self.done.push_back(done);
        if self.in_flight == 0 {
            self.idle_waker.take()
        } else {
            None
        }
    }
}

/// The job's error for a node's.
pub(crate) fn job_error(error: BlockError) -> JobError {
    let text = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let job_error = JobError::failed(text);
    match error.errno() {
        Some(errno) => job_error.with_errno(errno).with_source(error),
        None => job_error.with_source(error),
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
