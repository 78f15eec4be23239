//! What the options of a backup come to, beside what its sync mode copies.

use block::{
    AllocationStatus, ErrorKind,
    copy::SourceAfter,
    nodes::{FaultAction, FaultOp, FaultRule, MemoryOptions, copy_before_write::OnCbwError},
};
use blockjob::{BlockJobInfo, IoStatus, OnError};
use drivers::backup::{Backup, BackupError, BackupOptions, BackupSync};
use job::{CancelMode, JobOutcome, JobRegistry, JobStatus};

use super::world::{
    CLUSTER, Disks, MIB, World, cluster, fail, first, on_each_backend, options, range, seen,
    settle, until, with_clock,
};

fn none() -> BackupOptions {
    BackupOptions {
        sync: BackupSync::None,
        ..options()
    }
}

#[test]
fn a_pause_does_not_stop_what_is_saved_for_guests_and_a_cancel_is_the_normal_end() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 4 * MIB).await;
        let before = world.source_bytes().await;
        let backup = world.start(none()).await.unwrap();
        settle(&cx).await;
        assert_eq!(
            seen(&world.at_target, FaultOp::Write),
            0,
            "nobody wants anything"
        );
        let progress = backup.job().progress().snapshot();
        assert_eq!((progress.current, progress.total), (0, 4 * MIB));
        backup.job().pause().unwrap();
        world.until_status(&backup, JobStatus::Paused).await;
        world.guest_writes(cluster(9), 7).await.unwrap();
        world.guest_writes(cluster(9), 8).await.unwrap();
        let at = usize::try_from(9 * CLUSTER).unwrap();
        let target = world.target_bytes().await;
        assert!(target[at..][..65536] == before[at..][..65536]);
        assert!(target[..at].iter().all(|byte| *byte == 0));
        backup.job().resume().unwrap();
        until(&cx, || {
            backup.job().progress().snapshot().current == CLUSTER
        })
        .await;
        assert_eq!(backup.job().progress().snapshot().total, 4 * MIB);

        backup.job().cancel(CancelMode::Soft).unwrap();
        let outcome = backup.job().wait().await;
        assert!(matches!(outcome, JobOutcome::Cancelled(_)), "{outcome:?}");
        let life = world.life();
        assert_eq!(life[life.len() - 3..], ["CANCELLED", "concluded", "null"]);
        world.guest_writes(cluster(10), 7).await.unwrap();
        assert!(world.target_bytes().await == target);
    });
}

#[test]
fn defect_11_a_snapshot_without_background_copy_fails_as_soon_as_it_is_broken() {
    on_each_backend(|cx| async move {
        for is_paused in [false, true] {
            let world = World::full(&cx, 4 * MIB).await;
            let backup = world.start(none()).await.unwrap();
            if is_paused {
                backup.job().pause().unwrap();
                world.until_status(&backup, JobStatus::Paused).await;
            } else {
                settle(&cx).await;
            }
            world
                .at_target
                .add(first(FaultOp::Write, 1, fail(libc::ENOSPC)));
            world.guest_writes(cluster(9), 7).await.unwrap();
            if is_paused {
                backup.job().resume().unwrap();
            }
            let JobOutcome::Failed(error) = backup.job().wait().await else {
                panic!("the snapshot is broken");
            };
            assert_eq!(error.errno(), Some(libc::ENOSPC));
        }
    });
}

#[test]
fn a_snapshot_whose_guests_give_way_stays_whole() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 4 * MIB).await;
        let options = BackupOptions {
            on_cbw_error: OnCbwError::BreakGuestWrite,
            ..none()
        };
        let backup = world.start(options).await.unwrap();
        world
            .at_target
            .add(first(FaultOp::Write, 1, fail(libc::ENOSPC)));
        let refused = world.guest_writes(cluster(9), 7).await.unwrap_err();
        assert_eq!(refused.errno(), Some(libc::ENOSPC));
        settle(&cx).await;
        assert_eq!(backup.job().status(), JobStatus::Running);
        world.guest_writes(cluster(9), 7).await.unwrap();
        backup.job().cancel(CancelMode::Force).unwrap();
        backup.job().wait().await;
    });
}

#[test]
fn a_time_limit_holds_in_both_policies_without_a_background_copy() {
    for on_cbw_error in [OnCbwError::BreakGuestWrite, OnCbwError::BreakSnapshot] {
        with_clock(|cx, clock| async move {
            let world = World::full(&cx, 4 * MIB).await;
            let options = BackupOptions {
                on_cbw_error,
                cbw_timeout_ns: Some(1_000_000_000),
                ..none()
            };
            let backup = world.start(options).await.unwrap();
            let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
            world.at_target.add(hold);
            let write = world.guest_writes_later(cluster(9), 7);
            world.at_target.wait_held(1).await;
            settle(&cx).await;
            clock.advance_ns(999_999_999);
            settle(&cx).await;
            assert!(!write.is_finished());
            clock.advance_ns(2);
            let written = write.await;
            match on_cbw_error {
                OnCbwError::BreakGuestWrite => {
                    assert_eq!(written.unwrap_err().errno(), Some(libc::ETIMEDOUT));
                    settle(&cx).await;
                    assert_eq!(backup.job().status(), JobStatus::Running);
                    world.at_target.release_all();
                    backup.job().cancel(CancelMode::Force).unwrap();
                    backup.job().wait().await;
                }
                OnCbwError::BreakSnapshot => {
                    written.unwrap();
                    world.at_target.release_all();
                    let outcome = backup.job().wait().await;
                    assert!(matches!(outcome, JobOutcome::Failed(_)), "{outcome:?}");
                }
            }
        });
    }
}

#[test]
fn the_filter_has_the_name_that_it_is_given_and_no_name_twice() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB).await;
        let named = |name: &str| BackupOptions {
            filter_name: Some(name.to_owned()),
            ..none()
        };
        for name in ["target", "0bad", ""] {
            let shape = world.shape();
            let refused = world.start(named(name)).await.unwrap_err();
            let BackupError::Node { source, .. } = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(source.kind(), ErrorKind::Invalid);
            assert_eq!(world.shape(), shape);
        }
        let backup = world.start(named("shield")).await.unwrap();
        let filter = world.graph.node("shield").unwrap();
        assert_eq!(filter.driver_name(), "copy-before-write");
        assert_eq!(world.guest.node(), filter);
        backup.job().cancel(CancelMode::Force).unwrap();
        backup.job().wait().await;
        assert!(world.graph.node("shield").is_err());
        // Free again.
        let backup = world.start(named("shield")).await.unwrap();
        backup.job().cancel(CancelMode::Force).unwrap();
        backup.job().wait().await;
    });
}

#[test]
fn as_many_workers_as_are_allowed_copy_chunks_as_large_as_is_allowed() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 8 * MIB).await;
        let options = BackupOptions {
            max_workers: Some(1),
            max_chunk_bytes: Some(2 * CLUSTER),
            ..options()
        };
        let hold = FaultRule::nth(FaultOp::Write, 4, FaultAction::Hold);
        world.at_target.add(hold);
        let backup = world.start(options).await.unwrap();
        world.at_target.wait_held(1).await;
        settle(&cx).await;
        assert_eq!(backup.report().requests_in_flight, 1);
        world.at_target.release_all();
        backup.job().wait().await.into_result().unwrap();

        assert!(world.target_bytes().await == world.source_bytes().await);
        let written = world.at_target.seen().into_iter();
        let mut lens = written.filter(|(op, _)| *op == FaultOp::Write);
        assert!(lens.all(|(_, range)| range.len() <= 2 * CLUSTER));
    });
}

#[test]
fn a_cluster_is_as_large_as_is_asked_for_or_as_the_target_has() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 4 * MIB).await;
        let options = |min_cluster_bytes| BackupOptions {
            min_cluster_bytes,
            ..none()
        };
        for (asked, cluster) in [(0, CLUSTER), (512, CLUSTER), (MIB, MIB)] {
            world.at_target.clear();
            let backup = world.start(options(asked)).await.unwrap();
            world.guest_writes(range(2 * MIB + 10, 1), 1).await.unwrap();
            assert_eq!(backup.report().done_bytes, cluster, "{asked}");
            backup.job().cancel(CancelMode::Force).unwrap();
            backup.job().wait().await;
        }
        for (bad, want) in [
            (3 << 16, "needs to be a power of 2"),
            (1 << 40, "cannot back up"),
        ] {
            let shape = world.shape();
            let refused = world.start(options(bad)).await.unwrap_err().to_string();
            assert!(refused.contains(want), "{refused}");
            assert_eq!(world.shape(), shape);
        }
    });
}

#[test]
fn a_chunk_below_the_targets_cluster_is_refused() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB).await;
        let small = BackupOptions {
            max_chunk_bytes: Some(CLUSTER / 2),
            ..options()
        };
        let refused = world.start(small).await.unwrap_err().to_string();
        let want = "Required max-chunk (32768) is less than backup cluster size (65536)";
        assert_eq!(refused, want);
        let nobody = BackupOptions {
            max_workers: Some(0),
            ..options()
        };
        let refused = world.start(nobody).await.unwrap_err().to_string();
        assert_eq!(refused, "max-workers must be between 1 and 2147483647");
    });
}

#[test]
fn a_source_that_is_discarded_is_empty_behind_the_backup() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 4 * MIB + 100).await;
        let before = world.source_bytes().await;
        let options = BackupOptions {
            source_after: SourceAfter::Discarded,
            ..options()
        };
        world.back_up(options).await;
        assert!(world.target_bytes().await == before);
        let extent = world.guest.extent(&cx, world.whole()).await.unwrap();
        assert_eq!(extent.status, AllocationStatus::Zero);
        assert!(extent.len_bytes >= 4 * MIB);
    });
}

#[test]
fn a_source_that_cannot_be_written_is_backed_up_and_not_discarded() {
    on_each_backend(|cx| async move {
        let read_only = MemoryOptions {
            read_only: true,
            ..MemoryOptions::new(MIB)
        };
        let disks = Disks::with_options(read_only, MemoryOptions::new(MIB));
        let jobs = JobRegistry::new(cx.handle().clone());
        let (registry, nodes) = ((&disks.graph, &jobs), (&disks.source, &disks.target));
        let discarding = BackupOptions {
            source_after: SourceAfter::Discarded,
            ..options()
        };
        let refused = Backup::start(registry, cx.handle(), nodes, discarding).await;
        let Err(BackupError::Node { source, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(source.kind(), ErrorKind::ReadOnly);
        let backup = Backup::start(registry, cx.handle(), nodes, options()).await;
        backup.unwrap().job().wait().await.into_result().unwrap();
        let changes = [FaultOp::Write, FaultOp::WriteZeroes, FaultOp::Discard];
        let changed: usize = changes.map(|op| seen(&disks.at_source, op)).iter().sum();
        assert_eq!(changed, 0);
    });
}

#[test]
fn what_is_copied_for_guests_counts_against_the_speed_limit() {
    with_clock(|cx, clock| async move {
        for guest_bytes in [0, 4 * MIB] {
            let world = World::full(&cx, 16 * MIB).await;
            let options = BackupOptions {
                speed_bytes_per_s: MIB,
                ..options()
            };
            let backup = world.start(options).await.unwrap();
            settle(&cx).await;
            assert_eq!(backup.report().done_bytes, MIB);
            // At once, and not at a MiB a second.
            world
                .guest_writes(range(8 * MIB, guest_bytes), 9)
                .await
                .unwrap();
            let done_bytes = MIB + guest_bytes;
            assert_eq!(backup.report().done_bytes, done_bytes);
            clock.advance_ns(1_100_000_000);
            settle(&cx).await;
            let more = backup.report().done_bytes - done_bytes;
            assert_eq!(more > 0, guest_bytes == 0, "{more} bytes more");
            backup.job().cancel(CancelMode::Force).unwrap();
            backup.job().wait().await;
        }
    });
}

#[test]
fn a_report_has_the_io_status() {
    on_each_backend(|cx| async move {
        for (errno, status) in [
            (libc::EIO, IoStatus::Failed),
            (libc::ENOSPC, IoStatus::NoSpace),
        ] {
            let world = World::full(&cx, 2 * MIB).await;
            world.at_target.add(first(FaultOp::Write, 1, fail(errno)));
            let options = BackupOptions {
                on_target_error: OnError::Stop,
                ..options()
            };
            let backup = world.start(options).await.unwrap();
            assert_eq!(backup.report().io_status, IoStatus::Ok);
            world.until_status(&backup, JobStatus::Paused).await;
            assert_eq!(backup.report().io_status, status);
            let info = BlockJobInfo::of(backup.job()).unwrap();
            assert_eq!(info.io_status, status);
            backup.job().resume().unwrap();
            assert_eq!(backup.report().io_status, IoStatus::Ok);
            backup.job().wait().await.into_result().unwrap();
        }
    });
}
