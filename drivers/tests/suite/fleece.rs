//! A backup through scratch space: guests wait for that and not for the target, and it takes no more than it may.

use aio::AioContext;
use block::{
    Node,
    copy::OnFull,
    nodes::{FaultAction, FaultOp, FaultRule, MemoryNode, MemoryOptions, OnCbwError},
};
use drivers::{
    backup::{BackupError, BackupOptions},
    fleece::{FleeceBudget, FleeceNodes, FleecingBackup},
};
use job::JobStatus;

use super::world::{CLUSTER, MIB, World, cluster, on_each_backend, options, range, settle, until};

const LEN: u64 = 2 * MIB;

fn scratch(world: &World) -> Node {
    let memory = MemoryNode::new(MemoryOptions::new(world.len_bytes)).unwrap();
    world.graph.add_node(Some("scratch"), memory).unwrap()
}

async fn start(
    world: &World,
    scratch: &Node,
    options: BackupOptions,
    (bytes_max, on_full): (u64, OnFull),
) -> Result<FleecingBackup, BackupError> {
    let nodes = FleeceNodes {
        source: &world.source,
        scratch,
        target: &world.target,
    };
    let budget = FleeceBudget { bytes_max, on_full };
    let (graph, jobs) = (&world.graph, &world.jobs);
    let home = (&world.cx, world.cx.handle());
    FleecingBackup::start((graph, jobs), home, nodes, options, budget).await
}

/// Filters and snapshots are gone.
fn is_plain(world: &World) -> bool {
    let kinds = ["copy-before-write", "snapshot-access"];
    let nodes = world.graph.nodes();
    !nodes.iter().any(|node| kinds.contains(&node.driver_name()))
}

#[test]
fn guests_wait_for_the_scratch_node_and_not_for_the_target() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let scratch = scratch(&world);
        let instant = world.source_bytes().await;
        let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
        world.at_target.add(hold);
        let fleecing = start(&world, &scratch, options(), (LEN, OnFull::Refuse))
            .await
            .unwrap();
        world.at_target.wait_held(1).await;

        // The target stands still, and the guest does not notice.
        world.guest_writes(range(5, LEN - 10), 9).await.unwrap();
        assert_eq!(fleecing.report().scratch_peak_bytes, LEN);

        world.at_target.clear();
        world.at_target.release_all();
        fleecing.job().wait().await.into_result().unwrap();
        assert!(world.target_bytes().await == instant);
        assert_eq!(fleecing.report().scratch_bytes, 0, "all was discarded");
        until(&cx, || is_plain(&world)).await;
        assert!(world.graph.remove_node(&scratch).is_ok(), "nobody holds it");
    });
}

#[test]
fn a_full_scratch_node_fails_the_job_and_not_the_guest() {
    on_each_backend(|cx| async move {
        // More than is read at once.
        let world = World::full(&cx, 32 * MIB).await;
        let last = world.len_bytes / CLUSTER - 1;
        let scratch = scratch(&world);
        let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
        world.at_target.add(hold);
        let room = (2 * CLUSTER, OnFull::Refuse);
        let fleecing = start(&world, &scratch, options(), room).await.unwrap();
        world.at_target.wait_held(1).await;

        for number in 0..4 {
            world.guest_writes(cluster(last - number), 9).await.unwrap();
        }

        assert!(fleecing.report().scratch_peak_bytes <= 2 * CLUSTER);
        world.at_target.clear();
        world.at_target.release_all();
        let error = fleecing.job().wait().await.into_result().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("scratch space for old data"), "{text}");
        until(&cx, || is_plain(&world)).await;
        world.guest_writes(cluster(7), 9).await.unwrap();
    });
}

/// All room is taken when a guest writes this cluster, which waits until the backup has read what takes it.
async fn check_room_for(cx: &AioContext, number: u64) {
    let world = World::full(cx, LEN).await;
    let scratch = scratch(&world);
    let instant = world.source_bytes().await;
    let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
    world.at_target.add(hold);
    let room = (2 * CLUSTER, OnFull::Wait);
    let fleecing = start(&world, &scratch, options(), room).await.unwrap();
    world.at_target.wait_held(1).await;
    world.guest_writes(cluster(0), 9).await.unwrap();
    world.guest_writes(cluster(1), 9).await.unwrap();
    let waiting = world.guest_writes_later(cluster(number), 9);
    settle(cx).await;
    assert!(!waiting.is_finished());

    world.at_target.clear();
    world.at_target.release_all();

    waiting.await.unwrap();
    fleecing.job().wait().await.into_result().unwrap();
    assert!(world.target_bytes().await == instant);
    assert!(fleecing.report().scratch_peak_bytes <= 2 * CLUSTER);
}

#[test]
fn a_guest_that_waits_for_room_gets_it_from_the_backup() {
    on_each_backend(|cx| async move { check_room_for(&cx, LEN / CLUSTER - 1).await });
}

#[test]
fn a_guest_gets_the_room_of_what_one_request_reads_beside_its_own_bytes() {
    on_each_backend(|cx| async move { check_room_for(&cx, 2).await });
}

#[test]
fn a_guest_that_waits_for_room_goes_on_when_the_job_is_cancelled() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let scratch = scratch(&world);
        let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
        world.at_target.add(hold);
        let options = BackupOptions {
            on_cbw_error: OnCbwError::BreakGuestWrite,
            ..options()
        };
        let fleecing = start(&world, &scratch, options, (0, OnFull::Wait))
            .await
            .unwrap();
        world.at_target.wait_held(1).await;
        let waiting = world.guest_writes_later(cluster(3), 9);
        settle(&cx).await;
        assert!(!waiting.is_finished());

        fleecing.job().cancel(job::CancelMode::Force).unwrap();

        waiting.await.unwrap();
        fleecing.job().wait().await;
        world.at_target.release_all();
        until(&cx, || is_plain(&world)).await;
    });
}

#[test]
fn a_start_that_is_refused_leaves_nothing() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let scratch = scratch(&world);
        let before = world.shape();
        let bad = BackupOptions {
            filter_name: Some("1st".to_owned()),
            ..options()
        };

        let refused = start(&world, &scratch, bad, (LEN, OnFull::Refuse)).await;

        assert!(refused.is_err());
        until(&cx, || is_plain(&world)).await;
        assert_eq!(world.shape(), before);
        let fleecing = start(&world, &scratch, options(), (LEN, OnFull::Refuse));
        let fleecing = fleecing.await.unwrap();
        fleecing.job().wait().await.into_result().unwrap();
        assert_eq!(fleecing.job().status(), JobStatus::Null);
    });
}
