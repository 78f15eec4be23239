//! The background copy under every job driver: walks what is still to copy, a window of requests at a time.

use std::{
    future::poll_fn,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use aio::Handle;
use block::{
    BlockError, Node,
    copy::{CopyClass, CopyError, CopySide, Crowd, CrowdMember, Outcome},
};
use blockjob::{BlockJob, ErrorAction, ErrorSide, OnError};
use job::{JobContext, JobError};

use crate::pace::{AppliedRate, Pace, PaceLimits, PaceReason, PaceReport, Plan, Seen, Tuning};

mod lanes;
mod request;
mod work;
use lanes::Lanes;
use request::Request;
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

/// How an engine works.
#[derive(Clone, Debug, Default)]
pub(crate) struct EngineOptions {
    pub(crate) policies: ErrorPolicies,
    pub(crate) pace: PaceLimits,
    /// Where requests run, dealt out by load; none for the context of the job.
    pub(crate) contexts: Vec<Handle>,
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
    /// What the user allows in one request.
    chunk_bytes_max: u64,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    in_flight: u32,
    in_flight_bytes: u64,
    /// While something is in flight: others leave us our share of the memory.
    member: Option<CrowdMember>,
    /// Length and time of the copies that the pace has not learnt from.
    timed: Vec<(u64, u64)>,
    /// The first error since the last decision; requests that fail with it are one failure.
    error: Option<CopyError>,
    /// What was decided about the last error and is still to be done.
    decision: Option<Result<Recovery, JobError>>,
    /// Waits until nothing is in flight.
    idle_waker: Option<Waker>,
    pace: Pace,
    rate: AppliedRate,
    report: PaceReport,
    lanes: Lanes,
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
        options: EngineOptions,
        guest_node: Node,
    ) -> Self {
        if options.pace.guest_latency_ns.is_some() {
            guest_node.measure_latency();
        }
        let state = State {
            in_flight: 0,
            in_flight_bytes: 0,
            member: None,
            timed: Vec::new(),
            error: None,
            decision: None,
            idle_waker: None,
            pace: Pace::new(options.pace),
            rate: AppliedRate::default(),
            report: PaceReport::default(),
            lanes: Lanes::new(options.contexts),
            zero_hunt_bytes: 0,
        };
        Self {
            work,
            block_job,
            policies: options.policies,
            guest_node,
            chunk_bytes_max: options.pace.chunk_bytes_max,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// How fast it copies, and what bounds that.
    pub(crate) fn pace(&self) -> PaceReport {
        lock(&self.state).report
    }

    /// Changes what a user bounds; counts from the next request on.
    pub(crate) fn tune(&self, tuning: Tuning) {
        if let Some(Some(_)) = tuning.guest_latency_ns {
            self.guest_node.measure_latency();
        }
        lock(&self.state).pace.tune(tuning);
    }

    /// Counts the requests in flight, also after the engine has gone.
    pub(crate) fn in_flight(&self) -> InFlight {
        InFlight(self.state.clone())
    }

    /// Ends once no request of this engine is in flight, and decides about the error they met, if any.
    pub(crate) async fn settle(&self) {
        self.idle().await;
        let error = {
            let mut state = lock(&self.state);
            state.stand();
            state.error.take()
        };
        if let Some(error) = error {
            let decision = self.decide(error);
            lock(&self.state).decision = Some(decision);
        }
    }

    /// Notes an error that somebody else met with this work: it is decided about as one of the engine's own.
    pub(crate) fn note_error(&self, error: CopyError) {
        lock(&self.state).error.get_or_insert(error);
    }

    /// Whether an error has yet to be decided about.
    pub(crate) fn has_error(&self) -> bool {
        lock(&self.state).error.is_some()
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
            lock(&self.state).learn(job.now_ns());
            let delay_ns = self.launch(job);
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
    fn launch(&self, job: &JobContext) -> Option<u64> {
        loop {
            let now_ns = job.now_ns();
            let mut state = lock(&self.state);
            let plan = self.plan(&mut state, now_ns);
            let rest_ns = state.pace.rest_ns(now_ns);
            if rest_ns > 0 || !plan.has_room(state.in_flight, state.in_flight_bytes) {
                return Some(rest_ns);
            }
            let delay_ns = self.block_job.delay_ns(now_ns);
            if delay_ns > 0 {
                state.report.reason = PaceReason::SpeedLimit;
                return Some(delay_ns);
            }
            state.begin(self.block_job.graph().crowd());
            drop(state);
            if !self.start_one(job, self.data_bytes_max(&plan)) {
                let mut state = lock(&self.state);
                state.finish(0);
                state.report.reason = PaceReason::Idle;
                return None;
            }
        }
    }

    /// Asks the pace what may be done now, and notes the answer for those who want to know.
    fn plan(&self, state: &mut State, now_ns: u64) -> Plan {
        let guest = self.guest_node.statistics();
        let writes = || self.guest_node.latency().unwrap_or_default().writes;
        let seen = Seen {
            requests: guest.reads + guest.writes,
            writes,
            in_flight: state.in_flight,
        };
        let crowd = self.block_job.graph().crowd();
        let others_bytes = crowd.bytes().saturating_sub(state.in_flight_bytes);
        state.pace.crowd(crowd.members(), others_bytes);
        state.pace.guest(seen, now_ns);
        let plan = state.pace.plan(now_ns);
        state.report = PaceReport {
            window: plan.window,
            chunk_bytes: plan.chunk_bytes,
            reason: plan.reason,
            guest_added_p99_ns: state.pace.guest_added_p99_ns(),
            ..state.report
        };
        plan
    }

    /// Most data of one request. Where blocks are only shared, the pace's bytes bound nothing unless somebody else
    /// needs them to.
    fn data_bytes_max(&self, plan: &Plan) -> u64 {
        let speed = self.block_job.speed_bytes_per_s();
        if plan.reason != PaceReason::Device || speed > 0 {
            return plan.limited_bytes(speed);
        }
        let wanted = plan.chunk_bytes.max(self.work.data_bytes_max());
        wanted.min(self.chunk_bytes_max)
    }

    /// Starts the next request; returns whether there was anything to start.
    fn start_one(&self, job: &JobContext, data_bytes_max: u64) -> bool {
        let hunt_bytes = data_bytes_max.max(lock(&self.state).zero_hunt_bytes);
        let Some(claim) = self.work.claim(hunt_bytes, data_bytes_max) else {
            return false;
        };
        // What it will come to is known only when it is done: what was counted too much is given back then.
        let counted_bytes = W::range_of(&claim).len().min(data_bytes_max);
        self.block_job.account(counted_bytes, job.now_ns());
        let (lane, context) = {
            let mut state = lock(&self.state);
            let in_flight_bytes = state.in_flight_bytes + counted_bytes;
            state.set_in_flight_bytes(in_flight_bytes);
            state.lanes.take(&job.handle())
        };
        let request = Request {
            state: self.state.clone(),
            block_job: self.block_job.clone(),
            job: job.job().clone(),
            counted_bytes,
            lane,
            is_over: false,
        };
        let work = self.work.clone();
        drop(job.spawn_on(&context, move |cx| async move {
            let started_ns = cx.now_ns();
            let result = work.copy(&cx, claim).await;
            request.end(result, cx.now_ns().saturating_sub(started_ns));
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
    fn begin(&mut self, crowd: &Crowd) {
        self.in_flight += 1;
        self.member.get_or_insert_with(|| crowd.enter());
    }

    fn set_in_flight_bytes(&mut self, bytes: u64) {
        self.in_flight_bytes = bytes;
        if let Some(member) = &mut self.member {
            member.set_bytes(bytes);
        }
    }

    fn finish(&mut self, counted_bytes: u64) {
        self.in_flight -= 1;
        self.set_in_flight_bytes(self.in_flight_bytes - counted_bytes);
        if self.in_flight == 0 {
            self.member = None;
        }
    }

    /// Lets the pace learn from what has completed since the last time.
    fn learn(&mut self, now_ns: u64) {
        let timed = mem::take(&mut self.timed);
        let moved_bytes = timed.iter().map(|(len_bytes, _)| len_bytes).sum();
        for (len_bytes, took_ns) in timed {
            // Longer ones shared blocks, which says nothing about the device.
            if len_bytes <= self.report.chunk_bytes {
                self.pace.learn(len_bytes, took_ns, now_ns);
            }
        }
        self.report.applied_bytes_per_s = self.rate.add(moved_bytes, now_ns);
    }

    /// Nothing is in flight, and nothing is started for now.
    fn stand(&mut self) {
        self.rate.stop();
        self.report.applied_bytes_per_s = 0;
        self.report.reason = PaceReason::Paused;
    }

    /// Takes a result in.
    fn note(&mut self, result: Result<Outcome, CopyError>, took_ns: u64) {
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

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
