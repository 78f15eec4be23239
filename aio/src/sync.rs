//! Synchronisation primitives: those of std, or loom's under `--cfg loom`.
//!
//! A protocol that is model-checked takes its primitives from here, so that the model runs the
//! very code that ships. Everything else uses std directly.

#[cfg(loom)]
pub use loom::sync::{Arc, Condvar, Mutex, MutexGuard, atomic};
#[cfg(not(loom))]
pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, atomic};
