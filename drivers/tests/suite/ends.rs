//! However a backup ends, guests use the source directly again and nothing of it is left.

use block::{
    copy::TargetContent,
    nodes::{FaultAction, FaultOp, FaultRule, copy_before_write::OnCbwError},
};
use drivers::backup::BackupOptions;
use job::{CancelMode, JobOutcome, JobStatus, Trigger};

use super::world::{
    MIB, World, cluster, fail, on_each_backend, options, range, read, seen, settle,
};

/// The guest is above the source itself, and everything else is as it was.
async fn check_left(world: &World, shape: &super::world::Shape) {
    assert_eq!(world.shape(), *shape);
    assert_eq!(world.guest.node(), world.source);
    world.guest_writes(range(5, 1000), 0x55).await.unwrap();
    assert_eq!(
        read(&world.guest, &world.cx, range(5, 1000)).await,
        [0x55; 1000]
    );
}

#[test]
fn a_completed_backup_leaves_the_graph_as_it_was() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 2 * MIB).await;
        let shape = world.shape();
        let backup = world.back_up(options()).await;

        assert_eq!(
            world.life(),
            [
                "created",
                "running",
                "waiting",
                "pending",
                "COMPLETED",
                "concluded",
                "null"
            ]
        );
        check_left(&world, &shape).await;
        drop(backup);
        check_left(&world, &shape).await;
    });
}

#[test]
fn a_failed_backup_leaves_the_graph_as_it_was() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 2 * MIB).await;
        let shape = world.shape();
        let broken = FaultRule::every(FaultOp::Write, fail(libc::EIO)).within(cluster(20));
        world.at_target.add(broken);
        let backup = world.start(options()).await.unwrap();
        let outcome = backup.job().wait().await;

        assert!(matches!(outcome, JobOutcome::Failed(_)), "{outcome:?}");
        assert_eq!(outcome.error().unwrap().errno(), Some(libc::EIO));
        assert_eq!(seen(&world.at_target, FaultOp::Flush), 0);
        check_left(&world, &shape).await;
    });
}

#[test]
fn a_cancelled_backup_leaves_the_graph_as_it_was() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 2 * MIB).await;
        let shape = world.shape();
        let backup = world.start(options()).await.unwrap();
        backup.job().cancel(CancelMode::Force).unwrap();
        let outcome = backup.job().wait().await;

        assert!(matches!(outcome, JobOutcome::Cancelled(_)), "{outcome:?}");
        check_left(&world, &shape).await;
    });
}

#[test]
fn a_backup_that_failed_can_be_started_again_under_its_name() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 2 * MIB).await;
        world
            .at_target
            .add(FaultRule::nth(FaultOp::Write, 2, fail(libc::EIO)));
        let failed = world.start(options()).await.unwrap();
        failed.job().wait().await.into_result().unwrap_err();
        world.back_up(options()).await;
        assert!(world.target_bytes().await == world.source_bytes().await);
    });
}

#[test]
fn a_pending_backup_keeps_its_filter_until_it_is_finalized() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 2 * MIB).await;
        let shape = world.shape();
        let before = world.source_bytes().await;
        let manual = BackupOptions {
            finalize: Trigger::Manual,
            dismiss: Trigger::Manual,
            ..options()
        };
        let backup = world.start(manual).await.unwrap();
        world.until_status(&backup, JobStatus::Pending).await;
        world.guest_writes(range(0, MIB), 3).await.unwrap();
        assert_eq!(world.filters(), 1);
        backup.job().finalize().unwrap();
        backup.job().wait().await.into_result().unwrap();

        assert_eq!(backup.job().status(), JobStatus::Concluded);
        check_left(&world, &shape).await;
        assert!(world.target_bytes().await == before);
        let report = backup.report();
        assert_eq!((report.done_bytes, report.requests_in_flight), (2 * MIB, 0));
        backup.job().dismiss().unwrap();
    });
}

#[test]
fn the_target_is_flushed_once_after_the_last_write_and_before_the_end_is_told() {
    on_each_backend(|cx| async move {
        for target_content in [TargetContent::Unknown, TargetContent::Zero] {
            let world = World::full(&cx, 2 * MIB + 7).await;
            let hold = FaultRule::every(FaultOp::Flush, FaultAction::Hold);
            world.at_target.add(hold);
            let options = BackupOptions {
                target_content,
                ..options()
            };
            let backup = world.start(options).await.unwrap();
            world.at_target.wait_held(1).await;
            settle(&cx).await;
            assert_eq!(backup.job().status(), JobStatus::Running);
            assert_eq!(backup.report().done_bytes, 2 * MIB + 7);
            world.at_target.release_all();
            backup.job().wait().await.into_result().unwrap();

            let requests = world.at_target.seen();
            assert_eq!(seen(&world.at_target, FaultOp::Flush), 1);
            let (last, _) = requests.last().unwrap();
            assert_eq!(*last, FaultOp::Flush);
            assert_eq!(seen(&world.at_source, FaultOp::Flush), 0);
        }
    });
}

#[test]
fn even_an_empty_or_all_zero_backup_is_flushed() {
    on_each_backend(|cx| async move {
        for len in [0, MIB] {
            let world = World::new(&cx, len);
            let options = BackupOptions {
                target_content: TargetContent::Zero,
                ..options()
            };
            world.back_up(options).await;
            assert_eq!(seen(&world.at_target, FaultOp::Flush), 1, "{len} bytes");
        }
    });
}

#[test]
fn a_flush_that_fails_fails_the_job_whatever_is_to_be_ignored() {
    use blockjob::OnError;
    on_each_backend(|cx| async move {
        for on_target_error in [OnError::Report, OnError::Ignore, OnError::Enospc] {
            let world = World::full(&cx, MIB).await;
            let shape = world.shape();
            world
                .at_target
                .add(FaultRule::every(FaultOp::Flush, fail(libc::EIO)));
            let options = BackupOptions {
                on_target_error,
                ..options()
            };
            let backup = world.start(options).await.unwrap();
            let error = backup.job().wait().await.into_result().unwrap_err();

            assert_eq!(error.errno(), Some(libc::EIO));
            assert_eq!(world.errors_told(), ["write report"]);
            check_left(&world, &shape).await;
        }
    });
}

#[test]
fn a_flush_that_fails_stops_the_job_if_it_is_to_stop_and_is_tried_again() {
    use blockjob::OnError;
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB).await;
        world
            .at_target
            .add(FaultRule::nth(FaultOp::Flush, 1, fail(libc::EIO)));
        let options = BackupOptions {
            on_target_error: OnError::Stop,
            ..options()
        };
        let backup = world.start(options).await.unwrap();
        world.until_status(&backup, JobStatus::Paused).await;
        assert_eq!(world.errors_told(), ["write stop"]);
        backup.job().resume().unwrap();
        backup.job().wait().await.into_result().unwrap();
        assert_eq!(seen(&world.at_target, FaultOp::Flush), 2);
    });
}

#[test]
fn on_cbw_error_makes_no_difference_to_a_backup_without_errors() {
    on_each_backend(|cx| async move {
        for on_cbw_error in [OnCbwError::BreakGuestWrite, OnCbwError::BreakSnapshot] {
            let world = World::full(&cx, MIB).await;
            let before = world.source_bytes().await;
            let options = BackupOptions {
                on_cbw_error,
                ..options()
            };
            let backup = world.start(options).await.unwrap();
            world.guest_writes(range(0, MIB), 3).await.unwrap();
            backup.job().wait().await.into_result().unwrap();
            assert!(world.target_bytes().await == before);
        }
    });
}
