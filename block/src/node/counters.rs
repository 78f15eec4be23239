//! What is counted of the requests of a node.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{allocation::ByteRange, node_driver::Way};

/// What went through a node since it was added. Requests that failed are counted as such only.
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
    /// Behind the last byte of the node that a write or a write of zeroes was for, whether it succeeded or not.
    pub written_end_bytes: u64,
    /// Reads that failed.
    pub failed_reads: u64,
    /// Writes and writes of zeroes that failed.
    pub failed_writes: u64,
    /// Discards that failed.
    pub failed_discards: u64,
    /// Flushes that failed.
    pub failed_flushes: u64,
}

impl NodeStatistics {
    /// Requests of any kind that failed.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.failed_reads + self.failed_writes + self.failed_discards + self.failed_flushes
    }
}

/// How many requests of a kind have ended.
#[derive(Debug, Default)]
pub(super) struct Tally {
    done: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    /// One has ended well.
    pub(super) fn succeeded(&self) {
        self.done.fetch_add(1, Relaxed);
    }

    /// One has ended well, or has failed.
    pub(super) fn count<T, E>(&self, result: &Result<T, E>) {
        match result {
            Ok(_) => self.succeeded(),
            Err(_) => {
                self.failed.fetch_add(1, Relaxed);
            }
        }
    }
}

/// The counters of a node, moved by any number of threads.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) reads: Tally,
    pub(super) read_bytes: AtomicU64,
    pub(super) writes: Tally,
    pub(super) written_bytes: AtomicU64,
    pub(super) discards: Tally,
    pub(super) flushes: Tally,
    written_end_bytes: AtomicU64,
    bounced: AtomicU64,
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

    /// A write begins that ends at `end_bytes`.
    pub(super) fn write_to(&self, end_bytes: u64) {
        // Looking costs less than changing, and most writes are below one that came before.
        if end_bytes > self.written_end_bytes.load(Relaxed) {
            self.written_end_bytes.fetch_max(end_bytes, Relaxed);
        }
    }

    pub(super) fn statistics(&self) -> NodeStatistics {
        NodeStatistics {
            reads: self.reads.done.load(Relaxed),
            read_bytes: self.read_bytes.load(Relaxed),
            writes: self.writes.done.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed),
            discards: self.discards.done.load(Relaxed),
            flushes: self.flushes.done.load(Relaxed),
            offloaded_bytes: self.offloaded_bytes.load(Relaxed),
            direct_bytes: self.direct_bytes.load(Relaxed),
            buffered_bytes: self.buffered_bytes.load(Relaxed),
            bounced_bytes: self.bounced_bytes.load(Relaxed),
            bounced: self.bounced.load(Relaxed),
            written_end_bytes: self.written_end_bytes.load(Relaxed),
            failed_reads: self.reads.failed.load(Relaxed),
            failed_writes: self.writes.failed.load(Relaxed),
            failed_discards: self.discards.failed.load(Relaxed),
            failed_flushes: self.flushes.failed.load(Relaxed),
        }
    }
}
