//! A job that holds nodes.
//!
//! - [`BlockJob`]: the nodes a job holds, its speed limit and I/O status; a drain of one of the
//!   nodes pauses the job and waits until it stands still, and a node that moves to another context
//!   takes it along.
//! - [`BlockJobDriver`]: what the driver of such a job may add to a job driver, and how to write one.
//! - [`BlockJobInfo`]: what queries show; [`find_block_job`] finds one by its id.
//! - [`RateLimit`]: how fast a job may move bytes.
//! - [`OnError`]: what it does about errors, and what queries and events say about them.

#![forbid(unsafe_code)]

mod block_job;
mod block_job_driver;
mod info;
mod on_error;
mod rate_limit;

pub use block_job::BlockJob;
pub use block_job_driver::{Activity, BlockJobDriver, JobChange};
pub use info::{BlockJobInfo, block_jobs, find_block_job};
pub use on_error::{ErrorAction, ErrorSide, IoStatus, OnError};
pub use rate_limit::{NegativeSpeed, RateLimit, speed_from_client};
