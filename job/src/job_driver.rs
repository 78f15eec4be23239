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
/// moment. A panic in a hook is our own bug and ends the process.
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
