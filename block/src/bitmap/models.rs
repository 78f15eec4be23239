//! Models of requests that mark a bitmap while others change it; run as `gate/models.rs` says.

use loom::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{State, Table, state::Cell};
use crate::{allocation::ByteRange, dirty_bitmap::DirtyBitmap, testing::must_fail};

const GRANULE: u64 = 512;

struct World {
    table: Table,
    cell: std::sync::Arc<Cell>,
}

fn world(state: fn() -> State) -> Arc<World> {
    let table = Table::default();
    let cell = table.list_new("b", || Ok(state())).unwrap();
    Arc::new(World { table, cell })
}

fn clean() -> DirtyBitmap {
    DirtyBitmap::new(4 * GRANULE, GRANULE).unwrap()
}

fn enabled() -> State {
    State::new(clean())
}

fn disabled() -> State {
    State::new(clean()).disabled()
}

impl World {
    fn mark(&self, granule: u64) {
        self.table.mark(granule_range(granule), || 4 * GRANULE);
    }

    fn change<T>(&self, action: impl FnOnce(&mut State) -> T) -> T {
        self.table.change(&self.cell, action)
    }

    fn has(&self, granule: u64) -> bool {
        self.change(|state| state.content().is_dirty(granule * GRANULE))
    }
}

fn granule_range(granule: u64) -> ByteRange {
    ByteRange::between(granule * GRANULE, (granule + 1) * GRANULE)
}

/// A job that fails: what was recorded beside the frozen content is added to it.
fn freeze_and_reclaim(world: &World) {
    world.change(State::freeze).unwrap();
    world.change(State::reclaim);
}

/// The mutant: the content is taken out, changed and put back, each in its own critical section.
fn take_and_put_back(world: &World) {
    let mut taken = world.change(|state| state.content().try_clone()).unwrap();
    taken.set(granule_range(2));
    world.change(|state| {
        state.clear();
        state.merge(&taken).unwrap();
    });
}

/// A request that ends beside whatever `other` does.
fn writer_beside(other: fn(&World)) {
    loom::model(move || {
        let world = world(enabled);
        let writer = {
            let world = world.clone();
            thread::spawn(move || world.mark(0))
        };
        other(&world);
        writer.join().unwrap();
        assert!(world.has(0), "a bit is lost");
    });
}

#[test]
fn loom_writers_at_once_lose_no_bit() {
    writer_beside(|world| {
        world.mark(1);
        assert!(world.has(1), "a bit is lost");
    });
}

#[test]
fn loom_a_job_that_fails_loses_no_bit() {
    writer_beside(freeze_and_reclaim);
}

#[test]
fn loom_mutant_a_bitmap_that_is_put_back_is_noticed() {
    must_fail(
        "bitmap::models::loom_mutant_a_bitmap_that_is_put_back_is_noticed",
        || writer_beside(take_and_put_back),
    );
}

#[test]
fn loom_a_transaction_that_fails_loses_no_bit() {
    writer_beside(|world| {
        let kept = world.change(|state| {
            let kept = state.keep().unwrap();
            state.clear();
            state.disable();
            kept
        });
        world.change(|state| state.put_back(kept));
    });
}

fn told_after(enable: fn(&World), tell_first: fn() -> Ordering) {
    loom::model(move || {
        let world = world(disabled);
        let is_told = Arc::new(AtomicBool::new(false));
        let writer = {
            let (world, is_told) = (world.clone(), is_told.clone());
            thread::spawn(move || {
                let knows = is_told.load(Ordering::Acquire);
                world.mark(0);
                knows
            })
        };
        enable(&world);
        is_told.store(true, tell_first());
        let knew = writer.join().unwrap();
        assert!(!knew || world.has(0), "a write after it is not recorded");
    });
}

#[test]
fn loom_a_write_that_ends_after_a_bitmap_was_enabled_is_marked() {
    told_after(|world| world.change(State::enable), || Ordering::Release);
}

#[test]
fn loom_mutant_a_count_that_others_learn_of_too_late_is_noticed() {
    must_fail(
        "bitmap::models::loom_mutant_a_count_that_others_learn_of_too_late_is_noticed",
        || told_after(|world| world.change(State::enable), || Ordering::Relaxed),
    );
}
