//! Defects of the reference and exhibits of its past that ours must not have, each by its number.

use block::{
    Attachment, ChildRole, ErrorKind, Permission, Permissions,
    mirror::CopyMode,
    nodes::{FaultAction, FaultOp, FaultRule, MemoryNode, MemoryOptions},
};
use blockjob::{BlockJob, JobChange};
use drivers::mirror::{MirrorChange, MirrorOptions};
use job::{CancelMode, JobStatus, Trigger};

use super::{
    assert_equal, between, blocking, caught_up, complete, filters, keep, look, options, ready,
    start, until_status,
};
use crate::world::{
    CLUSTER, MIB, World, attach, cluster, on_each_backend, read, settle, until, with_clock,
};

const LEN: u64 = 4 * MIB;
const SECOND_NS: u64 = 1_000_000_000;

/// No. 1: what a guest writes while the mirror looks at the source for the first time is mirrored, wherever the
/// look has been already.
#[test]
fn defect_01_a_write_during_the_first_look_is_mirrored() {
    on_each_backend(|cx| async move {
        for options in [options(), blocking()] {
            // Holes, of which the mirror makes short work once it has looked.
            let world = World::new(&cx, LEN);
            world
                .at_source
                .add(FaultRule::every(FaultOp::Extent, FaultAction::Hold));
            let mirror = start(&world, options).await;
            world.at_source.wait_held(1).await;
            // Below what was looked at, in it, and beyond.
            let writes: Vec<_> = [0, 5, 63]
                .map(|n| world.guest_writes_later(cluster(n), 7))
                .into();
            settle(&cx).await;
            world.at_source.release_all();
            for writing in writes {
                writing.await.unwrap();
            }
            until_status(&world, &mirror, JobStatus::Ready).await;
            caught_up(&world, &mirror).await;
            assert_equal(&world).await;
            complete(&mirror).await;
            assert_eq!(read(&world.guest, &cx, cluster(5)).await[0], 7);
        }
    });
}

/// No. 1 again: the answer about the source was right, and is old by the time it comes.
#[test]
fn defect_01_a_hole_that_a_guest_fills_behind_the_look_is_copied() {
    on_each_backend(|cx| async move {
        let world = World::new(&cx, LEN);
        world
            .at_target
            .add(FaultRule::every(FaultOp::WriteZeroes, FaultAction::Hold));
        let mirror = start(&world, options()).await;
        world.at_target.wait_held(1).await;
        world.guest_writes(cluster(0), 7).await.unwrap();
        world.at_target.release_all();
        until_status(&world, &mirror, JobStatus::Ready).await;
        assert_equal(&world).await;
        keep(&mirror).await;
    });
}

/// No. 2: who comes while the source is held for the switch waits, and then writes to the target.
#[test]
fn defect_02_a_user_that_comes_while_the_switch_is_pending_waits() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let options = MirrorOptions {
            finalize: Trigger::Manual,
            ..options()
        };
        let mirror = ready(&world, options).await;
        mirror.job().complete().unwrap();
        until_status(&world, &mirror, JobStatus::Pending).await;
        let before = look(&world, &cx, &world.source).await;

        // A new connection of an old export, and a new export of the same disk.
        let connection = world.guest_writes_later(cluster(1), 7);
        let newcomer = attach(&world.graph, &world.guest.node());
        let home = cx.clone();
        let export = cx.spawn(async move {
            crate::world::write(&newcomer, &home, 2 * CLUSTER, &[8; 512])
                .await
                .unwrap();
            newcomer
        });
        settle(&cx).await;
        assert!(!connection.is_finished() && !export.is_finished());

        mirror.job().finalize().unwrap();
        mirror.job().wait().await.into_result().unwrap();
        connection.await.unwrap();
        let newcomer = export.await;
        assert_eq!(newcomer.node(), world.target);
        assert!(before == look(&world, &cx, &world.source).await);
        assert_eq!(read(&newcomer, &cx, cluster(1)).await[0], 7);
        assert_eq!(read(&newcomer, &cx, cluster(2)).await[0], 8);
    });
}

/// No. 9: a change for another type of job is refused, and so is one that is none.
#[test]
fn defect_09_a_change_for_another_type_of_job_is_refused() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, options()).await;
        let block_job = BlockJob::of(mirror.job()).unwrap();
        let change = |kind: &str| {
            let copy_mode = CopyMode::WriteBlocking;
            block_job.change(&JobChange::new(kind, MirrorChange { copy_mode }))
        };
        let error = change("commit").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Job 'm' is of type 'mirror', not 'commit'"
        );
        block_job.change(&JobChange::new("mirror", 5)).unwrap_err();
        assert!(!mirror.report().is_actively_synced);
        change("mirror").unwrap();
        assert!(mirror.report().is_actively_synced);
        keep(&mirror).await;
    });
}

/// No. 12: the speed limit holds after the mirror is ready, and while it completes.
#[test]
fn defect_12_the_speed_limit_holds_when_the_mirror_is_ready() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, options()).await;
        mirror.set_speed(MIB).unwrap();
        world.guest_writes(world.whole(), 7).await.unwrap();
        settle(&cx).await;
        let start_ns = clock.now_ns();
        let before = mirror.report().load.copied_bytes;
        for tenths in 1..=30 {
            clock.advance_ns(SECOND_NS / 10);
            settle(&cx).await;
            let copied = mirror.report().load.copied_bytes - before;
            let allowed = MIB * tenths / 10 + 2 * MIB;
            assert!(
                copied <= allowed,
                "{copied} bytes after {tenths} tenths of a second"
            );
        }
        mirror.job().complete().unwrap();
        while !mirror.job().status().is_completed() {
            settle(&cx).await;
            clock.advance_ns(SECOND_NS / 10);
        }
        mirror.job().wait().await;
        let took_ns = clock.now_ns() - start_ns;
        assert!(took_ns >= 2 * SECOND_NS, "4 MiB at 1 MiB/s in {took_ns} ns");
        assert_eq!(read(&world.guest, &cx, cluster(63)).await[0], 7);
    });
}

/// Museum N1: an export of the source itself would write past the filter, and its writes would be lost.
#[test]
fn n01_an_export_below_a_running_mirror_is_refused() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, options()).await;
        let writes = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
        let export = Attachment::new("export 'late'", ChildRole::Primary, writes);
        let error = world.graph.attach(&world.source, export).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionConflict);
        assert!(
            error.to_string().contains("both required by export 'late'"),
            "{error}"
        );
        let reads = Permissions::uses(&[Permission::ConsistentRead]);
        let reader = Attachment::new("export 'r'", ChildRole::Primary, reads);
        drop(world.graph.attach(&world.source, reader).unwrap());
        complete(&mirror).await;
    });
}

/// Museum 34: nothing can come in between the last look and the switch.
#[test]
fn museum_34_a_write_that_is_under_way_at_the_switch_is_on_the_side_that_stays() {
    on_each_backend(|cx| async move {
        for options in [options(), blocking()] {
            let world = World::full(&cx, LEN).await;
            let mirror = ready(&world, options).await;
            world
                .at_source
                .add(FaultRule::every(FaultOp::Write, FaultAction::Hold));
            let under_way = world.guest_writes_later(cluster(1), 7);
            world.at_source.wait_held(1).await;
            mirror.job().complete().unwrap();
            settle(&cx).await;
            let later = world.guest_writes_later(cluster(2), 8);
            settle(&cx).await;
            assert_eq!(mirror.job().status(), JobStatus::Ready);
            assert!(!later.is_finished(), "it waits for the switch");
            world.at_source.release_all();
            under_way.await.unwrap();
            later.await.unwrap();
            mirror.job().wait().await.into_result().unwrap();
            assert_eq!(read(&world.guest, &cx, cluster(1)).await[0], 7);
            assert_eq!(read(&world.guest, &cx, cluster(2)).await[0], 8);
            assert_ne!(look(&world, &cx, &world.source).await[2 * 65536], 8);
        }
    });
}

/// Museum 35: a write of part of a granule on both sides says nothing about the rest.
#[test]
fn museum_35_unaligned_writes_on_both_sides_hide_nothing() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        world
            .at_target
            .add(FaultRule::every(FaultOp::Write, FaultAction::Hold));
        let mirror = start(&world, blocking()).await;
        world.at_target.wait_held(1).await;
        // Far from what is being copied, all still to copy.
        let writes: Vec<_> = (40..60)
            .map(|n| {
                let at = crate::world::range(n * CLUSTER + 100, CLUSTER);
                world.guest_writes_later(at, u8::try_from(n).unwrap())
            })
            .collect();
        settle(&cx).await;
        world.at_target.release_all();
        for writing in writes {
            writing.await.unwrap();
        }
        until_status(&world, &mirror, JobStatus::Ready).await;
        assert_equal(&world).await;
        keep(&mirror).await;
    });
}

/// Museum 37: requests on both sides that meet each other, the copy and themselves all come to an end.
#[test]
fn museum_37_overlapping_writes_on_both_sides_do_not_wait_in_a_circle() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = start(&world, blocking()).await;
        for round in 0..20 {
            let writes: Vec<_> = (0..16)
                .map(|n| {
                    let start = (n * 37 + round) % 50 * (CLUSTER / 2);
                    let at = crate::world::range(start, 5 * CLUSTER);
                    world.guest_writes_later(at, u8::try_from(n + round).unwrap())
                })
                .collect();
            for writing in writes {
                writing.await.unwrap();
            }
        }
        until_status(&world, &mirror, JobStatus::Ready).await;
        until(&cx, || mirror.report().is_actively_synced).await;
        assert_equal(&world).await;
        complete(&mirror).await;
        assert_eq!(filters(&world), 0);
    });
}

#[test]
fn a_filter_that_another_job_took_while_it_was_leaving_goes_when_that_job_has_ended() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let first = ready(&world, options()).await;
        let filter = world.guest.node();
        // A write inside the filter keeps it there for a moment.
        world
            .at_source
            .add(FaultRule::every(FaultOp::Write, FaultAction::Hold));
        let write = world.guest_writes_later(cluster(0), 7);
        world.at_source.wait_held(1).await;
        first.job().cancel(CancelMode::Force).unwrap();
        settle(&cx).await;
        clock.advance_ns(2 * SECOND_NS);
        settle(&cx).await;
        assert!(first.report().filter_is_in_place);

        let memory = MemoryNode::new(MemoryOptions::new(LEN)).unwrap();
        let other = world.graph.add_node(Some("other"), memory).unwrap();
        let releasing = cx.spawn({
            let (cx, at_source) = (cx.clone(), world.at_source.clone());
            async move {
                settle(&cx).await;
                at_source.clear();
                at_source.release_all();
            }
        });
        let second = between(&world, (&filter, &other), MirrorOptions::new("second")).await;
        let second = second.unwrap();
        releasing.await;
        write.await.unwrap();
        until_status(&world, &second, JobStatus::Ready).await;
        clock.advance_ns(10 * SECOND_NS);
        settle(&cx).await;
        assert!(!first.report().filter_is_in_place);
        assert_eq!(filters(&world), 2, "the second job wants it");
        keep(&second).await;
        clock.advance_ns(10 * SECOND_NS);
        settle(&cx).await;
        assert_eq!(filters(&world), 0);
    });
}
