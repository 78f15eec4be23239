//! A job that holds nodes.
//!
//! - [`BlockJob`]: the nodes a job holds, its speed limit and I/O status; a drain of one of the
//!   nodes pauses the job and waits until it stands still.
//! - [`RateLimit`]: how fast a job may move bytes.
//! - [`OnError`]: what it does about errors, and what queries and events say about them.

#![forbid(unsafe_code)]

mod block_job;
mod on_error;
mod rate_limit;

pub use block_job::BlockJob;
pub use on_error::{ErrorAction, ErrorSide, IoStatus, OnError};
pub use rate_limit::{NegativeSpeed, RateLimit, speed_from_client};
