//! What a point-in-time copy may look like: the record of all guest writes, and whether a copy is a cut through it.
//!
//! Each writer has blocks of its own and one request at a time, so what it did to a block is a list.
//! A copy is a cut if there is one moment such that it has every write that was acknowledged before
//! the moment, none that was issued after it, and of those in between all or nothing. Moments are
//! counted by one clock that ticks with every issue and every acknowledgement.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

use block::ByteRange;

use super::world::{in_memory, range};

/// Bytes of a block; no divisor of anything, so that clusters are shared by writers.
const BLOCK_BYTES: u64 = 10_007;

/// A source of chance that can be had again.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// A fresh seed, or the one that is asked for by `LONGSHORE_SEED`. A test that fails shows it.
pub(crate) fn seed() -> u64 {
    let wanted = std::env::var("LONGSHORE_SEED").ok();
    let seed = wanted.map_or_else(
        || RandomState::new().hash_one(0),
        |seed| seed.parse().unwrap(),
    );
    println!("LONGSHORE_SEED={seed}");
    seed
}

/// Ticks of issues and acknowledgements, in the order in which they happened.
#[derive(Debug, Default)]
pub(crate) struct Ticks(AtomicU64);

impl Ticks {
    pub(crate) fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// What a guest did to its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Wrote the stamp with this number.
    Write(u64),
    /// Wrote zeroes.
    Zeroes,
    /// Gave the bytes up, which makes a disk in memory read as zeroes.
    Discard,
}

/// One request of a writer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) at: ByteRange,
    pub(crate) change: Change,
    pub(crate) issued: u64,
    /// The end of time while it is not acknowledged.
    pub(crate) acknowledged: u64,
}

/// What one writer did, in order, on a disk that was `first` before.
#[derive(Debug)]
pub(crate) struct Writer {
    number: u64,
    writers: u64,
    len_bytes: u64,
    chance: Chance,
    pub(crate) log: Vec<Entry>,
}

impl Writer {
    pub(crate) fn new(number: u64, writers: u64, len_bytes: u64, seed: u64) -> Self {
        Self {
            number,
            writers,
            len_bytes,
            chance: Chance::new(seed.wrapping_add(number.wrapping_mul(7919))),
            log: Vec::new(),
        }
    }

    /// A request on a piece of a block of its own; entered as issued at `tick`.
    pub(crate) fn issue(&mut self, tick: u64) -> Entry {
        let blocks = self.len_bytes.div_ceil(BLOCK_BYTES);
        let own = (blocks - self.number).div_ceil(self.writers);
        let block = self.chance.below(own) * self.writers + self.number;
        let len = BLOCK_BYTES.min(self.len_bytes - block * BLOCK_BYTES);
        let start = self.chance.below(len);
        let change = match self.chance.below(10) {
            0 => Change::Zeroes,
            1 => Change::Discard,
            _ => Change::Write(self.chance.below(u64::MAX)),
        };
        let entry = Entry {
            at: range(
                block * BLOCK_BYTES + start,
                1 + self.chance.below(len - start),
            ),
            change,
            issued: tick,
            acknowledged: u64::MAX,
        };
        self.log.push(entry);
        entry
    }

    pub(crate) fn acknowledge(&mut self, tick: u64) {
        self.log.last_mut().unwrap().acknowledged = tick;
    }

    /// The moments at which the bytes of this writer were as they are in `copy`, as `(from, to)`.
    fn moments(&self, first: &[u8], copy: &[u8]) -> Vec<(u64, u64)> {
        let mut disk = first.to_vec();
        let mut wrong = self.wrong_bytes(&disk, copy);
        let mut moments = Vec::new();
        for done in 0..=self.log.len() {
            if wrong == 0 {
                // In: all before it were acknowledged, and the last of them issued. Out: the next.
                let from = done.checked_sub(1).map_or(0, |last| self.log[last].issued);
                let to = self
                    .log
                    .get(done)
                    .map_or(u64::MAX, |next| next.acknowledged);
                moments.push((from, to));
            }
            if let Some(entry) = self.log.get(done) {
                wrong -= count_wrong(&disk, copy, entry.at);
                apply(&mut disk, *entry);
                wrong += count_wrong(&disk, copy, entry.at);
            }
        }
        moments
    }

    fn wrong_bytes(&self, disk: &[u8], copy: &[u8]) -> usize {
        let blocks =
            (self.number..self.len_bytes.div_ceil(BLOCK_BYTES)).step_by(in_memory(self.writers));
        let own = blocks.map(|block| {
            let end = ((block + 1) * BLOCK_BYTES).min(self.len_bytes);
            ByteRange::between(block * BLOCK_BYTES, end)
        });
        own.map(|at| count_wrong(disk, copy, at)).sum()
    }
}

fn slice(bytes: &[u8], at: ByteRange) -> &[u8] {
    &bytes[in_memory(at.start())..in_memory(at.end())]
}

fn count_wrong(disk: &[u8], copy: &[u8], at: ByteRange) -> usize {
    let (disk, copy) = (slice(disk, at), slice(copy, at));
    if disk == copy {
        return 0;
    }
    disk.iter().zip(copy).filter(|(a, b)| a != b).count()
}

fn apply(disk: &mut [u8], entry: Entry) {
    let bytes = &mut disk[in_memory(entry.at.start())..in_memory(entry.at.end())];
    match entry.change {
        Change::Write(stamp) => bytes.copy_from_slice(&stamped(stamp, bytes.len())),
        Change::Zeroes | Change::Discard => bytes.fill(0),
    }
}

/// Bytes that no other write has.
pub(crate) fn stamped(stamp: u64, len: usize) -> Vec<u8> {
    let mut bytes = stamp.to_le_bytes().repeat(len / 8 + 1);
    bytes.truncate(len);
    bytes
}

/// The disk after all that the writers did.
pub(crate) fn replay(writers: &[Writer], first: &[u8]) -> Vec<u8> {
    let mut disk = first.to_vec();
    for entry in writers.iter().flat_map(|writer| &writer.log) {
        apply(&mut disk, *entry);
    }
    disk
}

/// Checks that `copy` is one moment between the ticks `called` and `returned` of a start.
pub(crate) fn check_cut(
    writers: &[Writer],
    first: &[u8],
    copy: &[u8],
    (called, returned): (u64, u64),
) {
    let moments: Vec<_> = writers
        .iter()
        .map(|writer| writer.moments(first, copy))
        .collect();
    for (writer, moments) in writers.iter().zip(&moments) {
        assert!(
            !moments.is_empty(),
            "what writer {} did is in the copy in part",
            writer.number
        );
    }
    // A cut begins where the last of its writes was issued.
    let starts = moments
        .iter()
        .flatten()
        .map(|(from, _)| (*from).max(called));
    let is_cut = |at: u64| {
        let has =
            |moments: &Vec<(u64, u64)>| moments.iter().any(|(from, to)| *from <= at && at <= *to);
        moments.iter().all(has)
    };
    assert!(
        starts.filter(|at| *at <= returned).any(is_cut),
        "no moment between {called} and {returned} is common to {moments:?}"
    );
}

#[test]
fn the_oracle_tells_a_cut_from_what_is_none() {
    let first = vec![0; 40_000];
    let ticks = Ticks::default();
    let mut writers: Vec<_> = (0..2).map(|n| Writer::new(n, 2, 40_000, 1)).collect();
    let mut step = |writer: usize| {
        writers[writer].issue(ticks.tick());
        writers[writer].acknowledge(ticks.tick());
    };
    step(0);
    step(1);
    let cut = replay(&writers, &first);
    let at = ticks.tick();
    let mut step = |writer: usize| {
        writers[writer].issue(ticks.tick());
        writers[writer].acknowledge(ticks.tick());
    };
    step(0);
    step(1);
    let later = replay(&writers, &first);

    check_cut(&writers, &first, &cut, (at, at));
    let fails = |copy: &[u8], at: u64| {
        let check = std::panic::AssertUnwindSafe(|| check_cut(&writers, &first, copy, (at, at)));
        std::panic::catch_unwind(check).is_err()
    };
    assert!(fails(&later, at), "it has what came after");
    assert!(fails(&first, at), "it lacks what came before");
    let mut mixed = cut.clone();
    let second = writers[1].log[1];
    apply(&mut mixed, second);
    assert!(
        fails(&mixed, u64::MAX - 1),
        "it lacks what came before what it has"
    );
    let mut torn = cut.clone();
    torn[in_memory(writers[0].log[0].at.start())] ^= 1;
    assert!(fails(&torn, at), "it has half a write");
}
