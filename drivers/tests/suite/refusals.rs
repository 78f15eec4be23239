//! A start that is refused changes nothing.

use block::{
    Attachment, BlockError, ChildRole, ErrorKind, Operation, Permission, Permissions,
    nodes::{FaultAction, FaultOp, FaultRule, MemoryNode, MemoryOptions},
};
use drivers::backup::{Backup, BackupError, BackupOptions};
use job::{CancelMode, JobErrorKind, JobEvent, JobStatus};

use super::world::{Disks, MIB, World, attach, on_each_backend, options, range, settle, write};

/// Starts a backup that must be refused because of a node, with nothing changed.
async fn node_refused(world: &World, options: BackupOptions) -> BlockError {
    let shape = world.shape();
    let jobs = world.jobs.list().len();
    let refused = world.start(options).await.map(drop).unwrap_err();
    assert_eq!(world.shape(), shape);
    assert_eq!(world.jobs.list().len(), jobs);
    world.guest_writes(range(0, 1), 1).await.unwrap();
    let BackupError::Node { source, from, to } = refused else {
        unreachable!("{refused:?}");
    };
    assert_eq!((from.as_str(), to.as_str()), ("source", "target"));
    *source
}

#[test]
fn nodes_of_different_length_are_refused() {
    on_each_backend(|cx| async move {
        for target_len in [MIB - 1, MIB + 1, 0, 2 * MIB] {
            let [source, target] = [MIB, target_len].map(MemoryOptions::new);
            let world = World::with_disks(&cx, Disks::with_options(source, target));
            let error = node_refused(&world, options()).await;

            assert_eq!(error.kind(), ErrorKind::Invalid);
            let lengths = format!("{MIB} and {target_len} bytes");
            assert!(error.to_string().contains(&lengths), "{error}");
        }
    });
}

#[test]
fn a_read_only_target_is_refused() {
    on_each_backend(|cx| async move {
        let read_only = MemoryOptions {
            read_only: true,
            ..MemoryOptions::new(MIB)
        };
        let disks = Disks::with_options(MemoryOptions::new(MIB), read_only);
        let world = World::with_disks(&cx, disks);
        let error = node_refused(&world, options()).await;
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
    });
}

#[test]
fn a_target_that_its_user_does_not_share_is_refused() {
    on_each_backend(|cx| async move {
        let world = World::new(&cx, MIB);
        let alone = Permissions::uses(&[]).unsharing(&[Permission::Write]);
        let user = Attachment::new("somebody", ChildRole::Primary, alone);
        let user = world.graph.attach(&world.target, user).unwrap();
        let error = node_refused(&world, options()).await;
        assert_eq!(error.kind(), ErrorKind::PermissionConflict);
        assert!(error.to_string().contains("somebody"), "{error}");
        drop(user);
        world.back_up(options()).await;
    });
}

#[test]
fn a_disk_is_no_target_of_itself() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB).await;
        let shape = world.shape();
        let nodes = (&world.source, &world.source);
        let registry = (&world.graph, &world.jobs);
        let refused = Backup::start(registry, cx.handle(), nodes, options()).await;

        assert!(matches!(refused, Err(BackupError::Node { .. })));
        assert_eq!(world.shape(), shape);
        world.guest_writes(range(0, 1), 1).await.unwrap();
    });
}

#[test]
fn a_target_in_use_by_a_backup_is_refused_to_another() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB).await;
        let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
        world.at_target.add(hold);
        let first = world.start(options()).await.unwrap();
        let error = node_refused_while_running(&world).await;
        assert_eq!(error.kind(), ErrorKind::Busy);
        let reason = "block device is in use by block job: backup";
        assert!(error.to_string().contains(reason), "{error}");
        world.at_target.release_all();
        first.job().wait().await.into_result().unwrap();
    });
}

async fn node_refused_while_running(world: &World) -> BlockError {
    let shape = world.shape();
    let refused = world.start(BackupOptions::new("other")).await;
    assert_eq!(world.shape(), shape);
    let Err(BackupError::Node { source, .. }) = refused else {
        unreachable!("{refused:?}");
    };
    *source
}

#[test]
fn a_bad_or_used_id_is_refused_and_leaves_nothing() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB).await;
        let shape = world.shape();
        let refused = world.start(BackupOptions::new("1x")).await.unwrap_err();
        assert!(
            matches!(refused, BackupError::Job(error) if error.kind() == JobErrorKind::InvalidId)
        );
        assert_eq!(world.shape(), shape);

        let other = Disks::new(MIB);
        let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
        other.at_target.add(hold);
        write(&other.guest(), &cx, 0, &[1]).await.unwrap();
        let nodes = (&other.source, &other.target);
        let registry = (&other.graph, &world.jobs);
        let running = Backup::start(registry, cx.handle(), nodes, options()).await;
        let refused = world.start(options()).await.unwrap_err();
        assert!(
            matches!(refused, BackupError::Job(error) if error.kind() == JobErrorKind::IdInUse)
        );
        assert_eq!(world.shape(), shape);
        other.at_target.release_all();
        running.unwrap().job().wait().await.into_result().unwrap();
    });
}

#[test]
fn a_start_that_is_given_up_half_way_leaves_nothing() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB).await;
        let hold = FaultRule::nth(FaultOp::Write, 1, FaultAction::Hold);
        world.at_source.add(hold);
        let write = world.guest_writes_later(range(0, 10), 2);
        world.at_source.wait_held(1).await;
        let shape = world.shape();
        let other = {
            let mut starting = Box::pin(world.start(options()));
            assert!(
                poll_once(&mut starting).await,
                "it waits for the write in flight"
            );
            let other = world.guest_writes_later(range(100, 10), 3);
            settle(&cx).await;
            assert!(poll_once(&mut starting).await);
            assert!(!other.is_finished(), "the source is drained");
            other
        };
        other.await.unwrap();
        settle(&cx).await;
        assert_eq!(world.shape(), shape);
        assert!(world.jobs.list().is_empty());
        world.at_source.release_all();
        write.await.unwrap();
        world.back_up(options()).await;
    });
}

/// Polls once; whether it is still pending.
async fn poll_once<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

#[test]
fn a_job_that_is_cancelled_before_its_start_leaves_nothing() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB).await;
        let shape = world.shape();
        let jobs = world.jobs.clone();
        let subscription = world.jobs.subscribe(move |event| {
            if let JobEvent::StatusChange {
                job,
                status: JobStatus::Created,
            } = event
            {
                jobs.find(&job.id)
                    .unwrap()
                    .cancel(CancelMode::Force)
                    .unwrap();
            }
        });
        assert!(world.start(options()).await.is_err());
        drop(subscription);
        settle(&cx).await;
        assert!(world.jobs.list().is_empty());
        assert_eq!(world.shape(), shape);
        let life = ["created", "aborting", "concluded", "null"];
        assert_eq!(world.life(), life);
        world.back_up(options()).await;
    });
}

#[test]
fn a_writer_below_the_filter_is_refused_while_the_job_runs() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB).await;
        let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
        world.at_target.add(hold);
        let backup = world.start(options()).await.unwrap();

        let uses = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
        let export = || Attachment::new("export 'e'", ChildRole::Primary, uses);
        let refused = world.graph.attach(&world.source, export()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionConflict);
        assert!(refused.to_string().contains("export 'e'"), "{refused}");
        // Above the filter there is room for any number.
        let above = attach(&world.graph, &world.guest.node());
        world.at_target.release_all();
        write(&above, &cx, 0, &[7]).await.unwrap();
        backup.job().wait().await.into_result().unwrap();

        assert_eq!(above.node(), world.source);
        drop(world.graph.attach(&world.source, export()).unwrap());
    });
}

#[test]
fn what_a_job_uses_is_not_taken_away_or_resized() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB).await;
        let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
        world.at_target.add(hold);
        let backup = world.start(options()).await.unwrap();

        let filter = world.guest.node();
        let refused = [Operation::Remove, Operation::Resize, Operation::Replace];
        for node in [&world.source, &world.target, &filter] {
            for operation in refused {
                let busy = world.graph.check_operation(node, operation).unwrap_err();
                assert_eq!(busy.kind(), ErrorKind::Busy);
            }
            assert!(world.graph.remove_node(node).is_err());
        }
        // A source may have several backups, a target none beside its own.
        let check = |node| world.graph.check_operation(node, Operation::BackupSource);
        check(&world.source).unwrap();
        assert!(check(&world.target).is_err());
        world.at_target.release_all();
        backup.job().wait().await.into_result().unwrap();
    });
}

#[test]
fn nodes_of_another_graph_are_refused() {
    on_each_backend(|cx| async move {
        let world = World::new(&cx, MIB);
        let shape = world.shape();
        let stranger = block::Graph::new();
        let memory = MemoryNode::new(MemoryOptions::new(MIB)).unwrap();
        let stranger = stranger.add_node(Some("stranger"), memory).unwrap();
        for nodes in [(&world.source, &stranger), (&stranger, &world.target)] {
            let registry = (&world.graph, &world.jobs);
            let refused = Backup::start(registry, cx.handle(), nodes, options()).await;
            assert!(matches!(
                refused,
                Err(BackupError::Node { source, .. }) if source.kind() == ErrorKind::NotFound
            ));
            assert_eq!(world.shape(), shape);
        }
    });
}

#[test]
fn what_makes_no_sense_is_refused_without_holding_anybody_up() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB).await;
        let hold = FaultRule::nth(FaultOp::Write, 1, FaultAction::Hold);
        world.at_source.add(hold);
        let write = world.guest_writes_later(range(0, 10), 2);
        world.at_source.wait_held(1).await;
        let nonsense = BackupOptions {
            max_workers: Some(0),
            ..options()
        };
        // The write in flight would hold up a drained section.
        let refused = world.start(nonsense).await;
        assert!(matches!(refused, Err(BackupError::Refused(_))));
        let blocker = world
            .graph
            .block_operations(&world.target, "taken", &[])
            .unwrap();
        let refused = world.start(options()).await;
        assert!(matches!(refused, Err(BackupError::Node { .. })));
        drop(blocker);
        world.at_source.release_all();
        write.await.unwrap();
    });
}
