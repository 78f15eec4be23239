//! Background jobs of any kind.
//!
//! A [`Job`] is work that goes on beside everything else and can be watched, paused, resumed and
//! cancelled. What it does is a [`JobDriver`]'s business; this crate knows when and where each part
//! of it runs, and what the outside hears of it. [`JobStatus`] has the picture of a life.
//!
//! # Who runs where
//!
//! - The body ([`JobDriver::run`]) runs on the context that the job was made for, or was
//!   [moved](Job::set_context) to since. It stops for a pause at pause points, and for a cancel when
//!   it looks, with the help of its [`JobContext`].
//! - Completion (prepare, then commit or abort, then clean, across the members of a
//!   [`Transaction`]) and events belong to the main context of the [`JobRegistry`].
//! - Verbs and queries may come from any thread.
//! - A panic in any of this ends the process, and says in which callback of which job
//!   ([`current_callback`]).
//! - Code of ours that works for one job hears of its [moments](Job::notify_on) on the main context,
//!   in order with the events; code that cannot await waits for it by [`Job::finish_sync`].
//!
//! # One lock
//!
//! One mutex per registry guards its list and everything that changes about its jobs; no hook,
//! waker or subscriber runs under it, and it is never held across an await. Progress meters and
//! outcomes have small locks of their own below it.
//!
//! # Missing on purpose
//!
//! Speed limits and error policies belong to jobs that move bytes, one crate up.

#![forbid(unsafe_code)]
#![cfg_attr(
    all(test, shuttle),
    expect(
        private_bounds,
        private_interfaces,
        reason = "only models see the stand-ins"
    )
)]

mod alarm;
mod body;
mod callback;
mod cancel;
mod error;
mod event;
mod finish;
mod history;
#[cfg(all(test, shuttle))]
mod interleave;
mod job;
mod job_context;
mod job_driver;
mod main_end;
mod moment;
mod outcome;
mod pause_all;
mod progress;
mod record;
mod registry;
mod relocate;
mod runtime;
mod state;
mod status;
mod transaction;
mod verb;
mod weak;

pub use callback::{Callback, CurrentCallback, current_callback};
pub use error::{JobError, JobErrorKind};
pub use event::{EventJob, JobEvent};
pub use history::JobHistoryEntry;
pub use job::{Job, JobInfo, PauseHold};
pub use job_context::JobContext;
pub use job_driver::{BoxFuture, JobDriver, LocalBoxFuture};
pub use moment::{JobMoment, MomentGuard};
pub use outcome::{JobOutcome, JobWait};
pub use pause_all::PauseAll;
pub use progress::{Progress, ProgressMeter};
pub use registry::{JobConfig, JobRegistry, RegistryConfig, Subscription, Trigger};
pub use status::JobStatus;
pub use transaction::Transaction;
pub use verb::{CancelMode, JobVerb};
pub use weak::WeakJob;
