//! How a mirror may end at each of its stages, and what is left.

use drivers::mirror::MirrorOptions;
use job::{CancelMode, JobOutcome, JobStatus, Trigger};

use super::{blocking, cancel, complete, filters, keep, options, ready, start, until_status};
use crate::world::{MIB, World, cluster, on_each_backend, settle, until, with_clock};

const LEN: u64 = 4 * MIB;

fn slow() -> MirrorOptions {
    MirrorOptions {
        speed_bytes_per_s: MIB / 4,
        ..options()
    }
}

#[test]
fn a_mirror_that_is_not_ready_cannot_be_completed_and_any_cancel_is_forced() {
    with_clock(|cx, _clock| async move {
        for mode in [CancelMode::Soft, CancelMode::Force] {
            let world = World::full(&cx, LEN).await;
            let shape = world.shape();
            let mirror = start(&world, slow()).await;
            until_status(&world, &mirror, JobStatus::Running).await;
            settle(&cx).await;
            let error = mirror.job().complete().unwrap_err();
            assert_eq!(
                error.to_string(),
                "Job 'm' in state 'running' cannot accept command verb 'complete'"
            );
            mirror.job().cancel(mode).unwrap();
            let outcome = mirror.job().wait().await;
            assert!(matches!(outcome, JobOutcome::Cancelled(_)));
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
            assert_eq!(world.shape(), shape);
        }
    });
}

#[test]
fn a_forced_cancel_of_a_ready_mirror_is_one() {
    on_each_backend(|cx| async move {
        for options in [options(), blocking()] {
            let world = World::full(&cx, LEN).await;
            let shape = world.shape();
            let mirror = ready(&world, options).await;
            cancel(&mirror).await;
            assert_eq!(
                world.life(),
                [
                    "created",
                    "running",
                    "ready",
                    "aborting",
                    "CANCELLED",
                    "concluded",
                    "null"
                ]
            );
            assert_eq!(world.shape(), shape);
        }
    });
}

#[test]
fn a_mirror_that_is_cancelled_right_after_its_start_is_gone_without_a_trace() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let shape = world.shape();
        for turns in 0..30 {
            let mirror = start(&world, options()).await;
            for _ in 0..turns {
                cx.yield_now().await;
            }
            if mirror.job().cancel(CancelMode::Force).is_ok() {
                mirror.job().wait().await;
            }
            until(&cx, || mirror.job().outcome().is_some()).await;
            assert_eq!(world.shape(), shape);
        }
    });
}

#[test]
fn a_softly_cancelled_mirror_takes_no_completion() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, options()).await;
        mirror.job().cancel(CancelMode::Soft).unwrap();
        let error = mirror.job().complete().unwrap_err();
        assert_eq!(
            error.to_string(),
            "The active block job 'm' cannot be completed"
        );
        mirror.job().wait().await.into_result().unwrap();
        assert_eq!(world.guest.node(), world.source);
        assert_eq!(world.life().last().map(String::as_str), Some("null"));
        assert!(world.life().contains(&"COMPLETED".to_owned()));
    });
}

#[test]
fn a_cancel_while_the_switch_is_pending_leaves_the_guests_where_they_are() {
    on_each_backend(|cx| async move {
        for mode in [CancelMode::Soft, CancelMode::Force] {
            let world = World::full(&cx, LEN).await;
            let shape = world.shape();
            let manual = MirrorOptions {
                finalize: Trigger::Manual,
                ..options()
            };
            let mirror = ready(&world, manual).await;
            mirror.job().complete().unwrap();
            until_status(&world, &mirror, JobStatus::Pending).await;
            let writing = world.guest_writes_later(cluster(1), 7);
            settle(&cx).await;
            mirror.job().cancel(mode).unwrap();
            if mode == CancelMode::Soft {
                settle(&cx).await;
                assert!(!writing.is_finished(), "it is too late for that");
                mirror.job().cancel(CancelMode::Force).unwrap();
            }
            let outcome = mirror.job().wait().await;
            assert!(matches!(outcome, JobOutcome::Cancelled(_)), "{outcome:?}");
            writing.await.unwrap();
            assert_eq!(world.guest.node(), world.source);
            assert_eq!(world.shape(), shape);
        }
    });
}

#[test]
fn a_paused_mirror_is_cancelled_by_force_only() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, options()).await;
        mirror.job().pause().unwrap();
        until_status(&world, &mirror, JobStatus::Standby).await;
        let error = mirror.job().cancel(CancelMode::Soft).unwrap_err();
        assert_eq!(
            error.to_string(),
            "The block job for device 'm' is currently paused"
        );
        cancel(&mirror).await;
        assert_eq!(filters(&world), 0);
    });
}

#[test]
fn a_mirror_between_other_jobs_leaves_a_graph_that_they_can_use() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        for round in 0..6 {
            let mirror = ready(&world, options()).await;
            match round % 3 {
                0 => keep(&mirror).await,
                1 => cancel(&mirror).await,
                _ => {
                    let backup = world.start(crate::world::options()).await;
                    assert!(backup.is_err(), "the source is the mirror's");
                    keep(&mirror).await;
                }
            }
            world.back_up(crate::world::options()).await;
        }
        let mirror = ready(&world, options()).await;
        complete(&mirror).await;
    });
}

#[test]
fn a_registry_that_goes_leaves_no_guest_to_a_mirror_that_nobody_wants() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, blocking()).await;
        world.jobs.cancel_all().await;
        assert!(mirror.job().outcome().is_some());
        world.guest_writes(cluster(1), 7).await.unwrap();
        assert_eq!(filters(&world), 0);
    });
}
