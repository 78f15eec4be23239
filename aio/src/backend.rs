//! The two ways to talk to the kernel, behind one small trait; chosen at run time by probing.

pub(crate) mod epoll;
pub(crate) mod uring;

use std::{env, fmt, io, sync::Arc};

use crate::{
    buf::PoolShared,
    error::AioError,
    op::{Completion, Key, Op},
    shared::Shared,
};

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

/// Runs operations; owns them, and all that the kernel touches for them, until they complete.
///
/// A backend lives and dies on its context's home thread. Dropping it waits until the kernel is
/// done with every operation.
pub(crate) trait Backend: fmt::Debug {
    /// Which one this is.
    fn kind(&self) -> BackendKind;

    /// What it makes use of, in words for an operator.
    fn describe(&self) -> String;

    /// Whether it runs disk operations itself; otherwise the context gives them to its workers.
    fn runs_disk(&self) -> bool;

    /// Starts an operation. It completes, once, out of a later [`Self::wait`].
    fn submit(&mut self, key: Key, op: Op);

    /// Asks for an early end of an operation that waits for a peer. It still completes.
    fn cancel(&mut self, key: Key);

    /// Whether something has happened that [`Self::wait`] would bring, as far as memory can tell.
    fn has_news(&mut self) -> bool;

    /// Hands new operations to the kernel, waits, and moves what has completed to `completions`.
    ///
    /// Never runs anybody's code. Returns early when the context is kicked.
    fn wait(&mut self, wait: Wait, completions: &mut Vec<Completion>);
}

/// Makes the backend that was asked for, or the best one there is.
pub(crate) fn choose(
    wanted: Option<BackendKind>,
    shared: &Arc<Shared>,
    pool: &Arc<PoolShared>,
) -> Result<Box<dyn Backend>, AioError> {
    let wanted = match wanted {
        Some(kind) => Some(kind),
        None => BackendKind::from_env()?,
    };
    if wanted != Some(BackendKind::Epoll) {
        match uring::Uring::new(shared.clone(), pool.clone()) {
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
