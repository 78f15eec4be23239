//! For tests: whether summaries are right, and how many words a search looks at.

use std::cell::Cell;

use super::{Levels, WORD_BITS, Wanted, index_of, usize_of};

impl Levels {
    /// Checks that everything beside the bits is what the bits make it.
    pub(crate) fn assert_sound(&self) {
        let ones: u64 = self
            .words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum();
        assert_eq!(ones, self.ones);
        if !self.len.is_multiple_of(WORD_BITS) {
            let last = self.words.last().unwrap();
            assert_eq!(last >> (self.len % WORD_BITS), 0, "bits past the end");
        }
        for level in 0..self.summaries.len() {
            let width = self.width(level + 1);
            for child in 0..width.next_multiple_of(WORD_BITS) {
                let (index, bit) = (index_of(child), 1 << (child % WORD_BITS));
                let is_there = child < width;
                let any = is_there && self.word(level, usize_of(child), Wanted::One) != 0;
                let all = is_there && self.word(level, usize_of(child), Wanted::Zero) == 0;
                let summary = &self.summaries[level];
                assert_eq!(
                    summary.any[index] & bit != 0,
                    any,
                    "level {level}, word {child}"
                );
                assert_eq!(
                    summary.all[index] & bit != 0,
                    all,
                    "level {level}, word {child}"
                );
            }
        }
    }
}

thread_local! {
    static LOOKS: Cell<u64> = const { Cell::new(0) };
}

/// One more word has been looked at.
pub(super) fn count() {
    LOOKS.set(LOOKS.get() + 1);
}

/// How many words `action` looks at, on this thread.
pub(crate) fn looks_taken_by(action: impl FnOnce()) -> u64 {
    let before = LOOKS.get();
    action();
    LOOKS.get() - before
}
