//! What goes wrong at a disk: the faults that are within the contract of one.

use block::ByteRange;

use super::Op;
use crate::chance::Chance;

/// What a flush does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushFault {
    /// What it should.
    None,
    /// It fails, and what is not flushed yet waits for the next.
    Once,
    /// It fails and what it should have made stable is lost, as with the page cache of Linux. The file
    /// node refuses all later flushes then, and so does this disk.
    Drops,
}

/// The faults of a disk; `None` and zero are none.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    chance: Chance,
    /// One request of so many fails.
    pub(crate) fails_one_in: Option<u64>,
    /// Requests that touch these bytes fail.
    pub(crate) bad: Option<ByteRange>,
    /// All requests of these kinds fail.
    pub(crate) dead: &'static [Op],
    /// One request of so many never ends.
    pub(crate) stuck_one_in: Option<u64>,
    /// One request of so many takes from a tenth of a second to ten seconds longer.
    pub(crate) spike_one_in: Option<u64>,
    /// How one flush of so many fails.
    pub(crate) flush: Option<(u64, FlushFault)>,
    /// Blocks that can be written before there is no space.
    pub(crate) capacity_blocks: Option<u64>,
    pub(super) is_broken: bool,
}

impl Faults {
    pub(crate) fn none(chance: Chance) -> Self {
        Self {
            chance,
            fails_one_in: None,
            bad: None,
            dead: &[],
            stuck_one_in: None,
            spike_one_in: None,
            flush: None,
            capacity_blocks: None,
            is_broken: false,
        }
    }

    /// Whether a request may fail. One that is stuck may, if somebody gives it up.
    pub(crate) fn can_fail(&self) -> bool {
        self.fails_one_in.is_some()
            || self.bad.is_some()
            || !self.dead.is_empty()
            || self.flush.is_some()
            || self.capacity_blocks.is_some()
            || self.stuck_one_in.is_some()
    }

    pub(super) fn heal(&mut self) {
        *self = Self {
            is_broken: self.is_broken,
            ..Self::none(self.chance.clone())
        };
    }

    fn strikes(&mut self, one_in: Option<u64>) -> bool {
        one_in.is_some_and(|count| self.chance.one_in(count))
    }

    pub(super) fn is_stuck(&mut self) -> bool {
        self.strikes(self.stuck_one_in)
    }

    pub(super) fn spike_ns(&mut self) -> u64 {
        match self.strikes(self.spike_one_in) {
            true => self.chance.scale(100_000_000, 10_000_000_000),
            false => 0,
        }
    }

    /// The error number with which a request ends, if it fails.
    pub(super) fn errno(&mut self, op: Op, range: ByteRange) -> Option<i32> {
        let is_bad = self.bad.is_some_and(|bad| bad.overlaps(range));
        let fails = is_bad || self.dead.contains(&op) || self.strikes(self.fails_one_in);
        fails.then_some(libc::EIO)
    }

    pub(super) fn flush_fault(&mut self) -> FlushFault {
        if self.is_broken {
            return FlushFault::Drops;
        }
        let Some((one_in, fault)) = self.flush else {
            return FlushFault::None;
        };
        if !self.chance.one_in(one_in) {
            return FlushFault::None;
        }
        self.is_broken = fault == FlushFault::Drops;
        fault
    }

    /// Takes room for so many blocks, if there is.
    pub(super) fn have_room(&mut self, blocks: u64) -> bool {
        let Some(left) = &mut self.capacity_blocks else {
            return true;
        };
        let rest = left.checked_sub(blocks);
        *left = rest.unwrap_or(*left);
        rest.is_some()
    }
}
