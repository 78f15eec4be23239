//! [`BlockJobDriver`]: what the driver of a block job may add to a [`JobDriver`].

use std::{any::Any, fmt, sync::Arc};

use aio::Handle;
use job::{JobDriver, JobError};

/// What the driver of a block job may add to a job driver; each hook has a default that is right for most.
///
/// [`BlockJob::bind`](crate::BlockJob::bind) introduces the two to each other. The hooks are called without any lock
/// held, on whichever thread asks (a verb, a drained section, a move), possibly several at once and beside the body:
/// they set a flag or answer, and do not wait. A job that has [let go](crate::BlockJob::release) of the graph is told
/// of drained sections, speeds and moves no more, but for a call that was under way.
///
/// # Writing one
///
/// A [`BlockJob`](crate::BlockJob) is one half of the work, the job the other:
///
/// 1. Make the [`BlockJob`](crate::BlockJob), attach it to its nodes (the main node first), and keep the edges.
/// 2. Make the job driver, which keeps the block job and offers it in
///    [`extension`](JobDriver::extension), so that whoever meets the job finds it.
/// 3. Create the job, [bind](crate::BlockJob::bind) the two, and start it.
/// 4. In `run`, before each piece of work: wait for the [speed limit](crate::BlockJob::throttle), which is a pause
///    point, too. After it: [account](crate::BlockJob::account) for what was moved.
/// 5. When a request fails, [decide](crate::BlockJob::decide), and do as the answer says.
/// 6. In `pause`, wait until nothing is in flight. In `user_resume`, forward to
///    [`BlockJob::user_resume`](crate::BlockJob::user_resume).
/// 7. In `clean`, drop the edges, then [release](crate::BlockJob::release).
///
/// This one reads its node from end to end:
///
/// ```
/// use std::{any::Any, sync::{Arc, Mutex}};
///
/// use aio::{AioContext, IoBuf};
/// use block::{
///     Child, Graph, Permission, Permissions,
///     nodes::{MemoryNode, MemoryOptions},
/// };
/// use blockjob::{BlockJob, BlockJobDriver, ErrorAction, ErrorSide, OnError};
/// use job::{BoxFuture, JobConfig, JobContext, JobDriver, JobError, JobRegistry, LocalBoxFuture};
///
/// struct Scan {
///     block_job: BlockJob,
///     on_error: OnError,
///     edge: Mutex<Option<Arc<Child>>>,
/// }
///
/// const CHUNK_BYTES: usize = 64 << 10;
///
/// impl Scan {
///     async fn scan(&self, job: &JobContext) -> Result<(), JobError> {
///         let edge = self.edge.lock().unwrap().clone().expect("there until clean");
///         job.progress().set_remaining(edge.len_bytes());
///         let mut offset_bytes = 0;
///         while offset_bytes < edge.len_bytes() {
///             self.block_job.throttle(job).await;
///             if job.is_cancelled() {
///                 return Err(JobError::cancelled());
///             }
///             let reader = edge.clone();
///             // One request, and nothing else in flight, so that a pause has nothing to wait for.
///             let read = job.on_context(move |cx| async move {
///                 reader.read(&cx, offset_bytes, IoBuf::heap(CHUNK_BYTES)).await.1
///             });
///             match read.await {
///                 Ok(_) => {
///                     self.block_job.account(CHUNK_BYTES as u64, job.now_ns());
///                     job.progress().work_done(CHUNK_BYTES as u64);
///                     offset_bytes += CHUNK_BYTES as u64;
///                 }
///                 Err(error) => {
///                     let action = self.block_job.decide(self.on_error, ErrorSide::Read, &error);
///                     if action == ErrorAction::Report {
///                         return Err(JobError::failed(error.to_string()));
///                     }
///                     // To stop is to pause, which the next pause point does; then it is tried again.
///                 }
///             }
///         }
///         Ok(())
///     }
/// }
///
/// impl JobDriver for Scan {
///     fn kind(&self) -> &'static str {
///         "scan"
///     }
///
///     fn extension(&self) -> Option<&(dyn Any + Send + Sync)> {
///         Some(&self.block_job)
///     }
///
///     fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
///         Box::pin(self.scan(job))
///     }
///
///     fn user_resume(&self) {
///         self.block_job.user_resume();
///     }
///
///     fn clean<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
///         Box::pin(async move {
///             drop(self.edge.lock().unwrap().take());
///             self.block_job.release();
///         })
///     }
/// }
///
/// impl BlockJobDriver for Scan {}
///
/// # aio::run(aio::Config::default(), |cx| async move {
/// let graph = Graph::new();
/// let jobs = JobRegistry::new(cx.handle().clone());
/// let node = graph.add_node(Some("disk"), MemoryNode::new(MemoryOptions::new(1 << 20))?)?;
///
/// let block_job = BlockJob::new("s", "scan", &graph);
/// let reads = Permissions::uses(&[Permission::ConsistentRead]);
/// let edge = block_job.attach(&node, "main node", reads, &[])?;
/// let edge = Mutex::new(Some(Arc::new(edge)));
/// let on_error = OnError::Report;
/// let driver = Arc::new(Scan { block_job: block_job.clone(), on_error, edge });
/// let job = jobs.create(JobConfig::new("s", driver.clone(), cx.handle().clone()))?;
/// block_job.bind(&job, &driver);
/// job.start()?;
///
/// job.wait().await.into_result()?;
/// assert_eq!(job.progress().snapshot().current, 1 << 20);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?.unwrap();
/// # Ok::<(), aio::AioError>(())
/// ```
pub trait BlockJobDriver: JobDriver {
    /// The speed limit has become `speed_bytes_per_s`; zero is none.
    ///
    /// For drivers that give it to somebody else. Who asks the block job for the delay has nothing to do: a job that
    /// sleeps for it is woken when that may have become shorter.
    fn set_speed(&self, _speed_bytes_per_s: u64) {}

    /// The user changes an option of the job while it runs. The change is for jobs of this kind.
    ///
    /// # Errors
    ///
    /// Why not; nothing has changed then.
    fn change(&self, _change: &JobChange) -> Result<(), JobError> {
        Err(JobError::refused("Job type does not support change"))
    }

    /// A drained section of one of the nodes begins, and waits for the job, which has been asked to pause: what can be
    /// brought to an end sooner, should be.
    fn drain(&self) {}

    /// The driver's own word on whether it makes requests, for a section that waits; `None` leaves it to the job, which
    /// is quiet once it stands at a pause point.
    ///
    /// A driver that says `Busy` calls [`BlockJob::became_quiet`](crate::BlockJob::became_quiet) when it says so no
    /// more. Of a job that has ended it is not asked.
    fn drained_poll(&self) -> Option<Activity> {
        None
    }

    /// The job, which stands still, is about to leave its context: what the driver has there goes.
    fn detach_context(&self) {}

    /// The job has come to another context, and goes on there soon.
    fn attached_context(&self, _context: &Handle) {}

    /// Whether writes to the source are in the target before they are acknowledged; `None` in jobs that do not do that.
    fn actively_synced(&self) -> Option<bool> {
        None
    }
}

/// Whether a job driver makes requests, or may do so unless it is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It does, or may.
    Busy,
    /// It does not, and will not before the section ends.
    Quiet,
}

/// A change of a running job: the kind of job that it is for, and what to change, in a type of that driver's.
#[derive(Clone)]
pub struct JobChange {
    kind: String,
    options: Arc<dyn Any + Send + Sync>,
}

impl JobChange {
    /// A change for jobs whose driver calls itself `kind`.
    pub fn new(kind: impl Into<String>, options: impl Any + Send + Sync) -> Self {
        Self {
            kind: kind.into(),
            options: Arc::new(options),
        }
    }

    /// The kind of job that it is for, such as `mirror`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What to change, if it is a `T`.
    #[must_use]
    pub fn options<T: Any>(&self) -> Option<&T> {
        self.options.downcast_ref()
    }
}

impl fmt::Debug for JobChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobChange")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
