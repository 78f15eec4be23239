//! The command as its users see it: arguments in; exit code, texts, records and files out.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "in a test an error is a failure, and docs/testing.md has skipped tests say so"
)]

mod copies;
mod demo;
mod devices;
mod exports;
mod limits;
mod nbd;
mod offload;
mod records;
mod refusals;
mod signals;
mod terminal;
mod world;
