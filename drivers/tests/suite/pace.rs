//! What users bound of a copy, and where its requests run.

use std::num::NonZeroU32;

use aio::{AioContext, Config, IoThread};
use block::nodes::{FaultAction, FaultOp, FaultRule};
use drivers::{
    PaceReason, Tuning,
    backup::{Backup, BackupOptions},
    mirror::Mirror,
};
use job::{JobErrorKind, JobStatus};

use super::world::{CLUSTER, MIB, World, on_each_backend, options, range, settle, until};

fn threads(cx: &AioContext) -> [IoThread; 2] {
    ["first", "second"].map(|name| {
        let config = Config {
            name: name.to_owned(),
            backend: Some(cx.backend()),
            ..Config::default()
        };
        IoThread::start(config).unwrap()
    })
}

async fn buffers_in_use(thread: &IoThread) -> usize {
    let asked = thread
        .handle()
        .spawn(|cx| async move { cx.buffers().bytes_in_use() });
    asked.join().await.unwrap()
}

fn hold_writes(world: &World) {
    let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
    world.at_target.add(hold);
}

fn go_on(world: &World) {
    world.at_target.clear();
    world.at_target.release_all();
}

#[test]
fn requests_are_dealt_out_to_the_contexts_that_are_given() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 10 * MIB).await;
        let threads = threads(&cx);
        hold_writes(&world);
        let backup = world
            .start(BackupOptions {
                contexts: threads
                    .iter()
                    .map(|thread| thread.handle().clone())
                    .collect(),
                max_workers: Some(4),
                ..options()
            })
            .await
            .unwrap();
        world.at_target.wait_held(4).await;
        for thread in &threads {
            assert_eq!(buffers_in_use(thread).await, 2 << 20);
        }
        assert_eq!(cx.buffers().bytes_in_use(), 0);
        backup.job().pause().unwrap();
        settle(&cx).await;
        assert_eq!(
            backup.job().status(),
            JobStatus::Running,
            "all of them are waited for"
        );

        go_on(&world);
        world.until_status(&backup, JobStatus::Paused).await;
        let pace = backup.report().pace;
        assert_eq!(
            (pace.reason, pace.applied_bytes_per_s),
            (PaceReason::Paused, 0)
        );
        backup.job().resume().unwrap();
        backup.job().wait().await.into_result().unwrap();
        assert!(world.target_bytes().await == world.source_bytes().await);
    });
}

#[test]
fn a_backup_that_is_found_by_its_job_is_tuned_under_way() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 10 * MIB).await;
        hold_writes(&world);
        let backup = world
            .start(BackupOptions {
                max_workers: Some(1),
                ..options()
            })
            .await
            .unwrap();
        world.at_target.wait_held(1).await;
        settle(&cx).await;
        assert_eq!(backup.report().requests_in_flight, 1);

        let found = Backup::of(backup.job()).unwrap();
        assert!(Mirror::of(backup.job()).is_none());
        found
            .tune(Tuning {
                max_workers: Some(NonZeroU32::new(3)),
                ..Tuning::default()
            })
            .unwrap();
        world.at_target.wait_held(3).await;
        settle(&cx).await;
        assert_eq!(backup.report().requests_in_flight, 3);

        go_on(&world);
        backup.job().wait().await.into_result().unwrap();
        let refused = found.tune(Tuning::default()).unwrap_err();
        assert_eq!(refused.kind(), JobErrorKind::NotFound);
    });
}

#[test]
fn a_context_that_is_closed_leaves_its_requests_to_the_others() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 10 * MIB).await;
        let threads = threads(&cx);
        hold_writes(&world);
        let backup = world
            .start(BackupOptions {
                contexts: threads
                    .iter()
                    .map(|thread| thread.handle().clone())
                    .collect(),
                ..options()
            })
            .await
            .unwrap();
        world.at_target.wait_held(4).await;
        let [first, second] = threads;
        drop(first);
        go_on(&world);
        until(&cx, || backup.report().done_bytes > 0).await;
        drop(second);
        backup.job().wait().await.into_result().unwrap();
        assert!(world.target_bytes().await == world.source_bytes().await);
    });
}

#[test]
fn workers_and_chunks_are_no_more_than_the_user_allows() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 2 * MIB).await;
        hold_writes(&world);
        let backup = world
            .start(BackupOptions {
                max_workers: Some(2),
                max_chunk_bytes: Some(2 * CLUSTER),
                ..options()
            })
            .await
            .unwrap();
        world.at_target.wait_held(2).await;
        settle(&cx).await;
        let lengths: Vec<u64> = world
            .at_target
            .held()
            .iter()
            .map(|held| held.range.len())
            .collect();
        assert_eq!(lengths, [2 * CLUSTER; 2]);
        let pace = backup.report().pace;
        assert_eq!((pace.window, pace.reason), (2, PaceReason::MaxWorkers));
        go_on(&world);
        backup.job().wait().await.into_result().unwrap();
    });
}

#[test]
fn a_latency_budget_that_cannot_be_kept_is_told_and_does_not_stop_the_copy() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 4 * MIB).await;
        // Whatever a guest sees on this machine is more.
        let backup = world
            .start(BackupOptions {
                guest_latency_ns: Some(1),
                max_chunk_bytes: Some(CLUSTER),
                ..options()
            })
            .await
            .unwrap();
        let mut reasons = Vec::new();
        while backup.job().outcome().is_none() {
            world.guest_writes(range(4096, 4096), 9).await.unwrap();
            reasons.push(backup.report().pace.reason);
            cx.yield_now().await;
        }
        backup.job().wait().await.into_result().unwrap();
        assert!(reasons.contains(&PaceReason::LatencyBudget));
    });
}
