//! Job drivers: what backup does (mirror, commit and stream come on the same copy engine).
//!
//! | Job driver | reads | writes | leaves behind |
//! |---|---|---|---|
//! | [`backup`] | the source, through its copy-before-write filter | the target | the source as it was at the instant the job began |

#![forbid(unsafe_code)]

pub mod backup;
mod copy_engine;
mod pace;

pub use pace::PaceReport;
