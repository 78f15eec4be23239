//! What can go wrong when a context is made; requests report `std::io::Error`.

use std::io;

use crate::backend::BackendKind;

/// Why a context, or the thread that runs one, could not be made, or not be set as was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AioError {
    /// The backend that was asked for by name cannot be had here.
    #[error("the {backend} backend is not available here: {why}")]
    BackendUnavailable {
        /// The backend that was asked for.
        backend: BackendKind,
        /// What is missing, in words for an operator.
        why: String,
        /// The system's error, where there was one.
        #[source]
        source: Option<io::Error>,
    },
    /// A descriptor, a mapping or a thread could not be had.
    #[error("cannot make {what} for an event loop")]
    Resource {
        /// What was being made.
        what: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The least number of threads in a pool is negative or above the greatest, or that is not positive.
    #[error("bad thread-pool-min/thread-pool-max values")]
    ThreadPoolLimits,
    /// `LONGSHORE_AIO` names no backend.
    #[error("LONGSHORE_AIO is '{0}', which is neither 'io_uring' nor 'epoll'")]
    UnknownBackend(String),
}
