//! The two ways to talk to the kernel, behind one small trait; chosen at run time by probing.

pub(crate) mod epoll;
pub(crate) mod uring;

use std::{env, fmt, io, os::fd::OwnedFd, sync::Arc};

use crate::{
    buf::PoolShared,
    context::Config,
    error::AioError,
    fd::Fd,
    op::{Key, Outcome, WatchKey},
    request::{RequestTable, Slot},
    shared::Shared,
};

pub(crate) use uring::{MessageHeader, Slices};

/// A way to talk to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendKind {
    /// One `io_uring` for everything.
    IoUring,
    /// epoll for sockets and readiness, worker threads for disk I/O.
    Epoll,
}

impl BackendKind {
    /// The backend that the environment variable `LONGSHORE_AIO` asks for, if it does.
    ///
    /// # Errors
    ///
    /// [`AioError::UnknownBackend`] when its value is neither `io_uring` nor `epoll`.
    pub fn from_env() -> Result<Option<Self>, AioError> {
        match env::var("LONGSHORE_AIO") {
            Ok(name) if name == "io_uring" => Ok(Some(Self::IoUring)),
            Ok(name) if name == "epoll" => Ok(Some(Self::Epoll)),
            Ok(name) if name.is_empty() => Ok(None),
            Ok(name) => Err(AioError::UnknownBackend(name)),
            Err(_) => Ok(None),
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

/// How long the loop may wait for something to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all.
    No,
    /// At most so many nanoseconds.
    Ns(u64),
    /// Until something happens.
    Forever,
}

/// What a turn of the backend has brought.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// Operations that have ended.
    pub(crate) completions: Vec<(Key, Outcome)>,
    /// Watched descriptors that are ready, each at most once, with the `poll(2)` events that hold.
    pub(crate) ready: Vec<(WatchKey, i16)>,
}

/// Who runs an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Submitted {
    /// The backend.
    Taken,
    /// A worker must.
    ForWorker,
}

/// How the end of a backend went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The kernel is done with everything.
    Clean,
    /// It is not: what it may write to must stay where it is, for good.
    Stuck,
}

/// What a backend has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BackendStats {
    /// System calls that submit or wait.
    pub(crate) enters: u64,
    /// Times the kernel had more completions than room for them.
    pub(crate) cq_overflows: u64,
    /// Completions of what had been given up before.
    pub(crate) stale_completions: u64,
}

/// Runs operations that the table of requests owns, and watches descriptors.
///
/// A backend lives and dies on its context's home thread, together with the table that it is called
/// with: a slot in flight, and the operation in it, stay until the backend has brought its completion.
pub(crate) trait Backend: fmt::Debug {
    /// Which one this is.
    fn kind(&self) -> BackendKind;

    /// What it makes use of, in words for an operator.
    fn describe(&self) -> String;

    /// What it has counted.
    fn stats(&self) -> BackendStats;

    /// Starts an operation, if it runs such. It completes, once, out of a later [`Self::wait`].
    fn submit(&mut self, key: Key, request: &mut Slot) -> Submitted;

    /// Asks for an early end of an operation that nobody waits for any more. It still completes.
    fn cancel(&mut self, key: Key, request: &mut Slot);

    /// Makes requests on `fd` cheaper; returns a place for [`Self::unregister_file`] if it could.
    fn register_file(&mut self, fd: &Fd) -> Option<u16>;

    /// Ends that, once no request goes by it any more.
    fn unregister_file(&mut self, fd: &Fd, place: u16);

    /// Bounds how many operations gather before the kernel is told of them; zero is as many as fit.
    fn set_max_batch(&mut self, requests: u32);

    /// Watches `fd` for the `poll(2)` events, and for errors and hang-ups, until [`Self::unwatch`].
    ///
    /// Each [`Self::wait`] brings the events that hold, as far as it knows: what was reported and
    /// still holds is reported again for sure only after [`Self::recheck`]. Now and then a report
    /// is outdated.
    ///
    /// # Errors
    ///
    /// The system's; `EPERM` for what has no readiness, such as regular files.
    fn watch(&mut self, fd: &Fd, events: i16) -> io::Result<WatchKey>;

    /// Ends a watch. Nothing more is reported of it; the backend lets go of the descriptor in time.
    fn unwatch(&mut self, key: WatchKey);

    /// Has the next [`Self::wait`] look whether a watched descriptor is, or has stayed, ready.
    ///
    /// To be called when the descriptor was reported and data may have been left on it.
    fn recheck(&mut self, key: WatchKey);

    /// A descriptor that becomes readable when [`Self::wait`] would bring something or the context
    /// is kicked, for an outside epoll or poll: a duplicate, the caller's.
    ///
    /// From then on the context is foreign-driven: a wait that does not sleep takes the readiness back.
    ///
    /// # Errors
    ///
    /// The system's.
    fn foreign_fd(&mut self) -> io::Result<OwnedFd>;

    /// Whether something has happened that [`Self::wait`] would bring, as far as memory can tell.
    fn has_news(&mut self) -> bool;

    /// Whether a [`Self::wait`] that does not sleep could do or bring anything.
    fn is_busy(&mut self) -> bool;

    /// Hands new operations to the kernel, waits, and adds what has happened to `events`.
    ///
    /// Never runs anybody's code. Returns early when the context is kicked.
    fn wait(&mut self, wait: Wait, requests: &mut RequestTable, events: &mut Events);

    /// Cancels what can be cancelled and waits until the kernel is done with every operation.
    fn close(&mut self, requests: &mut RequestTable, events: &mut Events) -> Closed;
}

/// Makes the backend that was asked for, or the best one there is.
pub(crate) fn choose(
    config: &Config,
    shared: &Arc<Shared>,
    pool: &Arc<PoolShared>,
) -> Result<Box<dyn Backend>, AioError> {
    #[cfg(test)]
    #[cfg(not(loom))]
    if let Some(ring) = &config.test_ring {
        return Ok(ring.backend(shared, pool));
    }
    let wanted = match config.backend {
        Some(kind) => Some(kind),
        None => BackendKind::from_env()?,
    };
    if wanted != Some(BackendKind::Epoll) {
        let ring = uring::KernelRing::new(uring::Entries::new(config.ring_entries))
            .and_then(|ring| uring::Uring::new(ring, shared.clone(), pool.clone()));
        match ring {
            Ok(ring) => return Ok(Box::new(ring)),
            Err(error) if wanted.is_none() => {
                tracing::info!(%error, "no io_uring here; epoll and worker threads instead");
            }
            Err(error) => {
                let (backend, why) = (BackendKind::IoUring, uring::why_not(&error));
                return Err(AioError::BackendUnavailable {
                    backend,
                    why,
                    source: Some(error),
                });
            }
        }
    }
    let epoll = epoll::Epoll::new(shared.clone()).map_err(|source| AioError::Resource {
        what: "an epoll instance",
        source,
    })?;
    Ok(Box::new(epoll))
}

/// Whether an `io_uring` can be had here, and if not, why.
///
/// # Errors
///
/// A sentence for an operator, and the system's error.
pub fn probe_io_uring() -> Result<(), (String, io::Error)> {
    uring::probe().map_err(|error| (uring::why_not(&error), error))
}

#[cfg(test)]
#[cfg(not(loom))]
pub(crate) mod conformance;

#[cfg(test)]
#[cfg(not(loom))]
mod operation_tests;
#[cfg(test)]
#[cfg(not(loom))]
pub(crate) mod test_ring;
#[cfg(test)]
#[cfg(not(loom))]
pub(crate) mod tests_on_each;
#[cfg(test)]
#[cfg(not(loom))]
mod watch_tests;
