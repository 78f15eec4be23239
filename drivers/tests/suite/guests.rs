//! What guests above the filter see while a backup runs.

use block::{
    ChildRole, Permission, Permissions,
    nodes::{FaultAction, FaultOp, FaultRule, MemoryNode, MemoryOptions, RawNode, RawOptions},
};
use drivers::backup::{Backup, BackupOptions};
use job::JobStatus;

use super::world::{
    MIB, World, attach, cluster, on_each_backend, options, pattern, range, read, settle, write,
};

#[test]
fn a_guest_reads_what_it_wrote_and_the_backup_has_the_old() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 4 * MIB).await;
        let before = world.source_bytes().await;
        let every = |op| FaultRule::every(op, FaultAction::Hold);
        world.at_target.add(every(FaultOp::Write));
        let backup = world.start(options()).await.unwrap();

        let write = world.guest_writes_later(range(3 * MIB + 100, 1000), 9);
        settle(&cx).await;
        assert!(!write.is_finished(), "the old data is not saved yet");
        assert_eq!(
            read(&world.guest, &cx, range(3 * MIB, 5)).await,
            before[3 << 20..][..5]
        );
        world.at_target.release_all();
        write.await.unwrap();
        backup.job().wait().await.into_result().unwrap();

        assert_eq!(
            read(&world.guest, &cx, range(3 * MIB + 100, 1000)).await,
            [9; 1000]
        );
        assert!(world.target_bytes().await == before);
        let guest = backup.report().guest;
        assert_eq!(guest.requests, 1);
        assert!(guest.max_ns > 0 && guest.total_ns >= guest.max_ns);
    });
}

#[test]
fn a_write_that_waits_at_the_instant_goes_through_the_filter() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 4 * MIB).await;
        let before = world.source_bytes().await;
        // Nothing may be copied before the guest had its turn.
        let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
        world.at_target.add(hold);
        let section = world.drain(&world.source).await;
        let write = world.guest_writes_later(range(10, 3 * MIB), 7);
        settle(&cx).await;
        assert_eq!(world.source.in_flight(), 0, "it waits at the entrance");

        // The filter is put in inside the outer section, which goes on holding the write.
        let backup = world.start(options()).await.unwrap();
        settle(&cx).await;
        drop(section);
        settle(&cx).await;
        assert!(!write.is_finished(), "it went past the filter");
        world.at_target.release_all();
        write.await.unwrap();
        backup.job().wait().await.into_result().unwrap();

        assert!(world.target_bytes().await == before);
        assert_eq!(world.source_bytes().await[10..][..5], [7; 5]);
    });
}

#[test]
fn a_write_in_flight_at_the_instant_is_in_the_backup() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 4 * MIB).await;
        let hold = FaultRule::nth(FaultOp::Write, 1, FaultAction::Hold);
        world.at_source.clear();
        world.at_source.add(hold);
        let write = world.guest_writes_later(cluster(60), 7);
        let held = world.at_source.wait_held(1).await[0].id;

        let (graph, jobs, home) = (world.graph.clone(), world.jobs.clone(), cx.handle().clone());
        let nodes = (world.source.clone(), world.target.clone());
        let starting = cx.spawn(async move {
            let nodes = (&nodes.0, &nodes.1);
            Backup::start((&graph, &jobs), &home, nodes, options()).await
        });
        settle(&cx).await;
        assert!(!starting.is_finished(), "the instant waits for the write");
        world.at_source.release(held);
        write.await.unwrap();
        let backup = starting.await.unwrap();
        backup.job().wait().await.into_result().unwrap();

        assert!(world.target_bytes().await == world.source_bytes().await);
        let at = usize::try_from(cluster(60).start()).unwrap();
        assert_eq!(world.target_bytes().await[at..][..3], [7; 3]);
    });
}

#[test]
fn two_backups_of_one_source_have_each_their_instant() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 4 * MIB).await;
        let shape = world.shape();
        let second = MemoryNode::new(MemoryOptions::new(4 * MIB));
        let second = world
            .graph
            .add_node(Some("second"), second.unwrap())
            .unwrap();
        let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
        world.at_target.add(hold);
        let first_instant = world.source_bytes().await;
        let first = world.start(options()).await.unwrap();
        // The first backup can save this; the second has its instant after it.
        let early = world.guest_writes_later(range(MIB, MIB), 1);
        settle(&cx).await;
        world.at_target.release_all();
        early.await.unwrap();

        let second_instant = world.content(&cx, &world.guest.node()).await;
        let nodes = (&world.source, &second);
        let other = BackupOptions::new("other");
        let other = Backup::start((&world.graph, &world.jobs), cx.handle(), nodes, other)
            .await
            .unwrap();
        world.guest_writes(range(0, 4 * MIB), 2).await.unwrap();
        first.job().wait().await.into_result().unwrap();
        other.job().wait().await.into_result().unwrap();

        assert!(world.target_bytes().await == first_instant);
        assert!(world.content(&cx, &second).await == second_instant);
        world.graph.remove_node(&second).unwrap();
        assert_eq!(world.shape(), shape);
    });
}

#[test]
fn a_node_below_others_has_several_backups_too() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB).await;
        let second = MemoryNode::new(MemoryOptions::new(MIB)).unwrap();
        let second = world.graph.add_node(Some("second"), second).unwrap();
        let builder = world.graph.build_node(Some("above")).unwrap();
        let all = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
        let child = builder.attach(&world.source, "file", ChildRole::Data, all);
        let raw = RawNode::new(child.unwrap(), RawOptions::default()).unwrap();
        let user = attach(&world.graph, &builder.finish(raw));

        let before = world.source_bytes().await;
        let first = world.start(options()).await.unwrap();
        let nodes = (&world.source, &second);
        let other = BackupOptions::new("other");
        let registry = (&world.graph, &world.jobs);
        let other = Backup::start(registry, cx.handle(), nodes, other).await;
        for backup in [first, other.unwrap()] {
            backup.job().wait().await.into_result().unwrap();
        }

        assert!(world.target_bytes().await == before);
        assert!(world.content(&cx, &second).await == before);
        drop(user);
    });
}

#[test]
fn stacked_filters_go_in_any_order() {
    on_each_backend(|cx| async move {
        for first_ends_first in [true, false] {
            let world = World::full(&cx, 4 * MIB).await;
            let before = world.source_bytes().await;
            let second = super::world::Disks::new(4 * MIB);
            let shape = world.shape();
            let memory = MemoryNode::new(MemoryOptions::new(4 * MIB));
            let other = world
                .graph
                .add_node(Some("other"), memory.unwrap())
                .unwrap();
            drop(second);
            // Both stand still from their start on.
            let section = world
                .graph
                .drain(&[world.target.clone(), other.clone()])
                .await;
            let a = world.start(options()).await.unwrap();
            let nodes = (&world.source, &other);
            let b = BackupOptions::new("other");
            let registry = (&world.graph, &world.jobs);
            let b = Backup::start(registry, cx.handle(), nodes, b).await;
            let b = b.unwrap();
            for backup in [&a, &b] {
                backup.job().pause().unwrap();
            }
            drop(section);
            assert_eq!(world.filters(), 2);
            let write = world.guest_writes_later(range(100, 2 * MIB), 3);
            let (first, last) = if first_ends_first { (a, b) } else { (b, a) };
            for backup in [&first, &last] {
                world.until_status(backup, JobStatus::Paused).await;
                backup.job().resume().unwrap();
                backup.job().wait().await.into_result().unwrap();
            }
            write.await.unwrap();

            assert!(world.target_bytes().await == before);
            assert!(world.content(&cx, &other).await == before);
            assert_eq!(world.filters(), 0);
            world.graph.remove_node(&other).unwrap();
            assert_eq!(world.shape(), shape);
        }
    });
}

#[test]
fn writes_of_what_is_copied_already_wait_for_nobody() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 4 * MIB).await;
        let before = world.source_bytes().await;
        let last = FaultRule::every(FaultOp::Write, FaultAction::Hold).within(cluster(63));
        world.at_target.add(last);
        let backup = world.start(options()).await.unwrap();
        world.at_target.wait_held(1).await;
        settle(&cx).await;
        let bytes = pattern(range(0, 2 * MIB), 8);
        write(&world.guest, &cx, 0, &bytes).await.unwrap();
        assert_eq!(backup.report().guest.requests, 0);
        world.at_target.release_all();
        backup.job().wait().await.into_result().unwrap();
        assert!(world.target_bytes().await == before);
    });
}
