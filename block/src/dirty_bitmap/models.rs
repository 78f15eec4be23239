//! Models of a writer and a copying job that share a bitmap; run as `gate/models.rs` says.

use loom::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::DirtyBitmap;
use crate::{allocation::ByteRange, testing::must_fail};

const GRANULE: u64 = 512;

struct World {
    source: AtomicU64,
    target: AtomicU64,
    bitmap: Mutex<DirtyBitmap>,
}

impl World {
    fn granule() -> ByteRange {
        ByteRange::between(0, GRANULE)
    }

    /// The bit follows the data, as for a request that has finished.
    fn write(&self, value: u64) {
        self.source.store(value, Ordering::Release);
        self.bitmap.lock().unwrap().set(Self::granule());
    }

    fn claim(&self) -> bool {
        let mut bitmap = self.bitmap.lock().unwrap();
        let area = bitmap.next_dirty_area(0, GRANULE);
        area.map(|area| bitmap.clear(area)).is_some()
    }

    fn copy(&self) {
        let value = self.source.load(Ordering::Acquire);
        self.target.store(value, Ordering::Relaxed);
    }
}

/// A job that claims the granule and then reads it.
fn clear_then_read(world: &World) {
    if world.claim() {
        world.copy();
    }
}

/// The mutant: what is written between the two is forgotten.
fn read_then_clear(world: &World) {
    if !world.bitmap.lock().unwrap().is_clean() {
        world.copy();
        world.claim();
    }
}

fn model(job: fn(&World)) {
    loom::model(move || {
        let mut bitmap = DirtyBitmap::new(GRANULE, GRANULE).unwrap();
        bitmap.set(World::granule());
        let world = Arc::new(World {
            source: AtomicU64::new(1),
            target: AtomicU64::new(0),
            bitmap: Mutex::new(bitmap),
        });
        let writer = {
            let world = world.clone();
            thread::spawn(move || {
                world.write(2);
                world.write(3);
            })
        };
        let merger = {
            let world = world.clone();
            thread::spawn(move || {
                // A transaction that takes the bits away and, being aborted, merges them back.
                let taken = {
                    let mut bitmap = world.bitmap.lock().unwrap();
                    let taken = bitmap.try_clone().unwrap();
                    bitmap.clear(World::granule());
                    taken
                };
                world.bitmap.lock().unwrap().merge(&taken).unwrap();
            })
        };
        job(&world);
        writer.join().unwrap();
        merger.join().unwrap();
        let copied = world.target.load(Ordering::Relaxed) == 3;
        assert!(
            copied || !world.bitmap.lock().unwrap().is_clean(),
            "a write is lost"
        );
    });
}

#[test]
fn loom_at_rest_content_is_copied_or_dirty() {
    model(clear_then_read);
}

#[test]
fn loom_mutant_reading_before_clearing_is_noticed() {
    must_fail(
        "dirty_bitmap::models::loom_mutant_reading_before_clearing_is_noticed",
        || model(read_then_clear),
    );
}
