//! What the job does about failed reads and writes of its own.

use block::{
    Operation,
    nodes::{FaultControl, FaultOp, FaultRule},
};
use blockjob::OnError;
use drivers::backup::BackupOptions;
use job::{JobOutcome, JobStatus};

use super::world::{
    MIB, Side, World, cluster, fail, first, on_each_backend, options, seen, settle, until,
    with_clock,
};

/// The side of a backup that fails, and how events call it.
impl Side {
    fn op(self) -> FaultOp {
        match self {
            Self::Source => FaultOp::Read,
            Self::Target => FaultOp::Write,
        }
    }

    fn told(self, action: &str) -> String {
        match self {
            Self::Source => format!("read {action}"),
            Self::Target => format!("write {action}"),
        }
    }

    fn control(self, world: &World) -> &FaultControl {
        match self {
            Self::Source => &world.at_source,
            Self::Target => &world.at_target,
        }
    }

    /// The policy is for this side; the other side's is the one that would end the test another way.
    fn options(self, policy: OnError, other: OnError) -> BackupOptions {
        let (on_source_error, on_target_error) = match self {
            Self::Source => (policy, other),
            Self::Target => (other, policy),
        };
        BackupOptions {
            on_source_error,
            on_target_error,
            ..options()
        }
    }
}

#[test]
fn report_fails_the_job_with_the_first_error_told_once() {
    on_each_backend(|cx| async move {
        for side in Side::BOTH {
            let world = World::full(&cx, 8 * MIB).await;
            let broken = FaultRule::every(side.op(), fail(libc::EIO));
            side.control(&world).add(broken);
            let options = side.options(OnError::Report, OnError::Stop);
            let backup = world.start(options).await.unwrap();
            let outcome = backup.job().wait().await;

            let JobOutcome::Failed(error) = outcome else {
                panic!("{outcome:?}");
            };
            assert_eq!(error.errno(), Some(libc::EIO));
            assert!(error.to_string().contains("injected fault"), "{error}");
            assert_eq!(world.errors_told(), [side.told("report")]);
        }
    });
}

#[test]
fn ignore_goes_on_and_copies_everything_in_the_end() {
    with_clock(|cx, clock| async move {
        for side in Side::BOTH {
            let world = World::full(&cx, 8 * MIB).await;
            side.control(&world)
                .add(first(side.op(), 3, fail(libc::EIO)));
            let options = side.options(OnError::Ignore, OnError::Report);
            let backup = world.start(options).await.unwrap();
            while backup.job().outcome().is_none() {
                settle(&cx).await;
                clock.advance_ns(10_000_000);
            }

            backup.job().wait().await.into_result().unwrap();
            assert!(world.target_bytes().await == world.source_bytes().await);
            let told = world.errors_told();
            assert!((1..=3).contains(&told.len()), "{told:?}");
            assert!(told.iter().all(|event| *event == side.told("ignore")));
        }
    });
}

#[test]
fn defect_07_an_error_that_is_ignored_and_stays_does_not_flood() {
    with_clock(|cx, clock| async move {
        for side in Side::BOTH {
            let world = World::full(&cx, 8 * MIB).await;
            let broken = FaultRule::every(side.op(), fail(libc::EIO)).within(cluster(5));
            side.control(&world).add(broken);
            let options = side.options(OnError::Ignore, OnError::Report);
            let backup = world.start(options).await.unwrap();
            for _ in 0..100 {
                settle(&cx).await;
                clock.advance_ns(10_000_000);
            }
            let told = world.errors_told().len();
            assert!((5..=11).contains(&told), "{told} errors told in a second");
            // All but what cannot be copied is copied meanwhile.
            assert!(backup.report().done_bytes >= 7 * MIB);

            side.control(&world).clear();
            while backup.job().outcome().is_none() {
                settle(&cx).await;
                clock.advance_ns(10_000_000);
            }
            assert!(world.target_bytes().await == world.source_bytes().await);
        }
    });
}

#[test]
fn a_job_that_ignores_an_error_can_be_cancelled_at_once() {
    with_clock(|cx, _clock| async move {
        let world = World::full(&cx, MIB).await;
        world
            .at_target
            .add(FaultRule::every(FaultOp::Write, fail(libc::EIO)));
        let options = Side::Target.options(OnError::Ignore, OnError::Report);
        let backup = world.start(options).await.unwrap();
        until(&cx, || !world.errors_told().is_empty()).await;
        settle(&cx).await;
        backup.job().cancel(job::CancelMode::Force).unwrap();
        let outcome = backup.job().wait().await;
        assert!(matches!(outcome, JobOutcome::Cancelled(_)));
    });
}

#[test]
fn stop_pauses_once_however_many_requests_failed_and_resume_retries() {
    on_each_backend(|cx| async move {
        for side in Side::BOTH {
            let world = World::full(&cx, 8 * MIB).await;
            side.control(&world)
                .add(FaultRule::every(side.op(), fail(libc::EIO)));
            let options = side.options(OnError::Stop, OnError::Report);
            let backup = world.start(options).await.unwrap();
            world.until_status(&backup, JobStatus::Paused).await;
            settle(&cx).await;
            assert!(seen(side.control(&world), side.op()) > 1);
            assert_eq!(world.errors_told(), [side.told("stop")]);
            assert_eq!(backup.report().requests_in_flight, 0);

            // The cause is still there: stopped again, with one more event.
            backup.job().resume().unwrap();
            until(&cx, || world.errors_told().len() == 2).await;
            world.until_status(&backup, JobStatus::Paused).await;

            // One resume is enough once the cause is gone.
            side.control(&world).clear();
            backup.job().resume().unwrap();
            backup.job().wait().await.into_result().unwrap();
            assert_eq!(world.errors_told().len(), 2);
            assert!(world.target_bytes().await == world.source_bytes().await);
        }
    });
}

#[test]
fn enospc_and_auto_stop_for_lack_of_space_and_fail_otherwise() {
    on_each_backend(|cx| async move {
        for side in Side::BOTH {
            for policy in [OnError::Enospc, OnError::Auto] {
                let world = World::full(&cx, 2 * MIB).await;
                side.control(&world)
                    .add(first(side.op(), 1, fail(libc::ENOSPC)));
                let options = side.options(policy, OnError::Ignore);
                let backup = world.start(options.clone()).await.unwrap();
                world.until_status(&backup, JobStatus::Paused).await;
                assert_eq!(world.errors_told(), [side.told("stop")]);
                backup.job().resume().unwrap();
                backup.job().wait().await.into_result().unwrap();
                assert!(world.target_bytes().await == world.source_bytes().await);

                side.control(&world)
                    .add(first(side.op(), 1, fail(libc::EIO)));
                let backup = world.start(options).await.unwrap();
                let error = backup.job().wait().await.into_result().unwrap_err();
                assert_eq!(error.errno(), Some(libc::EIO));
            }
        }
    });
}

#[test]
fn an_error_while_a_pause_of_the_user_begins_adds_no_second_pause() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 2 * MIB).await;
        let hold = block::nodes::FaultAction::Hold;
        world.at_target.add(first(FaultOp::Write, 1, hold));
        let options = Side::Target.options(OnError::Stop, OnError::Report);
        let backup = world.start(options).await.unwrap();
        let held = world.at_target.wait_held(1).await[0].id;
        backup.job().pause().unwrap();
        settle(&cx).await;
        assert_eq!(
            backup.job().status(),
            JobStatus::Running,
            "one is in flight"
        );
        world.at_target.fail(held, libc::ENOSPC);
        world.until_status(&backup, JobStatus::Paused).await;
        assert_eq!(world.errors_told(), ["write stop"]);

        backup.job().resume().unwrap();
        backup.job().wait().await.into_result().unwrap();
        assert_eq!(world.errors_told(), ["write stop"]);
        assert!(world.target_bytes().await == world.source_bytes().await);
    });
}

#[test]
fn an_error_while_a_node_is_drained_stops_the_job_beyond_the_section() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 2 * MIB).await;
        let hold = block::nodes::FaultAction::Hold;
        world.at_target.add(first(FaultOp::Write, 1, hold));
        let options = Side::Target.options(OnError::Stop, OnError::Report);
        let backup = world.start(options).await.unwrap();
        let held = world.at_target.wait_held(1).await[0].id;
        let (graph, source) = (world.graph.clone(), world.source.clone());
        let draining = cx.spawn(async move { graph.drain(&[source]).await });
        settle(&cx).await;
        world.at_target.fail(held, libc::EIO);
        drop(draining.await);
        settle(&cx).await;

        assert_eq!(backup.job().status(), JobStatus::Paused);
        backup.job().resume().unwrap();
        backup.job().wait().await.into_result().unwrap();
    });
}

#[test]
fn zeroes_that_cannot_be_written_are_an_error_of_the_target() {
    on_each_backend(|cx| async move {
        let world = World::new(&cx, MIB);
        world
            .at_target
            .add(FaultRule::every(FaultOp::WriteZeroes, fail(libc::EIO)));
        let backup = world.start(options()).await.unwrap();
        let error = backup.job().wait().await.into_result().unwrap_err();
        assert_eq!(error.errno(), Some(libc::EIO));
        assert_eq!(world.errors_told(), ["write report"]);
        let free = world
            .graph
            .check_operation(&world.target, Operation::BackupTarget);
        free.unwrap();
    });
}

#[test]
fn extents_that_cannot_be_had_are_no_error() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB).await;
        world
            .at_source
            .add(FaultRule::every(FaultOp::Extent, fail(libc::EIO)));
        world.back_up(options()).await;
        assert!(world.errors_told().is_empty());
        assert!(world.target_bytes().await == world.source_bytes().await);
    });
}
