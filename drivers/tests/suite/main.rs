//! Backups and mirrors as their users see them: memory disks behind fault filters, guests above, a job in between.

#![expect(clippy::unwrap_used, reason = "in a test, an error is a failure")]
#![expect(
    clippy::print_stdout,
    reason = "a random test that fails shows its seed"
)]

mod bitmaps;
mod block_job;
mod cancel;
mod content;
mod copy_on_read;
mod drain;
mod ends;
mod errors;
mod exhibits;
mod failed_save;
mod fleece;
mod group;
mod guests;
mod instant;
mod mirror;
mod modes;
mod options;
mod oracle;
mod overlay;
mod pace;
mod pause;
mod refusals;
mod requests;
mod speed;
mod stacked;
mod stuck;
mod threads;
mod world;
