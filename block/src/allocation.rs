//! Byte ranges of a node and what lies in them: data, zeroes, or nothing of its own.

use std::fmt;

/// A half-open range of bytes, `offset_bytes .. offset_bytes + len_bytes`.
///
/// The end never overflows: [`ByteRange::new`] checks it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteRange {
    offset_bytes: u64,
    len_bytes: u64,
}

impl ByteRange {
    /// The range of `len_bytes` bytes at `offset_bytes`; `None` when its end does not fit a `u64`.
    #[must_use]
    pub fn new(offset_bytes: u64, len_bytes: u64) -> Option<Self> {
        offset_bytes.checked_add(len_bytes)?;
        Some(Self {
            offset_bytes,
            len_bytes,
        })
    }

    /// The range from `start_bytes` up to, and without, `end_bytes`; empty when `end_bytes` is not beyond the start.
    #[must_use]
    pub fn between(start_bytes: u64, end_bytes: u64) -> Self {
        Self {
            offset_bytes: start_bytes,
            len_bytes: end_bytes.saturating_sub(start_bytes),
        }
    }

    /// First byte of the range.
    #[must_use]
    pub fn start(self) -> u64 {
        self.offset_bytes
    }

    /// First byte behind the range.
    #[must_use]
    pub fn end(self) -> u64 {
        self.offset_bytes + self.len_bytes
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(self) -> u64 {
        self.len_bytes
    }

    /// Whether the range has no byte.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len_bytes == 0
    }

    /// Whether the two ranges share a byte.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start() < other.end() && other.start() < self.end()
    }

    /// Whether every byte of `other` lies in this range.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.start() <= other.start() && other.end() <= self.end()
    }

    /// The smallest range of whole `unit_bytes` units that holds this one, cut at `limit_bytes`.
    ///
    /// # Panics
    ///
    /// When `unit_bytes` is zero.
    #[must_use]
    pub fn widened(self, unit_bytes: u64, limit_bytes: u64) -> Self {
        let start = self.start() / unit_bytes * unit_bytes;
        let end = self.end().div_ceil(unit_bytes).saturating_mul(unit_bytes);
        Self::between(start, end.min(limit_bytes).max(start))
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {}", self.len_bytes, self.offset_bytes)
    }
}

/// What a run of bytes is, as seen at one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocationStatus {
    /// Bytes that must be read to be known.
    Data,
    /// Reads as zeroes without touching the storage.
    Zero,
    /// This layer has nothing here; what is read comes from its backing child.
    Unallocated,
}

/// The longest run, from a queried offset on, whose bytes share one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes; at least one for a non-empty query.
    pub len_bytes: u64,
    /// Status of every byte of the run.
    pub status: AllocationStatus,
}
