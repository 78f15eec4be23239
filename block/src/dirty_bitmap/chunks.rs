//! A bitmap as bytes: to be stored or sent in parts, and compared.

use sha2::{Digest, Sha256};

use super::{DirtyBitmap, WORD_BITS};
use crate::{
    allocation::ByteRange,
    error::{BlockError, ErrorKind},
};

/// Bytes of one word.
const WORD_BYTES: usize = 8;

/// Words that are hashed in one go.
const HASHED_WORDS: usize = 512;

impl DirtyBitmap {
    /// The parts in which a bitmap goes to bytes start at multiples of this many bytes of the node.
    #[must_use]
    pub fn chunk_align_bytes(&self) -> u64 {
        self.granularity_bytes * WORD_BITS
    }

    /// The bits of `range` as bytes, the lowest bit of the first byte first: 8 bytes for each
    /// [`chunk_align_bytes`](Self::chunk_align_bytes) of the node.
    ///
    /// # Panics
    ///
    /// When the range does not start and end at a multiple of that, or at the end of the bitmap.
    #[must_use]
    pub fn serialise(&self, range: ByteRange) -> Vec<u8> {
        let words = &self.bits.words()[self.words_of(range)];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Replaces the bits of `range` by what [`DirtyBitmap::serialise`] gave for it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`]: these are too few bytes or too many, or they have bits past the end of the bitmap;
    /// nothing has changed.
    ///
    /// # Panics
    ///
    /// As [`DirtyBitmap::serialise`].
    pub fn deserialise(&mut self, range: ByteRange, bytes: &[u8]) -> Result<(), BlockError> {
        let words = self.words_of(range);
        let (chunks, rest) = bytes.as_chunks::<WORD_BYTES>();
        if !rest.is_empty() || chunks.len() != words.len() {
            let what = format!("{} bytes are not the bits of {range}", bytes.len());
            return Err(BlockError::new(ErrorKind::Invalid, what));
        }
        let chunks: Vec<_> = chunks.iter().copied().map(u64::from_le_bytes).collect();
        self.bits.replace(words.start, &chunks)
    }

    /// SHA-256 of the bits, as bytes; a bitmap without bits has one word of zeroes.
    ///
    /// The summaries and the granularity are not in it.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let words = self.bits.words();
        if words.is_empty() {
            hash.update([0; WORD_BYTES]);
        }
        let mut bytes = [0; HASHED_WORDS * WORD_BYTES];
        for words in words.chunks(HASHED_WORDS) {
            for (bytes, word) in bytes.chunks_mut(WORD_BYTES).zip(words) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            hash.update(&bytes[..words.len() * WORD_BYTES]);
        }
        hash.finalize().into()
    }

    fn words_of(&self, range: ByteRange) -> std::ops::Range<usize> {
        let align = self.chunk_align_bytes();
        let fits = |offset: u64| offset == self.len_bytes || offset.is_multiple_of(align);
        assert!(
            fits(range.start()) && fits(range.end()) && range.end() <= self.len_bytes,
            "{range} are not parts of {align} bytes in a bitmap of {} bytes",
            self.len_bytes
        );
        let index = |offset: u64| {
            let word = offset.div_ceil(align);
            usize::try_from(word).expect("the word is in memory, so its index fits")
        };
        index(range.start())..index(range.end())
    }
}
