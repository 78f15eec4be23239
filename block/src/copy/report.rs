//! What a copy tells: how bytes went, and which side failed.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{allocation::ByteRange, error::BlockError, node_driver::Way};

/// How an area came to be equal on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyClass {
    /// Its data moved; the dearest way of its pieces.
    Copied(Way),
    /// Zeroes, written as such.
    Zero,
    /// Zeroes on a target that has them already.
    Skipped,
    /// Nothing of the source's own, where only that is to be copied: left alone.
    Unallocated,
}

/// What one claim came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The bytes that are copied now.
    pub range: ByteRange,
    /// How.
    pub class: CopyClass,
}

/// Bytes by the way they went. The sum is the number of bytes done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyCounters {
    /// Moved or shared by the kernel or the file system, without a buffer of ours.
    pub offloaded_bytes: u64,
    /// Between device and buffer on both sides, without a copy by the CPU.
    pub direct_bytes: u64,
    /// Through the page cache on at least one side.
    pub buffered_bytes: u64,
    /// Copied to a second buffer on at least one side.
    pub bounced_bytes: u64,
    /// Zeroes, written as such.
    pub zero_bytes: u64,
    /// Zeroes that needed nothing.
    pub skipped_bytes: u64,
}

/// Side of a copy that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopySide {
    /// Reading the source.
    Read,
    /// Writing the target.
    Write,
}

/// A failed copy: which side, and its node's error.
#[derive(Debug)]
pub struct CopyError {
    side: CopySide,
    error: BlockError,
}

impl CopyError {
    pub(crate) fn new(side: CopySide, error: BlockError) -> Self {
        Self { side, error }
    }

    /// Which side failed.
    #[must_use]
    pub fn side(&self) -> CopySide {
        self.side
    }

    /// The failed node's error.
    #[must_use]
    pub fn error(&self) -> &BlockError {
        &self.error
    }

    /// The failed node's error, by itself.
    #[must_use]
    pub fn into_error(self) -> BlockError {
        self.error
    }
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.side {
            CopySide::Read => "the source could not be read",
            CopySide::Write => "the target could not be written",
        })
    }
}

impl std::error::Error for CopyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Counters as many contexts move them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    offloaded: AtomicU64,
    direct: AtomicU64,
    buffered: AtomicU64,
    bounced: AtomicU64,
    zero: AtomicU64,
    skipped: AtomicU64,
}

/// Pieces of one claim by way; they count once the whole claim is copied.
#[derive(Debug, Default)]
pub(super) struct Tally {
    offloaded: u64,
    direct: u64,
    buffered: u64,
    bounced: u64,
}

impl Tally {
    pub(super) fn add(&mut self, way: Way, len_bytes: u64) {
        *match way {
            Way::Offloaded => &mut self.offloaded,
            Way::Direct => &mut self.direct,
            Way::Buffered => &mut self.buffered,
            Way::Bounced => &mut self.bounced,
        } += len_bytes;
    }
}

impl Counters {
    pub(super) fn add(&self, tally: &Tally, class: CopyClass, len_bytes: u64) {
        match class {
            CopyClass::Copied(_) => {
                self.offloaded.fetch_add(tally.offloaded, Ordering::Relaxed);
                self.direct.fetch_add(tally.direct, Ordering::Relaxed);
                self.buffered.fetch_add(tally.buffered, Ordering::Relaxed);
                self.bounced.fetch_add(tally.bounced, Ordering::Relaxed);
            }
            CopyClass::Zero => {
                self.zero.fetch_add(len_bytes, Ordering::Relaxed);
            }
            CopyClass::Skipped => {
                self.skipped.fetch_add(len_bytes, Ordering::Relaxed);
            }
            CopyClass::Unallocated => {}
        }
    }

    pub(super) fn read(&self) -> CopyCounters {
        CopyCounters {
            offloaded_bytes: self.offloaded.load(Ordering::Relaxed),
            direct_bytes: self.direct.load(Ordering::Relaxed),
            buffered_bytes: self.buffered.load(Ordering::Relaxed),
            bounced_bytes: self.bounced.load(Ordering::Relaxed),
            zero_bytes: self.zero.load(Ordering::Relaxed),
            skipped_bytes: self.skipped.load(Ordering::Relaxed),
        }
    }
}
