//! Job drivers: what backup and mirror do (commit and stream come on the same copy engine).
//!
//! | Job driver | reads | writes | leaves behind |
//! |---|---|---|---|
//! | [`backup`] | the source, through its filter | the target | the source at the instant of the start |
//! | [`mirror`] | the source, below its filter | the target | the source at the instant of the end, which may become the guests' |

#![forbid(unsafe_code)]

pub mod backup;
mod converge;
mod copy_engine;
mod departure;
pub mod mirror;
mod pace;
mod sync_bitmap;

pub use converge::{ConvergePolicy, ConvergeReport, Estimate};
pub use pace::{PaceReason, PaceReport};
pub use sync_bitmap::BitmapMode;
