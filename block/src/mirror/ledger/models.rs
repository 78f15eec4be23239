//! Models of the books of a mirror and their mutants; run as `gate/models.rs` says.
//!
//! Source and target are numbers, one per granule; a granule of two halves where a guest writes less than a granule.
//! What must hold: at rest, what differs is dirty; once the gate is closed and empty and nothing is dirty or in
//! flight, nothing differs and no write goes to the source any more; nobody waits for ever.

use loom::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::{Claim, Kind, Ledger, Place};
use crate::{
    allocation::ByteRange,
    copy::TargetContent,
    gate::{Gate, RequestGuard},
    testing::{block_on, must_fail},
};

const GRANULE: u64 = 512;
const HALF: u64 = GRANULE / 2;

/// Two disks of two halves of a granule, and the books.
struct World {
    ledger: std::sync::Arc<Ledger>,
    gate: Gate,
    source: [AtomicU64; 2],
    target: [AtomicU64; 2],
}

fn halves(first: u64, end: u64) -> ByteRange {
    ByteRange::between(first * HALF, end * HALF)
}

fn indices(range: ByteRange) -> std::ops::Range<usize> {
    let index = |bytes: u64| usize::try_from(bytes / HALF).unwrap();
    index(range.start())..index(range.end())
}

impl World {
    fn new() -> Arc<Self> {
        let ledger = Ledger::new(GRANULE, GRANULE, TargetContent::Unknown).unwrap();
        Arc::new(Self {
            ledger: std::sync::Arc::new(ledger),
            gate: Gate::default(),
            source: [AtomicU64::new(0), AtomicU64::new(0)],
            target: [AtomicU64::new(0), AtomicU64::new(0)],
        })
    }

    fn put(disk: &[AtomicU64; 2], range: ByteRange, value: u64) {
        for half in &disk[indices(range)] {
            half.store(value, Ordering::Release);
        }
    }

    fn read_source(&self) -> [u64; 2] {
        [0, 1].map(|half: usize| self.source[half].load(Ordering::Acquire))
    }

    fn write_target(&self, values: [u64; 2]) {
        for (half, value) in self.target.iter().zip(values) {
            half.store(value, Ordering::Release);
        }
    }

    fn differs(&self) -> bool {
        let target = [0, 1].map(|half: usize| self.target[half].load(Ordering::Acquire));
        self.read_source() != target
    }
}

/// The steps that a mutant may get wrong; the defaults are what ships.
trait Steps: 'static {
    /// A guest's write in the background mode.
    fn track(world: &World, range: ByteRange, value: u64) {
        let _tracked = world.ledger.track(range);
        World::put(&world.source, range, value);
    }

    /// A guest's write on both sides.
    fn take(world: &World, range: ByteRange, value: u64) {
        if let Some(taken) = block_on(world.ledger.take(range)) {
            World::put(&world.source, range, value);
            if taken.needs_target() {
                World::put(&world.target, range, value);
            }
            taken.done();
        }
    }

    /// One round of the background copy.
    fn copy(world: &World) {
        if let Some(claim) = world.ledger.claim(GRANULE) {
            block_on(claim.turn());
            world.write_target(world.read_source());
            claim.finish();
        }
    }

    /// The switch: nobody may change the source once it is true.
    fn ends(world: &World) -> bool {
        world.gate.close();
        block_on(world.gate.wait_empty());
        world.ledger.is_synced()
    }
}

struct Shipped;
impl Steps for Shipped {}

/// L8: what is written between the two is forgotten.
struct ReadsThenClears;
impl Steps for ReadsThenClears {
    fn copy(world: &World) {
        if world.ledger.load().dirty_bytes > 0 {
            let values = world.read_source();
            if let Some(claim) = world.ledger.claim(GRANULE) {
                world.write_target(values);
                claim.finish();
            }
        }
    }
}

/// L8: a copy between the mark and the write takes the mark away.
struct MarksFirst;
impl Steps for MarksFirst {
    fn track(world: &World, range: ByteRange, value: u64) {
        world.ledger.mark(range);
        World::put(&world.source, range, value);
    }
}

/// L8, museum 35: a write of half a granule cleans all of it.
struct ClearsOutward;
impl Steps for ClearsOutward {
    fn take(world: &World, range: ByteRange, value: u64) {
        let whole = halves(0, 2);
        let taken = block_on(world.ledger.take(whole)).unwrap();
        World::put(&world.source, range, value);
        World::put(&world.target, range, value);
        taken.done();
    }
}

/// L7: the copy goes on beside a guest that writes both sides.
struct CopiesAnyway;
impl Steps for CopiesAnyway {
    fn copy(world: &World) {
        if let Some(claim) = world.ledger.claim(GRANULE) {
            world.write_target(world.read_source());
            claim.finish();
        }
    }
}

/// L7: guests write both sides without waiting for each other.
struct WritesAnyway;
impl Steps for WritesAnyway {
    fn take(world: &World, range: ByteRange, value: u64) {
        let _tracked = &world.ledger;
        World::put(&world.source, range, value);
        World::put(&world.target, range, value);
    }
}

/// L7, museum 37: waits for whatever overlaps, be it earlier or later: two that wait for each other.
struct WaitsForWaiters;
impl Steps for WaitsForWaiters {
    fn take(world: &World, range: ByteRange, value: u64) {
        let ledger = &world.ledger;
        let ticket = ledger.lock().enlist(range, Kind::Guest);
        let alone = || {
            let state = ledger.lock();
            let mut others = state.entries.iter();
            !others.any(|other| other.ticket != ticket && other.range.overlaps(range))
        };
        block_on(ledger.turns.until(alone));
        World::put(&world.source, range, value);
        World::put(&world.target, range, value);
        ledger.land(ticket, None);
    }
}

/// L7: ends without telling those who wait for it.
struct LandsInSilence;
impl Steps for LandsInSilence {
    fn take(world: &World, range: ByteRange, value: u64) {
        let ledger = &world.ledger;
        let ticket = ledger.lock().enlist(range, Kind::Guest);
        block_on(ledger.turn(ticket));
        World::put(&world.source, range, value);
        World::put(&world.target, range, value);
        ledger.lock().entries.retain(|entry| entry.ticket != ticket);
    }
}

/// L9, museum 34: looks while guests may still come in.
struct LooksBeforeClosing;
impl Steps for LooksBeforeClosing {
    fn ends(world: &World) -> bool {
        let is_synced = world.ledger.is_synced();
        world.gate.close();
        block_on(world.gate.wait_empty());
        is_synced
    }
}

/// L9: takes what is in flight for copied.
struct LooksAtMarksOnly;
impl Steps for LooksAtMarksOnly {
    fn ends(world: &World) -> bool {
        world.gate.close();
        block_on(world.gate.wait_empty());
        world.ledger.load().dirty_bytes == 0
    }
}

#[derive(Clone, Copy)]
enum Act {
    Track(u64, u64, u64),
    Take(u64, u64, u64),
    Copy,
}

fn act<S: Steps>(world: &World, act: Act) {
    match act {
        Act::Track(first, end, value) => S::track(world, halves(first, end), value),
        Act::Take(first, end, value) => S::take(world, halves(first, end), value),
        Act::Copy => S::copy(world),
    }
}

/// Everything at once, then at rest: what differs is dirty.
fn model<S: Steps>(is_dirty: bool, acts: &'static [Act]) {
    loom::model(move || {
        let world = World::new();
        if is_dirty {
            World::put(&world.source, halves(0, 2), 7);
            world.ledger.mark(halves(0, 2));
        }
        let (own, others) = acts.split_first().unwrap();
        let threads: Vec<_> = others
            .iter()
            .map(|&other| {
                let world = world.clone();
                thread::spawn(move || act::<S>(&world, other))
            })
            .collect();
        act::<S>(&world, *own);
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(world.ledger.lock().entries.is_empty());
        let is_dirty = world.ledger.load().dirty_bytes > 0;
        assert!(is_dirty || !world.differs(), "it differs and nobody knows");
    });
}

/// A guest that writes whenever it is let, a copy, and the end: the switch happens at equality or not at all.
fn model_end<S: Steps>(guest: Act) {
    loom::model(move || {
        let world = World::new();
        let writer = {
            let world = world.clone();
            thread::spawn(move || {
                let gate = &world.gate;
                // A request that finds the gate closed goes elsewhere after the switch.
                if let Some(_inside) = RequestGuard::try_enter(gate) {
                    act::<S>(&world, guest);
                }
            })
        };
        let copier = {
            let world = world.clone();
            thread::spawn(move || S::copy(&world))
        };
        if S::ends(&world) {
            assert!(
                !world.differs(),
                "an acknowledged write is not on the side that stays"
            );
            let seen = world.read_source();
            writer.join().unwrap();
            assert_eq!(
                seen,
                world.read_source(),
                "the old source is written after the switch"
            );
        } else {
            writer.join().unwrap();
        }
        copier.join().unwrap();
    });
}

/// A copy that was claimed and dropped, and a guest that waited for it.
fn model_give_up() {
    loom::model(|| {
        let world = World::new();
        world.ledger.mark(halves(0, 2));
        let claim: Claim = world.ledger.claim(GRANULE).unwrap();
        let guest = {
            let world = world.clone();
            thread::spawn(move || block_on(world.ledger.take(halves(0, 2))).is_none())
        };
        world.ledger.give_up();
        assert!(
            guest.join().unwrap(),
            "its turn cannot come while the claim is held"
        );
        let Claim { place, .. } = claim;
        drop::<Place>(place);
    });
}

#[test]
fn loom_what_differs_is_dirty() {
    model::<Shipped>(true, &[Act::Copy, Act::Track(0, 1, 1), Act::Copy]);
}

#[test]
fn loom_requests_on_both_sides_take_turns() {
    model::<Shipped>(true, &[Act::Copy, Act::Take(0, 1, 1), Act::Take(0, 2, 2)]);
}

#[test]
fn loom_requests_of_both_modes_at_once() {
    model::<Shipped>(false, &[Act::Take(0, 2, 1), Act::Track(0, 1, 2), Act::Copy]);
}

#[test]
fn loom_the_switch_happens_at_equality_in_the_background_mode() {
    model_end::<Shipped>(Act::Track(0, 1, 1));
}

#[test]
fn loom_the_switch_happens_at_equality_with_writes_on_both_sides() {
    model_end::<Shipped>(Act::Take(0, 1, 1));
}

#[test]
fn loom_giving_up_ends_a_wait() {
    model_give_up();
}

#[test]
fn loom_mutant_reading_before_clearing_is_noticed() {
    must_fail(
        "mirror::ledger::models::loom_mutant_reading_before_clearing_is_noticed",
        || model::<ReadsThenClears>(true, &[Act::Copy, Act::Track(0, 1, 1)]),
    );
}

#[test]
fn loom_mutant_marking_before_writing_is_noticed() {
    must_fail(
        "mirror::ledger::models::loom_mutant_marking_before_writing_is_noticed",
        || model::<MarksFirst>(false, &[Act::Copy, Act::Track(0, 1, 1)]),
    );
}

#[test]
fn loom_mutant_clearing_outward_is_noticed() {
    must_fail(
        "mirror::ledger::models::loom_mutant_clearing_outward_is_noticed",
        || model::<ClearsOutward>(true, &[Act::Copy, Act::Take(0, 1, 1)]),
    );
}

#[test]
fn loom_mutant_copying_beside_a_guest_is_noticed() {
    must_fail(
        "mirror::ledger::models::loom_mutant_copying_beside_a_guest_is_noticed",
        || model::<CopiesAnyway>(true, &[Act::Copy, Act::Take(0, 1, 1)]),
    );
}

#[test]
fn loom_mutant_guests_beside_each_other_are_noticed() {
    must_fail(
        "mirror::ledger::models::loom_mutant_guests_beside_each_other_are_noticed",
        || model::<WritesAnyway>(false, &[Act::Take(0, 1, 1), Act::Take(0, 2, 2)]),
    );
}

#[test]
fn loom_mutant_waiting_for_waiters_is_noticed() {
    must_fail(
        "mirror::ledger::models::loom_mutant_waiting_for_waiters_is_noticed",
        || model::<WaitsForWaiters>(false, &[Act::Take(0, 1, 1), Act::Take(0, 2, 2)]),
    );
}

#[test]
fn loom_mutant_landing_in_silence_is_noticed() {
    must_fail(
        "mirror::ledger::models::loom_mutant_landing_in_silence_is_noticed",
        || model::<LandsInSilence>(false, &[Act::Take(0, 1, 1), Act::Take(0, 2, 2)]),
    );
}

#[test]
fn loom_mutant_looking_before_closing_is_noticed() {
    must_fail(
        "mirror::ledger::models::loom_mutant_looking_before_closing_is_noticed",
        || model_end::<LooksBeforeClosing>(Act::Track(0, 1, 1)),
    );
}

#[test]
fn loom_mutant_looking_at_marks_only_is_noticed() {
    must_fail(
        "mirror::ledger::models::loom_mutant_looking_at_marks_only_is_noticed",
        || model_end::<LooksAtMarksOnly>(Act::Track(0, 1, 1)),
    );
}
