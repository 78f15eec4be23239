//! What becomes of the bitmap that a backup works on, for each mode and each end.

use std::collections::BTreeSet;

use aio::AioContext;
use block::{
    ErrorKind,
    bitmap::{Bitmap, BitmapOptions},
    nodes::{FaultAction, FaultOp, FaultRule},
};
use drivers::{
    BitmapMode,
    backup::{Action, Backup, BackupBitmap, BackupOptions, BackupSpec, BackupSync, Completion},
};
use job::{CancelMode, JobOutcome, JobStatus, Trigger};

use super::{
    modes::{Scene, bits_of},
    oracle::{Chance, seed},
    world::{
        CLUSTER, World, cluster, fail, first, in_memory, on_each_backend, options, range, seen,
        settle, until,
    },
};

const CLUSTERS: u64 = 64;
/// What guests have written before the backup.
const OLD: std::ops::Range<u64> = 0..48;
/// What a guest writes while it runs.
const NEW: u64 = 60;

/// A disk of 64 clusters with a bitmap `b`, in which the first 48 are dirty.
async fn world(cx: &AioContext, bitmap: BitmapOptions) -> (World, Bitmap) {
    let world = World::full(cx, CLUSTERS * CLUSTER).await;
    let bitmap = world.source.bitmaps().add("b", bitmap).unwrap();
    for number in OLD {
        world.guest_writes(cluster(number), 1).await.unwrap();
    }
    (world, bitmap)
}

fn working_on(sync: BackupSync, mode: BitmapMode) -> BackupOptions {
    BackupOptions {
        sync,
        bitmap: Some(BackupBitmap {
            name: "b".to_owned(),
            mode,
        }),
        finalize: Trigger::Manual,
        ..options()
    }
}

/// The numbers of the dirty clusters.
fn dirty(world: &World) -> BTreeSet<u64> {
    let bits = bits_of(world);
    let is_dirty = |number: &u64| bits.is_dirty(number * CLUSTER);
    (0..CLUSTERS).filter(is_dirty).collect()
}

fn numbers(numbers: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
    numbers.into_iter().collect()
}

fn old_and_new() -> BTreeSet<u64> {
    numbers(OLD.chain([NEW]))
}

/// The clusters of which the target has what the source had.
async fn in_target(world: &World, instant: &[u8]) -> BTreeSet<u64> {
    let target = world.target_bytes().await;
    let at = |number: u64| in_memory(number * CLUSTER)..in_memory((number + 1) * CLUSTER);
    let has = |number: &u64| target[at(*number)] == instant[at(*number)];
    (0..CLUSTERS).filter(has).collect()
}

const BOTH: [BackupSync; 2] = [BackupSync::Bitmap, BackupSync::Full];

#[test]
fn after_success_only_new_writes_remain_unless_the_mode_is_never() {
    on_each_backend(|cx| async move {
        let cases = [
            (BackupSync::Bitmap, BitmapMode::OnSuccess, numbers([NEW])),
            (BackupSync::Bitmap, BitmapMode::Always, numbers([NEW])),
            (BackupSync::Bitmap, BitmapMode::Never, old_and_new()),
            (BackupSync::Full, BitmapMode::OnSuccess, numbers([NEW])),
            (BackupSync::Full, BitmapMode::Always, numbers([NEW])),
            (BackupSync::Top, BitmapMode::OnSuccess, numbers([NEW])),
        ];
        for (sync, mode, expected) in cases {
            let (world, _) = world(&cx, BitmapOptions::default()).await;
            let instant = world.source_bytes().await;
            let backup = world.start(working_on(sync, mode)).await.unwrap();
            world.until_status(&backup, JobStatus::Pending).await;
            world.guest_writes(cluster(NEW), 9).await.unwrap();
            backup.job().finalize().unwrap();
            backup.job().wait().await.into_result().unwrap();

            assert_eq!(dirty(&world), expected, "{sync:?} {mode:?}");
            let copied = match sync {
                BackupSync::Bitmap => numbers(OLD),
                _ => numbers(0..CLUSTERS),
            };
            assert_eq!(in_target(&world, &instant).await, copied, "{sync:?}");
        }
    });
}

#[test]
fn while_a_backup_works_on_it_a_bitmap_is_busy_and_recording() {
    on_each_backend(|cx| async move {
        let (world, bitmap) = world(&cx, BitmapOptions::default()).await;
        let options = working_on(BackupSync::Bitmap, BitmapMode::OnSuccess);
        let backup = world.start(options).await.unwrap();
        world.until_status(&backup, JobStatus::Pending).await;
        let info = bitmap.info();
        assert!(info.is_busy && info.is_recording, "{info:?}");
        assert_eq!(bitmap.clear().unwrap_err().kind(), ErrorKind::Busy);
        let removed = world.source.bitmaps().remove("b");
        assert_eq!(removed.unwrap_err().kind(), ErrorKind::Busy);
        backup.job().finalize().unwrap();
        backup.job().wait().await.into_result().unwrap();
        let info = bitmap.info();
        assert!(!info.is_busy && info.is_recording, "{info:?}");
        bitmap.clear().unwrap();
    });
}

/// How a backup ends that does not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The target fails at cluster 20.
    Error,
    /// It is cancelled while a write to cluster 20 is held.
    Cancel,
    /// It is cancelled when everything is copied.
    CancelWhenPending,
}

/// Ends a backup badly; returns the source at its instant.
async fn end_badly(world: &World, options: BackupOptions, end: End) -> Vec<u8> {
    let instant = world.source_bytes().await;
    let at = |action| FaultRule::every(FaultOp::Write, action).within(cluster(20));
    match end {
        End::Error => world.at_target.add(at(fail(libc::EIO))),
        End::Cancel => world.at_target.add(at(FaultAction::Hold)),
        End::CancelWhenPending => {}
    }
    let backup = world.start(options).await.unwrap();
    world.guest_writes(cluster(NEW), 9).await.unwrap();
    match end {
        End::Error => {}
        End::Cancel => {
            world.at_target.wait_held(1).await;
            settle(&world.cx).await;
            backup.job().cancel(CancelMode::Force).unwrap();
            settle(&world.cx).await;
            world.at_target.clear();
            world
                .at_target
                .fail(world.at_target.held()[0].id, libc::EIO);
        }
        End::CancelWhenPending => {
            world.until_status(&backup, JobStatus::Pending).await;
            backup.job().cancel(CancelMode::Force).unwrap();
        }
    }
    let outcome = backup.job().wait().await;
    match end {
        End::Error => assert!(matches!(outcome, JobOutcome::Failed(_)), "{outcome:?}"),
        End::Cancel | End::CancelWhenPending => {
            assert!(matches!(outcome, JobOutcome::Cancelled(_)), "{outcome:?}");
        }
    }
    instant
}

#[test]
fn after_a_bad_end_all_is_kept_unless_the_mode_is_always() {
    on_each_backend(|cx| async move {
        let cases = [
            (BackupSync::Bitmap, BitmapMode::OnSuccess),
            (BackupSync::Bitmap, BitmapMode::Never),
            (BackupSync::Full, BitmapMode::OnSuccess),
        ];
        for (sync, mode) in cases {
            for end in [End::Error, End::Cancel, End::CancelWhenPending] {
                let (world, bitmap) = world(&cx, BitmapOptions::default()).await;
                end_badly(&world, working_on(sync, mode), end).await;
                assert_eq!(dirty(&world), old_and_new(), "{sync:?} {mode:?} {end:?}");
                assert!(!bitmap.info().is_busy);
            }
        }
    });
}

#[test]
fn with_always_exactly_what_was_not_copied_is_dirty_after_a_bad_end() {
    on_each_backend(|cx| async move {
        for (sync, end) in BOTH
            .into_iter()
            .flat_map(|sync| [End::Error, End::Cancel].map(|end| (sync, end)))
        {
            let (world, _) = world(&cx, BitmapOptions::default()).await;
            let options = working_on(sync, BitmapMode::Always);
            let instant = end_badly(&world, options, end).await;

            let copied = in_target(&world, &instant).await;
            assert!(!copied.contains(&20));
            let wanted = match sync {
                BackupSync::Bitmap => numbers(OLD),
                _ => numbers(0..CLUSTERS),
            };
            let mut expected: BTreeSet<_> = wanted.difference(&copied).copied().collect();
            expected.insert(NEW);
            assert_eq!(dirty(&world), expected, "{sync:?} {end:?}");
        }
    });
}

#[test]
fn with_always_what_was_copied_is_forgotten_also_when_a_pending_job_is_cancelled() {
    on_each_backend(|cx| async move {
        for sync in BOTH {
            let (world, _) = world(&cx, BitmapOptions::default()).await;
            let options = working_on(sync, BitmapMode::Always);
            end_badly(&world, options, End::CancelWhenPending).await;
            assert_eq!(dirty(&world), numbers([NEW]), "{sync:?}");
        }
    });
}

#[test]
fn with_always_what_may_not_be_stable_counts_as_not_copied() {
    on_each_backend(|cx| async move {
        for (sync, expected) in [
            (BackupSync::Bitmap, old_and_new()),
            (BackupSync::Full, numbers(0..CLUSTERS)),
        ] {
            for end in [End::Error, End::Cancel] {
                let (world, _) = world(&cx, BitmapOptions::default()).await;
                let broken = FaultRule::every(FaultOp::Flush, fail(libc::EIO));
                world.at_target.add(broken);
                end_badly(&world, working_on(sync, BitmapMode::Always), end).await;
                assert_eq!(dirty(&world), expected, "{sync:?} {end:?}");
            }
        }
    });
}

#[test]
fn a_flush_that_does_not_return_does_not_keep_a_cancelled_job_and_its_bits_are_kept() {
    on_each_backend(|cx| async move {
        let (world, _) = world(&cx, BitmapOptions::default()).await;
        let stuck = FaultRule::every(FaultOp::Flush, FaultAction::Hold);
        world.at_target.add(stuck);
        let options = working_on(BackupSync::Bitmap, BitmapMode::Always);
        let backup = world.start(options).await.unwrap();
        world.at_target.wait_held(1).await;
        backup.job().cancel(CancelMode::Force).unwrap();
        let outcome = backup.job().wait().await;
        assert!(matches!(outcome, JobOutcome::Cancelled(_)), "{outcome:?}");
        assert_eq!(dirty(&world), numbers(OLD));
        world.at_target.release_all();
    });
}

#[test]
fn a_disabled_bitmap_stays_disabled_and_is_cleared() {
    on_each_backend(|cx| async move {
        let (world, bitmap) = world(&cx, BitmapOptions::default()).await;
        bitmap.disable().unwrap();
        let options = BackupOptions {
            finalize: Trigger::Auto,
            ..working_on(BackupSync::Bitmap, BitmapMode::OnSuccess)
        };
        let backup = world.start(options).await.unwrap();
        world.guest_writes(cluster(NEW), 9).await.unwrap();
        backup.job().wait().await.into_result().unwrap();
        assert_eq!(dirty(&world), numbers([]));
        assert!(!bitmap.info().is_recording);
    });
}

#[test]
fn a_clean_bitmap_is_backed_up_at_once_and_nothing_is_copied() {
    on_each_backend(|cx| async move {
        let (world, bitmap) = world(&cx, BitmapOptions::default()).await;
        bitmap.clear().unwrap();
        let options = BackupOptions {
            finalize: Trigger::Auto,
            ..working_on(BackupSync::Bitmap, BitmapMode::OnSuccess)
        };
        let backup = world.back_up(options).await;
        let progress = backup.job().progress().snapshot();
        assert_eq!((progress.current, progress.total), (0, 0));
        assert_eq!(seen(&world.at_target, FaultOp::Write), 0);
        assert_eq!(seen(&world.at_target, FaultOp::WriteZeroes), 0);
    });
}

#[test]
fn progress_counts_clusters_of_the_bitmap() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 8 * CLUSTER + 100).await;
        let fine = BitmapOptions {
            granularity_bytes: Some(512),
            ..BitmapOptions::default()
        };
        world.source.bitmaps().add("b", fine).unwrap();
        world.guest_writes(range(10, 1), 1).await.unwrap();
        world
            .guest_writes(range(8 * CLUSTER + 99, 1), 1)
            .await
            .unwrap();
        world
            .at_target
            .add(first(FaultOp::Write, 1, FaultAction::Hold));
        let options = BackupOptions {
            finalize: Trigger::Auto,
            ..working_on(BackupSync::Bitmap, BitmapMode::OnSuccess)
        };
        let backup = world.start(options).await.unwrap();
        world.at_target.wait_held(1).await;
        until(&cx, || backup.job().progress().snapshot().total > 0).await;
        assert_eq!(backup.job().progress().snapshot().total, CLUSTER + 100);
        world.at_target.release_all();
        backup.job().wait().await.into_result().unwrap();
        let progress = backup.job().progress().snapshot();
        assert_eq!(
            (progress.current, progress.total),
            (CLUSTER + 100, CLUSTER + 100)
        );
    });
}

#[test]
fn a_bitmap_of_a_start_that_is_refused_is_as_it_was() {
    on_each_backend(|cx| async move {
        let (world, bitmap) = world(&cx, BitmapOptions::default()).await;
        let before = (bitmap.info(), dirty(&world));
        for mode in BitmapMode::ALL {
            let options = BackupOptions {
                filter_name: Some("target".to_owned()),
                ..working_on(BackupSync::Bitmap, mode)
            };
            world.start(options).await.unwrap_err();
            assert_eq!((bitmap.info(), dirty(&world)), before);
        }
    });
}

#[test]
fn a_second_backup_with_always_completes_what_the_first_left() {
    on_each_backend(|cx| async move {
        let (world, _) = world(&cx, BitmapOptions::default()).await;
        let options = || working_on(BackupSync::Bitmap, BitmapMode::Always);
        end_badly(&world, options(), End::Cancel).await;
        let options = BackupOptions {
            finalize: Trigger::Auto,
            ..options()
        };
        world.back_up(options).await;
        let now = world.source_bytes().await;
        let wanted = numbers(OLD.chain([NEW]));
        assert!(in_target(&world, &now).await.is_superset(&wanted));
        assert_eq!(dirty(&world), numbers([]));
    });
}

/// One link: a backup that ends well or not, as chance wants. Returns the instant of one that ended well.
async fn link(scene: &Scene, chance: &mut Chance) -> Option<Vec<u8>> {
    let world = &scene.world;
    let mode = [BitmapMode::OnSuccess, BitmapMode::Always][in_memory(chance.below(2))];
    world.at_target.clear();
    let action = match chance.below(4) {
        0 => Some(fail(libc::EIO)),
        1 => Some(FaultAction::Hold),
        _ => None,
    };
    if let Some(action) = action {
        let nth = 1 + chance.below(5);
        world
            .at_target
            .add(FaultRule::nth(FaultOp::Write, nth, action));
    }
    let options = BackupOptions {
        finalize: Trigger::Auto,
        ..working_on(BackupSync::Bitmap, mode)
    };
    let (backup, instant) = scene.start(options).await;
    if action == Some(FaultAction::Hold) {
        let has_ended = || backup.job().outcome().is_some();
        until(&world.cx, || {
            has_ended() || !world.at_target.held().is_empty()
        })
        .await;
        let _may_have_ended = backup.job().cancel(CancelMode::Force);
        settle(&world.cx).await;
        world.at_target.release_all();
    }
    let outcome = backup.job().wait().await;
    matches!(outcome, JobOutcome::Completed).then_some(instant.bytes)
}

#[test]
fn a_chain_of_incremental_backups_is_right_whatever_fails_between() {
    let seed = seed();
    on_each_backend(|cx| async move {
        let mut chance = Chance::new(seed);
        for _ in 0..3 {
            let mut scene = Scene::new(&cx, BackupSync::Bitmap).await;
            let bitmap = BitmapOptions {
                granularity_bytes: Some(512 << (chance.below(3) * 4)),
                ..BitmapOptions::default()
            };
            scene.world.source.bitmaps().add("b", bitmap).unwrap();
            scene.start_guests(chance.below(u64::MAX));
            // The anchor: a full backup that clears the bitmap at its instant.
            let anchor = BackupOptions {
                finalize: Trigger::Auto,
                ..working_on(BackupSync::Full, BitmapMode::OnSuccess)
            };
            let (backup, instant) = scene.start(anchor).await;
            backup.job().wait().await.into_result().unwrap();
            assert!(scene.world.target_bytes().await == instant.bytes);
            let mut good = 0;
            for number in 0..12 {
                let instant = link(&scene, &mut chance).await;
                let target = scene.world.target_bytes().await;
                assert!(
                    instant.as_ref().is_none_or(|instant| target == *instant),
                    "link {number}"
                );
                good += u64::from(instant.is_some());
            }
            scene.stop_guests().await;
            println!("{good} links of 12 ended well");
        }
    });
}

#[test]
fn a_full_backup_and_a_clear_of_its_bitmap_at_one_instant_anchor_a_chain() {
    let seed = seed();
    on_each_backend(|cx| async move {
        let mut chance = Chance::new(seed);
        let mut scene = Scene::new(&cx, BackupSync::Bitmap).await;
        let world = &scene.world;
        let bitmap = world.source.bitmaps().add("b", BitmapOptions::default());
        world
            .guest_writes(range(0, 10 * CLUSTER / 2), 1)
            .await
            .unwrap();
        bitmap.unwrap();
        scene.start_guests(chance.below(u64::MAX));
        let world = &scene.world;
        let spec = BackupSpec {
            source: world.source.clone(),
            target: world.target.clone(),
            context: cx.handle().clone(),
            options: options(),
        };
        let bitmap = block::bitmap::BitmapRef {
            node: world.source.clone(),
            name: "b".to_owned(),
        };
        let actions = vec![
            Action::Bitmap(block::bitmap::BitmapAction::Clear(bitmap)),
            Action::Backup(Box::new(spec)),
        ];
        let registry = (&world.graph, &world.jobs);
        let started = Backup::start_group(registry, actions, Completion::Individual).await;
        let full = started.unwrap().remove(0);
        full.job().wait().await.into_result().unwrap();
        for _ in 0..3 {
            let options = BackupOptions {
                finalize: Trigger::Auto,
                ..working_on(BackupSync::Bitmap, BitmapMode::OnSuccess)
            };
            let (backup, instant) = scene.start(options).await;
            backup.job().wait().await.into_result().unwrap();
            assert!(scene.world.target_bytes().await == instant.bytes);
        }
        scene.stop_guests().await;
    });
}
