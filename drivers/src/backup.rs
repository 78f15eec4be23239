//! Backup: the source as it was at the instant the job began, while guests write on.
//!
//! ```text
//!   before          during                       after
//!
//!   guest           guest                        guest
//!     |               |                            |
//!   source          copy-before-write --job        source      target: complete and durable
//!                     |          |
//!                   source     target
//! ```
//!
//! The filter goes in under drain; that is the instant. From then on a guest write waits until the
//! old data of the clusters that it touches are in the target, and the job copies everything
//! else in the background. The job is done when no cluster is left to copy and the target has been
//! flushed: a backup that completed is durable.

mod held;

use std::{
    any::Any,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aio::{AioContext, Handle};
use block::{
    BlockError, Graph, Node,
    copy::{BlockCopy, CopyCounters, TargetContent},
    nodes::copy_before_write::{AddedLatency, CbwHandle, OnCbwError},
};
use blockjob::{BlockJob, BlockJobDriver, ErrorAction, ErrorSide, OnError};
use job::{
    BoxFuture, Job, JobConfig, JobContext, JobDriver, JobError, JobRegistry, LocalBoxFuture,
    Trigger,
};

use crate::{
    copy_engine::{CopyEngine, EngineOptions, ErrorPolicies, job_error},
    pace::{PaceLimits, PaceReport},
};

use held::{Held, Remains};

/// What a backup is to do.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// The job's id.
    pub job_id: String,
    /// Speed limit of the background copy in bytes per second; zero is none.
    pub speed_bytes_per_s: u64,
    /// What to do when the source cannot be read.
    pub on_source_error: OnError,
    /// What to do when the target cannot be written.
    pub on_target_error: OnError,
    /// What gives way when a guest write's old data cannot be saved: by default the backup, which then fails.
    pub on_cbw_error: OnCbwError,
    /// Longest time in nanoseconds that a guest write waits for its old data to be saved; `None` for no limit.
    pub cbw_timeout_ns: Option<u64>,
    /// What is known of the target.
    pub target_content: TargetContent,
    /// Most requests of the background copy in flight; `None` for what the devices take.
    pub max_workers: Option<u32>,
    /// Most bytes in such a request; `None` for what suits the devices. At least a cluster goes.
    pub max_chunk_bytes: Option<u64>,
    /// Most bytes of memory for data on its way.
    pub buffer_bytes_max: u64,
    /// Most that the background copy may add to the 99th percentile of what guest writes take, in nanoseconds. It
    /// goes as slowly as that needs, but never stands still: [`PaceReport`] says whether the budget is kept. `None`:
    /// it makes way for guests as far as that costs the copy little.
    pub guest_latency_ns: Option<u64>,
    /// The contexts that requests of the background copy run on, dealt out by load; empty for that of the job.
    pub contexts: Vec<Handle>,
    /// Who makes the job's result permanent.
    pub finalize: Trigger,
    /// Who forgets the job once it is concluded.
    pub dismiss: Trigger,
}

impl BackupOptions {
    /// No limit, errors reported, a broken target fails the job and not the guest.
    #[must_use]
    pub fn new(job_id: impl Into<String>) -> Self {
        Self {
            job_id: job_id.into(),
            speed_bytes_per_s: 0,
            on_source_error: OnError::Report,
            on_target_error: OnError::Report,
            on_cbw_error: OnCbwError::BreakSnapshot,
            cbw_timeout_ns: None,
            target_content: TargetContent::Unknown,
            max_workers: None,
            max_chunk_bytes: None,
            buffer_bytes_max: 64 << 20,
            guest_latency_ns: None,
            contexts: Vec::new(),
            finalize: Trigger::Auto,
            dismiss: Trigger::Auto,
        }
    }

    fn engine(&self) -> EngineOptions {
        EngineOptions {
            policies: self.policies(),
            pace: PaceLimits {
                workers_max: self.max_workers.unwrap_or(u32::MAX),
                chunk_bytes_max: self.max_chunk_bytes.unwrap_or(u64::MAX),
                buffer_bytes_max: self.buffer_bytes_max,
                guest_latency_ns: self.guest_latency_ns,
            },
            contexts: self.contexts.clone(),
        }
    }

    fn policies(&self) -> ErrorPolicies {
        ErrorPolicies {
            source: self.on_source_error,
            target: self.on_target_error,
        }
    }
}

/// Why a backup could not be started. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A node cannot take part.
    #[error("cannot back up '{from}' to '{to}'")]
    Node {
        /// The source's name.
        from: String,
        /// The target's name.
        to: String,
        /// Why.
        #[source]
        source: Box<BlockError>,
    },
    /// The job cannot be made.
    #[error(transparent)]
    Job(#[from] JobError),
}

/// How a backup stands, or how it ended. All from about one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// Length of the source in bytes.
    pub len_bytes: u64,
    /// Bytes copied, zeroed or skipped.
    pub done_bytes: u64,
    /// The same by the way they went.
    pub counters: CopyCounters,
    /// Requests of the background copy in flight; after a forced cancel, those that have not returned yet.
    pub requests_in_flight: u32,
    /// What bounds them.
    pub pace: PaceReport,
    /// What the filter has cost guest requests.
    pub guest: AddedLatency,
    /// Guests still use the filter. After the end, because requests of theirs inside it do not return: then it passes
    /// everything through, and goes when they are back.
    pub filter_is_in_place: bool,
    /// The target may change. After the end, because a request of the backup has not returned: until it
    /// has, the target is refused to other users.
    pub target_may_change: bool,
}

/// A backup under way, or ended. Cheap to clone; any thread; dropping it does nothing to the job.
#[derive(Clone, Debug)]
pub struct Backup {
    job: Job,
    driver: Arc<BackupDriver>,
}

impl Backup {
    /// Starts a backup of `source` to `target`; both stay in the graph.
    ///
    /// When this returns the instant has been taken: what guests write from now on is not in the
    /// backup, and everything they had been told was written before is. To be called on the main
    /// context; the job runs on the context behind `context`.
    ///
    /// Dropping the future before it is ready leaves everything as it was.
    ///
    /// # Errors
    ///
    /// [`BackupError`]; nothing has changed then.
    pub async fn start(
        (graph, jobs): (&Graph, &JobRegistry),
        context: &Handle,
        (source, target): (&Node, &Node),
        options: BackupOptions,
    ) -> Result<Self, BackupError> {
        let refused = |error: BlockError| BackupError::Node {
            from: source.name().to_owned(),
            to: target.name().to_owned(),
            source: Box::new(error),
        };
        let block_job = BlockJob::new(&options.job_id, "backup", graph);
        block_job.set_speed(options.speed_bytes_per_s);
        let held = Held::make(graph, &block_job, (source, target), &options).map_err(refused)?;
        let filter = held.filter.clone();
        let driver = Arc::new(BackupDriver::new(block_job, held, &options));
        let mut undo = Undo {
            driver: Some(driver.clone()),
            job: None,
        };
        let config = JobConfig {
            finalize: options.finalize,
            dismiss: options.dismiss,
            ..JobConfig::new(options.job_id, driver.clone(), context.clone())
        };
        let job = undo.job.insert(jobs.create(config)?).clone();
        driver.block_job.bind(&job, &driver);
        graph
            .insert_filter(source, &filter)
            .await
            .map_err(refused)?;
        undo.disarm();
        if let Err(error) = job.start() {
            // Somebody has cancelled it already, and its end takes the filter out.
            job.wait().await;
            return Err(error.into());
        }
        Ok(Self { job, driver })
    }

    /// The job.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// How it stands; after its end, how it ended.
    #[must_use]
    pub fn report(&self) -> BackupReport {
        self.driver.report()
    }

    /// Sets the speed limit in bytes per second; zero is none.
    ///
    /// # Errors
    ///
    /// As [`Job::check_verb`] for `set-speed`.
    pub fn set_speed(&self, speed_bytes_per_s: u64) -> Result<(), JobError> {
        self.job.check_verb(job::JobVerb::SetSpeed)?;
        self.driver.block_job.set_speed(speed_bytes_per_s);
        Ok(())
    }
}

/// Takes everything back when a start fails or is given up half-way.
struct Undo {
    driver: Option<Arc<BackupDriver>>,
    job: Option<Job>,
}

impl Undo {
    fn disarm(&mut self) {
        self.driver = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let Some(driver) = self.driver.take() else {
            return;
        };
        if let Some(job) = self.job.take() {
            job.discard();
        }
        // Nothing is held any more if the job was cancelled meanwhile: its own end sees to it.
        if let Some(held) = driver.let_go() {
            held.forget(&driver.block_job);
        }
    }
}

/// The inside of a backup job.
struct BackupDriver {
    block_job: BlockJob,
    policies: ErrorPolicies,
    stage: Mutex<Stage>,
}

/// How far a backup is, as its job driver sees it.
enum Stage {
    /// From the start until clean.
    Held(Held),
    /// After that.
    Over(Remains),
}

impl BackupDriver {
    fn new(block_job: BlockJob, held: Held, options: &BackupOptions) -> Self {
        Self {
            block_job,
            policies: options.policies(),
            stage: Mutex::new(Stage::Held(held)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the body works with; `None` once the job is over.
    fn tools(&self) -> Option<(CbwHandle, Arc<CopyEngine<BlockCopy>>)> {
        match &*self.lock() {
            Stage::Held(held) => Some((held.cbw.clone(), held.engine.clone())),
            Stage::Over(_) => None,
        }
    }

    fn report(&self) -> BackupReport {
        match &*self.lock() {
            Stage::Held(held) => held.report(),
            Stage::Over(remains) => remains.report(),
        }
    }

    /// Goes over to the last stage; what was held is the caller's to take apart, once.
    fn let_go(&self) -> Option<Held> {
        let mut stage = self.lock();
        let Stage::Held(held) = &*stage else {
            return None;
        };
        let remains = held.remains();
        match mem::replace(&mut *stage, Stage::Over(remains)) {
            Stage::Held(held) => Some(held),
            Stage::Over(_) => None,
        }
    }

    /// Lets guests go on without the copy, and waits for no server any more.
    fn cancel(&self) {
        let exit = match &*self.lock() {
            Stage::Held(held) => held.exit(),
            Stage::Over(_) => return,
        };
        exit.cancel();
    }

    async fn copy_all(&self, job: &JobContext) -> Result<(), JobError> {
        let (cbw, engine) = self.tools().expect("held until clean");
        engine.run(job, || whole(&cbw)).await?;
        while let Err(error) = flush(job, &cbw).await? {
            let policy = match self.policies.target {
                // A job that says that it is complete without a flush would lie.
                OnError::Ignore => OnError::Report,
                policy => policy,
            };
            if self.block_job.decide(policy, ErrorSide::Write, &error) != ErrorAction::Stop {
                return Err(job_error(error));
            }
            job.pause_point().await;
            if job.is_cancelled() {
                return Err(JobError::cancelled());
            }
        }
        Ok(())
    }
}

/// Makes what the target has been given durable, unless the job is cancelled: then it is left to itself.
async fn flush(job: &JobContext, cbw: &CbwHandle) -> Result<Result<(), BlockError>, JobError> {
    let copy = cbw.block_copy().clone();
    let flushing = job.spawn(|cx| async move { copy.flush(&cx).await });
    let flushed = job.or_cancelled(flushing).await;
    flushed.ok_or_else(JobError::cancelled)
}

/// Fails once the filter could not save old data and let the guest go on.
fn whole(cbw: &CbwHandle) -> Result<(), JobError> {
    match cbw.snapshot().failure() {
        Some(error) => Err(JobError::failed(format!(
            "old data could not be saved before a guest overwrote it: {error}"
        ))
        .with_errno(error.errno().unwrap_or(libc::EIO))),
        None => Ok(()),
    }
}

impl JobDriver for BackupDriver {
    fn kind(&self) -> &'static str {
        "backup"
    }

    fn extension(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.block_job)
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async move {
            let result = self.copy_all(job).await;
            if job.is_cancelled() {
                // Not only in clean: the rest of a transaction may take its time until then.
                self.cancel();
            }
            result
        })
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some((_, engine)) = self.tools() {
                engine.settle().await;
            }
        })
    }

    fn user_resume(&self) {
        self.block_job.user_resume();
    }

    fn clean<'a>(&'a self, main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            if let Some(held) = self.let_go() {
                held.leave(main, &self.block_job).await;
            }
        })
    }
}

/// The engine asks for its delay before each request, so a new speed need not be passed on.
impl BlockJobDriver for BackupDriver {}

/// A job that is dropped half-way, with its registry, does not leave guests to a copy that nobody wants.
impl Drop for BackupDriver {
    fn drop(&mut self) {
        if let Some(held) = self.let_go() {
            held.exit().give_up();
            held.forget(&self.block_job);
        }
    }
}

impl fmt::Debug for BackupDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupDriver")
            .field("block_job", &self.block_job)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
