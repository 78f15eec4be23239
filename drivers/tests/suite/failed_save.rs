//! Old data that cannot be saved before a guest overwrites it: either the guest or the backup gives way, and says so.

use block::nodes::{FaultAction, FaultOp, FaultRule, copy_before_write::OnCbwError};
use blockjob::OnError;
use drivers::backup::BackupOptions;
use job::{JobOutcome, JobStatus};

use super::world::{
    MIB, World, cluster, fail, first, on_each_backend, options, range, read, settle, until,
    with_clock,
};

fn giving_way(on_cbw_error: OnCbwError) -> BackupOptions {
    BackupOptions {
        on_cbw_error,
        ..options()
    }
}

/// A backup that stands still before its first request, with the guest's old data still to be saved.
async fn standing_still(world: &World, options: BackupOptions) -> drivers::backup::Backup {
    let section = world.drain(&world.target).await;
    let backup = world.start(options).await.unwrap();
    backup.job().pause().unwrap();
    drop(section);
    world.until_status(&backup, JobStatus::Paused).await;
    backup
}

#[test]
fn defect_11_a_job_does_not_complete_with_what_a_guest_wrote_after_a_failed_save() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 4 * MIB).await;
        let backup = standing_still(&world, giving_way(OnCbwError::BreakSnapshot)).await;
        world
            .at_target
            .add(first(FaultOp::Write, 1, fail(libc::EIO)));
        // Unharmed, although its old data is lost: from now on the source has new data only.
        world.guest_writes(cluster(9), 0xaa).await.unwrap();
        assert_eq!(read(&world.guest, &cx, cluster(9)).await[..9], [0xaa; 9]);
        backup.job().resume().unwrap();
        let outcome = backup.job().wait().await;

        let JobOutcome::Failed(error) = outcome else {
            panic!("a backup without an instant has {outcome:?}");
        };
        assert_eq!(error.errno(), Some(libc::EIO));
        let text = error.to_string();
        assert!(text.contains("before a guest overwrote it"), "{text}");
        // That it is no error of the job's own requests is why no policy is asked.
        assert!(world.errors_told().is_empty());
        assert_eq!(world.filters(), 0);
    });
}

#[test]
fn defect_11_also_when_the_save_fails_behind_the_last_read_of_the_job() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 2 * MIB).await;
        // The job has copied all but the guest's cluster, which it finds in the guest's hands.
        let in_the_way = FaultRule::every(FaultOp::Write, FaultAction::Hold).within(cluster(3));
        world.at_target.add(in_the_way);
        let backup = standing_still(&world, giving_way(OnCbwError::BreakSnapshot)).await;
        let write = world.guest_writes_later(cluster(3), 0xbb);
        let held = world.at_target.wait_held(1).await[0].id;
        backup.job().resume().unwrap();
        settle(&cx).await;
        world.at_target.clear();
        world.at_target.fail(held, libc::EIO);
        write.await.unwrap();

        let outcome = backup.job().wait().await;
        assert!(matches!(outcome, JobOutcome::Failed(_)), "{outcome:?}");
    });
}

#[test]
fn defect_11_also_when_the_save_fails_while_the_target_is_being_flushed() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 2 * MIB).await;
        world
            .at_target
            .add(FaultRule::every(FaultOp::Flush, FaultAction::Hold));
        let backup = world
            .start(giving_way(OnCbwError::BreakSnapshot))
            .await
            .unwrap();
        world.at_target.wait_held(1).await;
        // All is copied, so there is nothing left to be saved and nothing that could fail.
        world
            .at_target
            .add(FaultRule::every(FaultOp::Write, fail(libc::EIO)));
        world.guest_writes(cluster(0), 1).await.unwrap();
        world.at_target.release_all();
        backup.job().wait().await.into_result().unwrap();
    });
}

#[test]
fn a_broken_snapshot_ends_a_job_that_sleeps_for_its_speed_soon() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, 4 * MIB).await;
        let crawling = BackupOptions {
            speed_bytes_per_s: 1,
            ..giving_way(OnCbwError::BreakSnapshot)
        };
        let backup = world.start(crawling).await.unwrap();
        settle(&cx).await;
        assert_eq!(backup.report().done_bytes, MIB);
        world
            .at_target
            .add(first(FaultOp::Write, 1, fail(libc::EIO)));
        world.guest_writes(cluster(60), 1).await.unwrap();
        settle(&cx).await;
        clock.advance_ns(2_000_000_000);
        until(&cx, || backup.job().outcome().is_some()).await;
        assert!(matches!(
            backup.job().outcome(),
            Some(JobOutcome::Failed(_))
        ));
    });
}

#[test]
fn a_guest_that_gives_way_fails_with_the_errno_and_the_job_goes_on() {
    on_each_backend(|cx| async move {
        for errno in [libc::EIO, libc::ENOSPC] {
            let world = World::full(&cx, 4 * MIB).await;
            let before = world.source_bytes().await;
            let options = BackupOptions {
                // No policy of the job is asked about a guest's failed save.
                on_target_error: OnError::Stop,
                ..giving_way(OnCbwError::BreakGuestWrite)
            };
            let backup = standing_still(&world, options).await;
            world.at_target.add(first(FaultOp::Write, 1, fail(errno)));
            let refused = world.guest_writes(cluster(9), 0xaa).await.unwrap_err();
            assert_eq!(refused.errno(), Some(errno));
            assert!(world.source_bytes().await == before, "nothing was written");
            // The same write goes through once the target works.
            world.guest_writes(cluster(9), 0xaa).await.unwrap();
            backup.job().resume().unwrap();
            backup.job().wait().await.into_result().unwrap();

            assert!(world.target_bytes().await == before);
            assert!(world.errors_told().is_empty());
        }
    });
}

#[test]
fn a_guest_that_gives_way_at_the_last_cluster_leaves_it_to_the_job() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 2 * MIB).await;
        let before = world.source_bytes().await;
        let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold).within(cluster(3));
        world.at_target.add(hold);
        let backup = standing_still(&world, giving_way(OnCbwError::BreakGuestWrite)).await;
        let write = world.guest_writes_later(cluster(3), 0xbb);
        let held = world.at_target.wait_held(1).await[0].id;
        backup.job().resume().unwrap();
        settle(&cx).await;
        assert_eq!(
            backup.report().requests_in_flight,
            0,
            "it waits for the guest"
        );
        world.at_target.clear();
        world.at_target.fail(held, libc::EIO);

        assert_eq!(write.await.unwrap_err().errno(), Some(libc::EIO));
        backup.job().wait().await.into_result().unwrap();
        assert!(world.target_bytes().await == before);
    });
}

#[test]
fn an_error_of_the_jobs_own_copy_does_not_reach_a_guest_that_waits_for_it() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB).await;
        let before = world.source_bytes().await;
        world
            .at_target
            .add(first(FaultOp::Write, 1, FaultAction::Hold));
        let options = BackupOptions {
            on_target_error: OnError::Stop,
            ..giving_way(OnCbwError::BreakGuestWrite)
        };
        let backup = world.start(options).await.unwrap();
        let held = world.at_target.wait_held(1).await[0];
        let write = world.guest_writes_later(range(held.range.start(), 10), 1);
        settle(&cx).await;
        assert!(!write.is_finished());
        world.at_target.fail(held.id, libc::EIO);
        write.await.unwrap();

        world.until_status(&backup, JobStatus::Paused).await;
        backup.job().resume().unwrap();
        backup.job().wait().await.into_result().unwrap();
        assert!(world.target_bytes().await == before);
    });
}

#[test]
fn a_time_limit_frees_guests_of_a_target_that_hangs_and_fails_the_job() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, 2 * MIB).await;
        let options = BackupOptions {
            cbw_timeout_ns: Some(50_000_000),
            ..giving_way(OnCbwError::BreakSnapshot)
        };
        world
            .at_target
            .add(FaultRule::every(FaultOp::Write, FaultAction::Hold));
        let backup = world.start(options).await.unwrap();
        let write = world.guest_writes_later(cluster(30), 1);
        settle(&cx).await;
        assert!(!write.is_finished());
        clock.advance_ns(50_000_000);
        write.await.unwrap();
        world.at_target.release_all();
        let error = backup.job().wait().await.into_result().unwrap_err();
        assert_eq!(error.errno(), Some(libc::ETIMEDOUT));
    });
}
