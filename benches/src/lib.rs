//! Measurements: what they share, and the raw loops that we are measured against.
//!
//! Each measurement is a race: our way and its peers take turns in the same process, so that a
//! noisy machine disturbs them alike. See `docs/benchmarks.md`.

mod cpu;
mod event_loop;
mod race;
pub mod raw_ring;
mod scratch;

pub use cpu::{pin_to, two_cpus};
pub use event_loop::{DEPTH, Loop, random_reads};
pub use race::{Races, Side, races, skipped};
pub use scratch::{BLOCK_BYTES, RandomBlocks, Scratch};
