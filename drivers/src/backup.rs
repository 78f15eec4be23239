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

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aio::{AioContext, Handle};
use block::{
    BlockError, Child, Graph, Node, Operation, Permission, Permissions,
    copy::{CopyCounters, CopyOptions, TargetContent},
    nodes::copy_before_write::{
        AddedLatency, CbwHandle, CbwOptions, CopyBeforeWriteNode, OnCbwError,
    },
};
use blockjob::{BlockJob, ErrorAction, ErrorSide, OnError};
use job::{Job, JobConfig, JobContext, JobDriver, JobError, JobRegistry, LocalBoxFuture, Trigger};

use crate::{
    copy_engine::{CopyEngine, ErrorPolicies, job_error},
    pace::PaceReport,
};

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
            finalize: Trigger::Auto,
            dismiss: Trigger::Auto,
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
        source: BlockError,
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
    /// Requests of the background copy in flight.
    pub requests_in_flight: u32,
    /// What bounds them.
    pub pace: PaceReport,
    /// What the filter has cost guest requests.
    pub guest: AddedLatency,
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
    /// context, on whose `cx` the graph changes; the job runs on the context behind `context`.
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
            source: error,
        };
        let block_job = BlockJob::new(&options.job_id, "backup", graph, context);
        block_job.set_speed(options.speed_bytes_per_s);
        let held = Held::make(graph, &block_job, (source, target), &options).map_err(refused)?;
        let driver = Arc::new(BackupDriver::new(block_job, held, &options));
        let config = JobConfig {
            finalize: options.finalize,
            dismiss: options.dismiss,
            ..JobConfig::new(options.job_id, driver.clone(), context.clone())
        };
        let job = jobs.create(config)?;
        driver.block_job.bind(&job);
        let undo = DiscardOnDrop(Some(job.clone()));
        let filter = driver.filter();
        graph
            .insert_filter(source, &filter, &[])
            .await
            .map_err(refused)?;
        undo.disarm();
        job.start()?;
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

/// Takes a job back whose start is given up half-way.
struct DiscardOnDrop(Option<Job>);

impl DiscardOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for DiscardOnDrop {
    fn drop(&mut self) {
        if let Some(job) = self.0.take() {
            job.discard();
        }
    }
}

/// The filter and the edges, from creation to clean.
struct Held {
    graph: Graph,
    filter: Node,
    /// The job's own edge, which keeps the filter's permissions in force even without guests.
    source: Child,
    cbw: CbwHandle,
}

impl Held {
    /// Builds the filter and attaches the job to it; nobody's requests go through it yet.
    fn make(
        graph: &Graph,
        block_job: &BlockJob,
        (source, target): (&Node, &Node),
        options: &BackupOptions,
    ) -> Result<Self, BlockError> {
        graph.check_operation(source, Operation::BackupSource)?;
        graph.check_operation(target, Operation::BackupTarget)?;
        let cbw_options = CbwOptions {
            copy: CopyOptions {
                cluster_bytes_min: 0,
                target_content: options.target_content,
            },
            on_cbw_error: options.on_cbw_error,
            timeout_ns: options.cbw_timeout_ns,
        };
        let (filter, cbw) =
            CopyBeforeWriteNode::add_to(graph, None, (source, target), cbw_options)?;
        let reads = Permissions::uses(&[Permission::ConsistentRead]);
        let held = block_job
            .attach(&filter, "source", reads)
            .and_then(|child| {
                block_job.block_operations(source, &[Operation::BackupSource])?;
                block_job.block_operations(target, &[])?;
                Ok(child)
            });
        match held {
            Ok(source) => Ok(Self {
                graph: graph.clone(),
                filter,
                source,
                cbw,
            }),
            Err(error) => {
                drop(cbw);
                forget(graph, &filter);
                Err(error)
            }
        }
    }
}

/// Takes a filter that nobody uses out of the graph.
fn forget(graph: &Graph, filter: &Node) {
    if let Err(error) = graph.remove_node(filter) {
        tracing::error!(%error, "the filter of a backup stays in the graph");
    }
}

/// The inside of a backup job.
struct BackupDriver {
    block_job: BlockJob,
    policies: ErrorPolicies,
    engine: Mutex<Option<Arc<CopyEngine>>>,
    held: Mutex<Option<Held>>,
    /// The last report, once nothing is held any more.
    last: Mutex<BackupReport>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BackupDriver {
    fn new(block_job: BlockJob, held: Held, options: &BackupOptions) -> Self {
        let policies = ErrorPolicies {
            source: options.on_source_error,
            target: options.on_target_error,
        };
        let copy = held.cbw.block_copy().clone();
        let engine = CopyEngine::new(copy, block_job.clone(), policies, held.filter.clone());
        Self {
            block_job,
            policies,
            engine: Mutex::new(Some(Arc::new(engine))),
            held: Mutex::new(Some(held)),
            last: Mutex::default(),
        }
    }

    fn filter(&self) -> Node {
        lock(&self.held)
            .as_ref()
            .expect("held until clean")
            .filter
            .clone()
    }

    fn cbw(&self) -> CbwHandle {
        lock(&self.held)
            .as_ref()
            .expect("held until clean")
            .cbw
            .clone()
    }

    fn engine(&self) -> Option<Arc<CopyEngine>> {
        lock(&self.engine).clone()
    }

    fn report(&self) -> BackupReport {
        let held = lock(&self.held);
        let (Some(held), Some(engine)) = (held.as_ref(), self.engine()) else {
            return *lock(&self.last);
        };
        let copy = held.cbw.block_copy();
        let (requests_in_flight, pace) = engine.pace();
        BackupReport {
            len_bytes: copy.len_bytes(),
            done_bytes: copy.done_bytes(),
            counters: copy.counters(),
            requests_in_flight,
            pace,
            guest: held.cbw.added_latency(),
        }
    }

    async fn copy_all(&self, job: &JobContext) -> Result<(), JobError> {
        let (cbw, engine) = (self.cbw(), self.engine().expect("held until clean"));
        engine.run(job, || whole(&cbw)).await?;
        loop {
            let flushed = cbw.block_copy().target().flush(job.context()).await;
            // What a guest wrote after a failed save was read as the source's: look last.
            whole(&cbw)?;
            let Err(error) = flushed else { return Ok(()) };
            match self
                .block_job
                .decide(self.policies.target, ErrorSide::Write, &error)
            {
                ErrorAction::Report => return Err(job_error(error)),
                ErrorAction::Ignore => return Ok(()),
                ErrorAction::Stop => job.pause_point().await,
            }
            if job.is_cancelled() {
                return Err(JobError::cancelled());
            }
        }
    }
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

    fn run<'a>(&'a self, job: &'a JobContext) -> LocalBoxFuture<'a, Result<(), JobError>> {
        Box::pin(self.copy_all(job))
    }

    fn pause(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(engine) = self.engine() {
                engine.idle().await;
            }
        })
    }

    fn user_resume(&self) {
        self.block_job.user_resume();
    }

    fn clean<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            *lock(&self.last) = BackupReport {
                requests_in_flight: 0,
                ..self.report()
            };
            drop(lock(&self.engine).take());
            let held = lock(&self.held).take();
            let Some(Held {
                graph,
                filter,
                source,
                cbw,
            }) = held
            else {
                return;
            };
            drop(source);
            if let Err(error) = graph.remove_filter(&filter).await {
                tracing::error!(%error, "guests stay above the filter of a backup that has ended");
                return;
            }
            drop(cbw);
            forget(&graph, &filter);
            self.block_job.release();
        })
    }
}

impl fmt::Debug for BackupDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupDriver")
            .field("block_job", &self.block_job)
            .finish_non_exhaustive()
    }
}
