//! Job drivers: what backup does (mirror, commit and stream come on the same copy engine).
//!
//! | Job driver | reads | writes | leaves behind |
//! |---|---|---|---|
//! | [`backup`] | the source, through its filter | the target | the source at the instant of the start |

#![forbid(unsafe_code)]

pub mod backup;
mod copy_engine;
mod departure;
mod pace;

pub use pace::{PaceReason, PaceReport};
