//! Bits with summaries above them, so that a search skips what is all alike.
//!
//! ```text
//!   level 2   any: n/4096 words   all: n/4096 words   a bit for each word of level 1
//!   level 1   any: n/64 words     all: n/64 words     a bit for each word of bits
//!   level 0         bits: n words
//! ```
//!
//! A bit of `any` is set if the word below it has a one, a bit of `all` if it has nothing but ones. So a search goes
//! up until it sees what it looks for, and down to where that is: two words per level at most, but for the highest,
//! which has up to 128. The summaries of a large bitmap take 2/63 of what its bits take, 3.2 %.

use super::{WORD_BITS, WORDS_MAX};
use crate::error::{BlockError, ErrorKind};

#[cfg(test)]
pub(super) mod inspect;

/// Most words of a level without a summary: above a shorter one, it would take more than 5 % on top.
const UNSUMMARISED_WORDS_MAX: u64 = 128;

/// What a search looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    One,
    Zero,
}

/// A number of bits, found by their index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Levels {
    len: u64,
    /// Bits past the length are zero.
    words: Vec<u64>,
    ones: u64,
    /// The lowest first.
    summaries: Vec<Summary>,
}

/// What is known of the words of the level below, one bit for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Summary {
    any: Vec<u64>,
    all: Vec<u64>,
}

impl Levels {
    /// Zeroes.
    pub(super) fn new(len: u64) -> Result<Self, BlockError> {
        let mut levels = Self::default();
        levels.resize(len)?;
        Ok(levels)
    }

    pub(super) fn try_clone(&self) -> Result<Self, BlockError> {
        let mut copy = Self::new(self.len)?;
        copy.words.copy_from_slice(&self.words);
        copy.ones = self.ones;
        for (to, from) in copy.summaries.iter_mut().zip(&self.summaries) {
            to.any.copy_from_slice(&from.any);
            to.all.copy_from_slice(&from.all);
        }
        Ok(copy)
    }

    pub(super) fn ones(&self) -> u64 {
        self.ones
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Memory behind all levels, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        let of_words = |words: &Vec<u64>| to_u64(words.capacity()) * 8;
        let of_summary = |summary: &Summary| of_words(&summary.any) + of_words(&summary.all);
        of_words(&self.words) + self.summaries.iter().map(of_summary).sum::<u64>()
    }

    /// Sets `first..end`.
    pub(super) fn set(&mut self, first: u64, end: u64) {
        self.change(first, end, |word, mask| word | mask);
    }

    /// Clears `first..end`.
    pub(super) fn clear(&mut self, first: u64, end: u64) {
        self.change(first, end, |word, mask| word & !mask);
    }

    /// Sets what is set in `other`, which is as long.
    pub(super) fn merge(&mut self, other: &Self) {
        let mut from = 0;
        while let Some(found) = other.next(from, other.len, Wanted::One) {
            let index = index_of(found);
            if self.put(index, self.words[index] | other.words[index]) {
                self.refresh(index, index);
            }
            from = (to_u64(index) + 1) * WORD_BITS;
        }
    }

    /// Replaces the words from `first` on. Fails, and changes nothing, if a bit past the length is set.
    pub(super) fn replace(&mut self, first: usize, words: &[u64]) -> Result<(), BlockError> {
        let end = first + words.len();
        let is_last = end == self.words.len() && !self.len.is_multiple_of(WORD_BITS);
        if is_last
            && words
                .last()
                .is_some_and(|word| word >> (self.len % WORD_BITS) != 0)
        {
            return Err(BlockError::new(
                ErrorKind::Invalid,
                "a bitmap has bits past its end",
            ));
        }
        let mut matters = false;
        for (index, word) in (first..end).zip(words) {
            matters |= self.put(index, *word);
        }
        if matters {
            self.refresh(first, end - 1);
        }
        Ok(())
    }

    /// The first bit in `from..end` that is as wanted.
    pub(super) fn next(&self, from: u64, end: u64, wanted: Wanted) -> Option<u64> {
        let end = end.min(self.len);
        // Up, until a word has it. The search goes on behind the word that did not, as seen from above.
        let mut level = 0;
        let mut at = from;
        let mut level_end = end;
        let mut found = loop {
            if at >= level_end {
                return None;
            }
            let word = self.word(level, index_of(at), wanted) & bits_from(at % WORD_BITS);
            if word != 0 {
                break at / WORD_BITS * WORD_BITS + u64::from(word.trailing_zeros());
            }
            at = at / WORD_BITS + 1;
            if level < self.summaries.len() {
                level += 1;
                level_end = level_end.div_ceil(WORD_BITS);
            } else {
                at *= WORD_BITS;
            }
        };
        // Down, always to the first. What lies past a width is in its last word, so that nothing is behind it.
        while found < self.width(level) {
            if level == 0 {
                return (found < end).then_some(found);
            }
            level -= 1;
            let word = self.word(level, usize_of(found), wanted);
            found = found * WORD_BITS + u64::from(word.trailing_zeros());
        }
        None
    }

    /// Makes it so many bits: new ones are zero. To shrink never fails, and what fails changes nothing.
    pub(super) fn resize(&mut self, len: u64) -> Result<(), BlockError> {
        if len.div_ceil(WORD_BITS) > WORDS_MAX {
            return Err(too_big());
        }
        if len < self.len {
            self.clear(len, self.len);
        }
        let sizes = sizes(len)?;
        let mut summaries = std::mem::take(&mut self.summaries);
        let old_levels = summaries.len();
        summaries.resize_with(sizes.len() - 1, Summary::default);
        let reserved = self.reserve(&sizes, &mut summaries);
        if reserved.is_err() {
            summaries.truncate(old_levels);
            self.summaries = summaries;
            return reserved;
        }
        fit(&mut self.words, sizes[0]);
        for (summary, size) in summaries.iter_mut().zip(&sizes[1..]) {
            fit(&mut summary.any, *size);
            fit(&mut summary.all, *size);
        }
        self.summaries = summaries;
        self.len = len;
        let new_levels = if self.ones == 0 {
            0..0
        } else {
            old_levels..self.summaries.len()
        };
        for level in new_levels {
            let below = usize_of(self.width(level + 1));
            self.refresh_level(level, 0, below - 1);
        }
        Ok(())
    }

    /// Makes room for words of these sizes, level by level.
    fn reserve(&mut self, sizes: &[usize], summaries: &mut [Summary]) -> Result<(), BlockError> {
        reserve(&mut self.words, sizes[0])?;
        for (summary, size) in summaries.iter_mut().zip(&sizes[1..]) {
            reserve(&mut summary.any, *size)?;
            reserve(&mut summary.all, *size)?;
        }
        Ok(())
    }

    /// Changes the bits `first..end`, a masked word at a time.
    fn change(&mut self, first: u64, end: u64, change: impl Fn(u64, u64) -> u64) {
        let mut matters = false;
        let mut at = first;
        while at < end {
            let word_end = (at / WORD_BITS + 1) * WORD_BITS;
            let stop = word_end.min(end);
            let mask = bits_from(at % WORD_BITS) & bits_below(stop - (word_end - WORD_BITS));
            let index = index_of(at);
            matters |= self.put(index, change(self.words[index], mask));
            at = stop;
        }
        if matters {
            self.refresh(index_of(first), index_of(end - 1));
        }
    }

    /// Replaces a word; whether that matters to the summaries.
    fn put(&mut self, index: usize, word: u64) -> bool {
        let before = std::mem::replace(&mut self.words[index], word);
        self.ones = self.ones + u64::from(word.count_ones()) - u64::from(before.count_ones());
        (before == 0) != (word == 0) || (before == u64::MAX) != (word == u64::MAX)
    }

    /// Makes the summaries right above the words `first..=last`, as far up as something changes.
    fn refresh(&mut self, mut first: usize, mut last: usize) {
        for level in 0..self.summaries.len() {
            if !self.refresh_level(level, first, last) {
                return;
            }
            first = index_of(to_u64(first));
            last = index_of(to_u64(last));
        }
    }

    /// Makes one summary right above the words `first..=last` of the level below; whether that changed it.
    fn refresh_level(&mut self, level: usize, first: usize, last: usize) -> bool {
        let mut has_changed = false;
        for parent in index_of(to_u64(first))..=index_of(to_u64(last)) {
            let from = first.max(parent * 64);
            let to = last.min(parent * 64 + 63);
            let (mut mask, mut any, mut all) = (0, 0, 0);
            for child in from..=to {
                let at = child % 64;
                mask |= 1 << at;
                any |= u64::from(self.word(level, child, Wanted::One) != 0) << at;
                all |= u64::from(self.word(level, child, Wanted::Zero) == 0) << at;
            }
            let summary = &mut self.summaries[level];
            has_changed |= assign(&mut summary.any[parent], mask, any);
            has_changed |= assign(&mut summary.all[parent], mask, all);
        }
        has_changed
    }

    /// A word of a level, with a one wherever a search should look.
    fn word(&self, level: usize, index: usize, wanted: Wanted) -> u64 {
        #[cfg(test)]
        inspect::count();
        match (level.checked_sub(1), wanted) {
            (None, Wanted::One) => self.words[index],
            (None, Wanted::Zero) => !self.words[index],
            (Some(level), Wanted::One) => self.summaries[level].any[index],
            (Some(level), Wanted::Zero) => !self.summaries[level].all[index],
        }
    }

    /// Bits of a level.
    fn width(&self, level: usize) -> u64 {
        match level.checked_sub(1) {
            None => self.len,
            Some(0) => to_u64(self.words.len()),
            Some(below) => to_u64(self.summaries[below - 1].any.len()),
        }
    }
}

/// Words of each level for so many bits, the lowest first.
fn sizes(len: u64) -> Result<Vec<usize>, BlockError> {
    let mut words = len.div_ceil(WORD_BITS);
    let mut sizes = Vec::new();
    loop {
        sizes.push(usize::try_from(words).map_err(|_| too_big())?);
        if words <= UNSUMMARISED_WORDS_MAX {
            return Ok(sizes);
        }
        words = words.div_ceil(WORD_BITS);
    }
}

/// Room for so many words, or an error where a plain allocation would end the process.
fn reserve(words: &mut Vec<u64>, count: usize) -> Result<(), BlockError> {
    let more = count.saturating_sub(words.len());
    words.try_reserve_exact(more).map_err(|_| too_big())
}

/// Makes it so many words, for which there is room; new ones are zero.
fn fit(words: &mut Vec<u64>, count: usize) {
    words.resize(count, 0);
    words.shrink_to_fit();
}

/// Gives the masked bits a new value; whether that changed them.
fn assign(word: &mut u64, mask: u64, bits: u64) -> bool {
    let before = *word;
    *word = (before & !mask) | bits;
    *word != before
}

/// A word whose bits from `bit` on are set.
fn bits_from(bit: u64) -> u64 {
    u64::MAX << bit
}

/// A word whose bits below `bit` are set; `bit` is at least one and at most 64.
fn bits_below(bit: u64) -> u64 {
    u64::MAX >> (WORD_BITS - bit)
}

/// Index of the word that has this bit.
fn index_of(bit: u64) -> usize {
    usize_of(bit / WORD_BITS)
}

fn usize_of(index: u64) -> usize {
    usize::try_from(index).expect("the word is in memory, so its index fits")
}

fn to_u64(index: usize) -> u64 {
    u64::try_from(index).expect("a usize fits 64 bits")
}

fn too_big() -> BlockError {
    BlockError::new(ErrorKind::NoSpace, "no memory for a bitmap of this size")
}
