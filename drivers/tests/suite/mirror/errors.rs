//! What a mirror does about failed reads, writes and flushes, its own and those of guests that write both sides.

use block::nodes::{FaultAction, FaultControl, FaultOp, FaultRule};
use blockjob::{BlockJob, IoStatus, OnError};
use drivers::mirror::{Mirror, MirrorOptions};
use job::{CancelMode, JobOutcome, JobStatus};

use super::{
    assert_equal, blocking, cancel, caught_up, complete, keep, look, options, ready, start,
    until_status,
};
use crate::world::{
    MIB, Side, World, cluster, fail, first, on_each_backend, range, seen, settle, until, with_clock,
};

const LEN: u64 = 4 * MIB;

fn op(side: Side) -> FaultOp {
    match side {
        Side::Source => FaultOp::Read,
        Side::Target => FaultOp::Write,
    }
}

fn control(world: &World, side: Side) -> &FaultControl {
    match side {
        Side::Source => &world.at_source,
        Side::Target => &world.at_target,
    }
}

fn with_policy(side: Side, policy: OnError) -> MirrorOptions {
    match side {
        Side::Source => MirrorOptions {
            on_source_error: policy,
            ..options()
        },
        Side::Target => MirrorOptions {
            on_target_error: policy,
            ..options()
        },
    }
}

fn told(side: Side, action: &str) -> String {
    match side {
        Side::Source => format!("read {action}"),
        Side::Target => format!("write {action}"),
    }
}

async fn failed(mirror: &Mirror) {
    let outcome = mirror.job().wait().await;
    assert!(matches!(outcome, JobOutcome::Failed(_)), "{outcome:?}");
}

fn io_status(mirror: &Mirror) -> IoStatus {
    BlockJob::of(mirror.job()).unwrap().io_status()
}

#[test]
fn report_fails_the_job_before_it_is_ready_and_leaves_the_guests() {
    on_each_backend(|cx| async move {
        for side in Side::BOTH {
            let world = World::full(&cx, LEN).await;
            let shape = world.shape();
            let broken = FaultRule::every(op(side), fail(libc::EIO)).within(range(MIB, 1));
            control(&world, side).add(broken);
            let mirror = start(&world, options()).await;
            failed(&mirror).await;
            assert_eq!(world.errors_told(), [told(side, "report")]);
            assert!(!world.life().contains(&"ready".to_owned()));
            control(&world, side).clear();
            assert_eq!(world.shape(), shape);
            world.guest_writes(cluster(1), 7).await.unwrap();
        }
    });
}

#[test]
fn stop_pauses_and_resumes_where_it_stood() {
    on_each_backend(|cx| async move {
        for side in Side::BOTH {
            let world = World::full(&cx, LEN).await;
            let broken = FaultRule::every(op(side), fail(libc::EIO)).within(range(MIB, 1));
            control(&world, side).add(broken);
            let mirror = start(&world, with_policy(side, OnError::Stop)).await;
            for _ in 0..3 {
                until_status(&world, &mirror, JobStatus::Paused).await;
                assert_eq!(io_status(&mirror), IoStatus::Failed);
                world.guest_writes(cluster(5), 7).await.unwrap();
                mirror.job().resume().unwrap();
                until(&cx, || mirror.job().status() != JobStatus::Paused).await;
            }
            until_status(&world, &mirror, JobStatus::Paused).await;
            control(&world, side).clear();
            mirror.job().resume().unwrap();
            until_status(&world, &mirror, JobStatus::Ready).await;
            caught_up(&world, &mirror).await;
            assert_equal(&world).await;
            assert_eq!(io_status(&mirror), IoStatus::Ok);
            assert_eq!(world.errors_told(), vec![told(side, "stop"); 4]);
            keep(&mirror).await;
        }
    });
}

#[test]
fn enospc_stops_for_want_of_space_only() {
    on_each_backend(|cx| async move {
        for (errno, stops) in [(libc::ENOSPC, true), (libc::EIO, false)] {
            let world = World::full(&cx, LEN).await;
            world.at_target.add(first(FaultOp::Write, 1, fail(errno)));
            let mirror = start(&world, with_policy(Side::Target, OnError::Enospc)).await;
            match stops {
                true => {
                    until_status(&world, &mirror, JobStatus::Paused).await;
                    assert_eq!(io_status(&mirror), IoStatus::NoSpace);
                    mirror.job().resume().unwrap();
                    until_status(&world, &mirror, JobStatus::Ready).await;
                    assert_equal(&world).await;
                    keep(&mirror).await;
                }
                false => failed(&mirror).await,
            }
        }
    });
}

#[test]
fn ignore_tries_again_until_it_goes_through() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let broken = first(FaultOp::Write, 3, fail(libc::EIO));
        world.at_target.add(broken.within(range(MIB, 1)));
        let mirror = start(&world, with_policy(Side::Target, OnError::Ignore)).await;
        while mirror.job().status() != JobStatus::Ready {
            settle(&cx).await;
            clock.advance_ns(100_000_000);
        }
        assert_equal(&world).await;
        assert_eq!(world.errors_told(), vec!["write ignore"; 3]);
        keep(&mirror).await;
    });
}

#[test]
fn a_target_that_cannot_be_made_stable_is_never_ready() {
    on_each_backend(|cx| async move {
        for policy in [OnError::Report, OnError::Ignore] {
            let world = World::full(&cx, LEN).await;
            world
                .at_target
                .add(FaultRule::every(FaultOp::Flush, fail(libc::EIO)));
            let mirror = start(&world, with_policy(Side::Target, policy)).await;
            failed(&mirror).await;
            assert_eq!(world.errors_told(), ["write report"]);
            assert!(!world.life().contains(&"ready".to_owned()));
        }
    });
}

#[test]
fn a_flush_that_fails_at_the_end_stops_and_is_tried_again() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, with_policy(Side::Target, OnError::Stop)).await;
        // The one beside guests, and then the one that they wait for.
        for skip in [0, 1] {
            world.at_target.add(FaultRule {
                skip,
                ..first(FaultOp::Flush, 1, fail(libc::EIO))
            });
            match skip {
                0 => mirror.job().complete().unwrap(),
                _ => mirror.job().resume().unwrap(),
            }
            let told = usize::try_from(skip).unwrap() + 1;
            until(&cx, || world.errors_told().len() == told).await;
            until_status(&world, &mirror, JobStatus::Standby).await;
            world.guest_writes(cluster(5), 7).await.unwrap();
        }
        mirror.job().resume().unwrap();
        while mirror.job().outcome().is_none() {
            settle(&cx).await;
            clock.advance_ns(100_000_000);
        }
        mirror.job().wait().await.into_result().unwrap();
        assert_equal(&world).await;
        assert_eq!(world.guest.node(), world.target);
    });
}

#[test]
fn a_target_that_breaks_while_the_mirror_is_ready_goes_by_its_policy() {
    on_each_backend(|cx| async move {
        for make in [options, blocking] {
            let world = World::full(&cx, LEN).await;
            let stop = MirrorOptions {
                on_target_error: OnError::Stop,
                ..make()
            };
            let mirror = ready(&world, stop).await;
            world
                .at_target
                .add(FaultRule::every(FaultOp::Write, fail(libc::EIO)));
            world.guest_writes(cluster(1), 7).await.unwrap();
            until_status(&world, &mirror, JobStatus::Standby).await;
            assert_eq!(io_status(&mirror), IoStatus::Failed);
            // More of the same while it stands is no reason for another pause.
            world.guest_writes(cluster(2), 8).await.unwrap();
            settle(&cx).await;
            assert!(!mirror.report().is_actively_synced);
            world.at_target.clear();
            mirror.job().resume().unwrap();
            until_status(&world, &mirror, JobStatus::Ready).await;
            caught_up(&world, &mirror).await;
            settle(&cx).await;
            assert_eq!(
                mirror.job().status(),
                JobStatus::Ready,
                "one resume is enough"
            );
            assert_equal(&world).await;
            complete(&mirror).await;

            let world = World::full(&cx, LEN).await;
            let mirror = ready(&world, make()).await;
            world
                .at_target
                .add(first(FaultOp::Write, 1, fail(libc::EIO)));
            world.guest_writes(cluster(1), 7).await.unwrap();
            failed(&mirror).await;
            assert_eq!(world.guest.node(), world.source);
            world.guest_writes(cluster(2), 7).await.unwrap();
        }
    });
}

#[test]
fn completing_with_a_broken_target_moves_nobody() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, options()).await;
        world
            .at_target
            .add(FaultRule::every(FaultOp::Write, FaultAction::Hold));
        world.guest_writes(cluster(0), 7).await.unwrap();
        world.at_target.wait_held(1).await;
        mirror.job().complete().unwrap();
        settle(&cx).await;
        let held = world.at_target.held();
        world.at_target.clear();
        world
            .at_target
            .add(FaultRule::every(FaultOp::Write, fail(libc::EIO)));
        held.iter()
            .for_each(|request| world.at_target.fail(request.id, libc::EIO));
        failed(&mirror).await;
        world.at_target.clear();
        world.guest_writes(cluster(1), 8).await.unwrap();
        assert_eq!(world.guest.node(), world.source);
        assert_eq!(look(&world, &cx, &world.source).await[65536], 8);
        assert_ne!(look(&world, &cx, &world.target).await[65536], 8);
    });
}

#[test]
fn an_error_of_the_source_is_the_guests_and_not_mirrored() {
    on_each_backend(|cx| async move {
        for make in [options, blocking] {
            let world = World::full(&cx, LEN).await;
            let mirror = ready(&world, make()).await;
            world
                .at_source
                .add(first(FaultOp::Write, 1, fail(libc::EIO)));
            world.guest_writes(cluster(1), 7).await.unwrap_err();
            caught_up(&world, &mirror).await;
            assert_equal(&world).await;
            complete(&mirror).await;
        }
    });
}

#[test]
fn a_stopped_mirror_can_be_cancelled_while_its_target_is_broken() {
    on_each_backend(|cx| async move {
        for is_ready in [false, true] {
            let world = World::full(&cx, LEN).await;
            let stop = || with_policy(Side::Target, OnError::Stop);
            let mirror = match is_ready {
                true => ready(&world, stop()).await,
                false => start(&world, stop()).await,
            };
            world
                .at_target
                .add(FaultRule::every(FaultOp::Write, fail(libc::EIO)));
            world.guest_writes(cluster(1), 7).await.unwrap();
            until(&cx, || mirror.job().info().is_paused).await;
            mirror.job().cancel(CancelMode::Soft).unwrap_err();
            cancel(&mirror).await;
            world.guest_writes(cluster(1), 8).await.unwrap();
        }
    });
}

#[test]
fn after_an_error_a_soft_cancel_waits_for_equality() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = ready(&world, with_policy(Side::Target, OnError::Stop)).await;
        world
            .at_target
            .add(first(FaultOp::Write, 1, fail(libc::EIO)));
        world.guest_writes(cluster(1), 7).await.unwrap();
        until_status(&world, &mirror, JobStatus::Standby).await;
        mirror.job().resume().unwrap();
        keep(&mirror).await;
        assert_equal(&world).await;
        assert_eq!(seen(&world.at_target, FaultOp::Flush), 3);
    });
}
