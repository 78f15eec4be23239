//! Mirrors that start from a dirty bitmap, and what becomes of it.

use block::nodes::{FaultAction, FaultOp, FaultRule};
use drivers::{
    BitmapMode,
    mirror::{Mirror, MirrorBitmap, MirrorOptions, MirrorSync, NamedBitmaps},
};
use job::{JobStatus, Trigger};

use super::{assert_equal, cancel, complete, keep, options, ready, start, until_status};
use crate::world::{
    CLUSTER, MIB, World, cluster, fail, first, on_each_backend, pattern, settle, write,
};

const LEN: u64 = 4 * MIB;

fn from_bitmap(mode: BitmapMode) -> MirrorOptions {
    let name = "b".to_owned();
    MirrorOptions {
        sync: MirrorSync::Bitmap(MirrorBitmap { name, mode }),
        ..options()
    }
}

/// Source and target are equal but for two clusters, which the bitmap knows.
async fn nearly_equal(cx: &aio::AioContext) -> (World, block::bitmap::Bitmap) {
    let world = World::full(cx, LEN).await;
    let target = crate::world::attach(&world.graph, &world.target);
    write(&target, cx, 0, &pattern(world.whole(), 1))
        .await
        .unwrap();
    drop(target);
    let bitmap = world.source.bitmaps().add("b", Default::default()).unwrap();
    for number in [3, 40] {
        world.guest_writes(cluster(number), 9).await.unwrap();
    }
    (world, bitmap)
}

fn copied(mirror: &Mirror) -> u64 {
    mirror.report().load.copied_bytes
}

#[test]
fn only_what_the_bitmap_knows_is_copied_and_both_sides_are_equal() {
    on_each_backend(|cx| async move {
        for mode in BitmapMode::ALL {
            let (world, bitmap) = nearly_equal(&cx).await;
            let mirror = ready(&world, from_bitmap(mode)).await;
            assert_equal(&world).await;
            assert_eq!(copied(&mirror), 2 * CLUSTER);
            assert!(bitmap.info().is_busy);
            world.guest_writes(cluster(7), 5).await.unwrap();
            keep(&mirror).await;
            assert_equal(&world).await;
            let left = match mode {
                BitmapMode::OnSuccess | BitmapMode::Always => 0,
                BitmapMode::Never => 3 * CLUSTER,
            };
            assert_eq!(bitmap.info().count_bytes, left, "{mode:?}");
            world.guest_writes(cluster(8), 5).await.unwrap();
            assert_eq!(bitmap.info().count_bytes, left + CLUSTER, "it records on");
            assert!(!bitmap.info().is_busy);
        }
    });
}

#[test]
fn a_cancelled_mirror_leaves_what_the_target_lacks_by_the_mode_of_the_bitmap() {
    on_each_backend(|cx| async move {
        for (mode, left) in [
            (BitmapMode::OnSuccess, 3),
            (BitmapMode::Never, 3),
            // The second cluster was not copied, and a guest has written since.
            (BitmapMode::Always, 2),
        ] {
            let (world, bitmap) = nearly_equal(&cx).await;
            let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
            world.at_target.add(hold.within(cluster(40)));
            let mirror = start(&world, from_bitmap(mode)).await;
            world.at_target.wait_held(1).await;
            settle(&cx).await;
            assert_eq!(copied(&mirror), CLUSTER);
            world.guest_writes(cluster(50), 5).await.unwrap();
            world.at_target.clear();
            cancel(&mirror).await;
            world.at_target.release_all();
            assert_eq!(bitmap.info().count_bytes, left * CLUSTER, "{mode:?}");
        }
    });
}

#[test]
fn a_mirror_that_is_cancelled_while_it_is_pending_lacks_nothing() {
    on_each_backend(|cx| async move {
        for (mode, left) in [(BitmapMode::Always, 1), (BitmapMode::OnSuccess, 3)] {
            let (world, bitmap) = nearly_equal(&cx).await;
            let manual = MirrorOptions {
                finalize: Trigger::Manual,
                ..from_bitmap(mode)
            };
            let mirror = ready(&world, manual).await;
            world.guest_writes(cluster(50), 5).await.unwrap();
            mirror.job().complete().unwrap();
            until_status(&world, &mirror, JobStatus::Pending).await;
            cancel(&mirror).await;
            // What was recorded beside stays, although the target has that, too.
            assert_eq!(bitmap.info().count_bytes, left * CLUSTER, "{mode:?}");
        }
    });
}

#[test]
fn what_is_not_stable_counts_as_lacking() {
    on_each_backend(|cx| async move {
        let (world, bitmap) = nearly_equal(&cx).await;
        world
            .at_target
            .add(FaultRule::every(FaultOp::Flush, fail(libc::EIO)));
        let mirror = start(&world, from_bitmap(BitmapMode::Always)).await;
        mirror.job().wait().await.into_result().unwrap_err();
        assert_eq!(bitmap.info().count_bytes, 2 * CLUSTER);
    });
}

#[test]
fn a_write_at_the_instant_of_the_start_is_in_the_bitmap_or_tracked() {
    on_each_backend(|cx| async move {
        for number in 0..10 {
            let (world, _bitmap) = nearly_equal(&cx).await;
            world
                .at_source
                .add(first(FaultOp::Write, 2, FaultAction::Hold));
            let writes: Vec<_> = [10, 11]
                .map(|number| world.guest_writes_later(cluster(number), 5))
                .into();
            world.at_source.wait_held(2).await;
            let starting = start(&world, from_bitmap(BitmapMode::OnSuccess));
            let releasing = release_after(&world, number);
            let (mirror, ()) = both(starting, releasing).await;
            for writing in writes {
                writing.await.unwrap();
            }
            until_status(&world, &mirror, JobStatus::Ready).await;
            keep(&mirror).await;
            assert_equal(&world).await;
        }
    });
}

async fn release_after(world: &World, turns: u32) {
    for _ in 0..turns {
        world.cx.yield_now().await;
    }
    world.at_source.release_all();
}

/// Awaits two futures at once.
async fn both<L, R>(left: impl Future<Output = L>, right: impl Future<Output = R>) -> (L, R) {
    let (mut left, mut right) = (std::pin::pin!(left), std::pin::pin!(right));
    let (mut left_done, mut right_done) = (None, None);
    std::future::poll_fn(|cx| {
        if left_done.is_none()
            && let std::task::Poll::Ready(value) = left.as_mut().poll(cx)
        {
            left_done = Some(value);
        }
        if right_done.is_none()
            && let std::task::Poll::Ready(value) = right.as_mut().poll(cx)
        {
            right_done = Some(value);
        }
        match (left_done.take(), right_done.take()) {
            (Some(left), Some(right)) => std::task::Poll::Ready((left, right)),
            (left, right) => {
                (left_done, right_done) = (left, right);
                std::task::Poll::Pending
            }
        }
    })
    .await
}

#[test]
fn the_bitmap_of_a_pivoted_mirror_is_carried_over_empty() {
    on_each_backend(|cx| async move {
        let (world, bitmap) = nearly_equal(&cx).await;
        let options = MirrorOptions {
            bitmaps: NamedBitmaps::Carried,
            finalize: Trigger::Manual,
            ..from_bitmap(BitmapMode::OnSuccess)
        };
        let mirror = ready(&world, options).await;
        world.guest_writes(cluster(7), 5).await.unwrap();
        mirror.job().complete().unwrap();
        until_status(&world, &mirror, JobStatus::Pending).await;
        let later = world.guest_writes_later(cluster(8), 6);
        settle(&cx).await;
        mirror.job().finalize().unwrap();
        mirror.job().wait().await.into_result().unwrap();
        later.await.unwrap();
        assert_eq!(bitmap.info().count_bytes, 0);
        let carried = world.target.bitmaps().find("b").unwrap();
        assert_eq!(
            carried.info().count_bytes,
            CLUSTER,
            "what came after the switch"
        );
        assert!(carried.info().is_recording);
    });
}

#[test]
fn a_switch_that_fails_late_keeps_the_bitmap() {
    on_each_backend(|cx| async move {
        let (world, bitmap) = nearly_equal(&cx).await;
        world.target.bitmaps().add("b", Default::default()).unwrap();
        let options = MirrorOptions {
            bitmaps: NamedBitmaps::Carried,
            ..from_bitmap(BitmapMode::OnSuccess)
        };
        let mirror = ready(&world, options).await;
        mirror.job().complete().unwrap();
        mirror.job().wait().await.into_result().unwrap_err();
        assert_eq!(bitmap.info().count_bytes, 2 * CLUSTER);
        assert!(!bitmap.info().is_busy);
    });
}

#[test]
fn an_empty_bitmap_makes_the_mirror_ready_at_once() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        world.source.bitmaps().add("b", Default::default()).unwrap();
        let mirror = ready(&world, from_bitmap(BitmapMode::OnSuccess)).await;
        assert_eq!(copied(&mirror), 0);
        complete(&mirror).await;
    });
}
