//! One bit per granule of a node: set means "may differ since the bit was last cleared".

use crate::{
    allocation::ByteRange,
    error::{BlockError, ErrorKind},
};

#[cfg(all(test, loom))]
mod models;
#[cfg(test)]
mod tests;

/// Bits of one word.
const WORD_BITS: u64 = 64;

/// Most words that a bitmap may have, 4 GiB of them: the system grants more memory than there is, and a process that
/// then uses it is killed.
const WORDS_MAX: u64 = (4 << 30) / 8;

/// Which bytes of a node may have changed, in units of a granularity.
///
/// Setting rounds outward, since a granule that changed in part has changed.
/// Clearing never rounds: a granule of which only a part was copied is still dirty, and saying
/// otherwise loses data. Whoever shares a bitmap puts it behind a lock; scans go a word at a time.
#[derive(Clone, PartialEq, Eq)]
pub struct DirtyBitmap {
    words: Vec<u64>,
    len_bytes: u64,
    granularity_bytes: u64,
    dirty_granules: u64,
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
        let granules = len_bytes.div_ceil(granularity_bytes);
        let mut words = Vec::new();
        resize_words(&mut words, granules.div_ceil(WORD_BITS))?;
        Ok(Self {
            words,
            len_bytes,
            granularity_bytes,
            dirty_granules: 0,
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
        let mut copy = self.new_like()?;
        copy.words.copy_from_slice(&self.words);
        copy.dirty_granules = self.dirty_granules;
        Ok(copy)
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
        self.dirty_granules == 0
    }

    /// Dirty granules, in bytes; the last granule counts whole even where the end cuts it.
    #[must_use]
    pub fn count_bytes(&self) -> u64 {
        self.dirty_granules.saturating_mul(self.granularity_bytes)
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
        let before = self.dirty_granules;
        self.for_each_word(first, end, |word, mask| *word |= mask);
        (self.dirty_granules - before) * self.granularity_bytes
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
        let before = self.dirty_granules;
        self.for_each_word(first, end, |word, mask| *word &= !mask);
        (before - self.dirty_granules) * self.granularity_bytes
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
        let start = len_bytes.next_multiple_of(self.granularity_bytes);
        if start < self.len_bytes {
            self.clear(ByteRange::between(start, self.len_bytes));
        }
        let granules = len_bytes.div_ceil(self.granularity_bytes);
        resize_words(&mut self.words, granules.div_ceil(WORD_BITS))?;
        self.len_bytes = len_bytes;
        Ok(())
    }

    /// Whether the granule that holds the byte at `offset_bytes` is dirty; `false` past the end.
    #[must_use]
    pub fn is_dirty(&self, offset_bytes: u64) -> bool {
        self.next_dirty(offset_bytes) == Some(offset_bytes)
    }

    /// Offset of the first dirty byte at or after `from_bytes`.
    #[must_use]
    pub fn next_dirty(&self, from_bytes: u64) -> Option<u64> {
        self.next(from_bytes, 0)
    }

    /// Offset of the first clean byte at or after `from_bytes`.
    #[must_use]
    pub fn next_zero(&self, from_bytes: u64) -> Option<u64> {
        self.next(from_bytes, u64::MAX)
    }

    /// The first run of dirty bytes at or after `from_bytes`, cut at `max_len_bytes` and at the end.
    ///
    /// With a start and a length that are multiples of the granularity, the run is fit for [`clear`](Self::clear).
    /// `None` when nothing more is dirty, or when `max_len_bytes` is zero.
    #[must_use]
    pub fn next_dirty_area(&self, from_bytes: u64, max_len_bytes: u64) -> Option<ByteRange> {
        let start = self.next_dirty(from_bytes)?;
        let limit = self.len_bytes.min(start.saturating_add(max_len_bytes));
        let end = self.next_zero_before(start, limit).unwrap_or(limit);
        let area = ByteRange::between(start, end);
        (!area.is_empty()).then_some(area)
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
        let mut from_bytes = 0;
        while let Some(area) = source.next_dirty_area(from_bytes, u64::MAX) {
            self.set(area);
            from_bytes = area.end();
        }
        Ok(())
    }

    /// Whether a range may start or end at `offset_bytes` without cutting a granule.
    fn is_boundary(&self, offset_bytes: u64) -> bool {
        offset_bytes == self.len_bytes
            || (offset_bytes < self.len_bytes
                && offset_bytes.is_multiple_of(self.granularity_bytes))
    }

    /// Changes the bits of granules `first..end`, one masked word at a time, and keeps the count right.
    fn for_each_word(&mut self, first: u64, end: u64, change: impl Fn(&mut u64, u64)) {
        let mut granule = first;
        while granule < end {
            let word_end = (granule / WORD_BITS + 1) * WORD_BITS;
            let stop = word_end.min(end);
            let mask = bits_from(granule % WORD_BITS) & bits_below(stop - (word_end - WORD_BITS));
            let word = &mut self.words[word_index(granule)];
            let before = word.count_ones();
            change(word, mask);
            let after = word.count_ones();
            self.dirty_granules = self.dirty_granules + u64::from(after) - u64::from(before);
            granule = stop;
        }
    }

    /// The first byte at or after `from_bytes` whose bit, flipped by `flip`, is set.
    fn next(&self, from_bytes: u64, flip: u64) -> Option<u64> {
        self.next_before(from_bytes, self.len_bytes, flip)
    }

    /// The first clean byte in `from_bytes..limit_bytes`; the scan ends there, however long the run goes on.
    fn next_zero_before(&self, from_bytes: u64, limit_bytes: u64) -> Option<u64> {
        self.next_before(from_bytes, limit_bytes, u64::MAX)
    }

    fn next_before(&self, from_bytes: u64, limit_bytes: u64, flip: u64) -> Option<u64> {
        if from_bytes >= limit_bytes {
            return None;
        }
        let first = from_bytes / self.granularity_bytes;
        let last = (limit_bytes - 1) / self.granularity_bytes;
        let mut mask = bits_from(first % WORD_BITS);
        for index in word_index(first)..=word_index(last) {
            let word = (self.words[index] ^ flip) & mask;
            mask = u64::MAX;
            if word != 0 {
                let granule = to_u64(index) * WORD_BITS + u64::from(word.trailing_zeros());
                let found_bytes = (granule * self.granularity_bytes).max(from_bytes);
                return (found_bytes < limit_bytes).then_some(found_bytes);
            }
        }
        None
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

/// A word whose bits from `bit` on are set.
fn bits_from(bit: u64) -> u64 {
    u64::MAX << bit
}

/// A word whose bits below `bit` are set; `bit` is at least one and at most 64.
fn bits_below(bit: u64) -> u64 {
    u64::MAX >> (WORD_BITS - bit)
}

fn word_index(granule: u64) -> usize {
    usize::try_from(granule / WORD_BITS).expect("the word is in memory, so its index fits")
}

fn to_u64(index: usize) -> u64 {
    u64::try_from(index).expect("a usize fits 64 bits")
}

/// So many words, the new ones zero, or an error where a plain allocation would abort the process.
fn resize_words(words: &mut Vec<u64>, count: u64) -> Result<(), BlockError> {
    let too_big = || BlockError::new(ErrorKind::NoSpace, "no memory for a bitmap of this size");
    if count > WORDS_MAX {
        return Err(too_big());
    }
    let count = usize::try_from(count).map_err(|_| too_big())?;
    let more = count.saturating_sub(words.len());
    words.try_reserve_exact(more).map_err(|_| too_big())?;
    words.resize(count, 0);
    words.shrink_to_fit();
    Ok(())
}
