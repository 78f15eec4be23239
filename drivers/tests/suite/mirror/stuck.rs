//! Requests that never return: a forced cancel ends the mirror all the same, and nothing else stalls.

use block::{
    Operation,
    nodes::{FaultAction, FaultOp, FaultRule},
};
use drivers::mirror::{Mirror, MirrorOptions};
use job::{CancelMode, JobStatus, Trigger};

use super::{
    assert_equal, blocking, cancel, filters, options, ready, start, try_start, until_status,
};
use crate::world::{
    MIB, World, attach, cluster, on_each_backend, range, read, seen, settle, with_clock,
};

const LEN: u64 = 4 * MIB;
const SECOND_NS: u64 = 1_000_000_000;

fn hold(op: FaultOp) -> FaultRule {
    FaultRule::every(op, FaultAction::Hold)
}

/// Cancels by force while the clock stands, and moves it as far as the end may take.
async fn cancel_in_time(world: &World, mirror: &Mirror, clock: &aio::ManualClock) {
    mirror.job().cancel(CancelMode::Force).unwrap();
    settle(&world.cx).await;
    clock.advance_ns(SECOND_NS / 2);
    settle(&world.cx).await;
    assert!(mirror.job().outcome().is_some(), "half a second is enough");
}

#[test]
fn a_forced_cancel_ends_a_mirror_whose_target_never_answers() {
    with_clock(|cx, clock| async move {
        for make in [options, blocking] {
            let world = World::full(&cx, LEN).await;
            let shape = world.shape();
            world.at_target.add(hold(FaultOp::Write));
            let mirror = start(&world, make()).await;
            world.at_target.wait_held(1).await;
            // Guests, one of whom waits for the copy if both sides are written.
            let waiting = world.guest_writes_later(range(10, LEN / 2), 7);
            settle(&cx).await;
            cancel_in_time(&world, &mirror, &clock).await;

            waiting.await.unwrap();
            assert_eq!(world.guest.node(), world.source);
            assert_eq!(filters(&world), 0);
            let report = mirror.report();
            assert!(report.target_may_change && !report.filter_is_in_place);
            assert!(report.requests_in_flight > 0);
            let error = world
                .graph
                .check_operation(&world.target, Operation::MirrorTarget);
            assert!(
                error
                    .unwrap_err()
                    .to_string()
                    .contains("a request of it has not returned")
            );
            try_start(&world, options()).await.unwrap_err();

            let arrived = seen(&world.at_target, FaultOp::Write);
            world.at_target.release_all();
            settle(&cx).await;
            assert_eq!(seen(&world.at_target, FaultOp::Write), arrived);
            assert!(!mirror.report().target_may_change);
            assert_eq!(world.shape(), shape);
        }
    });
}

#[test]
fn a_guest_that_waits_for_a_stuck_target_goes_on_when_the_mirror_is_cancelled() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, blocking()).await;
        world.at_target.add(hold(FaultOp::Write));
        let stuck = world.guest_writes_later(cluster(1), 7);
        world.at_target.wait_held(1).await;
        let behind = world.guest_writes_later(cluster(1), 8);
        settle(&cx).await;
        assert!(!stuck.is_finished() && !behind.is_finished());
        cancel_in_time(&world, &mirror, &clock).await;
        stuck.await.unwrap();
        behind.await.unwrap();
        assert_eq!(read(&world.guest, &cx, cluster(1)).await[0], 8);
        assert!(mirror.report().target_may_change);
        world.at_target.release_all();
        settle(&cx).await;
        assert!(!mirror.report().target_may_change);
    });
}

#[test]
fn a_mirror_can_be_cancelled_while_it_waits_for_guests_that_do_not_return() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, options()).await;
        world.at_source.add(hold(FaultOp::Write));
        let stuck = world.guest_writes_later(cluster(1), 7);
        world.at_source.wait_held(1).await;
        mirror.job().complete().unwrap();
        settle(&cx).await;
        let other = world.guest_above();
        mirror.job().cancel(CancelMode::Force).unwrap();
        settle(&cx).await;
        clock.advance_ns(SECOND_NS);
        settle(&cx).await;
        assert!(mirror.job().outcome().is_some());
        assert!(mirror.report().filter_is_in_place, "the guest is inside");
        // Which passes everything through.
        assert_eq!(read(&other, &cx, cluster(3)).await.len(), 65536);
        world.at_source.release_all();
        stuck.await.unwrap();
        clock.advance_ns(11 * SECOND_NS);
        settle(&cx).await;
        assert!(!mirror.report().filter_is_in_place);
        assert_eq!(world.guest.node(), world.source);
    });
}

#[test]
fn a_cancel_in_a_hanging_flush_ends_the_mirror() {
    with_clock(|cx, clock| async move {
        for is_ready in [false, true] {
            let world = World::full(&cx, LEN).await;
            let mirror = match is_ready {
                true => ready(&world, options()).await,
                false => start(&world, options()).await,
            };
            world.at_target.add(hold(FaultOp::Flush));
            if is_ready {
                mirror.job().complete().unwrap();
            }
            world.at_target.wait_held(1).await;
            world.guest_writes(cluster(1), 7).await.unwrap();
            cancel_in_time(&world, &mirror, &clock).await;
            world.guest_writes(cluster(2), 8).await.unwrap();
            world.at_target.release_all();
        }
    });
}

#[test]
fn a_source_that_never_answers_the_copy_is_free_after_a_cancel() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        world.at_source.add(hold(FaultOp::Read));
        let mirror = start(&world, options()).await;
        world.at_source.wait_held(1).await;
        cancel_in_time(&world, &mirror, &clock).await;
        world.at_source.clear();
        assert_eq!(world.guest.node(), world.source);
        world.guest_writes(cluster(1), 7).await.unwrap();
        world.at_source.release_all();
        settle(&cx).await;
        let mirror = ready(&world, options()).await;
        assert_equal(&world).await;
        cancel(&mirror).await;
    });
}

#[test]
fn a_stuck_mirror_does_not_hold_up_a_drain_of_another_disk() {
    on_each_backend(|cx| async move {
        let (world, other) = (World::full(&cx, LEN).await, World::full(&cx, LEN).await);
        world.at_target.add(hold(FaultOp::Write));
        let mirror = start(&world, options()).await;
        world.at_target.wait_held(1).await;
        drop(other.drain(&other.source).await);
        let newcomer = attach(&world.graph, &world.guest.node());
        assert_eq!(read(&newcomer, &cx, cluster(1)).await.len(), 65536);
        world.at_target.release_all();
        until_status(&world, &mirror, JobStatus::Ready).await;
        cancel(&mirror).await;
    });
}

#[test]
fn a_forced_cancel_of_a_pending_mirror_frees_its_guests_at_once() {
    with_clock(|cx, _clock| async move {
        let world = World::full(&cx, LEN).await;
        let manual = MirrorOptions {
            finalize: Trigger::Manual,
            ..blocking()
        };
        let mirror = ready(&world, manual).await;
        mirror.job().complete().unwrap();
        until_status(&world, &mirror, JobStatus::Pending).await;
        world.at_target.add(hold(FaultOp::Write));
        let writing = world.guest_writes_later(cluster(1), 7);
        settle(&cx).await;
        cancel(&mirror).await;
        writing.await.unwrap();
        assert!(
            world.at_target.held().is_empty(),
            "it is not mirrored any more"
        );
    });
}
