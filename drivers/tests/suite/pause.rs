//! Pause and resume: nothing in flight while paused, everything copied in the end.

use block::nodes::{FaultAction, FaultOp, FaultRule};
use job::JobStatus;

use super::world::{MIB, World, cluster, first, on_each_backend, options, range, seen, settle};

#[test]
fn a_paused_backup_has_nothing_in_flight_and_goes_on_where_it_was() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 8 * MIB).await;
        world
            .at_target
            .add(first(FaultOp::Write, 4, FaultAction::Hold));
        let backup = world.start(options()).await.unwrap();
        world.at_target.wait_held(4).await;
        backup.job().pause().unwrap();
        settle(&cx).await;
        assert_eq!(backup.job().status(), JobStatus::Running);
        assert!(backup.report().requests_in_flight == 4);
        world.at_target.release_all();
        world.until_status(&backup, JobStatus::Paused).await;

        assert_eq!(backup.report().requests_in_flight, 0);
        let (written, done) = (
            seen(&world.at_target, FaultOp::Write),
            backup.report().done_bytes,
        );
        settle(&cx).await;
        assert_eq!(seen(&world.at_target, FaultOp::Write), written);
        assert!(done > 0 && done < 8 * MIB);

        backup.job().resume().unwrap();
        backup.job().wait().await.into_result().unwrap();
        assert!(world.target_bytes().await == world.source_bytes().await);
        assert_eq!(written_twice(&world), 0);
    });
}

/// Bytes of the target that were written more than once.
fn written_twice(world: &World) -> u64 {
    let seen = world.at_target.seen();
    let written = seen.iter().filter(|(op, _)| *op == FaultOp::Write);
    written.map(|(_, range)| range.len()).sum::<u64>() - world.len_bytes
}

#[test]
fn a_paused_backup_still_saves_what_guests_overwrite() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 8 * MIB).await;
        let before = world.source_bytes().await;
        world
            .at_target
            .add(first(FaultOp::Write, 1, FaultAction::Hold));
        let backup = world.start(options()).await.unwrap();
        world.at_target.wait_held(1).await;
        backup.job().pause().unwrap();
        world.at_target.release_all();
        world.until_status(&backup, JobStatus::Paused).await;
        world.guest_writes(range(7 * MIB, MIB), 4).await.unwrap();
        assert_eq!(backup.job().status(), JobStatus::Paused);
        backup.job().resume().unwrap();
        backup.job().wait().await.into_result().unwrap();
        assert!(world.target_bytes().await == before);
    });
}

#[test]
fn pausing_and_resuming_over_and_over_loses_nothing() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 10 * MIB + 5).await;
        let backup = world.start(options()).await.unwrap();
        let mut pauses = 0;
        while backup.job().pause().is_ok() {
            pauses += 1;
            for _ in 0..pauses % 7 {
                cx.yield_now().await;
            }
            if backup.job().resume().is_err() {
                break;
            }
            for _ in 0..pauses % 5 {
                cx.yield_now().await;
            }
        }
        backup.job().wait().await.into_result().unwrap();
        assert!(world.target_bytes().await == world.source_bytes().await);
    });
}

#[test]
fn a_backup_whose_last_clusters_guests_are_saving_ends_with_them() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 2 * MIB).await;
        let before = world.source_bytes().await;
        let section = world.drain(&world.target).await;
        let backup = world.start(options()).await.unwrap();
        backup.job().pause().unwrap();
        drop(section);
        let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold).within(cluster(5));
        world.at_target.add(hold);
        let write = world.guest_writes_later(cluster(5), 1);
        world.at_target.wait_held(1).await;
        backup.job().resume().unwrap();
        settle(&cx).await;
        assert_eq!(backup.job().status(), JobStatus::Running);
        assert_eq!(backup.report().done_bytes, 31 * super::world::CLUSTER);
        assert_eq!(seen(&world.at_target, FaultOp::Flush), 0);
        world.at_target.release_all();
        write.await.unwrap();
        backup.job().wait().await.into_result().unwrap();
        assert!(world.target_bytes().await == before);
    });
}
