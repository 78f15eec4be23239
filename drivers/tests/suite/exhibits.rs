//! Faults that others had, by their numbers: each is shown not to be ours.

use std::os::unix::fs::MetadataExt;

use block::nodes::{FaultAction, FaultOp, FaultRule, FileNode, FileOptions, NullNode, NullOptions};
use drivers::backup::Backup;
use job::{JobOutcome, JobStatus};

use super::world::{
    CLUSTER, MIB, World, attach, cluster, fail, on_each_backend, options, range, settle, write,
};

#[test]
fn n10_a_backup_is_complete_only_when_its_target_is_stable() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 2 * MIB).await;
        let hold = FaultRule::every(FaultOp::Flush, FaultAction::Hold);
        world.at_target.add(hold);
        let backup = world.start(options()).await.unwrap();
        let held = world.at_target.wait_held(1).await[0];
        settle(&cx).await;
        assert_eq!(backup.job().status(), JobStatus::Running);
        assert_eq!(backup.report().done_bytes, 2 * MIB);
        assert!(!world.life().contains(&"COMPLETED".to_owned()));
        // Nothing is written behind it.
        let (last, _) = *world.at_target.seen().last().unwrap();
        assert_eq!(last, FaultOp::Flush);
        world.at_target.fail(held.id, libc::EIO);
        let outcome = backup.job().wait().await;
        assert!(matches!(outcome, JobOutcome::Failed(_)), "{outcome:?}");
    });
}

#[test]
fn n12_a_broken_target_fails_the_backup_and_no_guest() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 2 * MIB).await;
        for op in [FaultOp::Write, FaultOp::WriteZeroes] {
            let hold = FaultRule::every(op, FaultAction::Hold).within(range(0, MIB));
            world.at_target.add(hold);
            world.at_target.add(FaultRule::every(op, fail(libc::EIO)));
        }
        // As it is unless one asks for something else.
        let backup = world.start(options()).await.unwrap();
        for number in 20..30 {
            world.guest_writes(cluster(number), 7).await.unwrap();
        }
        world.at_target.release_all();
        let outcome = backup.job().wait().await;
        assert!(matches!(outcome, JobOutcome::Failed(_)), "{outcome:?}");
        world.guest_writes(cluster(3), 7).await.unwrap();
    });
}

#[test]
fn n17_a_sparse_target_stays_sparse() {
    on_each_backend(|cx| async move {
        const LEN: u64 = 64 * MIB;
        let folder = tempfile::tempdir().unwrap();
        let world = World::new(&cx, MIB);
        let mut nodes = Vec::new();
        for name in ["a", "b"] {
            let path = folder.path().join(name);
            std::fs::File::create(&path).unwrap().set_len(LEN).unwrap();
            let file = FileNode::open(&FileOptions::new(&path)).unwrap();
            nodes.push(world.graph.add_node(Some(name), file).unwrap());
        }
        let source = attach(&world.graph, &nodes[0]);
        for at in [0, 30 * MIB + 4096, LEN - 4096] {
            write(&source, &cx, at, &[7; 4096]).await.unwrap();
        }
        drop(source);
        let registry = (&world.graph, &world.jobs);
        let both = (&nodes[0], &nodes[1]);
        let backup = Backup::start(registry, cx.handle(), both, options()).await;
        backup.unwrap().job().wait().await.into_result().unwrap();

        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap());
        let allocated_bytes = std::fs::metadata(&b).unwrap().blocks() * 512;
        assert!(allocated_bytes < 4 * MIB, "{allocated_bytes} bytes");
    });
}

#[test]
fn museum_25_a_disk_that_ends_within_a_cluster_is_backed_up_to_its_end() {
    on_each_backend(|cx| async move {
        let lengths = [
            512,
            4096 + 512,
            CLUSTER + 512,
            3 * CLUSTER - 512,
            MIB + 1536,
        ];
        for len in lengths {
            let world = World::full(&cx, len).await;
            // A guest has the last of it copied as well.
            let backup = world.start(options()).await.unwrap();
            let before = world.source_bytes().await;
            world.guest_writes(range(len - 1, 1), 1).await.unwrap();
            backup.job().wait().await.into_result().unwrap();
            assert!(world.target_bytes().await == before, "{len} bytes");
            let progress = backup.job().progress().snapshot();
            assert_eq!((progress.current, progress.total), (len, len));
        }
    });
}

#[test]
fn a_disk_of_zeroes_makes_its_target_one_and_takes_hardly_any_memory() {
    on_each_backend(|cx| async move {
        const LEN: u64 = 4096 * MIB;
        let world = World::new(&cx, MIB);
        let null = |len_bytes| {
            NullNode::new(NullOptions {
                len_bytes,
                read_zeroes: true,
                ..NullOptions::default()
            })
        };
        let registry = (&world.graph, &world.jobs);
        let zeroes = world.graph.add_node(Some("zeroes"), null(MIB)).unwrap();
        let target = attach(&world.graph, &world.target);
        write(&target, &cx, 0, &vec![0x55; 1 << 20]).await.unwrap();
        drop(target);
        let both = (&zeroes, &world.target);
        let backup = Backup::start(registry, cx.handle(), both, options()).await;
        backup.unwrap().job().wait().await.into_result().unwrap();
        assert!(world.target_bytes().await == vec![0; 1 << 20]);

        let from = world.graph.add_node(Some("from"), null(LEN)).unwrap();
        let to = world.graph.add_node(Some("to"), null(LEN)).unwrap();
        let backup = Backup::start(registry, cx.handle(), (&from, &to), options()).await;
        let backup = backup.unwrap();
        let mut most = 0;
        while backup.job().outcome().is_none() {
            most = most.max(cx.buffers().bytes_in_use());
            cx.yield_now().await;
        }
        assert_eq!(backup.report().done_bytes, LEN);
        assert!(most <= 64 << 20, "{most} bytes of buffers");
    });
}

#[test]
fn a_node_is_not_backed_up_to_what_stands_on_it_nor_the_other_way() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB).await;
        let shape = world.shape();
        let below = world.graph.node("source-memory").unwrap();
        let registry = (&world.graph, &world.jobs);
        for nodes in [(&below, &world.source), (&world.source, &below)] {
            let refused = Backup::start(registry, cx.handle(), nodes, options()).await;
            assert!(refused.is_err());
            assert_eq!(world.shape(), shape);
        }
    });
}
