//! One bit per granule of a node: set means "may differ since the bit was last cleared".

use crate::{
    allocation::ByteRange,
    error::{BlockError, ErrorKind},
};

mod chunks;
mod levels;
#[cfg(all(test, loom))]
mod models;
#[cfg(test)]
mod tests;

use self::levels::{Levels, Wanted};

/// Bits of one word.
const WORD_BITS: u64 = 64;

/// Most words that a bitmap may have, 4 GiB of them: the system grants more memory than there is, and a process that
/// then uses it is killed.
const WORDS_MAX: u64 = (4 << 30) / 8;

/// Which bytes of a node may have changed, in units of a granularity.
///
/// Setting rounds outward, since a granule that changed in part has changed.
/// Clearing never rounds: a granule of which only a part was copied is still dirty, and saying
/// otherwise loses data. Whoever shares a bitmap puts it behind a lock.
///
/// It takes one bit for each granule, and 3.2 % on top for summaries: searches skip what is all dirty or all clean,
/// so that they look at a few words, however far they go.
#[derive(Clone, PartialEq, Eq)]
pub struct DirtyBitmap {
    bits: Levels,
    len_bytes: u64,
    granularity_bytes: u64,
}

/// Bytes that are all dirty or all clean, from where somebody asked up to where that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The bytes.
    pub range: ByteRange,
    /// Whether they are dirty.
    pub is_dirty: bool,
}

impl DirtyBitmap {
    /// Smallest granularity.
    pub const GRANULARITY_BYTES_MIN: u64 = 512;

    /// A clean bitmap over `len_bytes` bytes, with one bit per `granularity_bytes`.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Invalid`]: the granularity is not a power of two of at least 512 that fits 32 bits.
    /// - [`ErrorKind::NoSpace`]: there is no memory for that many bits, or they take more than 4 GiB.
    pub fn new(len_bytes: u64, granularity_bytes: u64) -> Result<Self, BlockError> {
        Self::check_granularity(granularity_bytes)?;
        Ok(Self {
            bits: Levels::new(len_bytes.div_ceil(granularity_bytes))?,
            len_bytes,
            granularity_bytes,
        })
    }

    /// A clean bitmap of the same length and granularity.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSpace`]: there is no memory for that many bits.
    pub fn new_like(&self) -> Result<Self, BlockError> {
        Self::new(self.len_bytes, self.granularity_bytes)
    }

    /// The same bitmap once more, where [`Clone`] would end the process if there is no memory for it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSpace`]: there is no memory for that many bits.
    pub fn try_clone(&self) -> Result<Self, BlockError> {
        Ok(Self {
            bits: self.bits.try_clone()?,
            len_bytes: self.len_bytes,
            granularity_bytes: self.granularity_bytes,
        })
    }

    /// Checks that bits may stand for so many bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`]: this is not a power of two from 512 up to 2^31.
    pub fn check_granularity(granularity_bytes: u64) -> Result<(), BlockError> {
        let fits = granularity_bytes >= Self::GRANULARITY_BYTES_MIN
            && u32::try_from(granularity_bytes).is_ok();
        if fits && granularity_bytes.is_power_of_two() {
            return Ok(());
        }
        let what = "Granularity must be power of 2 and at least 512";
        Err(BlockError::new(ErrorKind::Invalid, what))
    }

    /// Length in bytes of what the bitmap describes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Bytes that one bit stands for.
    #[must_use]
    pub fn granularity_bytes(&self) -> u64 {
        self.granularity_bytes
    }

    /// Whether no granule is dirty.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.bits.ones() == 0
    }

    /// Dirty granules, in bytes; the last granule counts whole even where the end cuts it.
    #[must_use]
    pub fn count_bytes(&self) -> u64 {
        self.bits.ones().saturating_mul(self.granularity_bytes)
    }

    /// Memory that the bits and their summaries take, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.bits.memory_bytes()
    }

    /// Marks every granule that shares a byte with `range`; returns how many bytes became dirty, in whole granules.
    ///
    /// # Panics
    ///
    /// When the range ends past the bitmap.
    pub fn set(&mut self, range: ByteRange) -> u64 {
        assert!(
            range.end() <= self.len_bytes,
            "{range} end past a bitmap of {} bytes",
            self.len_bytes
        );
        if range.is_empty() {
            return 0;
        }
        let first = range.start() / self.granularity_bytes;
        let end = range.end().div_ceil(self.granularity_bytes);
        let before = self.bits.ones();
        self.bits.set(first, end);
        (self.bits.ones() - before).saturating_mul(self.granularity_bytes)
    }

    /// Marks the granules of `range` as clean; returns how many bytes became clean, in whole granules.
    ///
    /// # Panics
    ///
    /// When the range does not start and end between granules (the end of the bitmap counts as such),
    /// or ends past the bitmap: clearing a granule of which only a part was copied would lose data.
    pub fn clear(&mut self, range: ByteRange) -> u64 {
        assert!(
            self.is_boundary(range.start()) && self.is_boundary(range.end()),
            "{range} do not cover whole granules of {} bytes in a bitmap of {} bytes",
            self.granularity_bytes,
            self.len_bytes
        );
        if range.is_empty() {
            return 0;
        }
        let first = range.start() / self.granularity_bytes;
        let end = range.end().div_ceil(self.granularity_bytes);
        let before = self.bits.ones();
        self.bits.clear(first, end);
        (before - self.bits.ones()).saturating_mul(self.granularity_bytes)
    }

    /// Marks everything as clean.
    pub fn clear_all(&mut self) {
        self.clear(ByteRange::between(0, self.len_bytes));
    }

    /// Makes the bitmap as long as `len_bytes`: what is new is clean, and what is past the end is forgotten.
    ///
    /// A dirty granule that the old end cut stays dirty as a whole. To shrink never fails.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSpace`]: there is no memory for that many bits; nothing has changed.
    pub fn truncate(&mut self, len_bytes: u64) -> Result<(), BlockError> {
        self.bits
            .resize(len_bytes.div_ceil(self.granularity_bytes))?;
        self.len_bytes = len_bytes;
        Ok(())
    }

    /// Whether the granule that holds the byte at `offset_bytes` is dirty; `false` past the end.
    #[must_use]
    pub fn is_dirty(&self, offset_bytes: u64) -> bool {
        let end = offset_bytes.saturating_add(1).min(self.len_bytes);
        self.next(offset_bytes, end, Wanted::One).is_some()
    }

    /// Offset of the first dirty byte at or after `from_bytes`.
    #[must_use]
    pub fn next_dirty(&self, from_bytes: u64) -> Option<u64> {
        self.next(from_bytes, self.len_bytes, Wanted::One)
    }

    /// Offset of the first clean byte at or after `from_bytes`.
    #[must_use]
    pub fn next_zero(&self, from_bytes: u64) -> Option<u64> {
        self.next(from_bytes, self.len_bytes, Wanted::Zero)
    }

    /// The first run of dirty bytes at or after `from_bytes`, cut at `max_len_bytes` and at the end.
    ///
    /// With a start and a length that are multiples of the granularity, the run is fit for [`clear`](Self::clear).
    /// `None` when nothing more is dirty, or when `max_len_bytes` is zero.
    #[must_use]
    pub fn next_dirty_area(&self, from_bytes: u64, max_len_bytes: u64) -> Option<ByteRange> {
        let start = self.next_dirty(from_bytes)?;
        let limit = self.len_bytes.min(start.saturating_add(max_len_bytes));
        let end = self.next(start, limit, Wanted::Zero).unwrap_or(limit);
        let area = ByteRange::between(start, end);
        (!area.is_empty()).then_some(area)
    }

    /// Whether the bytes from `from_bytes` on are dirty, and how far that goes on. `None` at the end and behind it.
    #[must_use]
    pub fn status_run(&self, from_bytes: u64) -> Option<Run> {
        let is_dirty = match self.next_dirty(from_bytes) {
            Some(dirty) if dirty > from_bytes => {
                let range = ByteRange::between(from_bytes, dirty);
                return Some(Run {
                    range,
                    is_dirty: false,
                });
            }
            found => found.is_some(),
        };
        let end = if is_dirty {
            self.next_zero(from_bytes).unwrap_or(self.len_bytes)
        } else {
            self.len_bytes
        };
        let range = ByteRange::between(from_bytes, end);
        (!range.is_empty()).then_some(Run { range, is_dirty })
    }

    /// Marks whatever is dirty in `source`, whose granularity may differ.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`]: the bitmaps differ in length.
    pub fn merge(&mut self, source: &Self) -> Result<(), BlockError> {
        if self.len_bytes != source.len_bytes {
            return Err(BlockError::new(
                ErrorKind::Invalid,
                format!(
                    "Bitmaps are of different sizes (destination size is {}, source size is {}) \
                     and can't be merged",
                    self.len_bytes, source.len_bytes
                ),
            ));
        }
        if self.granularity_bytes == source.granularity_bytes {
            self.bits.merge(&source.bits);
            return Ok(());
        }
        let mut from_bytes = 0;
        while let Some(area) = source.next_dirty_area(from_bytes, u64::MAX) {
            self.set(area);
            // The rest of the last granule is dirty as it is.
            from_bytes = area.widened(self.granularity_bytes, self.len_bytes).end();
        }
        Ok(())
    }

    /// Whether a range may start or end at `offset_bytes` without cutting a granule.
    fn is_boundary(&self, offset_bytes: u64) -> bool {
        offset_bytes == self.len_bytes
            || (offset_bytes < self.len_bytes
                && offset_bytes.is_multiple_of(self.granularity_bytes))
    }

    /// The first byte in `from_bytes..limit_bytes` whose bit is as wanted; the limit is no further than the end.
    fn next(&self, from_bytes: u64, limit_bytes: u64, wanted: Wanted) -> Option<u64> {
        let first = from_bytes / self.granularity_bytes;
        let end = limit_bytes.div_ceil(self.granularity_bytes);
        let granule = self.bits.next(first, end, wanted)?;
        let found_bytes = (granule * self.granularity_bytes).max(from_bytes);
        (found_bytes < limit_bytes).then_some(found_bytes)
    }
}

impl std::fmt::Debug for DirtyBitmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirtyBitmap")
            .field("len_bytes", &self.len_bytes)
            .field("granularity_bytes", &self.granularity_bytes)
            .field("count_bytes", &self.count_bytes())
            .finish_non_exhaustive()
    }
}
