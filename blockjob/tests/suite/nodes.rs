//! What a block job does to its nodes: permissions, blocked operations, edges that stay.

use block::{
    Attachment, ChildRole, ErrorKind, Operation, Permission, Permissions,
    nodes::copy_before_write::{CbwOptions, CopyBeforeWriteNode},
};
use blockjob::BlockJob;

use super::world::{Body, World, run};

#[test]
fn the_node_that_is_attached_first_is_the_main_node() {
    run(|cx| async move {
        let w = World::new(&cx);
        let (main, other) = (w.node("main"), w.node("other"));
        let block_job = BlockJob::new("j", "test", &w.graph);
        assert_eq!(block_job.main_node(), None);

        let attach = |node, name| block_job.attach(node, name, Permissions::IDLE, &[]);
        let first = attach(&main, "main node").unwrap();
        let second = attach(&other, "target").unwrap();
        let _again = attach(&main, "base").unwrap();

        assert_eq!(block_job.nodes(), [main.clone(), other.clone()]);
        assert_eq!(block_job.main_node(), Some(main));
        let edges = w.graph.edges().into_iter();
        let edges: Vec<_> = edges
            .map(|edge| format!("{}: {} is {}", edge.parent, edge.child_name, edge.node))
            .collect();
        let want = [
            "block job 'j': main node is main",
            "block job 'j': target is other",
            "block job 'j': base is main",
        ];
        assert_eq!(edges, want);
        drop((first, second));
    });
}

#[test]
fn a_conflict_of_permissions_names_both_parties() {
    run(|cx| async move {
        let w = World::new(&cx);
        let node = w.node("disk");
        let (reader, writer) = (
            BlockJob::new("r", "test", &w.graph),
            BlockJob::new("w", "test", &w.graph),
        );
        let alone = Permissions::uses(&[]).unsharing(&[Permission::Write]);
        let _edge = reader.attach(&node, "source", alone, &[]).unwrap();

        let writes = Permissions::uses(&[Permission::Write]);
        let refused = writer.attach(&node, "target", writes, &[]).unwrap_err();

        assert_eq!(refused.kind(), ErrorKind::PermissionConflict);
        assert_eq!(
            refused.to_string(),
            "Permission conflict on node 'disk': permissions 'write' are both required by \
             block job 'w' (uses node 'disk' as 'target' child) and unshared by \
             block job 'r' (uses node 'disk' as 'source' child)."
        );
        assert!(writer.nodes().is_empty());
    });
}

#[test]
fn an_attached_node_is_busy_but_for_exceptions_until_release() {
    run(|cx| async move {
        let w = World::new(&cx);
        let (node, beside) = (w.node("disk"), w.node("beside"));
        let block_job = BlockJob::new("j", "test", &w.graph);
        let except = [Operation::BackupSource];
        let edge = block_job.attach(&node, "source", Permissions::IDLE, &except);
        block_job.block_operations(&beside, &[]).unwrap();

        let check = |node, operation| w.graph.check_operation(node, operation);
        check(&node, Operation::BackupSource).unwrap();
        let busy = check(&node, Operation::Resize).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy);
        let reason = "Node 'disk' is busy: block device is in use by block job: test";
        assert_eq!(busy.to_string(), reason);
        check(&beside, Operation::BackupSource).unwrap_err();
        let removal = w.graph.remove_node(&node).unwrap_err();
        assert_eq!(removal.to_string(), reason);

        drop(edge.unwrap());
        check(&node, Operation::Resize).unwrap_err();
        block_job.release();
        check(&node, Operation::Resize).unwrap();
        w.graph.remove_node(&node).unwrap();
    });
}

#[test]
fn a_refused_node_is_not_blocked() {
    run(|cx| async move {
        let w = World::new(&cx);
        let node = w.node("disk");
        let block_job = BlockJob::new("j", "test", &w.graph);
        let alone = Permissions::uses(&[Permission::Write]).unsharing(&[Permission::Write]);
        let _other = w
            .graph
            .attach(&node, Attachment::new("other", ChildRole::Primary, alone))
            .unwrap();

        block_job.attach(&node, "target", alone, &[]).unwrap_err();

        w.graph.check_operation(&node, Operation::Resize).unwrap();
    });
}

#[test]
fn edges_stay_at_their_node_when_a_filter_goes_in() {
    run(|cx| async move {
        let w = World::new(&cx);
        let (disk, target) = (w.node("disk"), w.node("target"));
        let one = w.job("one", Body::Park, &[&disk]);
        let other = w.job("other", Body::Park, &[&disk]);
        let filter = CopyBeforeWriteNode::add_to(
            &w.graph,
            Some("filter"),
            (&disk, &target),
            CbwOptions::default(),
        );
        let (filter, _handle) = filter.unwrap();

        w.graph.insert_filter(&disk, &filter).await.unwrap();

        for job in [&one, &other] {
            assert_eq!(job.block_job.main_node(), Some(disk.clone()));
        }
        one.end().await;
        other.end().await;
    });
}
