//! Models of the range lock and its mutants; run as `gate/models.rs` says.

use loom::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::{Kind, Passage, RangeLock};
use crate::{
    allocation::ByteRange,
    testing::{block_on, must_fail},
};

/// The steps that a mutant may get wrong; the defaults are what ships.
trait Steps: 'static {
    async fn pass(lock: &RangeLock, range: ByteRange) -> Passage<'_> {
        lock.pass(range).await
    }
    async fn serialise(lock: &RangeLock, range: ByteRange) -> Passage<'_> {
        lock.serialise(range).await
    }
}

struct Shipped;
impl Steps for Shipped {}

/// Does not wait for plain requests that came before anybody was serialising.
struct ForgetsThePast;
impl Steps for ForgetsThePast {
    async fn serialise(lock: &RangeLock, range: ByteRange) -> Passage<'_> {
        lock.unlisted.close();
        let passage = lock.list(range, Kind::Serialising);
        lock.turn(passage.ticket).await;
        Passage::Listed(passage)
    }
}

/// Waits for whatever overlaps, be it earlier or later: two that wait for each other.
struct WaitsForWaiters;
impl Steps for WaitsForWaiters {
    async fn serialise(lock: &RangeLock, range: ByteRange) -> Passage<'_> {
        lock.unlisted.close();
        let passage = lock.list(range, Kind::Serialising);
        lock.unlisted.wait_empty().await;
        let is_alone = || {
            let listed = lock.lock();
            let mut others = listed.requests.iter();
            !others.any(|other| other.ticket != passage.ticket && other.range.overlaps(range))
        };
        lock.left.until(is_alone).await;
        Passage::Listed(passage)
    }
}

/// Enters its range in the list and goes on without a look at the others.
struct PassesAnyway;
impl Steps for PassesAnyway {
    async fn pass(lock: &RangeLock, range: ByteRange) -> Passage<'_> {
        Passage::Listed(lock.list(range, Kind::Plain))
    }
}

struct World {
    lock: RangeLock,
    /// Serialising requests have their cells to themselves: loom reports any overlap.
    cells: [UnsafeCell<u32>; 2],
    served: AtomicU64,
}

/// What each of the threads does: its kind, and the cells it touches.
type Request = (Kind, u64, u64);

fn serve<S: Steps>(world: &World, (kind, start, end): Request) {
    let range = ByteRange::between(start, end);
    let cells = &world.cells[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
    match kind {
        Kind::Plain => {
            let _passage = block_on(S::pass(&world.lock, range));
            cells.iter().for_each(|cell| cell.with(|_| ()));
            world.served.fetch_add(1, Ordering::Relaxed);
        }
        Kind::Serialising => {
            let _passage = block_on(S::serialise(&world.lock, range));
            cells.iter().for_each(|cell| cell.with_mut(|_| ()));
            world.served.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn model<S: Steps>(requests: &'static [Request]) {
    loom::model(move || {
        let world = Arc::new(World {
            lock: RangeLock::default(),
            cells: [UnsafeCell::new(0), UnsafeCell::new(0)],
            served: AtomicU64::new(0),
        });
        let (own, others) = requests.split_first().unwrap();
        let threads: Vec<_> = others
            .iter()
            .map(|&request| {
                let world = world.clone();
                thread::spawn(move || serve::<S>(&world, request))
            })
            .collect();
        serve::<S>(&world, *own);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(world.served.load(Ordering::Relaxed), to_u64(requests.len()));
        assert_eq!(world.lock.unlisted.inside(), 0);
        assert!(!world.lock.unlisted.is_closed());
        assert!(world.lock.lock().requests.is_empty());
    });
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap()
}

const PLAIN: Kind = Kind::Plain;
const SERIALISING: Kind = Kind::Serialising;

#[test]
fn loom_a_serialising_request_meets_no_plain_one() {
    model::<Shipped>(&[(SERIALISING, 0, 2), (PLAIN, 0, 1), (PLAIN, 1, 2)]);
}

#[test]
fn loom_serialising_requests_take_turns() {
    model::<Shipped>(&[
        (SERIALISING, 0, 1),
        (SERIALISING, 0, 2),
        (SERIALISING, 1, 2),
    ]);
}

#[test]
fn loom_all_kinds_at_once() {
    model::<Shipped>(&[(SERIALISING, 0, 1), (SERIALISING, 0, 2), (PLAIN, 0, 2)]);
}

#[test]
fn loom_mutant_forgetting_the_past_is_noticed() {
    must_fail(
        "request::models::loom_mutant_forgetting_the_past_is_noticed",
        || model::<ForgetsThePast>(&[(SERIALISING, 0, 2), (PLAIN, 0, 1)]),
    );
}

#[test]
fn loom_mutant_waiting_for_waiters_is_noticed() {
    must_fail(
        "request::models::loom_mutant_waiting_for_waiters_is_noticed",
        || model::<WaitsForWaiters>(&[(SERIALISING, 0, 2), (SERIALISING, 0, 1)]),
    );
}

#[test]
fn loom_mutant_passing_anyway_is_noticed() {
    must_fail(
        "request::models::loom_mutant_passing_anyway_is_noticed",
        || model::<PassesAnyway>(&[(SERIALISING, 0, 2), (PLAIN, 0, 1)]),
    );
}
