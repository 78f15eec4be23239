//! Cancel: from every state, soon, with nothing left behind.

use block::nodes::{FaultAction, FaultOp, FaultRule};
use drivers::backup::BackupOptions;
use job::{CancelMode, JobOutcome, JobStatus};

use super::world::{MIB, World, first, on_each_backend, options, settle, with_clock};

async fn cancelled(backup: &drivers::backup::Backup) {
    let outcome = backup.job().wait().await;
    assert!(matches!(outcome, JobOutcome::Cancelled(_)), "{outcome:?}");
}

#[test]
fn a_running_backup_is_cancelled_at_once() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 8 * MIB).await;
        let shape = world.shape();
        world
            .at_target
            .add(first(FaultOp::Write, 4, FaultAction::Hold));
        let backup = world.start(options()).await.unwrap();
        world.at_target.wait_held(4).await;
        backup.job().cancel(CancelMode::Soft).unwrap();
        cancelled(&backup).await;

        assert_eq!(
            world.life(),
            [
                "created",
                "running",
                "aborting",
                "CANCELLED",
                "concluded",
                "null"
            ]
        );
        assert!(backup.report().done_bytes < 8 * MIB);
        assert_eq!(backup.report().requests_in_flight, 4);
        world.at_target.release_all();
        settle(&cx).await;
        assert_eq!(backup.report().requests_in_flight, 0);
        assert_eq!(world.shape(), shape);
    });
}

#[test]
fn a_paused_backup_is_cancelled_by_force_but_not_softly() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 8 * MIB).await;
        let shape = world.shape();
        let backup = world.start(options()).await.unwrap();
        backup.job().pause().unwrap();
        world.until_status(&backup, JobStatus::Paused).await;
        let refused = backup.job().cancel(CancelMode::Soft).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "The block job for device 'b' is currently paused"
        );
        backup.job().cancel(CancelMode::Force).unwrap();
        cancelled(&backup).await;
        assert_eq!(world.shape(), shape);
    });
}

#[test]
fn a_backup_that_an_error_stopped_can_be_cancelled() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 8 * MIB).await;
        let shape = world.shape();
        let broken = FaultAction::Fail { errno: libc::EIO };
        world
            .at_target
            .add(FaultRule::every(FaultOp::Write, broken));
        let options = BackupOptions {
            on_target_error: blockjob::OnError::Stop,
            ..options()
        };
        let backup = world.start(options).await.unwrap();
        world.until_status(&backup, JobStatus::Paused).await;
        backup.job().cancel(CancelMode::Force).unwrap();
        cancelled(&backup).await;
        assert_eq!(world.shape(), shape);
    });
}

#[test]
fn a_backup_that_sleeps_for_its_speed_is_cancelled_at_once() {
    with_clock(|cx, _clock| async move {
        let world = World::full(&cx, 8 * MIB).await;
        let shape = world.shape();
        let options = BackupOptions {
            speed_bytes_per_s: 1,
            ..options()
        };
        let backup = world.start(options).await.unwrap();
        settle(&cx).await;
        assert_eq!(backup.report().done_bytes, MIB);
        backup.job().cancel(CancelMode::Force).unwrap();
        cancelled(&backup).await;
        assert_eq!(world.shape(), shape);
    });
}

#[test]
fn a_backup_in_a_drained_section_is_cancelled_inside_it() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 8 * MIB).await;
        let shape = world.shape();
        let backup = world.start(options()).await.unwrap();
        let section = world.drain(&world.source).await;
        backup.job().cancel(CancelMode::Force).unwrap();
        cancelled(&backup).await;
        drop(section);
        assert_eq!(world.shape(), shape);
    });
}
