//! A mirror beside its guests: how fast it goes, what it leaves them, and what it copies of layers.

use block::mirror::CopyMode;
use drivers::mirror::{MirrorOptions, MirrorSync};
use job::JobStatus;

use super::{
    assert_equal, between, blocking, caught_up, complete, keep, options, ready, start, until_status,
};
use crate::{
    overlay::{UNIT, overlay},
    world::{MIB, World, cluster, on_each_backend, range, settle, until, with_clock, write},
};

const LEN: u64 = 8 * MIB;
const MS: u64 = 1_000_000;

/// The reference moves 16 MiB and then sleeps for long.
#[test]
fn a_limited_mirror_goes_in_even_steps_before_it_is_ready_and_after() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let limited = MirrorOptions {
            speed_bytes_per_s: 4 * MIB,
            ..options()
        };
        let mirror = start(&world, limited).await;
        for is_ready in [false, true] {
            if is_ready {
                world.guest_writes(world.whole(), 7).await.unwrap();
            }
            let before = mirror.report().load.copied_bytes;
            for tenths in 0..15 {
                settle(&cx).await;
                let copied = mirror.report().load.copied_bytes - before;
                let due = 4 * MIB * tenths / 10;
                assert!(copied <= due + 2 * MIB, "{copied} bytes, {due} are due");
                assert!(copied + 2 * MIB >= due, "{copied} bytes, {due} are due");
                clock.advance_ns(100 * MS);
            }
            until_after(&world, &clock, &mirror).await;
        }
        keep_in_time(&world, &clock, &mirror).await;
        assert_equal(&world).await;
    });
}

async fn until_after(world: &World, clock: &aio::ManualClock, mirror: &drivers::mirror::Mirror) {
    let differs = || {
        let load = mirror.report().load;
        load.dirty_bytes + load.in_flight_bytes > 0 || mirror.job().status() != JobStatus::Ready
    };
    while differs() {
        clock.advance_ns(100 * MS);
        settle(&world.cx).await;
    }
    clock.advance_ns(10_000 * MS);
}

async fn keep_in_time(world: &World, clock: &aio::ManualClock, mirror: &drivers::mirror::Mirror) {
    mirror.job().cancel(job::CancelMode::Soft).unwrap();
    while mirror.job().outcome().is_none() {
        settle(&world.cx).await;
        clock.advance_ns(100 * MS);
    }
}

#[test]
fn guests_are_not_slowed_to_the_speed_of_a_mirror_in_the_background() {
    with_clock(|cx, _clock| async move {
        let world = World::full(&cx, LEN).await;
        let limited = MirrorOptions {
            speed_bytes_per_s: 64 << 10,
            ..options()
        };
        let mirror = start(&world, limited).await;
        for number in 0..100 {
            world.guest_writes(cluster(number), 7).await.unwrap();
        }
        assert_eq!(
            mirror.job().status(),
            JobStatus::Running,
            "no time has passed"
        );
        mirror.set_speed(0).unwrap();
        until_status(&world, &mirror, JobStatus::Ready).await;
        caught_up(&world, &mirror).await;
        assert_equal(&world).await;
        keep(&mirror).await;
    });
}

#[test]
fn what_guests_write_on_both_sides_is_told_as_progress() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, blocking()).await;
        let before = mirror.job().progress().snapshot();
        for number in 0..32 {
            world.guest_writes(cluster(number), 7).await.unwrap();
        }
        let grown = || mirror.job().progress().snapshot().current == before.current + 2 * MIB;
        until(&cx, grown).await;
        let after = mirror.job().progress().snapshot();
        assert_eq!(after.total, before.total + 2 * MIB);
        assert!(mirror.report().is_actively_synced);
        keep(&mirror).await;
    });
}

#[test]
fn the_mode_changes_both_ways_while_guests_write() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, options()).await;
        assert!(!mirror.report().is_actively_synced);
        for (mode, is_synced) in [
            (CopyMode::WriteBlocking, true),
            (CopyMode::WriteBlocking, true),
            (CopyMode::Background, false),
            (CopyMode::WriteBlocking, true),
        ] {
            mirror.set_copy_mode(mode).unwrap();
            caught_up(&world, &mirror).await;
            world.guest_writes(cluster(3), 7).await.unwrap();
            assert_eq!(mirror.report().is_actively_synced, is_synced, "{mode:?}");
            caught_up(&world, &mirror).await;
            assert_equal(&world).await;
        }
        complete(&mirror).await;
        mirror.set_copy_mode(CopyMode::Background).unwrap_err();
    });
}

#[test]
fn of_a_layer_top_copies_what_the_layer_has_and_full_all() {
    on_each_backend(|cx| async move {
        for (sync, copied_bytes) in [(MirrorSync::Top, 3 * UNIT), (MirrorSync::Full, LEN)] {
            let world = World::full(&cx, LEN).await;
            let (layer, own) = overlay(&world.graph, "layer", &world.source);
            let guest = crate::world::attach(&world.graph, &layer);
            for unit in [5, 6, 100] {
                write(&guest, &cx, unit * UNIT, &[7; 512]).await.unwrap();
            }
            let before = own.now();
            let options = MirrorOptions {
                sync,
                granularity_bytes: Some(UNIT),
                ..options()
            };
            let mirror = between(&world, (&layer, &world.target), options)
                .await
                .unwrap();
            until_status(&world, &mirror, JobStatus::Ready).await;
            let counters = mirror.report().counters;
            let moved = counters.buffered_bytes + counters.direct_bytes + counters.bounced_bytes;
            assert_eq!(moved, copied_bytes);
            assert!(
                before.has(5 * UNIT) && !own.has(7 * UNIT),
                "the layer is as it was"
            );
            // What a guest adds to the layer meanwhile comes on top.
            write(&guest, &cx, 200 * UNIT, &[8; 512]).await.unwrap();
            caught_up(&world, &mirror).await;
            keep(&mirror).await;
            let target = world.target_bytes().await;
            let at = |unit: u64| target[usize::try_from(unit * UNIT).unwrap()];
            assert_eq!((at(5), at(100), at(200)), (7, 7, 8));
            assert_eq!(at(50) != 0, copied_bytes == LEN);
        }
    });
}

#[test]
fn a_mirror_that_is_paused_before_it_is_ready_goes_on_where_it_stood() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let limited = MirrorOptions {
            speed_bytes_per_s: MIB,
            ..options()
        };
        let mirror = start(&world, limited).await;
        settle(&cx).await;
        mirror.job().pause().unwrap();
        until_status(&world, &mirror, JobStatus::Paused).await;
        let before = mirror.report().load.copied_bytes;
        assert!(before > 0);
        clock.advance_ns(60_000 * MS);
        world.guest_writes(range(0, MIB), 7).await.unwrap();
        settle(&cx).await;
        assert_eq!(mirror.report().load.copied_bytes, before);
        mirror.set_speed(0).unwrap();
        mirror.job().resume().unwrap();
        until_status(&world, &mirror, JobStatus::Ready).await;
        assert!(mirror.report().load.copied_bytes <= LEN + MIB);
        keep(&mirror).await;
        assert_equal(&world).await;
    });
}
