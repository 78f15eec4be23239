//! [`JobDriver`]: what an implementer of a job writes.

use std::{any::Any, future::Future, pin::Pin};

use crate::{error::JobError, job_context::JobContext, runtime::AioContext, verb::CancelMode};

/// A future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A future that stays on the thread that made it.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A job's inside.
///
/// In the order of a life: `run` (with `pause` and `resume` around each pause), then on the main
/// context `prepare` if all members of the transaction ended well, then exactly one of `commit`
/// and `abort`, then `clean`. A job that was never started sees `abort` and `clean` only; one whose
/// cancel came before its first step does not see `run`. No two of these run at once.
///
/// The hooks of verbs (`cancel`, `complete`, `user_resume`) run on the thread of the verb and may
/// come at any time, also between or beside the others: they set a flag and return. Whoever waits
/// in `run` is woken after them.
///
/// No lock is held around any hook, so each may use the [`Job`](crate::Job).
///
/// Hooks with a body here do nothing because a job driver without one has nothing to do at that
/// moment. A panic in a hook is our own bug and ends the process; see
/// [`current_callback`](crate::current_callback).
///
/// # Writing one
///
/// A job driver is a struct with what the job works on, and a place for its result. Only
/// [`kind`](Self::kind) and [`run`](Self::run) must be written:
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
///
/// use aio::Config;
/// use job::{
///     BoxFuture, CancelMode, JobConfig, JobContext, JobDriver, JobError, JobOutcome, JobRegistry,
/// };
///
/// /// Adds up the squares of the numbers below `end`, a hundred in each step.
/// struct Squares {
///     end: u64,
///     sum: AtomicU64,
/// }
///
/// impl Squares {
///     async fn add_up(&self, job: &JobContext) -> Result<(), JobError> {
///         job.progress().set_remaining(self.end);
///         for first in (0..self.end).step_by(100) {
///             // The place to stop for a pause: nothing is half done, nothing is in flight.
///             job.pause_point().await;
///             if job.is_cancelled() {
///                 return Err(JobError::cancelled());
///             }
///             let last = self.end.min(first + 100);
///             // Work that takes its time, or blocks, goes to a worker thread.
///             let sum = job.blocking(move || (first..last).map(|n| n * n).sum()).await;
///             self.sum.fetch_add(sum, Ordering::Relaxed);
///             job.progress().work_done(last - first);
///         }
///         Ok(())
///     }
/// }
///
/// impl JobDriver for Squares {
///     fn kind(&self) -> &'static str {
///         "squares"
///     }
///
///     fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
///         Box::pin(self.add_up(job))
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// aio::run(Config::default(), |cx| async move {
///     // Jobs end, and events are told, on the context of the registry; bodies run on any.
///     let registry = JobRegistry::new(cx.handle().clone());
///     let squares = Arc::new(Squares { end: 1000, sum: AtomicU64::new(0) });
///     let config = JobConfig::new("sum1", squares.clone(), cx.handle().clone());
///     let job = registry.create(config)?;
///     job.start()?;
///     job.wait().await.into_result()?;
///     assert_eq!(squares.sum.load(Ordering::Relaxed), 332_833_500);
///     assert_eq!(job.progress().snapshot().current, 1000);
///
///     // A job that is cancelled ends as cancelled, however its body returns.
///     let squares = Arc::new(Squares { end: 1 << 20, sum: AtomicU64::new(0) });
///     let job = registry.create(JobConfig::new("sum2", squares, cx.handle().clone()))?;
///     job.start()?;
///     job.pause()?;
///     job.quiesced().await;
///     job.cancel(CancelMode::Force)?;
///     assert!(matches!(job.wait().await, JobOutcome::Cancelled(_)));
///     Ok::<(), JobError>(())
/// })??;
/// # Ok(())
/// # }
/// ```
///
/// ## The body
///
/// - It comes to a pause point in bounded time, whatever happens. Each wait of its [`JobContext`]
///   ends with one, so a body that waits there often enough needs no other.
/// - After each wait it may be cancelled: it looks, and returns. What it waits for besides its own
///   sleeps it waits for through [`or_cancelled`](JobContext::or_cancelled), if that may never come.
/// - It may be on another thread after each wait, so it keeps nothing of a context across one: what
///   needs a context runs [on it](JobContext::on_context), and only the result comes back.
/// - It never blocks; others live on its context as well.
/// - It keeps requests in flight, if it wants to, as [tasks](JobContext::spawn). Then
///   [`pause`](Self::pause) waits until they have ended: that nothing of a paused job is in flight is
///   what others rely on.
/// - A sleep may end early, for a pause or because somebody woke the job: who needs all of a delay
///   loops, and computes each time how much is left.
///
/// ## Two ways to end
///
/// A body that returns ends the job. One that goes on until it is told to stop, such as a copy that
/// follows its source, says that it is [ready](JobContext::become_ready), and overrides
/// [`can_complete`](Self::can_complete) and [`complete`](Self::complete). Both they and
/// [`cancel`](Self::cancel) only set flags, since the body has the say:
///
/// ```
/// # use std::sync::{Arc, atomic::{AtomicBool, Ordering}};
/// # use aio::Config;
/// # use job::{BoxFuture, CancelMode, JobConfig, JobContext, JobDriver, JobError, JobRegistry};
/// #[derive(Default)]
/// struct Follow {
///     may_end: AtomicBool,
///     is_ready: AtomicBool,
/// }
///
/// impl JobDriver for Follow {
///     fn kind(&self) -> &'static str {
///         "follow"
///     }
///
///     fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
///         Box::pin(async {
///             job.become_ready();
///             self.is_ready.store(true, Ordering::Release);
///             // A soft cancel means: end as you are. A forced one needs no result.
///             while !self.may_end.load(Ordering::Acquire) && !job.is_cancel_requested() {
///                 // Whoever has work for the body calls `Job::wake`. None of that is lost.
///                 job.park().await;
///             }
///             Ok(())
///         })
///     }
///
///     fn can_complete(&self) -> bool {
///         true
///     }
///
///     fn complete(&self) -> Result<(), JobError> {
///         self.may_end.store(true, Ordering::Release);
///         Ok(())
///     }
///
///     fn cancel(&self, mode: CancelMode) -> CancelMode {
///         match self.is_ready.load(Ordering::Acquire) {
///             true => mode,
///             // There is no good end yet.
///             false => CancelMode::Force,
///         }
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # aio::run(Config::default(), |cx| async move {
/// # let registry = JobRegistry::new(cx.handle().clone());
/// # for is_asked_to_complete in [true, false] {
/// # let follow = Arc::<Follow>::default();
/// # let job = registry.create(JobConfig::new("f", follow, cx.handle().clone()))?;
/// # job.start()?;
/// # while !job.status().is_ready() { cx.yield_now().await; }
/// # match is_asked_to_complete { true => job.complete()?, false => job.cancel(CancelMode::Soft)? }
/// # job.wait().await.into_result()?;
/// # }
/// # Ok::<(), JobError>(())
/// # })??;
/// # Ok(())
/// # }
/// ```
///
/// ## The end
///
/// What the job did becomes permanent, or is undone, in hooks on the main context. Whatever may go
/// wrong goes wrong in [`prepare`](Self::prepare), the last to have a say; [`commit`](Self::commit)
/// cannot fail, since other members of the transaction may be committed by then.
/// [`abort`](Self::abort) undoes what is there to be undone: it may be all, or nothing if the job was
/// never started. [`clean`](Self::clean) comes after either and lets go of what the job holds; the
/// struct itself stays as long as somebody has a handle of the job, to ask it for its result.
/// The example `transaction` of this crate shows three jobs that publish three files, or none.
pub trait JobDriver: Send + Sync + 'static {
    /// What kind of job this is, such as `backup`.
    fn kind(&self) -> &'static str;

    /// What a layer above wants to find again when it meets the job: see
    /// [`Job::extension`](crate::Job::extension). Always the same object.
    fn extension(&self) -> Option<&(dyn Any + Send + Sync)> {
        None
    }

    /// The work. Runs once, on the job's context, and follows the job if that is moved to another one
    /// ([`Job::set_context`](crate::Job::set_context)): during its waits, and only then.
    ///
    /// It must reach a pause point in bounded time, see that it is cancelled
    /// ([`JobContext::is_cancelled`]), and have no request in flight when it returns; but a job that is
    /// cancelled by force waits for nothing that may never come ([`JobContext::or_cancelled`]).
    ///
    /// # Errors
    ///
    /// What made the job fail. A job that was cancelled by force ends as cancelled whatever this
    /// returns.
    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>>;

    /// A pause is about to begin, of the user or of a hold: ends once no request is in flight, and
    /// nothing else is left on the job's context. Runs there; dropped if the job is cancelled by force meanwhile.
    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// A pause is over; comes after each `pause`, even if the pause was called off meanwhile. On the
    /// job's context, which may be another one than before.
    fn resume(&self) {}

    /// The user is about to undo a pause (or a cancel does it for him): resets error status.
    fn user_resume(&self) {}

    /// A cancel came; returns how much of one it is.
    ///
    /// A job driver that can end well early answers `Soft` to a soft cancel while it is ready.
    /// `Force` stays `Force` whatever this returns.
    fn cancel(&self, _mode: CancelMode) -> CancelMode {
        CancelMode::Force
    }

    /// Whether [`complete`](Self::complete) does anything: only such job drivers become ready.
    fn can_complete(&self) -> bool {
        false
    }

    /// The user asks a ready job to finish.
    ///
    /// # Errors
    ///
    /// Why it cannot; the verb fails with it and the job goes on.
    fn complete(&self) -> Result<(), JobError> {
        Ok(())
    }

    /// The last step that may fail: after it, and that of every other member, the job is a success.
    ///
    /// # Errors
    ///
    /// What makes the job, and with it its transaction, fail late.
    fn prepare<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, Result<(), JobError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Makes the result permanent. Cannot fail.
    fn commit<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Undoes what the job did; also for a job that was never started.
    fn abort<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Lets go of everything, after commit or abort.
    fn clean<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}
