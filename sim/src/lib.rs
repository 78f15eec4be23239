//! A world in one thread, drawn from a seed, that runs the product code unchanged.
//!
//! ```text
//!   seed --> plan:   how many disks, guests, contexts; which faults, which verbs; when power fails
//!            world:  contexts on a clock moved by hand, disks; draws who has the next turn
//!            guests: write stamps, read, zero, discard, flush       oracle: what every byte may be,
//!            user:   starts jobs, uses verbs, drains, moves         what every job has promised
//! ```
//!
//! Nothing in here depends on real time, on threads or on the order of hash tables, so that a seed
//! happens the same way every time: see [`run_seed`]. What must hold is numbered, D1 to D12, in
//! docs/testing.md.

#![forbid(unsafe_code)]

mod chain;
mod chance;
mod check;
mod disk;
mod guest;
mod history;
mod jobs;
mod plan;
mod run;
mod stage;
mod start;
mod trace;
mod user;
mod world;

pub use jobs::Ends;
pub use plan::JobKinds;
pub use run::{Report, run_seed};
pub use trace::{Keep, Violation, last_events};
