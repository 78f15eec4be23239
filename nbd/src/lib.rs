//! The NBD protocol, as bytes in and bytes out; no I/O.
//!
//! Whoever owns the socket feeds bytes and sends what comes out; nothing here
//! reads a clock, waits, or allocates by a number that a peer announced.
//! The text this follows is `doc/proto.md` of the `NetworkBlockDevice` project.
//!
//! ```text
//!              server                              client
//!   ┌────────────────────────────┐      ┌──────────────────────────────┐
//!   │ Negotiation                │      │ ClientNegotiation            │
//!   │   take_output() ───────────┼─────▶│   input()                    │
//!   │   input()       ◀──────────┼──────┼── take_output()              │
//!   │   outcome() = Session      │      │   outcome() = ClientSession  │
//!   ├────────────────────────────┤      ├──────────────────────────────┤
//!   │ Request::decode, check     │◀─────┼── Request::encode, payload   │
//!   │ ReplyStyle::{done, error,  │      │                              │
//!   │   read_data}, *_chunk,     │      │                              │
//!   │   block_status_chunk ──────┼─────▶│ Reply::decode, ErrorReport,  │
//!   │                            │      │ BlockStatus                  │
//!   └────────────────────────────┘      └──────────────────────────────┘
//! ```
//!
//! During transmission this crate makes and reads *headers* only.
//! Data of reads and writes stays in the caller's own buffers: a header says
//! how many payload bytes follow, and the caller moves them.
//!
//! Missing on purpose: TLS (refused), extended headers on the client's side,
//! oldstyle negotiation, limits in time (the caller's).

#![forbid(unsafe_code)]

mod address;
mod client;
mod errno;
mod error;
mod export;
mod flags;
mod option;
mod reply;
mod request;
mod server;
mod status;
mod wire;

#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod session_tests;

pub use address::{NbdAddress, NbdUri, UriError};
pub use client::{
    ClientGoal, ClientNegotiation, ClientOutcome, ClientSession, ListedExport, MAX_LISTED_EXPORTS,
};
pub use errno::Errno;
pub use error::ProtocolError;
pub use export::{
    ALLOCATION_DEPTH, BASE_ALLOCATION, BlockSizes, DIRTY_BITMAP, ExportInfo, ExportLimits,
    MetaContext,
};
pub use flags::{CommandFlags, TransmissionFlags};
pub use option::{MAX_OPTION_BYTES, MAX_SKIPPED_OPTION_BYTES, OptionRefusal};
pub use reply::{
    ChunkBody, ChunkEnd, ErrorReport, ErrorShape, MAX_ERROR_TEXT_BYTES, Reply, ReplyStyle,
    data_chunk, error_at_chunk, error_chunk, hole_chunk, none_chunk, simple_reply,
};
pub use request::{Command, HeaderMode, MAX_TRANSFER_BYTES, Request};
pub use server::{MAX_OPTIONS, Negotiation, Outcome, Session};
pub use status::{
    BlockStatus, MAX_STATUS_EXTENTS, STATE_DIRTY, STATE_HOLE, STATE_ZERO, StatusExtent,
    StatusQuery, block_status_chunk, extended_status_chunk,
};
pub use wire::{HeaderBytes, MAX_STRING_BYTES};
