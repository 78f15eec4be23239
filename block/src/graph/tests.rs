//! The graph as its users see it: drained sections, filters, permissions, names.

use std::{
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Context, Waker},
};

use aio::AioContext;

use super::*;
use crate::{
    graph::{
        parent::Parent,
        permission::{Permission, Permissions},
    },
    node_driver::{Limits, RequestFlags},
    testing::{
        block_on,
        disk::{
            CountingParent, Disk, DiskNode, Op, PassNode, READ, WRITE, attach, buffer, context,
            pass_over, settle, write, writer,
        },
    },
};

mod model;
mod needs;
mod reopen;
mod replace;
mod resize;

struct World {
    cx: AioContext,
    graph: Graph,
    disk: Arc<Disk>,
    node: Node,
}

fn world() -> World {
    world_over(Disk::new(1 << 16, 1))
}

fn world_over(disk: Arc<Disk>) -> World {
    let graph = Graph::new();
    let node = graph.add_node(Some("s"), DiskNode(disk.clone())).unwrap();
    World {
        cx: context(),
        graph,
        disk,
        node,
    }
}

impl World {
    fn guest(&self) -> Rc<Child> {
        Rc::new(attach(&self.graph, &self.node, "export 'e'", writer()))
    }

    /// Starts a write of 512 bytes and lets it get as far as it can.
    async fn start_write(&self, child: &Rc<Child>) -> aio::Task<()> {
        let (child, cx) = (child.clone(), self.cx.clone());
        let task = self
            .cx
            .spawn(async move { write(&child, &cx, 0, 512, 7).await });
        settle(&self.cx).await;
        task
    }

    fn run<T>(&self, test: impl Future<Output = T>) -> T {
        self.cx.block_on(test)
    }
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn kind<T: std::fmt::Debug>(result: Result<T, BlockError>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn a_drained_node_holds_new_requests() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let section = w.graph.drain(std::slice::from_ref(&w.node)).await;
        let held = w.start_write(&guest).await;
        assert!(w.node.is_quiesced());
        assert_eq!(w.disk.writes(), 0);

        drop(section);
        held.await;

        assert_eq!(w.disk.writes(), 1);
        assert!(!w.node.is_quiesced());
    });
}

/// SEMANTICS 0.1 no. 2: a user that comes during the section is held like the others.
#[test]
fn defect_02_a_user_attached_during_a_drained_section_waits() {
    let w = world();
    w.run(async {
        let section = w.graph.drain(std::slice::from_ref(&w.node)).await;
        let late = w.guest();
        let held = w.start_write(&late).await;
        assert_eq!(w.disk.writes(), 0);

        drop(section);
        held.await;
        assert_eq!(w.disk.writes(), 1);
    });
}

#[test]
fn drain_waits_for_what_is_in_flight() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        w.disk.hold();
        let in_flight = w.start_write(&guest).await;
        let nodes = [w.node.clone()];
        let mut draining = pin!(w.graph.drain(&nodes));
        assert!(poll_once(draining.as_mut()).is_pending());
        assert_eq!(w.node.in_flight(), 1);

        w.disk.release();
        let _section = draining.await;

        assert_eq!(w.disk.writes(), 1);
        in_flight.await;
    });
}

#[test]
fn sections_nest() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let nodes = [w.node.clone(), w.node.clone()];
        let outer = w.graph.drain(&nodes).await;
        let inner = w.graph.drain(&nodes).await;
        let held = w.start_write(&guest).await;

        drop(outer);
        settle(&w.cx).await;
        assert_eq!(w.disk.writes(), 0);
        drop(inner);
        held.await;

        assert_eq!(w.disk.writes(), 1);
    });
}

#[test]
fn two_drains_at_once_both_get_in() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        w.disk.hold();
        let in_flight = w.start_write(&guest).await;
        let nodes = [w.node.clone()];
        let (mut first, mut second) = (pin!(w.graph.drain(&nodes)), pin!(w.graph.drain(&nodes)));
        assert!(poll_once(first.as_mut()).is_pending());
        assert!(poll_once(second.as_mut()).is_pending());

        w.disk.release();
        let (first, second) = (first.await, second.await);
        drop(first);
        assert!(w.node.is_quiesced());
        drop(second);

        assert!(!w.node.is_quiesced());
        in_flight.await;
    });
}

#[test]
fn a_drain_given_up_half_way_leaves_nothing_behind() {
    let w = world();
    w.run(async {
        let parent = Arc::new(CountingParent::default());
        let _job = job_edge(&w.graph, &w.node, &parent);
        let guest = w.guest();
        w.disk.hold();
        let in_flight = w.start_write(&guest).await;
        let nodes = [w.node.clone()];
        {
            let mut draining = pin!(w.graph.drain(&nodes));
            assert!(poll_once(draining.as_mut()).is_pending());
            assert_eq!(parent.depth(), 1);
        }
        assert_eq!(parent.depth(), 0);

        w.disk.release();
        in_flight.await;
        w.start_write(&guest).await.await;
        assert_eq!(w.disk.writes(), 2);
    });
}

#[test]
fn a_request_given_up_at_the_gate_leaves_nothing_behind() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let section = w.graph.drain(std::slice::from_ref(&w.node)).await;
        {
            let mut waiting = pin!(write(&guest, &w.cx, 0, 512, 1));
            assert!(poll_once(waiting.as_mut()).is_pending());
        }
        assert_eq!(w.node.in_flight(), 0);
        drop(section);
        settle(&w.cx).await;

        assert_eq!(w.disk.writes(), 0);
    });
}

fn job_edge(graph: &Graph, node: &Node, parent: &Arc<CountingParent>) -> Child {
    let parent: Arc<dyn Parent> = parent.clone();
    let attachment = Attachment::of(&parent, ChildRole::Primary, Permissions::uses(&[READ]));
    let attachment = attachment.named("source").staying();
    graph.attach(node, attachment).unwrap()
}

/// The job may need any number of requests to come to a pause point, so the gate is still open then.
#[test]
fn parents_are_quiet_before_the_gate_closes() {
    let w = world();
    w.run(async {
        let parent = Arc::new(CountingParent::default());
        let job = job_edge(&w.graph, &w.node, &parent);
        parent.is_busy.store(true, Ordering::SeqCst);
        let nodes = [w.node.clone()];
        let mut draining = pin!(w.graph.drain(&nodes));

        assert!(poll_once(draining.as_mut()).is_pending());
        assert_eq!(parent.depth(), 1);
        let (_, read) = job.read(&w.cx, 0, buffer(512, 0)).await;
        read.unwrap();
        assert!(poll_once(draining.as_mut()).is_pending());

        parent.is_busy.store(false, Ordering::SeqCst);
        w.graph.drain_waker().kick();
        let section = draining.await;
        assert!(w.node.is_quiesced());
        drop(section);
        assert_eq!(parent.depth(), 0);
    });
}

#[test]
fn a_parent_is_told_once_per_edge_and_forgets_it_with_the_edge() {
    let w = world();
    w.run(async {
        let parent = Arc::new(CountingParent::default());
        let first = job_edge(&w.graph, &w.node, &parent);
        let nodes = [w.node.clone()];
        let outer = w.graph.drain(&nodes).await;
        let inner = w.graph.drain(&nodes).await;
        assert_eq!(parent.depth(), 1);

        let second = job_edge(&w.graph, &w.node, &parent);
        assert_eq!(parent.depth(), 2, "an edge made during the section");
        drop(first);
        assert_eq!(parent.depth(), 1);
        drop(outer);
        assert_eq!(parent.depth(), 1);
        drop(inner);
        assert_eq!(parent.depth(), 0);
        drop(second);
        assert_eq!(parent.depth(), 0);
    });
}

#[test]
fn other_nodes_are_not_drained() {
    let w = world();
    w.run(async {
        let disk = Disk::new(512, 1);
        let other = w.graph.add_node(Some("t"), DiskNode(disk.clone())).unwrap();
        let parent = Arc::new(CountingParent::default());
        let _job = job_edge(&w.graph, &other, &parent);
        let guest = attach(&w.graph, &other, "export 'f'", writer());

        let _section = w.graph.drain(std::slice::from_ref(&w.node)).await;
        write(&guest, &w.cx, 0, 512, 1).await;

        assert_eq!(disk.writes(), 1);
        assert_eq!(parent.begun.load(Ordering::SeqCst), 0);
    });
}

/// SEMANTICS 0.1 no. 10: neither the other disks of a graph nor their jobs hear of a change.
#[test]
fn defect_10_a_change_of_the_graph_drains_what_it_touches_and_nothing_else() {
    let w = world();
    w.run(async {
        let add = |name| {
            let disk = DiskNode(Disk::new(1 << 16, 1));
            w.graph.add_node(Some(name), disk).unwrap()
        };
        let (other, target) = (add("other"), add("t"));
        let [here, there] = [(); 2].map(|()| Arc::new(CountingParent::default()));
        let _jobs = [
            job_edge(&w.graph, &w.node, &here),
            job_edge(&w.graph, &other, &there),
        ];
        // Above what is drained, where requests go on as far as the closed gate.
        let above = pass_over(&w.graph, "above", &w.node);
        let over = Arc::new(CountingParent::default());
        let _watcher = job_edge(&w.graph, &above, &over);
        let filter = pass_over(&w.graph, "f", &w.node);

        w.graph.insert_filter(&w.node, &filter).await.unwrap();
        w.graph.replace_node(&filter, &target, &[]).await.unwrap();
        let options = [(target.clone(), NodeOptions::default())];
        w.graph.reopen(&options).await.unwrap();
        let _frozen = w.graph.freeze(&filter, &w.node).unwrap();

        let told = |parent: &CountingParent| parent.begun.load(Ordering::SeqCst);
        assert_eq!((told(&here), told(&there), told(&over)), (1, 0, 0));
        assert_eq!(here.depth(), 0);
    });
}

/// A request inside the filter, unaligned, reads the disk and then writes it: the disk's gate closes
/// only after the filter is empty.
#[test]
fn a_filter_and_its_child_are_drained_in_one_call() {
    let w = world_over(Disk::new(1 << 16, 4096));
    w.run(async {
        let filter = pass_over(&w.graph, "f", &w.node);
        let guest = Rc::new(attach(&w.graph, &filter, "export 'e'", writer()));
        w.disk.hold();
        let in_flight = w.start_write(&guest).await;
        let nodes = [w.node.clone(), filter.clone()];
        let mut draining = pin!(w.graph.drain(&nodes));
        assert!(poll_once(draining.as_mut()).is_pending());

        w.disk.release();
        settle(&w.cx).await;
        assert_eq!(w.disk.writes(), 1, "the request was not cut in two");
        let _section = draining.await;

        assert!(filter.is_quiesced() && w.node.is_quiesced());
        in_flight.await;
    });
}

#[test]
fn a_request_held_at_the_gate_goes_through_the_filter_that_was_put_in() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let filter = pass_over(&w.graph, "f", &w.node);
        let section = w.graph.drain(std::slice::from_ref(&w.node)).await;
        let held = w.start_write(&guest).await;

        w.graph.insert_filter(&w.node, &filter).await.unwrap();
        settle(&w.cx).await;
        assert_eq!(w.disk.writes(), 0, "still held below the filter");
        assert_eq!(filter.in_flight(), 1, "and has left the old entrance");
        drop(section);
        held.await;

        assert_eq!(filter.statistics().writes, 1);
        assert_eq!(guest.node(), filter);
    });
}

#[test]
fn a_filter_comes_and_goes() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let parent = Arc::new(CountingParent::default());
        let job = job_edge(&w.graph, &w.node, &parent);
        let filter = pass_over(&w.graph, "f", &w.node);

        w.graph.insert_filter(&w.node, &filter).await.unwrap();
        assert_eq!((guest.node(), job.node()), (filter.clone(), w.node.clone()));
        assert_eq!(w.graph.filtered_child(&filter), Some(w.node.clone()));
        write(&guest, &w.cx, 0, 512, 1).await;
        assert_eq!(filter.statistics().writes, 1);

        w.graph.remove_filter(&filter).await.unwrap();
        write(&guest, &w.cx, 0, 512, 1).await;
        assert_eq!(filter.statistics().writes, 1);
        assert_eq!(guest.node(), w.node);
        w.graph.remove_node(&filter).unwrap();
        drop(filter);
        assert_eq!(
            w.graph.edges().len(),
            2,
            "the filter's own edge went with it"
        );
        assert_eq!(parent.depth(), 0);
    });
}

#[test]
fn filters_stack_and_leave_in_any_order() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let parent = Arc::new(CountingParent::default());
        let job = job_edge(&w.graph, &w.node, &parent);
        let first = pass_over(&w.graph, "f1", &w.node);
        w.graph.insert_filter(&w.node, &first).await.unwrap();
        let second = pass_over(&w.graph, "f2", &w.node);
        w.graph.insert_filter(&w.node, &second).await.unwrap();

        write(&guest, &w.cx, 0, 512, 1).await;
        assert_eq!(guest.node(), first);
        assert_eq!(w.graph.filtered_child(&first), Some(second.clone()));
        assert_eq!(second.statistics().writes, 1);
        assert_eq!(job.node(), w.node, "the job means this node");

        w.graph.remove_filter(&first).await.unwrap();
        assert_eq!(guest.node(), second);
        w.graph.remove_filter(&second).await.unwrap();
        assert_eq!(guest.node(), w.node);
    });
}

/// RELIABILITY N1: below a filter that unshares write nobody else may write, whenever he comes.
#[test]
fn n01_a_writer_below_the_filter_is_refused() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let filter = pass_over(&w.graph, "f", &w.node);
        w.graph.insert_filter(&w.node, &filter).await.unwrap();
        let late = || Attachment::new("export 'late'", ChildRole::Primary, writer());

        let refused = w.graph.attach(&w.node, late()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionConflict);
        assert_eq!(
            refused.to_string(),
            "Permission conflict on node 's': permissions 'write' are both required by \
             export 'late' (uses node 's' as 'root' child) and unshared by \
             node 'f' (uses node 's' as 'file' child)."
        );
        w.graph.attach(&filter, late()).unwrap();

        drop(guest);
        let without_guest = w.graph.attach(&w.node, late());
        assert_eq!(
            kind(without_guest),
            ErrorKind::PermissionConflict,
            "a filter without users protects, too"
        );

        w.graph.remove_filter(&filter).await.unwrap();
        w.graph.attach(&w.node, late()).unwrap();
    });
}

#[test]
fn a_filter_that_conflicts_changes_nothing() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let stays = Attachment::new("export 'stays'", ChildRole::Primary, writer()).staying();
        let _stays = w.graph.attach(&w.node, stays).unwrap();
        let parent = Arc::new(CountingParent::default());
        let _job = job_edge(&w.graph, &w.node, &parent);
        let filter = pass_over(&w.graph, "f", &w.node);
        let before = w.graph.edges();

        let refused = w.graph.insert_filter(&w.node, &filter).await;

        assert_eq!(kind(refused), ErrorKind::PermissionConflict);
        assert_eq!(w.graph.edges(), before);
        assert_eq!(parent.begun.load(Ordering::SeqCst), 0, "not even drained");
        write(&guest, &w.cx, 0, 512, 1).await;
        assert_eq!(filter.statistics().writes, 0);
    });
}

/// The plan was good when the drain began, and is not when it ends.
#[test]
fn a_filter_that_is_removed_during_the_drain_is_not_inserted() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let filter = pass_over(&w.graph, "f", &w.node);
        w.disk.hold();
        let in_flight = w.start_write(&guest).await;
        let mut inserting = pin!(w.graph.insert_filter(&w.node, &filter));
        assert!(poll_once(inserting.as_mut()).is_pending());
        w.graph.remove_node(&filter).unwrap();

        w.disk.release();
        let refused = inserting.await;

        assert_eq!(kind(refused), ErrorKind::NotFound);
        assert_eq!(guest.node(), w.node);
        assert!(!w.node.is_quiesced());
        in_flight.await;
    });
}

#[test]
fn an_insertion_given_up_half_way_changes_nothing() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let filter = pass_over(&w.graph, "f", &w.node);
        w.disk.hold();
        let in_flight = w.start_write(&guest).await;
        {
            let mut inserting = pin!(w.graph.insert_filter(&w.node, &filter));
            assert!(poll_once(inserting.as_mut()).is_pending());
        }
        w.disk.release();
        in_flight.await;
        w.start_write(&guest).await.await;

        assert_eq!(guest.node(), w.node);
        assert_eq!(filter.statistics().writes, 0);
    });
}

/// A target that is an overlay of the source stays above the source, or it would be above itself.
#[test]
fn edges_from_below_the_filter_stay() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let overlay = w.graph.build_node(Some("overlay")).unwrap();
        let reads = Permissions::uses(&[READ]);
        let backing = overlay
            .attach(&w.node, "backing", ChildRole::Cow, reads)
            .unwrap();
        let overlay = overlay.finish(PassNode(Arc::new(backing)));
        let builder = w.graph.build_node(Some("cbw")).unwrap();
        let file = builder
            .attach(&w.node, "file", ChildRole::Filtered, reads)
            .unwrap();
        let target = builder
            .attach(&overlay, "target", ChildRole::Data, reads)
            .unwrap();
        let target = w.graph.add_node(None, PassNode(Arc::new(target))).unwrap();
        let filter = builder.finish(PassNode(Arc::new(file)));

        w.graph.insert_filter(&w.node, &filter).await.unwrap();

        assert_eq!(guest.node(), filter);
        let edges = w.graph.edges();
        let backing = edges
            .iter()
            .find(|edge| edge.child_name == "backing")
            .unwrap();
        assert_eq!(backing.node, "s");
        drop(target);
    });
}

#[test]
fn only_a_filter_of_the_node_can_be_put_above_it() {
    let w = world();
    w.run(async {
        let other = w
            .graph
            .add_node(None, DiskNode(Disk::new(1 << 16, 1)))
            .unwrap();
        let short = w.graph.add_node(None, DiskNode(Disk::new(512, 1))).unwrap();
        let filter = pass_over(&w.graph, "f", &other);
        let stranger = Graph::new()
            .add_node(None, DiskNode(Disk::new(1 << 16, 1)))
            .unwrap();

        let invalid = ErrorKind::Invalid;
        assert_eq!(kind(w.graph.insert_filter(&w.node, &filter).await), invalid);
        assert_eq!(kind(w.graph.insert_filter(&w.node, &other).await), invalid);
        assert_eq!(kind(w.graph.insert_filter(&w.node, &short).await), invalid);
        assert_eq!(kind(w.graph.remove_filter(&other).await), invalid);
        let strange = w.graph.insert_filter(&w.node, &stranger).await;
        assert_eq!(kind(strange), ErrorKind::NotFound);
    });
}

#[test]
fn an_edge_writes_only_what_it_may() {
    let w = world();
    w.run(async {
        let reader = attach(&w.graph, &w.node, "export 'ro'", Permissions::uses(&[READ]));
        let flags = RequestFlags::default();
        let (_, refused) = reader.write(&w.cx, 0, buffer(512, 1), flags).await;
        assert_eq!(kind(refused), ErrorKind::ReadOnly);

        let wants = Permissions::uses(&[Permission::WriteUnchanged]);
        let copier = attach(&w.graph, &w.node, "job 'cor'", wants);
        let unchanged = RequestFlags {
            unchanged: true,
            ..flags
        };
        copier
            .write(&w.cx, 0, buffer(512, 1), unchanged)
            .await
            .1
            .unwrap();
        let (_, refused) = copier.write(&w.cx, 0, buffer(512, 1), flags).await;
        assert_eq!(kind(refused), ErrorKind::ReadOnly);
        assert_eq!(w.disk.writes(), 1);
    });
}

#[test]
fn a_filter_passes_on_what_its_users_do_and_allow() {
    let w = world();
    let filter = pass_over(&w.graph, "f", &w.node);
    let below = || w.graph.edges()[0].permissions;
    assert_eq!(below(), Permissions::IDLE, "nobody uses the filter");

    let wants = writer().unsharing(&[READ]);
    let guest = attach(&w.graph, &filter, "export 'e'", wants);
    assert_eq!(below().uses, writer().uses);
    let shares = writer()
        .unsharing(&[READ, WRITE, Permission::Resize])
        .shares;
    assert_eq!(below().shares, shares);
    let reader = Attachment::new("export 'x'", ChildRole::Primary, Permissions::uses(&[READ]));
    assert_eq!(
        kind(w.graph.attach(&w.node, reader)),
        ErrorKind::PermissionConflict
    );

    drop(guest);
    assert_eq!(below(), Permissions::IDLE);
}

#[test]
fn nobody_becomes_a_writer_of_a_read_only_node() {
    let graph = Graph::new();
    let disk = Disk::with_limits(Limits {
        len_bytes: 512,
        request_align_bytes: 1,
        transfer_bytes_max: 4096,
        cluster_bytes: None,
        read_only: true,
    });
    let node = graph.add_node(Some("ro"), DiskNode(disk)).unwrap();

    let refused = graph.attach(
        &node,
        Attachment::new("export 'e'", ChildRole::Primary, writer()),
    );

    assert_eq!(
        refused.unwrap_err().to_string(),
        "node is read-only, on node 'ro'"
    );
}

#[test]
fn names_are_checked_and_unique() {
    const TOO_LONG: &str = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn";
    let graph = Graph::new();
    let add = |name| graph.add_node(name, DiskNode(Disk::new(512, 1)));
    let text = |name| add(Some(name)).unwrap_err().to_string();

    add(Some("s")).unwrap();
    assert_eq!(text("s"), "Duplicate nodes with node-name='s'");
    assert_eq!(text("1s"), "Invalid node-name: '1s'");
    assert_eq!(text("#block001"), "Invalid node-name: '#block001'");

    assert_eq!(text(TOO_LONG), "Node name too long");
    assert_eq!(add(None).unwrap().name(), "#block001");
    assert_eq!(add(None).unwrap().name(), "#block002");
    assert_eq!(graph.node("s").unwrap().name(), "s");
    assert_eq!(
        graph.node("x").unwrap_err().to_string(),
        "Failed to find node with node-name='x'"
    );
    let names: Vec<_> = graph
        .nodes()
        .iter()
        .map(|node| node.name().to_owned())
        .collect();
    assert_eq!(names, ["s", "#block001", "#block002"]);
}

#[test]
fn an_unfinished_node_gives_its_name_back() {
    let graph = Graph::new();
    let builder = graph.build_node(Some("n")).unwrap();
    assert_eq!(kind(graph.build_node(Some("n"))), ErrorKind::Invalid);
    assert_eq!(kind(graph.node("n")), ErrorKind::NotFound);
    drop(builder);
    graph.build_node(Some("n")).unwrap();
}

#[test]
fn a_node_in_use_stays() {
    let w = world();
    let guest = w.guest();
    let refused = w.graph.remove_node(&w.node).unwrap_err();
    assert_eq!(refused.to_string(), "Node s is in use");

    drop(guest);
    w.graph.remove_node(&w.node).unwrap();
    assert_eq!(kind(w.graph.remove_node(&w.node)), ErrorKind::NotFound);
    let late = Attachment::new("export 'e'", ChildRole::Primary, writer());
    assert_eq!(kind(w.graph.attach(&w.node, late)), ErrorKind::NotFound);
}

#[test]
fn a_blocked_operation_says_why() {
    let w = world();
    let reason = "block device is in use by block job: backup";
    let blocker = w
        .graph
        .block_operations(&w.node, reason, &[Operation::BackupSource])
        .unwrap();

    w.graph
        .check_operation(&w.node, Operation::BackupSource)
        .unwrap();
    let refused = w.graph.remove_node(&w.node).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert_eq!(refused.to_string(), format!("Node 's' is busy: {reason}"));

    drop(blocker);
    w.graph.remove_node(&w.node).unwrap();
}

#[test]
fn a_dropped_graph_closes_its_nodes() {
    let w = world();
    pass_over(&w.graph, "f", &w.node);
    let World {
        graph, disk, node, ..
    } = w;
    drop(graph);
    drop(node);
    assert_eq!(Arc::strong_count(&disk), 1);
}

#[test]
fn an_edge_outlives_its_graph() {
    let w = world();
    let guest = w.guest();
    let World {
        cx,
        graph,
        disk,
        node,
    } = w;
    drop((graph, node));
    cx.block_on(write(&guest, &cx, 0, 512, 1));
    drop(guest);
    assert_eq!(Arc::strong_count(&disk), 1);
}

/// One thread of the storm below, on a context of its own.
fn write_much(child: Child, index: u8, writes: u64) {
    let cx = context();
    cx.block_on(async {
        for round in 0..writes {
            let offset = u64::from(index) * 8192 + round % 16 * 512;
            write(&child, &cx, offset, 512, index).await;
        }
    });
}

/// Puts a filter in and takes it out, and checks that nothing was written inside the section and that
/// everything written in between went through the filter.
async fn filter_comes_and_goes(w: &World, both: &[Node; 2], filter: &Node) {
    let section = w.graph.drain(&both[..1]).await;
    let before = w.node.statistics().writes;
    w.graph.insert_filter(&w.node, filter).await.unwrap();
    std::thread::yield_now();
    assert_eq!(
        w.node.statistics().writes,
        before,
        "a write inside the section"
    );
    drop(section);
    std::thread::yield_now();

    let section = w.graph.drain(both).await;
    let past_the_filter = w.node.statistics().writes - before - filter.statistics().writes;
    assert_eq!(past_the_filter, 0, "writes went past the filter");
    w.graph.remove_filter(filter).await.unwrap();
    drop(section);
    w.graph.remove_node(filter).unwrap();
}

/// Threads write all the time while filters come and go, and every write is there at the end.
#[test]
fn a_storm_of_writers_never_meets_a_section_nor_misses_a_filter() {
    const WRITES: u64 = 3000;
    let w = world();
    std::thread::scope(|scope| {
        let writers = [1_u8, 2, 3].map(|index| {
            let child = attach(&w.graph, &w.node, &format!("export '{index}'"), writer());
            scope.spawn(move || write_much(child, index, WRITES))
        });
        let mut rounds = 0;
        while !writers
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            let filter = pass_over(&w.graph, "f", &w.node);
            let both = [w.node.clone(), filter.clone()];
            block_on(filter_comes_and_goes(&w, &both, &filter));
            rounds += 1;
        }
        assert!(rounds > 0);
    });
    assert_eq!(w.disk.writes(), usize::try_from(3 * WRITES).unwrap());
    assert!(w.disk.log().iter().all(|op| matches!(op, Op::Write(_))));
}

/// Each pair of nodes doubles the ways down: as many as no machine could walk.
#[test]
fn nodes_that_can_be_reached_on_many_ways_are_looked_at_once() {
    const PAIRS: usize = 48;

    let w = world();
    let mut below = w.node.clone();
    let mut all = vec![below.clone()];
    let mut right_edges = Vec::new();
    for pair in 0..PAIRS {
        let sides = ["l", "r"].map(|side| pass_over(&w.graph, &format!("{side}{pair}"), &below));
        let builder = w.graph.build_node(None).unwrap();
        let [left, right] = sides.clone().map(|side| {
            let wants = Permissions::IDLE;
            builder
                .attach(&side, "side", ChildRole::Filtered, wants)
                .unwrap()
        });
        below = builder.finish(PassNode(Arc::new(left)));
        right_edges.push(right);
        all.extend(sides);
        all.push(below.clone());
    }

    let guest = attach(&w.graph, &below, "export 'e'", Permissions::uses(&[READ]));
    w.run(async {
        let section = w.graph.drain(&all).await;
        assert!(w.node.is_quiesced());
        drop(section);
        let edges = w.graph.edges();
        let uses = |edge: &EdgeInfo| edge.permissions.uses.contains(Permission::ConsistentRead);
        assert!(edges.iter().all(uses));
    });
    drop(guest);
}
