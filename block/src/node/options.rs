//! What a node makes of requests, whatever its node driver; it can be changed while the node is in use.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::error::{BlockError, ErrorKind};

/// Options of one node, given when it is [built](crate::NodeBuilder::options) and changed by
/// [`Graph::reopen`](crate::Graph::reopen).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeOptions {
    /// What becomes of writes of nothing but zeroes.
    pub detect_zeroes: DetectZeroes,
    /// What becomes of discards.
    pub discard: Discard,
    /// Refuse changes, though the node driver would take them.
    pub read_only: bool,
}

/// What becomes of a write whose bytes are all zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectZeroes {
    /// It is a write like any other; nobody looks.
    #[default]
    Off,
    /// It becomes a write of zeroes.
    On,
    /// It becomes a write of zeroes that may deallocate the range.
    Unmap,
}

/// What becomes of discards, and of leave to deallocate what is zeroed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Discard {
    /// Nothing: what is allocated stays so.
    Ignore,
    /// They reach the node driver.
    #[default]
    Unmap,
}

impl NodeOptions {
    /// Whether the options go together.
    pub(crate) fn check(self) -> Result<(), BlockError> {
        if self.detect_zeroes == DetectZeroes::Unmap && self.discard == Discard::Ignore {
            let what = "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap";
            return Err(BlockError::new(ErrorKind::Invalid, what));
        }
        Ok(())
    }

    /// Whether what is zeroed may be deallocated, if the request allows it.
    pub(crate) fn may_unmap(self) -> bool {
        self.discard == Discard::Unmap
    }
}

/// The options of a node in one word, which each request loads once.
#[derive(Debug)]
pub(super) struct OptionsCell(AtomicU8);

const DETECT_ON: u8 = 1;
const DETECT_UNMAP: u8 = 2;
const IGNORE_DISCARD: u8 = 4;
const READ_ONLY: u8 = 8;

impl OptionsCell {
    pub(super) fn new(options: NodeOptions) -> Self {
        Self(AtomicU8::new(bits(options)))
    }

    pub(super) fn get(&self) -> NodeOptions {
        let bits = self.0.load(Relaxed);
        let has = |bit| bits & bit != 0;
        NodeOptions {
            detect_zeroes: match (has(DETECT_ON), has(DETECT_UNMAP)) {
                (_, true) => DetectZeroes::Unmap,
                (true, false) => DetectZeroes::On,
                (false, false) => DetectZeroes::Off,
            },
            discard: match has(IGNORE_DISCARD) {
                true => Discard::Ignore,
                false => Discard::Unmap,
            },
            read_only: has(READ_ONLY),
        }
    }

    pub(super) fn set(&self, options: NodeOptions) {
        self.0.store(bits(options), Relaxed);
    }
}

fn bits(options: NodeOptions) -> u8 {
    let detect_zeroes = match options.detect_zeroes {
        DetectZeroes::Off => 0,
        DetectZeroes::On => DETECT_ON,
        DetectZeroes::Unmap => DETECT_UNMAP,
    };
    let discard = match options.discard {
        Discard::Ignore => IGNORE_DISCARD,
        Discard::Unmap => 0,
    };
    let read_only = if options.read_only { READ_ONLY } else { 0 };
    detect_zeroes | discard | read_only
}

/// Whether all bytes are zero; quick to say no.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // In pieces that the compiler turns into wide instructions.
    let is_zero = |piece: &[u8]| piece.iter().fold(0, |bits, byte| bits | byte) == 0;
    bytes.chunks(512).all(is_zero)
}
