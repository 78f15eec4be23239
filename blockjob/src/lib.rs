//! A job that holds nodes.
//!
//! - [`RateLimit`]: how fast a job may move bytes.
//! - [`OnError`]: what it does about errors, and what queries and events say about them.

#![forbid(unsafe_code)]

mod on_error;
mod rate_limit;

pub use on_error::{ErrorAction, ErrorSide, IoStatus, OnError};
pub use rate_limit::{NegativeSpeed, RateLimit, speed_from_client};
