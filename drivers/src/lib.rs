//! Job drivers: what backup and mirror do (commit and stream come on the same copy engine).
//!
//! | Job driver | reads | writes | leaves behind |
//! |---|---|---|---|
//! | [`backup`] | the source, through its filter | the target | the source at the instant of the start |
//! | [`fleece`] | a snapshot of the source, which saves old data to a scratch node | the target | the same |
//! | [`mirror`] | the source, below its filter | the target | the source at the instant of the end |

#![forbid(unsafe_code)]

pub mod backup;
mod converge;
mod copy_engine;
mod departure;
pub mod fleece;
pub mod mirror;
mod pace;
mod sync_bitmap;

pub use converge::{ConvergePolicy, ConvergeReport, Estimate};
pub use pace::{PaceReason, PaceReport, Tuning};
pub use sync_bitmap::BitmapMode;
