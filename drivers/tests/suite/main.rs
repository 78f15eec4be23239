//! Backups as their users see them: memory disks behind fault filters, guests above, a job in between.

#![expect(clippy::unwrap_used, reason = "in a test, an error is a failure")]
#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "says which test hangs before it ends the process, and the seed of one that fails"
)]

mod cancel;
mod content;
mod drain;
mod ends;
mod errors;
mod failed_save;
mod guests;
mod instant;
mod oracle;
mod pause;
mod refusals;
mod speed;
mod threads;
mod world;
