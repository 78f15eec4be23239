//! Requests that never return: a forced cancel ends the job all the same, and nothing else stalls.

use std::sync::mpsc;

use aio::{AioContext, BackendKind, Config, IoThread, Task};
use block::{
    Attachment, BlockError, ChildRole, Node, Permission, Permissions,
    nodes::{FaultAction, FaultControl, FaultOp, FaultRule, MemoryNode, MemoryOptions},
};
use drivers::backup::{Backup, BackupError, BackupOptions};
use job::{CancelMode, JobOutcome, JobRegistry, JobStatus};

use super::world::{
    CLUSTER, Disks, MIB, Watch, World, attach, cluster, first, on_each_backend, options, range,
    read, seen, settle, until, with_clock,
};

const LEN: u64 = 8 * MIB;
const SECOND_NS: u64 = 1_000_000_000;

fn hold(op: FaultOp) -> FaultRule {
    FaultRule::every(op, FaultAction::Hold)
}

/// Cancels by force, and sees that this ends the job.
async fn cancel(backup: &Backup) {
    backup.job().cancel(CancelMode::Force).unwrap();
    let outcome = backup.job().wait().await;
    assert!(matches!(outcome, JobOutcome::Cancelled(_)), "{outcome:?}");
}

/// A backup of `LEN` bytes with requests of the kind held at one side.
async fn stuck(world: &World, control: &FaultControl, op: FaultOp) -> Backup {
    control.add(hold(op));
    let backup = world.start(options()).await.unwrap();
    control.wait_held(1).await;
    settle(&world.cx).await;
    backup
}

fn more_memory(world: &World, name: &str) -> Node {
    let memory = MemoryNode::new(MemoryOptions::new(LEN)).unwrap();
    world.graph.add_node(Some(name), memory).unwrap()
}

async fn back_up_to(world: &World, target: &Node, id: &str) -> Result<Backup, BackupError> {
    let nodes = (&world.source, target);
    let registry = (&world.graph, &world.jobs);
    Backup::start(registry, world.cx.handle(), nodes, BackupOptions::new(id)).await
}

/// The error with all its causes.
fn text(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", text(source)),
        None => error.to_string(),
    }
}

#[test]
fn a_forced_cancel_ends_a_backup_whose_target_never_answers() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let shape = world.shape();
        let backup = stuck(&world, &world.at_target, FaultOp::Write).await;
        let held = world.at_target.held().len();
        let waiting = world.guest_writes_later(range(10, LEN / 2), 7);
        settle(&cx).await;
        assert!(!waiting.is_finished(), "its old data is not saved");

        cancel(&backup).await;

        waiting.await.unwrap();
        assert_eq!(world.filters(), 0);
        assert_eq!(world.guest.node(), world.source);
        assert_eq!(
            world.life()[1..],
            ["running", "aborting", "CANCELLED", "concluded", "null"]
        );
        let report = backup.report();
        assert!(usize::try_from(report.requests_in_flight).unwrap() >= held.min(4));
        assert!(!report.filter_is_in_place && report.done_bytes == 0);
        assert!(report.target_may_change);
        // What is still out was told to the target before; nothing follows it.
        let arrived = seen(&world.at_target, FaultOp::Write);
        world.at_target.release_all();
        settle(&cx).await;
        assert_eq!(seen(&world.at_target, FaultOp::Write), arrived);
        let report = backup.report();
        assert_eq!(
            (report.requests_in_flight, report.target_may_change),
            (0, false)
        );
        assert_eq!(world.shape(), shape);
    });
}

#[test]
fn requests_that_return_soon_are_waited_for_so_that_the_target_is_free_at_the_end() {
    with_clock(|cx, _clock| async move {
        let world = World::full(&cx, LEN).await;
        let backup = stuck(&world, &world.at_target, FaultOp::Write).await;
        let waiting = world.guest_writes_later(range(10, LEN / 2), 7);
        backup.job().cancel(CancelMode::Force).unwrap();
        settle(&cx).await;
        assert_eq!(backup.job().status(), JobStatus::Aborting);
        assert_eq!(world.filters(), 0);
        waiting.await.unwrap();

        world.at_target.clear();
        world.at_target.release_all();
        backup.job().wait().await;
        assert!(!backup.report().target_may_change);
        let second = back_up_to(&world, &world.target, "second").await.unwrap();
        second.job().wait().await.into_result().unwrap();
        assert!(world.target_bytes().await == world.source_bytes().await);
    });
}

#[test]
fn requests_that_do_not_return_hold_up_the_end_for_half_a_second_only() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let backup = stuck(&world, &world.at_target, FaultOp::Write).await;
        backup.job().cancel(CancelMode::Force).unwrap();
        settle(&cx).await;
        clock.advance_ns(SECOND_NS / 2 - 1);
        settle(&cx).await;
        assert_eq!(backup.job().status(), JobStatus::Aborting);
        clock.advance_ns(1);

        let outcome = backup.job().wait().await;

        assert!(matches!(outcome, JobOutcome::Cancelled(_)));
        assert!(backup.report().target_may_change);
        world.at_target.release_all();
    });
}

#[test]
fn the_source_is_free_at_once_and_another_target_gets_its_backup() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let backup = stuck(&world, &world.at_target, FaultOp::Write).await;
        cancel(&backup).await;

        let other = more_memory(&world, "other");
        world.guest_writes(range(5, MIB), 9).await.unwrap();
        let now = world.source_bytes().await;
        let second = back_up_to(&world, &other, "second").await.unwrap();
        world.guest_writes(range(100, MIB), 10).await.unwrap();
        second.job().wait().await.into_result().unwrap();
        assert!(world.content(&cx, &other).await == now);
        assert!(!world.at_target.held().is_empty(), "still stuck");
    });
}

#[test]
fn a_target_that_a_late_write_may_still_reach_is_refused_and_the_reason_told() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let backup = stuck(&world, &world.at_target, FaultOp::Write).await;
        cancel(&backup).await;

        let reason = "block job 'b' has ended, but a request of it has not returned";
        let refused = back_up_to(&world, &world.target, "second")
            .await
            .unwrap_err();
        assert_eq!(
            text(&refused),
            format!("cannot back up 'source' to 'target': Node 'target' is busy: {reason}")
        );
        let refused = world.graph.remove_node(&world.target).unwrap_err();
        assert!(refused.to_string().contains(reason), "{refused}");
        for permission in [Permission::ConsistentRead, Permission::Write] {
            let uses = Permissions::uses(&[permission]);
            let user = Attachment::new("export 'e'", ChildRole::Primary, uses);
            let refused = world.graph.attach(&world.target, user).unwrap_err();
            let want = format!(
                "permissions '{permission}' are both required by export 'e' (uses node 'target' as 'root' \
                 child) and unshared by ended block job 'b' (uses node 'target' as 'target' child)."
            );
            assert!(refused.to_string().ends_with(&want), "{refused}");
        }

        let held = world.at_target.held();
        let (last, others) = held.split_last().unwrap();
        world.at_target.clear();
        for request in others {
            world.at_target.release(request.id);
        }
        settle(&cx).await;
        assert!(back_up_to(&world, &world.target, "second").await.is_err());
        world.at_target.release(last.id);
        settle(&cx).await;
        let second = back_up_to(&world, &world.target, "second").await.unwrap();
        second.job().wait().await.into_result().unwrap();
        assert!(world.target_bytes().await == world.source_bytes().await);
    });
}

#[test]
fn users_that_the_target_had_before_stay() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let before = attach(&world.graph, &world.target);
        let backup = stuck(&world, &world.at_target, FaultOp::Write).await;
        cancel(&backup).await;
        assert!(back_up_to(&world, &world.target, "second").await.is_err());
        read(&before, &cx, range(0, 10)).await;
        world.at_target.release_all();
    });
}

#[test]
fn a_read_that_does_not_return_holds_up_neither_the_cancel_nor_the_target() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let backup = stuck(&world, &world.at_source, FaultOp::Read).await;
        cancel(&backup).await;
        assert_eq!(world.filters(), 0);
        world.guest_writes(range(0, LEN), 3).await.unwrap();

        // Another source may be copied there at once.
        let other = more_memory(&world, "other");
        let nodes = (&other, &world.target);
        let registry = (&world.graph, &world.jobs);
        let second = Backup::start(registry, cx.handle(), nodes, BackupOptions::new("second"));
        let second = second.await.unwrap();
        second.job().wait().await.into_result().unwrap();
        let written = seen(&world.at_target, FaultOp::Write);
        world.at_source.release_all();
        settle(&cx).await;
        assert_eq!(seen(&world.at_target, FaultOp::Write), written);
        assert_eq!(backup.report().requests_in_flight, 0);
    });
}

#[test]
fn a_flush_that_does_not_return_is_left_to_itself() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let shape = world.shape();
        let backup = stuck(&world, &world.at_target, FaultOp::Flush).await;
        assert_eq!(backup.report().done_bytes, LEN);
        cancel(&backup).await;
        assert_eq!(world.filters(), 0);
        assert!(back_up_to(&world, &world.target, "second").await.is_err());
        world.at_target.release_all();
        settle(&cx).await;
        assert_eq!(world.shape(), shape);
    });
}

#[test]
fn a_pause_that_waits_for_what_does_not_return_is_left_by_a_forced_cancel() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let backup = stuck(&world, &world.at_target, FaultOp::Write).await;
        backup.job().pause().unwrap();
        settle(&cx).await;
        assert_eq!(backup.job().status(), JobStatus::Running);
        cancel(&backup).await;
        assert_eq!(
            world.life()[1..],
            ["running", "aborting", "CANCELLED", "concluded", "null"]
        );
        world.at_target.release_all();
    });
}

#[test]
fn a_drain_of_the_source_that_waits_for_the_job_ends_with_it() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let backup = stuck(&world, &world.at_target, FaultOp::Write).await;
        let waiting = world.guest_writes_later(range(10, MIB), 7);
        let draining = drain_later(&world, &world.source);
        settle(&cx).await;
        assert!(!draining.is_finished(), "the job has not come to a stop");

        backup.job().cancel(CancelMode::Force).unwrap();
        let section = draining.await;
        drop(section);
        assert!(backup.job().wait().await.into_result().is_err());
        waiting.await.unwrap();
        assert_eq!(world.filters(), 0);
        world.at_target.release_all();
    });
}

fn drain_later(world: &World, node: &Node) -> Task<block::DrainedSection> {
    let (graph, node) = (world.graph.clone(), node.clone());
    world.cx.spawn(async move { graph.drain(&[node]).await })
}

#[test]
fn a_drain_of_the_target_waits_for_the_request_and_nothing_waits_for_the_drain() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let backup = stuck(&world, &world.at_target, FaultOp::Write).await;
        let draining = drain_later(&world, &world.target);
        settle(&cx).await;
        cancel(&backup).await;
        world.guest_writes(range(10, LEN - 10), 7).await.unwrap();
        settle(&cx).await;
        assert!(!draining.is_finished(), "nobody may take it for quiet");
        world.at_target.release_all();
        drop(draining.await);
    });
}

#[test]
fn everything_else_goes_on_beside_a_target_that_never_answers() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let backup = stuck(&world, &world.at_target, FaultOp::Write).await;
        let bytes = world.source_bytes().await;

        // Disks of the same graph, jobs of the same registry, one loop.
        let (from, to) = (more_memory(&world, "from"), more_memory(&world, "to"));
        super::world::write(&attach(&world.graph, &from), &cx, 0, &bytes)
            .await
            .unwrap();
        let (registry, pair) = ((&world.graph, &world.jobs), (&from, &to));
        let other = BackupOptions::new("other");
        let other = Backup::start(registry, cx.handle(), pair, other)
            .await
            .unwrap();
        other.job().pause().unwrap();
        world.until_status(&other, JobStatus::Paused).await;
        assert_eq!(world.jobs.query().len(), 2);
        backup.job().pause().unwrap();
        backup.set_speed(5).unwrap();
        backup.job().resume().unwrap();
        drop(world.drain(&to).await);
        drop(world.graph.drain(&[from.clone(), to.clone()]).await);
        read(&world.guest, &cx, range(0, LEN)).await;
        other.job().resume().unwrap();
        other.job().wait().await.into_result().unwrap();
        assert!(world.content(&cx, &to).await == bytes);

        assert!(backup.job().outcome().is_none() && !world.at_target.held().is_empty());
        cancel(&backup).await;
        world.at_target.release_all();
    });
}

#[test]
fn a_backup_that_fails_beside_a_stuck_request_can_be_cancelled() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        world
            .at_target
            .add(first(FaultOp::Write, 3, FaultAction::Hold));
        let broken = FaultAction::Fail { errno: libc::EIO };
        world
            .at_target
            .add(FaultRule::every(FaultOp::Write, broken));
        let backup = world.start(options()).await.unwrap();
        world.at_target.wait_held(3).await;
        settle(&cx).await;
        assert!(backup.job().outcome().is_none());
        cancel(&backup).await;
        assert_eq!(world.filters(), 0);
        world.at_target.release_all();
    });
}

#[test]
fn a_backup_that_waits_for_what_guests_save_is_paused_and_cancelled_meanwhile() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 2 * MIB).await;
        let section = world.drain(&world.target).await;
        let backup = world.start(options()).await.unwrap();
        backup.job().pause().unwrap();
        drop(section);
        world.at_target.add(hold(FaultOp::Write).within(cluster(5)));
        let saving = world.guest_writes_later(cluster(5), 1);
        world.at_target.wait_held(1).await;
        backup.job().resume().unwrap();
        until(&cx, || backup.report().done_bytes == 31 * CLUSTER).await;
        settle(&cx).await;

        backup.job().pause().unwrap();
        world.until_status(&backup, JobStatus::Paused).await;
        assert!(!saving.is_finished());
        cancel(&backup).await;
        saving.await.unwrap();
        assert!(back_up_to(&world, &world.target, "second").await.is_err());
        world.at_target.release_all();
        settle(&cx).await;
        assert!(
            world
                .graph
                .check_operation(&world.target, block::Operation::BackupTarget)
                .is_ok()
        );
    });
}

/// Of a source whose request of a guest does not return.
async fn one_write_stuck(world: &World) -> Task<Result<(), BlockError>> {
    let rule = first(FaultOp::Write, 1, FaultAction::Hold);
    world.at_source.add(rule);
    let write = world.guest_writes_later(cluster(0), 1);
    world.at_source.wait_held(1).await;
    write
}

#[test]
fn a_guest_request_that_the_source_does_not_answer_holds_up_the_end_for_a_second_only() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let shape = world.shape();
        let options = BackupOptions {
            speed_bytes_per_s: 1,
            ..options()
        };
        let backup = world.start(options).await.unwrap();
        settle(&cx).await;
        let stuck = one_write_stuck(&world).await;
        let mut others = 0;

        backup.job().cancel(CancelMode::Force).unwrap();
        settle(&cx).await;
        assert_eq!(backup.job().status(), JobStatus::Aborting);
        clock.advance_ns(SECOND_NS);
        assert!(matches!(
            backup.job().wait().await,
            JobOutcome::Cancelled(_)
        ));
        assert!(backup.report().filter_is_in_place);

        // Guests go on above a filter that does nothing; a try to take it out holds them up for a second.
        for _ in 0..3 {
            world.guest_writes(range(MIB, 4 * MIB), 2).await.unwrap();
            clock.advance_ns(10 * SECOND_NS);
            settle(&cx).await;
            let write = world.guest_writes_later(range(MIB, 10), 3);
            settle(&cx).await;
            others += usize::from(!write.is_finished());
            clock.advance_ns(SECOND_NS);
            write.await.unwrap();
        }
        assert_eq!(others, 3);
        world.at_source.release_all();
        stuck.await.unwrap();
        clock.advance_ns(10 * SECOND_NS);
        until(&cx, || !backup.report().filter_is_in_place).await;
        assert_eq!(world.shape(), shape);
    });
}

#[test]
fn a_job_ends_inside_a_drained_section_that_holds_a_guest_inside_the_filter() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let shape = world.shape();
        let backup = stuck(&world, &world.at_target, FaultOp::Write).await;
        let saving = world.guest_writes_later(cluster(0), 1);
        settle(&cx).await;
        // The job never stands still, so that the section has not closed the source yet.
        let draining = drain_later(&world, &world.source);
        settle(&cx).await;
        backup.job().cancel(CancelMode::Force).unwrap();
        let section = draining.await;
        settle(&cx).await;
        clock.advance_ns(SECOND_NS);
        assert!(matches!(
            backup.job().wait().await,
            JobOutcome::Cancelled(_)
        ));

        drop(section);
        saving.await.unwrap();
        world.at_target.release_all();
        clock.advance_ns(10 * SECOND_NS);
        until(&cx, || !backup.report().filter_is_in_place).await;
        settle(&cx).await;
        assert_eq!(world.shape(), shape);
    });
}

#[test]
fn what_is_stuck_of_one_of_two_backups_does_not_hold_up_the_other() {
    with_clock(|cx, clock| async move {
        for stuck_is_first in [true, false] {
            let world = World::full(&cx, LEN).await;
            let before = world.source_bytes().await;
            let other = more_memory(&world, "other");
            let section = world
                .graph
                .drain(&[world.target.clone(), other.clone()])
                .await;
            world.at_target.add(hold(FaultOp::Write));
            let (stuck, healthy) = if stuck_is_first {
                let stuck = world.start(options()).await.unwrap();
                (stuck, back_up_to(&world, &other, "healthy").await.unwrap())
            } else {
                let healthy = back_up_to(&world, &other, "healthy").await.unwrap();
                (world.start(options()).await.unwrap(), healthy)
            };
            drop(section);
            world.at_target.wait_held(1).await;
            let waiting = world.guest_writes_later(range(0, LEN), 5);
            settle(&cx).await;
            clock.advance_ns(SECOND_NS);
            healthy.job().wait().await.into_result().unwrap();
            assert!(world.content(&cx, &other).await == before);
            assert!(!waiting.is_finished());
            // The later filter is below: then the guest waits inside the healthy one.
            assert_eq!(healthy.report().filter_is_in_place, !stuck_is_first);

            stuck.job().cancel(CancelMode::Force).unwrap();
            waiting.await.unwrap();
            settle(&cx).await;
            clock.advance_ns(SECOND_NS);
            stuck.job().wait().await;
            clock.advance_ns(10 * SECOND_NS);
            until(&cx, || world.filters() == 0).await;
            world.at_target.release_all();
        }
    });
}

/// The disks' own loop and that of the job are others than that of the main context.
#[test]
fn a_job_on_a_thread_of_its_own_is_cancelled_beside_its_stuck_requests() {
    on_each_backend(|main: AioContext| async move {
        let thread = IoThread::start(Config::default()).unwrap();
        let world = World::with_disks(&main, Disks::new(LEN));
        world.guest_writes(range(0, LEN), 1).await.unwrap();
        world.at_target.add(hold(FaultOp::Write));
        let nodes = (&world.source, &world.target);
        let registry = (&world.graph, &world.jobs);
        let backup = Backup::start(registry, thread.handle(), nodes, options())
            .await
            .unwrap();
        world.at_target.wait_held(1).await;
        let waiting = world.guest_writes_later(range(0, LEN), 7);
        settle(&main).await;
        cancel(&backup).await;
        waiting.await.unwrap();
        assert_eq!(world.filters(), 0);
        assert!(back_up_to(&world, &world.target, "second").await.is_err());
        world.at_target.release_all();
        until(&main, || backup.report().requests_in_flight == 0).await;
    });
}

#[test]
fn guests_go_on_at_the_cancel_even_while_the_main_context_is_busy() {
    let watch = Watch::start();
    let thread = || {
        IoThread::start(Config {
            backend: Some(BackendKind::Epoll),
            ..Config::default()
        })
    };
    let (main, home) = (thread().unwrap(), thread().unwrap());
    let (disks, jobs) = (Disks::new(LEN), JobRegistry::new(main.handle().clone()));
    disks.at_target.add(hold(FaultOp::Write));
    disks.at_target.add(hold(FaultOp::WriteZeroes));
    let guest = disks.guest();
    let (world, on) = (disks.clone(), home.handle().clone());
    let starting = main.handle().spawn(move |_| async move {
        let (registry, nodes) = ((&world.graph, &jobs), (&world.source, &world.target));
        Backup::start(registry, &on, nodes, options()).await
    });
    let backup = starting.wait().unwrap();
    let control = disks.at_target.clone();
    drop(
        home.handle()
            .spawn(|_| async move { control.wait_held(1).await })
            .wait(),
    );
    assert_eq!(guest.node().driver_name(), "copy-before-write");
    let writing = home
        .handle()
        .spawn(|cx| async move { super::world::write(&guest, &cx, 0, &[1; 512]).await });
    let (go_on, wait) = mpsc::channel::<()>();
    let busy = main.handle().spawn(|_| async move { wait.recv().is_ok() });

    backup.job().cancel(CancelMode::Force).unwrap();

    writing.wait().unwrap();
    assert!(!busy.is_finished() && backup.job().outcome().is_none());
    go_on.send(()).unwrap();
    assert!(backup.job().wait_blocking().into_result().is_err());
    disks.at_target.release_all();
    watch.end();
}

#[test]
fn the_target_of_a_backup_that_failed_is_guarded_like_that_of_one_that_was_cancelled() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let section = world.drain(&world.target).await;
        let options = BackupOptions {
            cbw_timeout_ns: Some(SECOND_NS),
            ..options()
        };
        let backup = world.start(options).await.unwrap();
        let last = cluster(LEN / CLUSTER - 1);
        world.at_target.add(hold(FaultOp::Write).within(last));
        backup.job().pause().unwrap();
        drop(section);
        let write = world.guest_writes_later(last, 1);
        world.at_target.wait_held(1).await;
        settle(&cx).await;
        clock.advance_ns(SECOND_NS);
        write.await.unwrap();
        backup.job().resume().unwrap();
        world.until_status(&backup, JobStatus::Aborting).await;
        settle(&cx).await;
        clock.advance_ns(SECOND_NS);
        let outcome = backup.job().wait().await;
        assert!(matches!(outcome, JobOutcome::Failed(_)), "{outcome:?}");

        assert!(backup.report().target_may_change);
        assert!(back_up_to(&world, &world.target, "second").await.is_err());
        world.at_target.release_all();
        settle(&cx).await;
        assert!(!backup.report().target_may_change);
        let second = back_up_to(&world, &world.target, "second").await.unwrap();
        second.job().wait().await.into_result().unwrap();
    });
}

#[test]
fn another_backup_of_the_source_begins_when_the_stuck_one_is_cancelled() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let backup = stuck(&world, &world.at_target, FaultOp::Write).await;
        let other = more_memory(&world, "other");
        let (graph, jobs, home) = (world.graph.clone(), world.jobs.clone(), cx.handle().clone());
        let nodes = (world.source.clone(), other.clone());
        let starting = cx.spawn(async move {
            let nodes = (&nodes.0, &nodes.1);
            let options = BackupOptions::new("second");
            Backup::start((&graph, &jobs), &home, nodes, options).await
        });
        settle(&cx).await;
        assert!(
            !starting.is_finished(),
            "the first must stand still for the instant"
        );
        // Meanwhile nobody else waits for it.
        read(&world.guest, &cx, range(0, LEN)).await;
        cancel(&backup).await;
        let second = starting.await.unwrap();
        second.job().wait().await.into_result().unwrap();
        assert!(world.content(&cx, &other).await == world.source_bytes().await);
        world.at_target.release_all();
    });
}
