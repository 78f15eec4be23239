//! Tests of the books of a mirror: what is dirty when, who waits for whom, and what wakes.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use super::{Claim, Ledger, Taken};
use crate::{allocation::ByteRange, copy::TargetContent, dirty_bitmap::DirtyBitmap};

const GRANULE: u64 = 4096;
/// Ten granules and a short one.
const LEN: u64 = 10 * GRANULE + 1000;

fn ledger() -> Arc<Ledger> {
    Arc::new(Ledger::new(LEN, GRANULE, TargetContent::Unknown).unwrap())
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(start, end)
}

fn granules(first: u64, end: u64) -> ByteRange {
    range(first * GRANULE, (end * GRANULE).min(LEN))
}

fn whole() -> ByteRange {
    range(0, LEN)
}

/// What is ready at once.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// A guest whose turn it is at once.
fn take(ledger: &Arc<Ledger>, range: ByteRange) -> Taken {
    now(ledger.take(range))
        .expect("nobody is in the way")
        .unwrap()
}

fn dirty(ledger: &Ledger) -> u64 {
    ledger.load().dirty_bytes
}

/// The areas that a copy would be given one after the other.
fn areas(ledger: &Arc<Ledger>) -> Vec<ByteRange> {
    let claims: Vec<_> = std::iter::from_fn(|| ledger.claim(u64::MAX)).collect();
    claims.iter().map(Claim::range).collect()
}

#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn with_bell(ledger: &Ledger) -> Arc<Bell> {
    let bell = Arc::<Bell>::default();
    ledger.set_alarm(bell.clone().into());
    bell
}

#[test]
fn what_a_guest_touches_is_dirty_when_its_request_ends_and_not_before() {
    let ledger = ledger();
    let tracked = ledger.track(range(GRANULE + 5, 2 * GRANULE + 1));
    assert!(ledger.is_synced());
    assert_eq!(ledger.tracked(), 1);
    drop(tracked);
    assert_eq!(areas(&ledger), [granules(1, 3)]);
    assert_eq!(ledger.tracked(), 0);
}

#[test]
fn bytes_that_guests_make_dirty_count_each_time_they_become_so() {
    let ledger = ledger();
    drop(ledger.track(granules(0, 2)));
    drop(ledger.track(granules(1, 2)));
    assert_eq!(ledger.load().dirtied_bytes, 2 * GRANULE);
    ledger.claim(u64::MAX).unwrap().finish();
    drop(ledger.track(granules(1, 2)));
    assert_eq!(ledger.load().dirtied_bytes, 3 * GRANULE);
}

#[test]
fn a_claim_is_clean_at_once_and_dirty_again_unless_it_is_finished() {
    let ledger = ledger();
    ledger.mark(granules(2, 4));
    let claim = ledger.claim(u64::MAX).unwrap();
    assert_eq!(dirty(&ledger), 0);
    assert!(!ledger.is_synced(), "it is in flight");
    drop(claim);
    assert_eq!(dirty(&ledger), 2 * GRANULE);
    ledger.claim(u64::MAX).unwrap().finish();
    assert!(ledger.is_synced());
}

#[test]
fn what_a_guest_changes_while_it_is_copied_is_copied_again() {
    let ledger = ledger();
    ledger.mark(granules(2, 4));
    let claim = ledger.claim(u64::MAX).unwrap();
    drop(ledger.track(range(2 * GRANULE + 7, 2 * GRANULE + 9)));
    assert!(ledger.claim(u64::MAX).is_none(), "it is being copied");
    claim.finish();
    assert_eq!(areas(&ledger), [granules(2, 3)]);
}

#[test]
fn a_claim_goes_round_areas_that_are_being_copied() {
    let ledger = ledger();
    ledger.mark(granules(4, 6));
    let middle = ledger.claim(u64::MAX).unwrap();
    ledger.mark(whole());
    let behind = ledger.claim(u64::MAX).unwrap();
    let before = ledger.claim(u64::MAX).unwrap();
    assert_eq!(behind.range(), range(6 * GRANULE, LEN));
    assert_eq!(before.range(), granules(0, 4));
    assert!(ledger.claim(u64::MAX).is_none());
    drop((before, behind));
    middle.finish();
    assert_eq!(dirty(&ledger), LEN, "the middle was marked again meanwhile");
}

#[test]
fn claims_go_on_where_the_last_one_ended_and_start_over_at_the_end() {
    let ledger = ledger();
    ledger.mark(whole());
    ledger.claim(GRANULE).unwrap().finish();
    ledger.mark(granules(0, 1));
    assert_eq!(ledger.claim(2 * GRANULE).unwrap().range(), granules(1, 3));
    ledger.claim(u64::MAX).unwrap().finish();
    assert_eq!(ledger.claim(GRANULE).unwrap().range(), granules(0, 1));
}

#[test]
fn what_a_claim_gives_back_is_dirty_and_comes_next() {
    let ledger = ledger();
    ledger.mark(whole());
    let mut claim = ledger.claim(u64::MAX).unwrap();
    claim.keep(2 * GRANULE);
    assert_eq!(claim.range(), granules(0, 2));
    assert_eq!(dirty(&ledger), LEN - 2 * GRANULE);
    assert_eq!(ledger.claim(GRANULE).unwrap().range(), granules(2, 3));
    claim.finish();
    assert_eq!(dirty(&ledger), LEN - 2 * GRANULE);
}

#[test]
fn a_claim_has_at_least_one_granule() {
    let ledger = ledger();
    ledger.mark(whole());
    assert_eq!(ledger.claim(1).unwrap().range(), granules(0, 1));
}

/// Museum 35: what was written of a granule in part says nothing about the rest of it.
#[test]
fn a_guest_that_writes_both_sides_cleans_only_what_it_covers_wholly() {
    let ledger = ledger();
    ledger.mark(whole());
    let taken = take(&ledger, range(GRANULE + 1, 4 * GRANULE - 1));
    taken.done();
    assert_eq!(areas(&ledger), [granules(0, 2), range(3 * GRANULE, LEN)]);
}

#[test]
fn the_short_granule_at_the_end_is_covered_by_a_write_to_the_end() {
    let ledger = ledger();
    ledger.mark(whole());
    take(&ledger, range(9 * GRANULE + 1, LEN)).done();
    assert_eq!(areas(&ledger), [granules(0, 10)]);
    let ledger = self::ledger();
    ledger.mark(whole());
    take(&ledger, range(10 * GRANULE, LEN - 1)).done();
    assert_eq!(dirty(&ledger), LEN);
}

#[test]
fn a_guest_write_is_left_to_the_copy_where_every_granule_is_dirty_anyway() {
    let ledger = ledger();
    ledger.mark(granules(0, 2));
    for (bytes, needs_target) in [
        (range(1, GRANULE - 1), false),
        (range(1, GRANULE + 1), false),
        (range(1, 2 * GRANULE + 1), true),
        (range(GRANULE, 2 * GRANULE), true),
        (range(3 * GRANULE + 1, 3 * GRANULE + 2), true),
    ] {
        let taken = take(&ledger, bytes);
        assert_eq!(taken.needs_target(), needs_target, "{bytes}");
        taken.done();
    }
}

#[test]
fn a_guest_write_that_fails_leaves_every_granule_it_touches_dirty() {
    let ledger = ledger();
    drop(take(&ledger, range(GRANULE + 1, 3 * GRANULE + 1)));
    assert_eq!(areas(&ledger), [granules(1, 4)]);
}

#[test]
fn a_guest_that_gives_its_place_up_before_its_turn_marks_nothing() {
    let ledger = ledger();
    let first = take(&ledger, granules(0, 1));
    {
        let mut waiting = pin!(ledger.take(granules(0, 1)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
    }
    first.done();
    assert!(ledger.is_synced());
    take(&ledger, granules(0, 1)).done();
}

/// Museum 37: a wait for one who waits for others ends, since all wait for earlier ones only.
#[test]
fn turns_come_in_the_order_of_arrival_and_only_where_ranges_meet() {
    let ledger = ledger();
    ledger.mark(granules(0, 2));
    let first = take(&ledger, range(0, 100));
    let claim = ledger.claim(u64::MAX).unwrap();
    let mut second = pin!(ledger.take(range(50, 2 * GRANULE)));
    let mut cx = Context::from_waker(Waker::noop());

    assert!(now(claim.turn()).is_none(), "a guest is at it");
    assert!(second.as_mut().poll(&mut cx).is_pending());
    take(&ledger, range(5 * GRANULE, 6 * GRANULE)).done();
    first.done();
    assert_eq!(now(claim.turn()), Some(true));
    assert!(
        second.as_mut().poll(&mut cx).is_pending(),
        "the copy came first"
    );
    claim.finish();
    assert!(second.as_mut().poll(&mut cx).is_ready());
}

#[test]
fn guests_at_different_bytes_of_a_granule_do_not_wait_for_each_other() {
    let ledger = ledger();
    let first = take(&ledger, range(0, 100));
    take(&ledger, range(100, 200)).done();
    first.done();
}

#[test]
fn a_guest_over_dirty_bytes_is_in_flight_until_it_is_done() {
    let ledger = ledger();
    let over_clean = take(&ledger, granules(5, 6));
    assert!(ledger.is_synced());
    over_clean.done();
    ledger.mark(granules(2, 3));
    let over_dirty = take(&ledger, granules(2, 3));
    assert_eq!(dirty(&ledger), 0);
    assert!(!ledger.is_synced());
    assert_eq!(ledger.load().in_flight_bytes, GRANULE);
    over_dirty.done();
    assert!(ledger.is_synced());
}

#[test]
fn giving_up_lets_everybody_go() {
    let ledger = ledger();
    ledger.mark(whole());
    let first = take(&ledger, granules(0, 1));
    let claim = ledger.claim(u64::MAX).unwrap();
    let mut waiting = pin!(ledger.take(granules(0, 1)));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());

    ledger.give_up();

    assert!(matches!(waiting.as_mut().poll(&mut cx), Poll::Ready(None)));
    assert_eq!(now(claim.turn()), Some(false));
    assert_eq!(now(ledger.given_up()), Some(()));
    drop((first, claim));
    assert!(ledger.claim(u64::MAX).is_none());
}

#[test]
fn the_alarm_rings_once_after_a_claim_that_found_nothing() {
    let ledger = ledger();
    let bell = with_bell(&ledger);
    let rung = || bell.0.swap(0, Ordering::Relaxed);
    drop(ledger.track(granules(0, 1)));
    assert_eq!(rung(), 0, "nobody has looked yet");
    ledger.claim(u64::MAX).unwrap().finish();
    assert!(ledger.claim(u64::MAX).is_none());
    drop(ledger.track(granules(0, 1)));
    drop(ledger.track(granules(1, 2)));
    assert_eq!(rung(), 1);
    while let Some(claim) = ledger.claim(u64::MAX) {
        claim.finish();
    }
    drop(take(&ledger, granules(0, 1)));
    assert_eq!(rung(), 1, "a failed write of both sides is news, too");
}

#[test]
fn landed_waits_for_the_next_end_of_anything() {
    let ledger = ledger();
    assert!(now(ledger.landed()).is_some(), "nothing is in flight");
    let taken = take(&ledger, granules(0, 1));
    let mut landed = pin!(ledger.landed());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(landed.as_mut().poll(&mut cx).is_pending());
    taken.done();
    assert!(landed.as_mut().poll(&mut cx).is_ready());
}

#[test]
fn a_target_is_known_to_be_zero_until_data_gets_there() {
    let ledger = Ledger::new(LEN, GRANULE, TargetContent::Zero).unwrap();
    assert!(ledger.is_target_zero(whole()));
    ledger.target_changes(range(GRANULE + 1, GRANULE + 2));
    assert!(!ledger.is_target_zero(granules(0, 2)));
    assert!(ledger.is_target_zero(range(2 * GRANULE, LEN)));
    ledger.target_zeroed(range(GRANULE, 2 * GRANULE - 1));
    assert!(!ledger.is_target_zero(granules(1, 2)), "all but one byte");
    ledger.target_zeroed(granules(1, 2));
    assert!(ledger.is_target_zero(whole()));
    let unknown = self::ledger();
    unknown.target_zeroed(whole());
    assert!(!unknown.is_target_zero(whole()));
}

#[test]
fn what_is_not_copied_is_dirty_or_in_flight() {
    let ledger = ledger();
    ledger.mark(granules(0, 3));
    let claim = ledger.claim(GRANULE).unwrap();
    let guest = take(&ledger, granules(7, 8));
    let left = ledger.not_copied();
    assert_eq!(left.count_bytes(), 4 * GRANULE);
    assert!(left.is_dirty(0) && left.is_dirty(7 * GRANULE));
    guest.done();
    claim.finish();
    assert_eq!(ledger.not_copied().count_bytes(), 2 * GRANULE);
}

#[test]
fn a_bitmap_of_another_granularity_marks_outward() {
    let ledger = ledger();
    let mut bitmap = DirtyBitmap::new(LEN, 512).unwrap();
    bitmap.set(range(GRANULE - 1, GRANULE + 1));
    ledger.mark_all(&bitmap).unwrap();
    assert_eq!(areas(&ledger), [granules(0, 2)]);
    let short = DirtyBitmap::new(LEN - 1, 512).unwrap();
    assert!(ledger.mark_all(&short).is_err());
}

#[test]
fn a_disk_without_bytes_is_in_step_from_the_start() {
    let ledger = Arc::new(Ledger::new(0, GRANULE, TargetContent::Zero).unwrap());
    ledger.mark(range(0, 0));
    assert!(ledger.is_synced());
    assert!(ledger.claim(u64::MAX).is_none());
    assert_eq!(dirty(&ledger), 0);
    assert!(ledger.is_target_zero(range(0, 0)));
}
