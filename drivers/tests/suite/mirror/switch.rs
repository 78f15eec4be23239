//! The switch: who moves where, what may hold it up, and that guests never wait for long.

use block::{
    Attachment, ChildRole, Permission, Permissions,
    nodes::{FaultAction, FaultControl, FaultNode, FaultOp, FaultRule, MemoryNode, MemoryOptions},
};
use drivers::mirror::MirrorOptions;
use job::{JobOutcome, JobStatus, Trigger};

use super::{assert_equal, blocking, complete, look, options, ready, until_status};
use crate::world::{
    CLUSTER, MIB, World, attach, cluster, on_each_backend, range, read, settle, with_clock, write,
};

const LEN: u64 = 4 * MIB;
const SECOND_NS: u64 = 1_000_000_000;

#[test]
fn all_users_of_the_source_move_those_that_came_later_too() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, options()).await;
        let late = attach(&world.graph, &world.guest.node());
        let reads = Permissions::uses(&[Permission::ConsistentRead]);
        let below = Attachment::new("export 'below'", ChildRole::Primary, reads).staying();
        let below = world.graph.attach(&world.source, below).unwrap();
        complete(&mirror).await;
        assert_eq!(late.node(), world.target);
        assert_eq!(world.guest.node(), world.target);
        assert_eq!(below.node(), world.source, "it meant that node");
        write(&late, &cx, 0, &[9; 512]).await.unwrap();
        assert_ne!(read(&below, &cx, range(0, 512)).await[0], 9);
    });
}

#[test]
fn a_node_below_the_source_is_replaced_if_asked() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let below = world.graph.node("source-memory").unwrap();
        let options = MirrorOptions {
            replaces: Some(below.clone()),
            ..options()
        };
        let mirror = ready(&world, options).await;
        world.guest_writes(cluster(1), 7).await.unwrap();
        complete(&mirror).await;
        assert_eq!(world.guest.node(), world.source);
        assert_eq!(
            world.graph.filtered_child(&world.source),
            Some(world.target.clone())
        );
        world.guest_writes(cluster(2), 8).await.unwrap();
        let target = look(&world, &cx, &world.target).await;
        assert_eq!((target[65536], target[2 * 65536]), (7, 8));
        world.graph.remove_node(&below).unwrap();
    });
}

#[test]
fn what_can_no_longer_be_replaced_fails_the_job_and_moves_nobody() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let below = world.graph.node("source-memory").unwrap();
        let options = MirrorOptions {
            replaces: Some(below.clone()),
            ..options()
        };
        let mirror = ready(&world, options).await;
        let reason = world
            .graph
            .block_operations(&below, "somebody minds", &[])
            .unwrap();
        mirror.job().complete().unwrap();
        let error = mirror.job().wait().await.into_result().unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("Can no longer replace 'source-memory' by 'target'"),
            "{error}"
        );
        drop(reason);
        assert_eq!(world.graph.filtered_child(&world.source), Some(below));
        world.guest_writes(cluster(1), 7).await.unwrap();
    });
}

#[test]
fn a_guest_request_that_does_not_return_delays_the_switch_and_no_other_guest_for_long() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, options()).await;
        let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
        world.at_source.add(hold.within(cluster(1)));
        let stuck = world.guest_writes_later(cluster(1), 7);
        world.at_source.wait_held(1).await;
        mirror.job().complete().unwrap();
        settle(&cx).await;
        let other = world.guest_writes_later(cluster(2), 8);
        settle(&cx).await;
        assert!(!other.is_finished(), "it waits for the switch");
        clock.advance_ns(SECOND_NS);
        settle(&cx).await;
        assert!(other.is_finished(), "a second is enough");
        assert_eq!(mirror.job().status(), JobStatus::Ready);
        world.at_source.release_all();
        stuck.await.unwrap();
        while mirror.job().outcome().is_none() {
            clock.advance_ns(SECOND_NS / 10);
            settle(&cx).await;
        }
        assert_eq!(world.guest.node(), world.target);
        assert_eq!(read(&world.guest, &cx, cluster(1)).await[0], 7);
    });
}

#[test]
fn a_target_that_hangs_at_the_last_look_lets_guests_go_on() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, options()).await;
        // The flush beside guests goes through, the one that they wait for hangs.
        let second = FaultRule {
            skip: 1,
            times: Some(1),
            ..FaultRule::every(FaultOp::Flush, FaultAction::Hold)
        };
        world.at_target.add(second);
        mirror.job().complete().unwrap();
        world.at_target.wait_held(1).await;
        let writing = world.guest_writes_later(cluster(2), 8);
        settle(&cx).await;
        assert!(!writing.is_finished());
        assert!(mirror.report().guests_wait);
        clock.advance_ns(SECOND_NS);
        settle(&cx).await;
        assert!(writing.is_finished());
        assert!(!mirror.report().guests_wait);
        world.at_target.release_all();
        while mirror.job().outcome().is_none() {
            clock.advance_ns(SECOND_NS / 10);
            settle(&cx).await;
        }
        assert!(matches!(mirror.job().wait().await, JobOutcome::Completed));
        assert_eq!(read(&world.guest, &cx, cluster(2)).await[0], 8);
        assert_eq!(world.guest.node(), world.target);
    });
}

#[test]
fn a_pause_while_guests_wait_for_the_last_look_lets_them_go_on() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, options()).await;
        world
            .at_source
            .add(FaultRule::every(FaultOp::Write, FaultAction::Hold));
        let under_way = world.guest_writes_later(cluster(1), 7);
        world.at_source.wait_held(1).await;
        world
            .at_target
            .add(FaultRule::every(FaultOp::Write, FaultAction::Hold));
        mirror.job().complete().unwrap();
        settle(&cx).await;
        world.at_source.release_all();
        under_way.await.unwrap();
        // It is marked now, and copied while guests wait.
        world.at_target.wait_held(1).await;
        let writing = world.guest_writes_later(cluster(2), 8);
        settle(&cx).await;
        assert!(!writing.is_finished() && mirror.report().guests_wait);
        mirror.job().pause().unwrap();
        settle(&cx).await;
        assert!(writing.is_finished());
        world.at_target.release_all();
        until_status(&world, &mirror, JobStatus::Standby).await;
        mirror.job().resume().unwrap();
        while mirror.job().outcome().is_none() {
            clock.advance_ns(SECOND_NS / 10);
            settle(&cx).await;
        }
        assert_eq!(read(&world.guest, &cx, cluster(2)).await[0], 8);
    });
}

#[test]
fn a_drain_of_either_node_meets_a_mirror_at_any_stage() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, blocking()).await;
        for node in [&world.source, &world.target, &world.guest.node()] {
            let section = world.drain(node).await;
            assert_eq!(mirror.job().status(), JobStatus::Ready);
            let writing = world.guest_writes_later(cluster(1), 7);
            settle(&cx).await;
            assert!(!writing.is_finished());
            drop(section);
            writing.await.unwrap();
        }
        complete(&mirror).await;
        assert_equal(&world).await;

        let manual = MirrorOptions {
            finalize: Trigger::Manual,
            ..options()
        };
        let back = super::between(&world, (&world.target, &world.source), manual)
            .await
            .unwrap();
        until_status(&world, &back, JobStatus::Ready).await;
        back.job().complete().unwrap();
        until_status(&world, &back, JobStatus::Pending).await;
        for node in [&world.source, &world.target, &world.guest.node()] {
            drop(world.drain(node).await);
        }
        back.job().finalize().unwrap();
        back.job().wait().await.into_result().unwrap();
        assert_eq!(world.guest.node(), world.source);
    });
}

#[test]
fn several_mirrors_are_held_at_one_instant_until_they_are_finalized() {
    on_each_backend(|cx| async move {
        let worlds = [World::full(&cx, MIB).await, World::full(&cx, MIB).await];
        let manual = || MirrorOptions {
            finalize: Trigger::Manual,
            ..options()
        };
        let mut mirrors = Vec::new();
        for world in &worlds {
            mirrors.push(ready(world, manual()).await);
        }
        for (world, mirror) in worlds.iter().zip(&mirrors) {
            mirror.job().complete().unwrap();
            until_status(world, mirror, JobStatus::Pending).await;
        }
        let writes: Vec<_> = worlds
            .iter()
            .map(|world| world.guest_writes_later(cluster(1), 7))
            .collect();
        settle(&cx).await;
        assert!(writes.iter().all(|writing| !writing.is_finished()));
        for world in &worlds {
            assert_equal(world).await;
        }
        for mirror in &mirrors {
            mirror.job().finalize().unwrap();
            mirror.job().wait().await.into_result().unwrap();
        }
        for writing in writes {
            writing.await.unwrap();
        }
    });
}

#[test]
fn a_chain_of_filters_above_the_source_stays_above_the_target() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let memory = MemoryNode::new(MemoryOptions::new(LEN)).unwrap();
        let node = world.graph.add_node(Some("other"), memory).unwrap();
        let builder = world.graph.build_node(Some("upper")).unwrap();
        let child = builder
            .attach(&node, "file", ChildRole::Filtered, Permissions::IDLE)
            .unwrap();
        let upper = builder.finish(FaultNode::new(child, FaultControl::new()));
        let user = attach(&world.graph, &upper);
        write(&user, &cx, CLUSTER, &[5; 512]).await.unwrap();
        // The source is what the filter is above of: only below a root.
        let error = super::between(&world, (&node, &world.target), options()).await;
        error.unwrap_err();
        let replaces = MirrorOptions {
            replaces: Some(node.clone()),
            ..options()
        };
        let mirror = super::between(&world, (&upper, &world.target), replaces)
            .await
            .unwrap();
        until_status(&world, &mirror, JobStatus::Ready).await;
        complete(&mirror).await;
        assert_eq!(user.node(), upper);
        assert_eq!(
            world.graph.filtered_child(&upper),
            Some(world.target.clone())
        );
        assert_eq!(read(&user, &cx, cluster(1)).await[0], 5);
    });
}
