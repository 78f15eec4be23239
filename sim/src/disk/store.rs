//! The bytes of a disk: as readers see them, as they would be after a power loss, and what lies in between.

use block::{AllocationStatus, ByteRange, Extent, RequestFlags};

use crate::chance::Chance;

/// What a power loss leaves whole.
pub(super) const SECTOR_BYTES: u64 = 512;
/// Unit of allocation.
const BLOCK_BYTES: u64 = 4096;

/// What becomes of a write that was not flushed.
#[derive(Debug)]
pub(super) enum Fate {
    Lost,
    Kept,
    /// Some sectors of it are written.
    Torn(Chance),
}

/// What becomes of blocks that are zeroed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holes {
    Punch,
    Keep,
}

impl Holes {
    pub(super) fn of(flags: RequestFlags) -> Self {
        match flags.may_unmap {
            true => Self::Punch,
            false => Self::Keep,
        }
    }
}

/// A request and whether it is to be stable when it is completed.
type Writer = (u64, bool);

pub(super) struct Store {
    content: Vec<u8>,
    /// What has been flushed, and nothing else.
    durable: Vec<u8>,
    allocated: Vec<bool>,
    /// What has changed since the last flush, in order.
    unflushed: Vec<Change>,
    /// Counts the requests that were completed.
    completions: u64,
}

struct Change {
    writer: Writer,
    range: ByteRange,
    /// Absent for zeroes.
    bytes: Option<Box<[u8]>>,
    /// After how many others it was completed, if it was.
    completed: Option<u64>,
    has_failed: bool,
}

impl Store {
    pub(super) fn new(len_bytes: u64) -> Self {
        let len = index(len_bytes);
        Self {
            content: vec![0; len],
            durable: vec![0; len],
            allocated: vec![false; index(len_bytes.div_ceil(BLOCK_BYTES))],
            unflushed: Vec::new(),
            completions: 0,
        }
    }

    pub(super) fn completions(&self) -> u64 {
        self.completions
    }

    pub(super) fn content(&self) -> &[u8] {
        &self.content
    }

    pub(super) fn fill(&mut self, range: ByteRange, bytes: &[u8]) {
        self.content[span(range)].copy_from_slice(bytes);
        self.durable[span(range)].copy_from_slice(bytes);
        self.allocate(range);
    }

    pub(super) fn read(&self, range: ByteRange, into: &mut [u8]) {
        into.copy_from_slice(&self.content[span(range)]);
    }

    pub(super) fn write(&mut self, writer: Writer, range: ByteRange, bytes: &[u8]) {
        self.content[span(range)].copy_from_slice(bytes);
        self.allocate(range);
        self.change(writer, range, Some(bytes.into()));
    }

    pub(super) fn zero(&mut self, writer: Writer, range: ByteRange, holes: Holes) {
        self.content[span(range)].fill(0);
        match holes {
            Holes::Keep => self.allocate(range),
            Holes::Punch => {
                let end = match range.end() == self.len_bytes() {
                    true => range.end().div_ceil(BLOCK_BYTES),
                    false => range.end() / BLOCK_BYTES,
                };
                for block in range.start().div_ceil(BLOCK_BYTES)..end {
                    self.allocated[index(block)] = false;
                }
            }
        }
        self.change(writer, range, None);
    }

    fn change(&mut self, writer: Writer, range: ByteRange, bytes: Option<Box<[u8]>>) {
        self.unflushed.push(Change {
            writer,
            range,
            bytes,
            completed: None,
            has_failed: false,
        });
    }

    fn len_bytes(&self) -> u64 {
        u64::try_from(self.content.len()).expect("a disk in memory")
    }

    fn blocks(range: ByteRange) -> std::ops::Range<usize> {
        index(range.start() / BLOCK_BYTES)..index(range.end().div_ceil(BLOCK_BYTES))
    }

    fn allocate(&mut self, range: ByteRange) {
        self.allocated[Self::blocks(range)].fill(true);
    }

    /// How many blocks a write would allocate.
    pub(super) fn new_blocks(&self, range: ByteRange) -> u64 {
        let blocks = self.allocated[Self::blocks(range)].iter();
        let new = blocks.filter(|is_allocated| !**is_allocated).count();
        u64::try_from(new).expect("a disk in memory")
    }

    pub(super) fn extent(&self, range: ByteRange) -> Extent {
        let mut blocks = self.allocated[Self::blocks(range)].iter();
        let first = *blocks.next().expect("the range is not empty");
        let more = blocks.take_while(|it| **it == first).count();
        let more = u64::try_from(more).expect("a disk in memory");
        let end = (range.start() / BLOCK_BYTES + 1 + more) * BLOCK_BYTES;
        Extent {
            len_bytes: end.min(range.end()) - range.start(),
            status: match first {
                true => AllocationStatus::Data,
                false => AllocationStatus::Zero,
            },
        }
    }

    /// A request has ended; one that failed may have changed something all the same.
    pub(super) fn complete(&mut self, id: u64, errno: Option<i32>) {
        self.completions += 1;
        let of_request = self.unflushed.iter_mut();
        for change in of_request.filter(|change| change.writer.0 == id) {
            match errno {
                None => change.completed = Some(self.completions),
                Some(_) => change.has_failed = true,
            }
        }
    }

    /// Makes stable what was completed before a flush began that began after so many completions.
    pub(super) fn flush(&mut self, begun: u64) {
        let is_due = |change: &Change| change.completed.is_some_and(|at| at <= begun);
        let Some(last) = self.unflushed.iter().rposition(is_due) else {
            return;
        };
        // What else was changed before may as well be stable: disks may write whenever they like.
        for change in self.unflushed.drain(..=last) {
            change.write_to(&mut self.durable, &mut Fate::Kept);
        }
    }

    /// What was not flushed, and did not have to be, never will be.
    pub(super) fn drop_unflushed(&mut self) {
        // What is still in flight is not concerned.
        let has_ended = |change: &mut Change| change.completed.is_some() || change.has_failed;
        for change in self.unflushed.extract_if(.., has_ended) {
            if change.is_stable() {
                change.write_to(&mut self.durable, &mut Fate::Kept);
            }
        }
    }

    /// The content after a power loss, in which each change that is not stable meets its fate.
    ///
    /// `fate` is told how many sectors there are.
    pub(super) fn durable(&self, mut fate: impl FnMut(u64) -> Fate) -> Vec<u8> {
        let mut left = self.durable.clone();
        for change in &self.unflushed {
            let sectors = change.range.len().div_ceil(SECTOR_BYTES);
            let mut fate = match change.is_stable() {
                true => Fate::Kept,
                false => fate(sectors),
            };
            change.write_to(&mut left, &mut fate);
        }
        left
    }
}

impl Change {
    /// Whether whoever asked for it was told that it is stable.
    fn is_stable(&self) -> bool {
        self.writer.1 && self.completed.is_some()
    }

    fn write_to(&self, disk: &mut [u8], fate: &mut Fate) {
        let mut at = self.range.start();
        while at < self.range.end() {
            let end = match fate {
                Fate::Lost => return,
                Fate::Kept => self.range.end(),
                Fate::Torn(_) => (at / SECTOR_BYTES + 1) * SECTOR_BYTES,
            };
            let part = ByteRange::between(at, end.min(self.range.end()));
            at = part.end();
            if let Fate::Torn(chance) = fate
                && chance.one_in(2)
            {
                continue;
            }
            match &self.bytes {
                Some(bytes) => {
                    let from = index(part.start() - self.range.start());
                    let bytes = &bytes[from..from + index(part.len())];
                    disk[span(part)].copy_from_slice(bytes);
                }
                None => disk[span(part)].fill(0),
            }
        }
    }
}

fn span(range: ByteRange) -> std::ops::Range<usize> {
    index(range.start())..index(range.end())
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a disk in memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end)
    }

    fn write(store: &mut Store, id: u64, at: ByteRange, byte: u8) {
        store.write((id, false), at, &vec![byte; index(at.len())]);
        store.complete(id, None);
    }

    #[test]
    fn what_was_completed_before_a_flush_began_is_stable_and_nothing_else() {
        let mut store = Store::new(8192);
        write(&mut store, 1, range(0, 512), 1);
        let begun = store.completions();
        write(&mut store, 2, range(512, 1024), 2);
        store.flush(begun);

        let left = store.durable(|_| Fate::Lost);
        assert_eq!((left[0], left[512]), (1, 0));
        assert_eq!(store.content()[512], 2);
        let kept = store.durable(|_| Fate::Kept);
        assert_eq!(kept[512], 2);
    }

    #[test]
    fn what_a_failed_flush_has_dropped_is_gone_for_good() {
        let mut store = Store::new(8192);
        write(&mut store, 1, range(0, 512), 1);
        store.drop_unflushed();
        store.flush(store.completions());
        assert_eq!(store.durable(|_| Fate::Kept)[0], 0);
    }

    #[test]
    fn a_torn_write_is_torn_between_sectors() {
        let mut store = Store::new(64 << 10);
        write(&mut store, 1, range(0, 64 << 10), 1);
        let mut seed = 0;
        let torn = store.durable(|_| {
            seed += 1;
            Fate::Torn(Chance::new(seed))
        });
        let whole = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
        assert!(torn.chunks(512).all(whole));
        assert!(torn.contains(&0) && torn.contains(&1));
    }

    #[test]
    fn holes_read_as_zeroes_and_show_as_such() {
        let mut store = Store::new(16384);
        write(&mut store, 1, range(0, 12288), 1);
        store.zero((2, false), range(1000, 9000), Holes::Punch);
        let found = store.extent(range(4096, 16384));
        assert_eq!(
            (found.len_bytes, found.status),
            (4096, AllocationStatus::Zero)
        );
        assert_eq!(store.extent(range(0, 16384)).len_bytes, 4096);
        assert_eq!(store.content()[8192], 0);
    }
}
