//! Copies with one fault each, all of which the proof must find; a proof that passes them proves nothing.

use std::time::Duration;

use super::*;
use crate::cli::demo::{
    guest::{Logged, Ticks},
    image::mix,
};

/// Writes of each writer before and after the instant.
const BEFORE: usize = 40;
const AFTER: usize = 30;

/// A guest's log, made up: the writers take turns, and the instant is between two rounds.
struct World {
    folder: tempfile::TempDir,
    image: Image,
    logs: Vec<Log>,
    taken: Taken,
}

impl World {
    fn new() -> Self {
        let image = Image::up_to(4 << 20);
        let ticks = Ticks::default();
        let mut logs = vec![Log::new(); 4];
        write_rounds(&mut logs, BEFORE, &ticks, image);
        let taken = Taken {
            asked: ticks.next(),
            begun: ticks.next(),
        };
        write_rounds(&mut logs, AFTER, &ticks, image);
        Self {
            folder: tempfile::tempdir().unwrap(),
            image,
            logs,
            taken,
        }
    }

    /// A file with the first `included` writes of each writer, changed by `change`.
    fn check(
        &self,
        included: [usize; 4],
        change: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Proven, Flaw> {
        let latest = latest_writes(self.image, &self.logs, &included);
        let mut bytes = Vec::new();
        for block in 0..self.image.blocks() {
            let mut content = [0; BLOCK_BYTES];
            fill(block, &latest, &mut content);
            bytes.extend(content);
        }
        change(&mut bytes);
        let path = self.folder.path().join("copy.img");
        std::fs::write(&path, bytes).unwrap();
        prove_copy(&path, self.image, &self.logs, self.taken)
    }

    /// Where in the file writer 1's write `sequence` is.
    fn place(&self, sequence: usize) -> std::ops::Range<usize> {
        let block = usize::try_from(self.logs[1][sequence].block).unwrap();
        block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES
    }

    fn content(&self, sequence: usize) -> Block {
        let mut content = [0; BLOCK_BYTES];
        let stamp = Stamp {
            writer: 1,
            sequence: u64::try_from(sequence).unwrap(),
            block: self.logs[1][sequence].block,
        };
        stamp.fill(&mut content);
        content
    }

    /// A write of writer 1 among the first `BEFORE` that no later one of these goes over.
    fn visible(&self) -> usize {
        let log = &self.logs[1][..BEFORE];
        let is_last = |index: &usize| {
            !log[index + 1..]
                .iter()
                .any(|w| w.block == log[*index].block)
        };
        (0..BEFORE - 5).find(is_last).unwrap()
    }
}

/// Every writer writes in turn; all of a round are under way at once.
fn write_rounds(logs: &mut [Log], rounds: usize, ticks: &Ticks, image: Image) {
    for _ in 0..rounds {
        let issued: Vec<u64> = logs.iter().map(|_| ticks.next()).collect();
        for (writer, log) in (0u64..).zip(logs.iter_mut()) {
            let chance = mix(u64::try_from(log.len()).unwrap() * 4 + writer);
            let slot = chance % (image.slots() / WRITERS) * WRITERS + writer;
            log.push(Logged {
                block: Image::slot_block(slot),
                issued: issued[usize::try_from(writer).unwrap()],
                acknowledged: ticks.next(),
                latency: Duration::ZERO,
            });
        }
    }
}

const CUT: [usize; 4] = [BEFORE; 4];

#[test]
fn a_copy_of_the_instant_is_proven() {
    let proven = World::new().check(CUT, |_| ()).unwrap();
    assert_eq!(proven.included, CUT);
    assert_eq!(proven.blake3.len(), 64);
}

#[test]
fn a_torn_block_is_found() {
    let world = World::new();
    let place = world.place(world.visible());
    let torn = world.check(CUT, |bytes| bytes[place.start + 2048..place.end].fill(0));
    assert!(matches!(torn, Err(Flaw::Content { .. })), "{torn:?}");
}

#[test]
fn a_missing_write_is_found() {
    let world = World::new();
    let place = world.place(world.visible());
    let mut first = [0; BLOCK_BYTES];
    Image::fill(
        u64::try_from(place.start / BLOCK_BYTES).unwrap(),
        &mut first,
    );
    let missing = world.check(CUT, |bytes| bytes[place].copy_from_slice(&first));
    assert!(matches!(missing, Err(Flaw::Content { .. })), "{missing:?}");
}

#[test]
fn a_last_write_that_is_missing_is_found() {
    let world = World::new();
    let missing = world.check([BEFORE, BEFORE - 1, BEFORE, BEFORE], |_| ());
    assert!(
        matches!(missing, Err(Flaw::Bounds { writer: 1, .. })),
        "{missing:?}"
    );
}

#[test]
fn a_late_write_is_found() {
    let world = World::new();
    let late = BEFORE + AFTER - 1;
    let (place, content) = (world.place(late), world.content(late));
    let found = world.check(CUT, |bytes| bytes[place].copy_from_slice(&content));
    assert!(
        matches!(found, Err(Flaw::Bounds { writer: 1, .. })),
        "{found:?}"
    );
}

#[test]
fn a_later_instant_is_found() {
    let found = World::new().check([BEFORE + 3; 4], |_| ());
    assert!(matches!(found, Err(Flaw::Bounds { .. })), "{found:?}");
}

/// Within the bounds that the command's ticks allow, the writers must still agree.
#[test]
fn an_order_that_never_was_is_found() {
    let mut world = World::new();
    world.taken = Taken {
        asked: 0,
        begun: u64::MAX,
    };
    world.check([20, 20, 20, 21], |_| ()).unwrap();
    let found = world.check([20, 20, 20, 22], |_| ());
    assert!(
        matches!(found, Err(Flaw::Order { included: 3, .. })),
        "{found:?}"
    );
}

#[test]
fn a_write_at_another_place_is_found() {
    let world = World::new();
    let content = world.content(world.visible());
    let slot = usize::try_from(Image::slot_block(0)).unwrap() * BLOCK_BYTES;
    let found = world.check(CUT, |bytes| {
        bytes[slot..slot + BLOCK_BYTES].copy_from_slice(&content);
    });
    assert!(matches!(found, Err(Flaw::Foreign { block }) if block == Image::slot_block(0)));
}

#[test]
fn one_wrong_byte_where_nobody_wrote_is_found() {
    let world = World::new();
    let at = (0..world.image.blocks()).find(|block| Image::slot_of(*block).is_none());
    let at = usize::try_from(at.unwrap()).unwrap() * BLOCK_BYTES + 4095;
    let found = world.check(CUT, |bytes| bytes[at] ^= 1);
    let wants = u64::try_from(at).unwrap();
    assert!(matches!(found, Err(Flaw::Content { offset_bytes }) if offset_bytes == wants));
}

#[test]
fn a_hole_that_is_none_is_found() {
    let world = World::new();
    let last = usize::try_from(world.image.len_bytes()).unwrap() - 1;
    let found = world.check(CUT, |bytes| bytes[last] ^= 0x80);
    assert!(matches!(found, Err(Flaw::Content { .. })), "{found:?}");
}

#[test]
fn a_copy_of_another_length_is_found() {
    let world = World::new();
    let found = world.check(CUT, |bytes| bytes.truncate(bytes.len() - 1));
    assert!(matches!(found, Err(Flaw::Length { .. })), "{found:?}");
    let found = world.check(CUT, |bytes| bytes.push(0));
    assert!(matches!(found, Err(Flaw::Length { .. })), "{found:?}");
}

#[test]
fn a_live_image_that_lost_a_write_is_found() {
    let world = World::new();
    let all = [BEFORE + AFTER; 4];
    drop(world.check(all, |_| ()));
    let path = world.folder.path().join("copy.img");
    prove_live(&path, world.image, &world.logs).unwrap();
    drop(world.check(
        [
            BEFORE + AFTER,
            BEFORE + AFTER - 1,
            BEFORE + AFTER,
            BEFORE + AFTER,
        ],
        |_| (),
    ));
    assert!(prove_live(&path, world.image, &world.logs).is_err());
}
