//! The background copy under every job driver: walks what is still to copy, a window of requests at a time.

use std::{
    future::poll_fn,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use block::{
    BlockError, Node,
    copy::{CopyClass, CopyError, CopySide, Outcome},
};
use blockjob::{BlockJob, ErrorAction, ErrorSide, OnError};
use job::{JobContext, JobError};

use crate::pace::{Pace, PaceReport};

mod work;
pub(crate) use work::{Progress, Work};

/// How long to wait before an error that is to be ignored may come again, in nanoseconds.
const RETRY_NS: u64 = 100_000_000;
/// Longest sleep for the speed limit, in nanoseconds: nobody wakes us when a guest breaks the snapshot.
const SLEEP_MAX_NS: u64 = 1_000_000_000;

/// Most zeroes that one claim holds. A guest that writes there waits for all of them, and there are
/// targets that write zeroes byte by byte.
const ZERO_CLAIM_BYTES_MAX: u64 = 256 << 20;

/// What to do about errors of each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorPolicies {
    pub(crate) source: OnError,
    pub(crate) target: OnError,
}

/// Copies in the background all that its [`Work`] gives out.
///
/// The body of a job calls [`run`](Self::run) on the job's context; everything else may be called on any thread.
#[derive(Debug)]
pub(crate) struct CopyEngine<W> {
    work: Arc<W>,
    block_job: BlockJob,
    policies: ErrorPolicies,
    /// The node whose other users are given way.
    guest_node: Node,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    in_flight: u32,
    /// Length and time of the copies that the pace has not learnt from.
    timed: Vec<(u64, u64)>,
    /// The first error since the last decision; requests that fail with it are one failure.
    error: Option<CopyError>,
    /// What was decided about the last error and is still to be done.
    decision: Option<Result<Recovery, JobError>>,
    /// Waits until nothing is in flight.
    idle_waker: Option<Waker>,
    pace: PaceReport,
    /// How far to look for the end of a run of zeroes.
    zero_hunt_bytes: u64,
}

/// Counts the requests in flight of an engine.
pub(crate) struct InFlight(Arc<Mutex<State>>);

impl InFlight {
    pub(crate) fn requests(&self) -> u32 {
        lock(&self.0).in_flight
    }
}

/// How a job goes on after an error. Either way the range is still to copy, and is tried again.
#[derive(Clone, Copy, Debug)]
enum Recovery {
    /// After a while.
    Retry,
    /// Once the user has resumed the job, which has been asked to pause.
    Resume,
}

impl<W: Work> CopyEngine<W> {
    pub(crate) fn new(
        work: Arc<W>,
        block_job: BlockJob,
        policies: ErrorPolicies,
        guest_node: Node,
    ) -> Self {
        Self {
            work,
            block_job,
            policies,
            guest_node,
            state: Arc::default(),
        }
    }

    /// What bounds the requests in flight.
    pub(crate) fn pace(&self) -> PaceReport {
        lock(&self.state).pace
    }

    /// Counts the requests in flight, also after the engine has gone.
    pub(crate) fn in_flight(&self) -> InFlight {
        InFlight(self.state.clone())
    }

    /// Ends once no request of this engine is in flight, and decides about the error they met, if any.
    pub(crate) async fn settle(&self) {
        self.idle().await;
        let error = lock(&self.state).error.take();
        if let Some(error) = error {
            let decision = self.decide(error);
            lock(&self.state).decision = Some(decision);
        }
    }

    async fn idle(&self) {
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
    /// `check` has the last word, after everything is copied. Nothing of the engine is in flight
    /// when this returns, unless the job is cancelled by force: then requests are left to themselves.
    /// Whoever cancels gives the copy up, so that they do nothing more than they are at.
    pub(crate) async fn run(
        &self,
        job: &JobContext,
        check: impl Fn() -> Result<(), JobError> + Send,
    ) -> Result<(), JobError> {
        let result = self.run_until_done(job, check).await;
        job.or_cancelled(self.idle()).await;
        result
    }

    async fn run_until_done(
        &self,
        job: &JobContext,
        check: impl Fn() -> Result<(), JobError> + Send,
    ) -> Result<(), JobError> {
        let mut pace = Pace::new();
        loop {
            if lock(&self.state).error.is_some() {
                job.or_cancelled(self.settle()).await;
            }
            if job.is_cancelled() {
                return Err(JobError::cancelled());
            }
            let decision = lock(&self.state).decision.take();
            if let Some(decision) = decision {
                recover(job, decision?).await;
                continue;
            }
            self.learn(job, &mut pace);
            let delay_ns = self.launch(job, &mut pace);
            let is_complete = self.work.is_complete();
            self.tell_progress(job);
            // Only now, so that it speaks for everything that was read.
            check()?;
            if is_complete {
                return Ok(());
            }
            match delay_ns {
                // Nothing to start and nothing of ours in flight: guests are copying the rest.
                None if self.in_flight().requests() == 0 => self.await_guests(job).await,
                None | Some(0) => job.park().await,
                Some(delay_ns) => job.sleep_ns(delay_ns.min(SLEEP_MAX_NS)).await,
            }
        }
    }

    /// Lets the pace learn from what has completed since the last time.
    fn learn(&self, job: &JobContext, pace: &mut Pace) {
        let now_ns = job.now_ns();
        let timed = mem::take(&mut lock(&self.state).timed);
        for (len_bytes, took_ns) in timed {
            pace.learn(len_bytes, took_ns, now_ns);
        }
    }

    fn tell_progress(&self, job: &JobContext) {
        let (
            meter,
            Progress {
                done_bytes,
                remaining_bytes,
            },
        ) = (job.progress(), self.work.progress());
        meter.work_done(done_bytes.saturating_sub(meter.snapshot().current));
        meter.set_remaining(remaining_bytes);
    }

    /// Starts requests as far as window and speed limit allow.
    ///
    /// Returns how long to wait before more may start, zero if a completion decides that; `None`
    /// when there was nothing left to start.
    fn launch(&self, job: &JobContext, pace: &mut Pace) -> Option<u64> {
        loop {
            let now_ns = job.now_ns();
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
        let hunt_bytes = chunk_bytes.max(lock(&self.state).zero_hunt_bytes);
        let Some(claim) = self.work.claim(hunt_bytes, chunk_bytes) else {
            return false;
        };
        let (work, state, block_job) = (
            self.work.clone(),
            self.state.clone(),
            self.block_job.clone(),
        );
        // What it will come to is known only when it is done: what was counted too much is given back then.
        let counted_bytes = W::range_of(&claim).len().min(chunk_bytes);
        block_job.account(counted_bytes, job.now_ns());
        let waiting_job = job.job().clone();
        drop(job.spawn(move |cx| async move {
            let started_ns = cx.now_ns();
            let result = work.copy(&cx, claim).await;
            let took_ns = cx.now_ns().saturating_sub(started_ns);
            block_job.refund(counted_bytes.saturating_sub(moved_bytes(&result)));
            let waker = lock(&state).note(result, took_ns);
            waiting_job.wake();
            if let Some(waker) = waker {
                waker.wake();
            }
        }));
        true
    }

    /// What is left is being copied for guests: waits until some of that has ended, well or not.
    ///
    /// Only waits, so that the job can be paused or cancelled meanwhile, however long it takes.
    async fn await_guests(&self, job: &JobContext) {
        let (landed, waiting) = (self.work.landed(), job.job().clone());
        drop(job.spawn(|_| async move {
            landed.await;
            waiting.wake();
        }));
        job.park().await;
    }

    /// Decides about an error, which tells the user and may pause the job; `Err` if the job is to fail with it.
    fn decide(&self, error: CopyError) -> Result<Recovery, JobError> {
        let (policy, side) = match error.side() {
            CopySide::Read => (self.policies.source, ErrorSide::Read),
            CopySide::Write => (self.policies.target, ErrorSide::Write),
        };
        match self.block_job.decide(policy, side, error.error()) {
            ErrorAction::Report => Err(job_error(error.into_error())),
            ErrorAction::Ignore => Ok(Recovery::Retry),
            ErrorAction::Stop => Ok(Recovery::Resume),
        }
    }
}

impl State {
    /// Takes a result in; returns who waits for the last one.
    fn note(&mut self, result: Result<Outcome, CopyError>, took_ns: u64) -> Option<Waker> {
        self.in_flight -= 1;
        match result {
            // A run of zeroes that filled its claim may go on: look further next time.
            Ok(Outcome {
                range,
                class: CopyClass::Zero | CopyClass::Skipped | CopyClass::Unallocated,
            }) => self.zero_hunt_bytes = range.len().saturating_mul(4).min(ZERO_CLAIM_BYTES_MAX),
            Ok(Outcome {
                range,
                class: CopyClass::Copied(_),
            }) => {
                self.zero_hunt_bytes = 0;
                self.timed.push((range.len(), took_ns));
            }
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
        match self.in_flight {
            0 => self.idle_waker.take(),
            _ => None,
        }
    }
}

async fn recover(job: &JobContext, recovery: Recovery) {
    match recovery {
        Recovery::Resume => job.pause_point().await,
        Recovery::Retry => {
            let until_ns = job.now_ns().saturating_add(RETRY_NS);
            // Completions have left a wake-up, which ends the first sleep at once.
            while job.now_ns() < until_ns && !job.is_cancelled() {
                job.sleep_ns(until_ns - job.now_ns()).await;
            }
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

/// Bytes that were read and written: what a speed limit is about.
fn moved_bytes(result: &Result<Outcome, CopyError>) -> u64 {
    match result {
        Ok(Outcome {
            range,
            class: CopyClass::Copied(_),
        }) => range.len(),
        Ok(_) | Err(_) => 0,
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
