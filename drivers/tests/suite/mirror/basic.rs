//! What a mirror copies, what it tells, and what is left of it.

use block::{
    AllocationStatus, Attachment, ChildRole, Permission, Permissions, RequestFlags,
    copy::TargetContent,
    nodes::{FaultOp, MemoryOptions},
};
use drivers::mirror::{MirrorOptions, MirrorSync, NamedBitmaps};
use job::{JobStatus, Trigger};

use super::{
    assert_equal, blocking, caught_up, complete, filters, keep, look, options, ready, start,
    until_status,
};
use crate::world::{
    CLUSTER, Disks, MIB, World, cluster, on_each_backend, range, read, seen, settle, with_clock,
};

const LEN: u64 = 4 * MIB;

#[test]
fn ready_means_equal_and_stable() {
    on_each_backend(|cx| async move {
        for extra in [0, 1, 4096, CLUSTER + 512] {
            let world = World::full(&cx, LEN + extra).await;
            let mirror = start(&world, options()).await;
            until_status(&world, &mirror, JobStatus::Ready).await;
            assert_equal(&world).await;
            assert_eq!(seen(&world.at_target, FaultOp::Flush), 1);
            let progress = mirror.job().progress().snapshot();
            assert_eq!(
                (progress.current, progress.total),
                (LEN + extra, LEN + extra)
            );
            keep(&mirror).await;
        }
    });
}

#[test]
fn a_mirror_of_any_granularity_and_buffer_is_equal() {
    on_each_backend(|cx| async move {
        for (granularity_bytes, buffer_bytes_max) in [
            (512, 64 << 20),
            (4096, 4096),
            (CLUSTER, 1),
            (MIB, CLUSTER),
            (64 * MIB, 16 << 20),
        ] {
            let world = World::full(&cx, LEN + 100).await;
            let options = MirrorOptions {
                granularity_bytes: Some(granularity_bytes),
                buffer_bytes_max,
                ..options()
            };
            let mirror = ready(&world, options).await;
            world.guest_writes(range(5, 700), 9).await.unwrap();
            keep(&mirror).await;
            assert_equal(&world).await;
        }
    });
}

#[test]
fn a_completed_mirror_has_moved_its_guests_to_the_target() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, options()).await;
        assert_eq!(filters(&world), 1);
        world.guest_writes(cluster(1), 7).await.unwrap();
        complete(&mirror).await;

        assert_eq!(world.guest.node(), world.target);
        assert_eq!(filters(&world), 0);
        let before = look(&world, &cx, &world.source).await;
        world.guest_writes(cluster(2), 8).await.unwrap();
        assert_eq!(read(&world.guest, &cx, cluster(1)).await[0], 7);
        assert_eq!(read(&world.guest, &cx, cluster(2)).await[0], 8);
        assert!(before == look(&world, &cx, &world.source).await);
        assert_eq!(
            world.life(),
            [
                "created",
                "running",
                "ready",
                "waiting",
                "pending",
                "COMPLETED",
                "concluded",
                "null"
            ]
        );
        let report = mirror.report();
        assert!(!report.filter_is_in_place && !report.target_may_change);
        world.graph.remove_node(&world.source).unwrap();
        world.graph.remove_node(&world.target).unwrap_err();
    });
}

#[test]
fn a_softly_cancelled_mirror_leaves_its_guests_and_a_copy_of_that_moment() {
    on_each_backend(|cx| async move {
        for options in [options(), blocking()] {
            let world = World::full(&cx, LEN).await;
            let shape = world.shape();
            let mirror = ready(&world, options).await;
            world.guest_writes(cluster(1), 7).await.unwrap();
            keep(&mirror).await;
            assert_equal(&world).await;
            assert_eq!(world.shape(), shape);
            world.guest_writes(cluster(2), 8).await.unwrap();
            settle(&cx).await;
            assert_ne!(world.target_bytes().await[2 * 65536], 8);
        }
    });
}

#[test]
fn discards_and_zeroes_while_it_is_ready_get_to_the_target() {
    on_each_backend(|cx| async move {
        for options in [options(), blocking()] {
            let world = World::full(&cx, LEN).await;
            let mirror = ready(&world, options).await;
            let unmap = RequestFlags {
                may_unmap: true,
                ..RequestFlags::default()
            };
            let zeroes = range(65536, 262_144);
            world
                .guest
                .write_zeroes(&cx, zeroes, RequestFlags::default())
                .await
                .unwrap();
            world
                .guest
                .discard(&cx, range(524_288, 65536))
                .await
                .unwrap();
            world
                .guest
                .write_zeroes(&cx, range(MIB, 4096), unmap)
                .await
                .unwrap();
            complete(&mirror).await;
            assert_equal(&world).await;
            let target = world.target_bytes().await;
            assert!(target[65536..327_680].iter().all(|byte| *byte == 0));
        }
    });
}

#[test]
fn offset_and_length_grow_with_what_is_written() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, options()).await;
        world.guest_writes(range(0, MIB), 7).await.unwrap();
        caught_up(&world, &mirror).await;
        settle(&cx).await;
        let progress = mirror.job().progress().snapshot();
        assert_eq!((progress.current, progress.total), (LEN + MIB, LEN + MIB));
        keep(&mirror).await;
    });
}

#[test]
fn a_disk_without_bytes_is_ready_at_once_and_can_be_completed() {
    on_each_backend(|cx| async move {
        for ends_with_completion in [true, false] {
            let world = World::new(&cx, 0);
            let mirror = ready(&world, options()).await;
            let progress = mirror.job().progress().snapshot();
            assert_eq!((progress.current, progress.total), (0, 0));
            match ends_with_completion {
                true => complete(&mirror).await,
                false => keep(&mirror).await,
            }
        }
    });
}

#[test]
fn sync_none_copies_only_what_is_written_from_the_start_on() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let options = MirrorOptions {
            sync: MirrorSync::None,
            ..options()
        };
        let mirror = ready(&world, options).await;
        let progress = mirror.job().progress().snapshot();
        assert_eq!((progress.current, progress.total), (0, 0));
        world.guest_writes(cluster(3), 7).await.unwrap();
        keep(&mirror).await;
        let target = world.target_bytes().await;
        let (start, end) = (3 * 65536, 4 * 65536);
        assert!(target[start..end].iter().all(|byte| *byte == 7));
        assert!(target[..start].iter().all(|byte| *byte == 0));
    });
}

/// Museum 36: a target that holds something else, and a source with holes.
#[test]
fn museum_36_holes_of_the_source_are_zeroes_on_a_target_with_old_data() {
    on_each_backend(|cx| async move {
        let world = World::new(&cx, LEN);
        world.guest_writes(cluster(3), 7).await.unwrap();
        fill_target(&world, 0xee).await;
        let mirror = ready(&world, options()).await;
        assert_equal(&world).await;
        keep(&mirror).await;
    });
}

async fn fill_target(world: &World, byte: u8) {
    let writes = Permissions::uses(&[Permission::Write]);
    let user = Attachment::new("filler", ChildRole::Primary, writes);
    let edge = world.graph.attach(&world.target, user).unwrap();
    let bytes = vec![byte; usize::try_from(LEN).unwrap()];
    crate::world::write(&edge, &world.cx, 0, &bytes)
        .await
        .unwrap();
}

/// Museum N17.
#[test]
fn n17_the_target_of_a_sparse_disk_stays_sparse() {
    on_each_backend(|cx| async move {
        for (content, zero_writes) in [(TargetContent::Unknown, true), (TargetContent::Zero, false)]
        {
            let world = World::new(&cx, 64 * MIB);
            world.guest_writes(cluster(3), 7).await.unwrap();
            let options = MirrorOptions {
                target_content: content,
                ..options()
            };
            let mirror = ready(&world, options).await;
            assert_eq!(seen(&world.at_target, FaultOp::Write), 1);
            assert_eq!(
                seen(&world.at_target, FaultOp::WriteZeroes) > 0,
                zero_writes
            );
            keep(&mirror).await;
            let looks = Attachment::new("test", ChildRole::Primary, Permissions::IDLE);
            let edge = world.graph.attach(&world.target, looks).unwrap();
            let extent = edge.extent(&cx, range(4 * CLUSTER, MIB)).await.unwrap();
            assert_eq!(extent.status, AllocationStatus::Zero);
        }
    });
}

#[test]
fn the_filter_has_the_name_that_was_asked_for_and_goes_at_the_end() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let options = MirrorOptions {
            filter_name: Some("top".to_owned()),
            ..options()
        };
        let mirror = ready(&world, options).await;
        assert_eq!(world.graph.node("top").unwrap(), world.guest.node());
        complete(&mirror).await;
        world.graph.node("top").unwrap_err();
    });
}

#[test]
fn named_bitmaps_stay_or_are_carried_over_as_asked() {
    on_each_backend(|cx| async move {
        for bitmaps in [NamedBitmaps::Stay, NamedBitmaps::Carried] {
            let world = World::full(&cx, LEN).await;
            let bitmap = world.source.bitmaps().add("b", Default::default()).unwrap();
            let idle = world
                .source
                .bitmaps()
                .add("idle", Default::default())
                .unwrap();
            idle.disable().unwrap();
            let options = MirrorOptions {
                bitmaps,
                ..options()
            };
            let mirror = ready(&world, options).await;
            world.guest_writes(cluster(1), 7).await.unwrap();
            complete(&mirror).await;
            world.guest_writes(cluster(3), 7).await.unwrap();
            assert_eq!(bitmap.info().count_bytes, CLUSTER);
            let carried = world.target.bitmaps().list();
            let told: Vec<_> = carried
                .iter()
                .map(|bitmap| {
                    let info = bitmap.info();
                    (info.name, info.count_bytes, info.is_recording)
                })
                .collect();
            match bitmaps {
                NamedBitmaps::Stay => assert!(told.is_empty()),
                NamedBitmaps::Carried => assert_eq!(
                    told,
                    [
                        ("idle".to_owned(), 0, false),
                        ("b".to_owned(), 2 * CLUSTER, true)
                    ]
                ),
            }
        }
    });
}

#[test]
fn bitmaps_that_cannot_be_carried_over_fail_the_job_and_move_nobody() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        for name in ["a", "b"] {
            world
                .source
                .bitmaps()
                .add(name, Default::default())
                .unwrap();
        }
        world.target.bitmaps().add("b", Default::default()).unwrap();
        let options = MirrorOptions {
            bitmaps: NamedBitmaps::Carried,
            ..options()
        };
        let mirror = ready(&world, options).await;
        mirror.job().complete().unwrap();
        mirror.job().wait().await.into_result().unwrap_err();
        assert_eq!(world.guest.node(), world.source);
        assert_eq!(world.target.bitmaps().list().len(), 1);
        world.guest_writes(cluster(1), 7).await.unwrap();
    });
}

#[test]
fn unaligned_disks_of_blocks_are_mirrored_to_their_last_byte() {
    on_each_backend(|cx| async move {
        let options_of = |request_align_bytes| MemoryOptions {
            request_align_bytes,
            ..MemoryOptions::new(LEN + 4096)
        };
        let disks = Disks::with_options(options_of(512), options_of(4096));
        let world = World::with_disks(&cx, disks);
        let options = MirrorOptions {
            granularity_bytes: Some(512),
            ..blocking()
        };
        let mirror = ready(&world, options).await;
        for n in 0..20 {
            world
                .guest_writes(range(n * 3000 + 1, 2999), 9)
                .await
                .unwrap();
        }
        assert!(mirror.report().is_actively_synced);
        assert_equal(&world).await;
        keep(&mirror).await;
    });
}

#[test]
fn a_mirror_that_has_ended_does_not_say_that_it_is_synced() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, blocking()).await;
        assert!(mirror.report().is_actively_synced);
        keep(&mirror).await;
        assert!(!mirror.report().is_actively_synced);
    });
}

#[test]
fn a_ready_mirror_sets_no_timer_and_does_nothing() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, options()).await;
        settle(&cx).await;
        let before = world.at_target.seen().len() + world.at_source.seen().len();
        for _ in 0..60 {
            clock.advance_ns(1_000_000_000);
            settle(&cx).await;
        }
        assert!(!mirror.job().info().is_busy);
        let after = world.at_target.seen().len() + world.at_source.seen().len();
        assert_eq!(before, after);
        world.guest_writes(cluster(0), 7).await.unwrap();
        caught_up(&world, &mirror).await;
        keep(&mirror).await;
    });
}

#[test]
fn a_pause_when_ready_is_standby_and_guests_are_served_meanwhile() {
    on_each_backend(|cx| async move {
        for options in [options(), blocking()] {
            let world = World::full(&cx, LEN).await;
            let is_blocking = options.copy_mode != Default::default();
            let mirror = ready(&world, options).await;
            mirror.job().pause().unwrap();
            until_status(&world, &mirror, JobStatus::Standby).await;
            world.guest_writes(cluster(1), 7).await.unwrap();
            settle(&cx).await;
            let target = look(&world, &cx, &world.target).await;
            assert_eq!(
                target[65536] == 7,
                is_blocking,
                "both sides are written all the same"
            );
            mirror.job().complete().unwrap();
            settle(&cx).await;
            assert_eq!(mirror.job().status(), JobStatus::Standby);
            mirror.job().resume().unwrap();
            mirror.job().wait().await.into_result().unwrap();
            assert_equal(&world).await;
        }
    });
}

#[test]
fn a_mirror_that_waits_to_be_finalized_holds_guests_up_and_says_so() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let options = MirrorOptions {
            finalize: Trigger::Manual,
            dismiss: Trigger::Manual,
            ..options()
        };
        let mirror = ready(&world, options).await;
        mirror.job().complete().unwrap();
        until_status(&world, &mirror, JobStatus::Pending).await;
        let writing = world.guest_writes_later(cluster(1), 7);
        settle(&cx).await;
        assert!(!writing.is_finished());
        assert!(mirror.report().guests_wait);
        mirror.job().finalize().unwrap();
        mirror.job().wait().await.into_result().unwrap();
        writing.await.unwrap();
        assert!(!mirror.report().guests_wait);
        assert_eq!(read(&world.guest, &cx, cluster(1)).await[0], 7);
        assert_ne!(look(&world, &cx, &world.source).await[65536], 7);
        assert_eq!(mirror.job().status(), JobStatus::Concluded);
    });
}
