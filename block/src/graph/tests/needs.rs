//! What node drivers hear of the permissions of their users.

use super::*;
use crate::testing::disk::Heard;

fn reader() -> Permissions {
    Permissions::uses(&[READ])
}

/// A disk in a graph.
fn disk_node(graph: &Graph, name: &str) -> (Arc<Disk>, Node) {
    let disk = Disk::new(1 << 16, 1);
    let node = graph.add_node(Some(name), DiskNode(disk.clone())).unwrap();
    (disk, node)
}

/// A node over two others, of which it passes one on and writes to the second; and the edge to that.
fn over_two(graph: &Graph, one: &Node, other: &Node) -> (Node, Child) {
    let builder = graph.build_node(Some("top")).unwrap();
    let first = builder.attach(one, "file", ChildRole::Filtered, Permissions::IDLE);
    let writes = Permissions::uses(&[WRITE]);
    let second = builder.attach(other, "target", ChildRole::Data, writes);
    let top = builder.finish(PassNode(Arc::new(first.unwrap())));
    (top, second.unwrap())
}

fn refuse(disk: &Disk) {
    disk.refuses_permissions.store(true, Ordering::SeqCst);
}

#[test]
fn a_driver_hears_before_and_after_what_its_users_ask_for_together() {
    let w = world();
    let alone = reader().unsharing(&[WRITE]);
    let first = attach(&w.graph, &w.node, "a reader", alone);
    assert_eq!(
        w.disk.heard(),
        [Heard::Prepare(alone), Heard::Settle(alone)]
    );

    let resizes = Permissions::uses(&[Permission::Resize]);
    let second = attach(&w.graph, &w.node, "a resizer", resizes);
    let both = alone.and(resizes);
    assert_eq!(w.disk.heard(), [Heard::Prepare(both), Heard::Settle(both)]);

    // Who asks for nothing new makes no difference.
    drop(attach(&w.graph, &w.node, "another reader", reader()));
    assert_eq!(w.disk.heard(), []);

    drop(first);
    assert_eq!(w.disk.heard(), [Heard::Settle(resizes)]);
    drop(second);
    assert_eq!(w.disk.heard(), [Heard::Settle(Permissions::IDLE)]);
}

#[test]
fn a_node_that_nobody_uses_asks_nothing_of_those_below() {
    let graph = Graph::new();
    let (one, below) = disk_node(&graph, "one");
    let (other, target) = disk_node(&graph, "other");
    let (top, _edge) = over_two(&graph, &below, &target);
    assert_eq!((one.heard(), other.heard()), (vec![], vec![]));

    let user = attach(&graph, &top, "a reader", reader());
    let writes = Permissions::uses(&[WRITE]);
    assert_eq!(one.heard().last(), Some(&Heard::Settle(reader())));
    assert_eq!(other.heard().last(), Some(&Heard::Settle(writes)));

    drop(user);
    let idle = [Heard::Settle(Permissions::IDLE)];
    assert_eq!((one.heard(), other.heard()), (idle.to_vec(), idle.to_vec()));
}

#[test]
fn what_one_driver_refuses_happens_at_none() {
    let graph = Graph::new();
    let (one, below) = disk_node(&graph, "one");
    let (other, target) = disk_node(&graph, "other");
    let (top, _edge) = over_two(&graph, &below, &target);
    refuse(&other);

    let user = Attachment::new("a reader", ChildRole::Primary, reader());
    assert_eq!(kind(graph.attach(&top, user.clone())), ErrorKind::Locked);

    let idle = Heard::Settle(Permissions::IDLE);
    assert_eq!(one.heard(), [Heard::Prepare(reader()), idle]);
    assert_eq!(other.heard().last(), Some(&idle));
    let uses = |edge: &EdgeInfo| edge.permissions.uses;
    assert!(graph.edges().iter().all(|edge| uses(edge).is_empty()));

    // The user is not there, so the next one is alone.
    other.refuses_permissions.store(false, Ordering::SeqCst);
    graph.attach(&top, user).unwrap();
}

#[test]
fn a_filter_whose_child_refuses_is_not_put_in_and_requests_go_on() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let filter = pass_over(&w.graph, "filter", &w.node);
        w.disk.heard();
        refuse(&w.disk);

        let inserted = w.graph.insert_filter(&w.node, &filter).await;

        assert_eq!(kind(inserted), ErrorKind::Locked);
        assert_eq!(w.disk.heard().last(), Some(&Heard::Settle(writer())));
        assert_eq!(guest.node(), w.node);
        assert!(!w.node.is_quiesced());
        w.start_write(&guest).await.await;
        assert_eq!(w.disk.writes(), 1);
    });
}

#[test]
fn users_that_move_are_heard_of_where_they_come_and_where_they_leave() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let (disk, to) = disk_node(&w.graph, "to");
        w.disk.heard();

        refuse(&disk);
        let replaced = w.graph.replace_node(&w.node, &to, &[]).await;
        assert_eq!(kind(replaced), ErrorKind::Locked);
        assert_eq!(guest.node(), w.node);
        assert_eq!(w.disk.heard().last(), Some(&Heard::Settle(writer())));

        disk.refuses_permissions.store(false, Ordering::SeqCst);
        disk.heard();
        w.graph.replace_node(&w.node, &to, &[]).await.unwrap();
        let came = [Heard::Prepare(writer()), Heard::Settle(writer())];
        assert_eq!(disk.heard(), came);
        let left = Heard::Settle(Permissions::IDLE);
        assert_eq!(w.disk.heard().last(), Some(&left));
        assert_eq!(guest.node(), to);
    });
}
