//! A guest's workload: stamped writes to blocks of its own, one at a time, all on record.

use std::{ops::Range, path::Path};

use crate::{Failure, crowd::Crowd, guest::Guest};

/// Blocks go round among the guests, so that all of them share each cluster of a copy. No power of
/// two, so that requests meet pages and clusters at all offsets.
pub(crate) const BLOCK: usize = 14_000;

/// A source of chance that can be had again.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        // The remainder is below a `usize`.
        usize::try_from(self.next() % limit as u64).unwrap_or_default()
    }
}

/// One request that changed the disk.
pub(crate) struct Entry {
    pub(crate) at: Range<usize>,
    /// What was written; nothing for zeroes.
    pub(crate) stamp: Option<u64>,
    /// Ticks of the crowd.
    pub(crate) issued: u64,
    pub(crate) acknowledged: u64,
}

impl Entry {
    pub(crate) fn apply(&self, disk: &mut [u8]) {
        let bytes = &mut disk[self.at.clone()];
        match self.stamp {
            Some(stamp) => bytes.copy_from_slice(&stamped(stamp, bytes.len())),
            None => bytes.fill(0),
        }
    }
}

/// Bytes that no other write has.
pub(crate) fn stamped(stamp: u64, len: usize) -> Vec<u8> {
    let mut bytes = stamp.to_le_bytes().repeat(len / 8 + 1);
    bytes.truncate(len);
    bytes
}

/// The blocks of one of several guests, on a disk of `size` bytes.
pub(crate) fn blocks_of(
    (number, guests): (usize, usize),
    size: usize,
) -> impl Iterator<Item = Range<usize>> {
    let own = (number..size.div_ceil(BLOCK)).step_by(guests);
    own.map(move |block| block * BLOCK..((block + 1) * BLOCK).min(size))
}

/// One guest, before it has connected.
pub(crate) struct Writer {
    blocks: Vec<Range<usize>>,
    chance: Chance,
}

impl Writer {
    pub(crate) fn new(who: (usize, usize), size: usize, seed: u64) -> Self {
        Self {
            blocks: blocks_of(who, size).collect(),
            chance: Chance::new(seed ^ (who.0 as u64 + 1).wrapping_mul(0x5851_f42d_4c95_7f2d)),
        }
    }

    /// Writes until the crowd stops; returns what it did.
    pub(crate) fn run(mut self, socket: &Path, crowd: &Crowd) -> Result<Vec<Entry>, Failure> {
        let _leaves = Leave(crowd);
        let mut guest = Guest::connect(socket, "disk")?;
        let mut log = Vec::new();
        while crowd.goes_on() {
            let entry = self.make_request(&mut guest, crowd)?;
            if self.chance.below(32) == 0 {
                read_back(&mut guest, &entry)?;
            }
            log.push(entry);
        }
        guest.disconnect()?;
        Ok(log)
    }

    fn make_request(&mut self, guest: &mut Guest, crowd: &Crowd) -> Result<Entry, Failure> {
        let block = self.blocks[self.chance.below(self.blocks.len())].clone();
        // Mostly whole pages, as guests write, and some at any offset.
        let unit = [4096, 4096, 512, 1][self.chance.below(4)];
        let start = (block.start + self.chance.below(block.len())).next_multiple_of(unit);
        let len = unit * (1 + self.chance.below(block.len() / unit + 1));
        let at = start.min(block.end - 1)..(start + len).min(block.end);
        if self.chance.below(200) == 0 {
            guest.flush()?;
        }
        let stamp = (self.chance.below(10) > 0).then(|| self.chance.next());
        let issued = crowd.tick();
        match stamp {
            Some(stamp) => guest.write(at.start, &stamped(stamp, at.len()))?,
            None => guest.write_zeroes(at.start, at.len())?,
        }
        Ok(Entry {
            at,
            stamp,
            issued,
            acknowledged: crowd.tick(),
        })
    }
}

fn read_back(guest: &mut Guest, entry: &Entry) -> Result<(), Failure> {
    let bytes = guest.read(entry.at.start, entry.at.len())?;
    let written = entry.stamp.map(|stamp| stamped(stamp, bytes.len()));
    if bytes != written.unwrap_or_else(|| vec![0; bytes.len()]) {
        let at = &entry.at;
        return Err(format!("a guest read something else than it wrote at {at:?}").into());
    }
    Ok(())
}

/// Tells the crowd when a guest is gone, in whatever way.
struct Leave<'a>(&'a Crowd);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}
