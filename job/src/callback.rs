//! [`current_callback`]: whose code a thread is in, so that a panic there can say so.
//!
//! A panic in a callback is a bug, and the job at hand is half-way through something that nobody else
//! can finish or undo; so the process ends. With `panic = "abort"` it ends by itself, after the
//! panic hook, which asks [`current_callback`]. Where panics unwind, [`Named`] stops them here.

use std::{
    cell::RefCell,
    fmt,
    future::{Future, poll_fn},
    io::Write,
    pin::pin,
    sync::Arc,
};

use crate::{event::EventJob, job::Job, runtime::panicking};

/// A place where a job calls code that is not this crate's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Callback {
    /// [`JobDriver::run`](crate::JobDriver::run), and what the body spawned through its context.
    Run,
    /// [`JobDriver::pause`](crate::JobDriver::pause).
    Pause,
    /// [`JobDriver::resume`](crate::JobDriver::resume).
    Resume,
    /// [`JobDriver::user_resume`](crate::JobDriver::user_resume).
    UserResume,
    /// [`JobDriver::cancel`](crate::JobDriver::cancel).
    Cancel,
    /// [`JobDriver::complete`](crate::JobDriver::complete).
    Complete,
    /// [`JobDriver::prepare`](crate::JobDriver::prepare).
    Prepare,
    /// [`JobDriver::commit`](crate::JobDriver::commit).
    Commit,
    /// [`JobDriver::abort`](crate::JobDriver::abort).
    Abort,
    /// [`JobDriver::clean`](crate::JobDriver::clean).
    Clean,
    /// A subscriber that hears an event of the job.
    Subscriber,
    /// What was to be called at a [moment](crate::JobMoment) of the job.
    Moment,
    /// What a layer above calls of its own for the job, by that name: see
    /// [`Job::call_named`](crate::Job::call_named).
    Layer(&'static str),
}

impl Callback {
    /// The name that a panic is told with: that of the method.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::UserResume => "user_resume",
            Self::Cancel => "cancel",
            Self::Complete => "complete",
            Self::Prepare => "prepare",
            Self::Commit => "commit",
            Self::Abort => "abort",
            Self::Clean => "clean",
            Self::Subscriber => "subscriber",
            Self::Moment => "moment",
            Self::Layer(name) => name,
        }
    }
}

impl fmt::Display for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose code runs. Displayed as `job 'b1' (backup), in 'run'`.
#[derive(Clone, Debug)]
pub struct CurrentCallback {
    /// The job's id; absent in internal jobs.
    pub id: Option<Arc<str>>,
    /// What its driver calls itself, such as `backup`.
    pub kind: &'static str,
    /// What it was called for.
    pub callback: Callback,
}

impl CurrentCallback {
    /// A subscriber that hears an event of `job`.
    pub(crate) fn subscriber(job: &EventJob) -> Self {
        Self {
            id: Some(job.id.clone()),
            kind: job.kind,
            callback: Callback::Subscriber,
        }
    }
}

impl fmt::Display for CurrentCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, kind, callback } = self;
        match id {
            Some(id) => write!(f, "job '{id}' ({kind}), in '{callback}'"),
            None => write!(f, "an internal job ({kind}), in '{callback}'"),
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Option<CurrentCallback>> = const { RefCell::new(None) };
}

/// The callback of a job that the calling thread is in; the innermost, if they nest.
///
/// For a panic hook: what it returns belongs into the last words of the process.
///
/// ```
/// let hook = std::panic::take_hook();
/// std::panic::set_hook(Box::new(move |panic| {
///     hook(panic);
///     if let Some(current) = job::current_callback() {
///         eprintln!("the panic was in {current}");
///     }
/// }));
/// # let _ = std::panic::take_hook();
/// ```
pub fn current_callback() -> Option<CurrentCallback> {
    CURRENT
        .try_with(|current| current.try_borrow().ok()?.clone())
        .ok()?
}

impl Job {
    /// Calls a hook that a layer above has for the job, so that a panic in it is told as one in the
    /// hooks of this crate is: with the job, and as `name`. On the calling thread.
    pub fn call_named<R>(&self, name: &'static str, call: impl FnOnce() -> R) -> R {
        named(self.cell.current(Callback::Layer(name)), call)
    }
}

/// Runs `call` as the callback `current`: a panic in it ends the process and says where it was.
pub(crate) fn named<R>(current: CurrentCallback, call: impl FnOnce() -> R) -> R {
    let _named = Named::enter(current);
    call()
}

/// The same for a future, around each poll.
pub(crate) async fn named_future<F: Future>(current: CurrentCallback, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| named(current.clone(), || future.as_mut().poll(cx))).await
}

/// What a thread is in, from [`Named::enter`] until this is dropped.
struct Named {
    outer: Option<CurrentCallback>,
    /// A panic that was under way before, such as that of a test, is not this callback's.
    was_panicking: bool,
}

impl Named {
    fn enter(current: CurrentCallback) -> Self {
        Self {
            outer: replace(Some(current)),
            was_panicking: panicking(),
        }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let current = replace(self.outer.take());
        if let (Some(current), true, false) = (current, panicking(), self.was_panicking) {
            // Not by `tracing`: it is the last word, and perhaps nobody listens there.
            let _ = writeln!(
                std::io::stderr(),
                "{current}: a panic there ends the process"
            );
            std::process::abort();
        }
    }
}

/// Sets what the thread is in. One that ends, and has no place for it any more, is in nothing.
fn replace(current: Option<CurrentCallback>) -> Option<CurrentCallback> {
    CURRENT.try_with(|place| place.replace(current)).ok()?
}
