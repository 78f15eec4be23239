//! The daemon as its clients see it: a command line and commands in; replies, events, files and an exit code out.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test an error is a failure"
)]

mod abuse;
mod bare;
mod connections;
mod counts;
mod create;
mod ctl;
mod drive;
mod exhibits;
mod exports;
mod far;
mod jobs;
mod lines;
mod locks;
mod monitors;
mod nbd_abuse;
mod nbd_client;
mod nesting;
mod objects;
mod schema;
mod stream;
mod transaction;
mod world;
