//! What is counted of the requests of a node.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{allocation::ByteRange, node_driver::Way};

/// What went through a node since it was added. Requests that failed are counted as errors only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeStatistics {
    /// Reads that succeeded.
    pub reads: u64,
    /// Bytes they read.
    pub read_bytes: u64,
    /// Writes and writes of zeroes that succeeded.
    pub writes: u64,
    /// Bytes they wrote.
    pub written_bytes: u64,
    /// Discards that succeeded.
    pub discards: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Bytes read or written without ever being in a buffer of ours: moved from file to file by the kernel.
    pub offloaded_bytes: u64,
    /// Bytes read or written without a copy by the CPU.
    pub direct_bytes: u64,
    /// Bytes read or written through the page cache, or in memory that is the storage itself.
    pub buffered_bytes: u64,
    /// Bytes read or written by way of a second buffer.
    pub bounced_bytes: u64,
    /// Data requests that took a second buffer, being unaligned or too long.
    pub bounced: u64,
    /// Requests of any kind that failed.
    pub errors: u64,
}

/// The counters of a node, moved by any number of threads.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) reads: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) discards: AtomicU64,
    pub(super) flushes: AtomicU64,
    bounced: AtomicU64,
    pub(super) errors: AtomicU64,
    offloaded_bytes: AtomicU64,
    direct_bytes: AtomicU64,
    buffered_bytes: AtomicU64,
    bounced_bytes: AtomicU64,
}

impl Counters {
    /// Data that was read or written has gone this way.
    pub(super) fn moved(&self, way: Way, range: ByteRange) {
        let bytes = match way {
            Way::Offloaded => &self.offloaded_bytes,
            Way::Direct => &self.direct_bytes,
            Way::Buffered => &self.buffered_bytes,
            Way::Bounced => &self.bounced_bytes,
        };
        bytes.fetch_add(range.len(), Relaxed);
        if way == Way::Bounced {
            self.bounced.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn statistics(&self) -> NodeStatistics {
        NodeStatistics {
            reads: self.reads.load(Relaxed),
            read_bytes: self.read_bytes.load(Relaxed),
            writes: self.writes.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed),
            discards: self.discards.load(Relaxed),
            flushes: self.flushes.load(Relaxed),
            offloaded_bytes: self.offloaded_bytes.load(Relaxed),
            direct_bytes: self.direct_bytes.load(Relaxed),
            buffered_bytes: self.buffered_bytes.load(Relaxed),
            bounced_bytes: self.bounced_bytes.load(Relaxed),
            bounced: self.bounced.load(Relaxed),
            errors: self.errors.load(Relaxed),
        }
    }
}
