//! Block nodes and requests; no jobs.

#![forbid(unsafe_code)]

pub mod allocation;
pub mod dirty_bitmap;
pub mod error;
mod gate;
pub mod node_driver;
mod wait;

#[cfg(test)]
mod testing;

pub use allocation::{AllocationStatus, ByteRange, Extent};
pub use dirty_bitmap::DirtyBitmap;
pub use error::{BlockError, ErrorKind};
pub use node_driver::{Limits, NodeDriver, RequestFlags, RequestFuture, Transferred, Way};
