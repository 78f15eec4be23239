//! Measurements: what they share, and the raw loops that we are measured against.
//!
//! Each measurement is a race: our way and its peers take turns in the same process, so that a
//! noisy machine disturbs them alike. See `docs/benchmarks.md`.

mod cpu;
mod event_loop;
mod machine;
mod race;
pub mod raw_copy;
pub mod raw_counter;
pub mod raw_memory;
pub mod raw_poll;
pub mod raw_ring;
pub mod raw_send;
mod scratch;
#[cfg(test)]
mod skip;
mod tell;

pub use cpu::{Stay, pin_to, two_cpus};
pub use event_loop::{DEPTH, Loop, direct_reads, random_reads};
pub use machine::{Moment, cpu_time, rest, thread_cpu_time};
pub use race::{Races, Side, races};
pub use scratch::{BLOCK_BYTES, CHUNK_BYTES, RandomBlocks, Scratch};
pub use tell::{Disturbed, percentile, skipped, spread, tell_figure, tell_ratio};
