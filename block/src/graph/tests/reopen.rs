//! Options that change while nodes are in use, and links that do not.

use super::*;
use crate::node::{DetectZeroes, NodeOptions};

const READ_ONLY: NodeOptions = NodeOptions {
    detect_zeroes: DetectZeroes::Off,
    discard: crate::Discard::Unmap,
    read_only: true,
};

#[test]
fn all_nodes_are_reopened_or_none() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let disk = DiskNode(Disk::new(512, 1));
        let other = w.graph.add_node(Some("t"), disk).unwrap();
        let both = [(other.clone(), READ_ONLY), (w.node.clone(), READ_ONLY)];

        let refused = w.graph.reopen(&both).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Read-only block node 's' cannot support read-write users"
        );
        assert!(!other.is_read_only());
        let twice = [both[0].clone(), both[0].clone()];
        assert_eq!(kind(w.graph.reopen(&twice).await), ErrorKind::Invalid);

        drop(guest);
        w.graph.reopen(&both).await.unwrap();
        assert!(other.is_read_only() && w.node.limits().read_only);
        let late = Attachment::new("export 'e'", ChildRole::Primary, writer());
        let refused = w.graph.attach(&w.node, late.clone());
        assert_eq!(kind(refused), ErrorKind::ReadOnly);
        let back = [(w.node.clone(), NodeOptions::default())];
        w.graph.reopen(&back).await.unwrap();
        w.graph.attach(&w.node, late).unwrap();
    });
}

#[test]
fn a_node_is_reopened_when_its_requests_have_ended() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        w.disk.hold();
        let in_flight = w.start_write(&guest).await;
        let options = NodeOptions {
            detect_zeroes: DetectZeroes::On,
            ..NodeOptions::default()
        };
        let changes = [(w.node.clone(), options)];
        {
            let mut reopening = pin!(w.graph.reopen(&changes));
            assert!(poll_once(reopening.as_mut()).is_pending());
        }
        assert_eq!(w.node.options(), NodeOptions::default());
        let mut reopening = pin!(w.graph.reopen(&changes));
        assert!(poll_once(reopening.as_mut()).is_pending());
        w.disk.release();
        reopening.await.unwrap();
        assert_eq!(w.node.options(), options);
        in_flight.await;
    });
}

/// A writer that comes while the section is waited for.
#[test]
fn a_reopen_looks_again_before_it_changes_anything() {
    let w = world();
    w.run(async {
        let parent = Arc::new(CountingParent::default());
        let _job = job_edge(&w.graph, &w.node, &parent);
        parent.is_busy.store(true, Ordering::SeqCst);
        let changes = [(w.node.clone(), READ_ONLY)];
        let mut reopening = pin!(w.graph.reopen(&changes));
        assert!(poll_once(reopening.as_mut()).is_pending());

        let _writer = w.guest();
        parent.is_busy.store(false, Ordering::SeqCst);
        w.graph.drain_waker().kick();
        assert_eq!(kind(reopening.await), ErrorKind::ReadOnly);
        assert!(!w.node.is_read_only());
    });
}

/// `upper` over `middle` over the disk of `w`, each with the one below as its backing file.
fn chain(w: &World) -> [Node; 2] {
    let overlay = |name, below| {
        let builder = w.graph.build_node(Some(name)).unwrap();
        let reads = Permissions::uses(&[READ]);
        let backing = builder.attach(below, "backing", ChildRole::Cow, reads);
        builder.finish(PassNode(Arc::new(backing.unwrap())))
    };
    let middle = overlay("middle", &w.node);
    [overlay("upper", &middle), middle]
}

/// SEMANTICS 0.1 no. 5: what would break a frozen chain is refused, whatever it is.
#[test]
fn defect_05_a_change_of_a_frozen_chain_is_refused() {
    let w = world();
    w.run(async {
        let [upper, middle] = chain(&w);
        let guest = attach(&w.graph, &upper, "export 'e'", Permissions::uses(&[READ]));
        let frozen = w.graph.freeze(&upper, &w.node).unwrap();
        let again = w.graph.freeze(&middle, &w.node).unwrap();
        let filter = pass_over(&w.graph, "f", &w.node);
        let other = DiskNode(Disk::new(1 << 16, 1));
        let other = w.graph.add_node(Some("t"), other).unwrap();
        let before = w.graph.edges();

        let refused = w.graph.insert_filter(&w.node, &filter).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy);
        assert_eq!(
            refused.to_string(),
            "Cannot change frozen 'backing' link of node 'middle' to 's'"
        );
        let replaced = w.graph.replace_node(&middle, &other, &[]).await;
        assert_eq!(kind(replaced), ErrorKind::Busy);
        drop(guest);
        let removed = w.graph.remove_node(&upper);
        assert_eq!(kind(removed), ErrorKind::Busy);
        let options = [(middle.clone(), READ_ONLY)];
        w.graph.reopen(&options).await.unwrap();
        assert_eq!(w.graph.edges().len(), before.len() - 1);

        drop(frozen);
        w.graph.replace_node(&middle, &other, &[]).await.unwrap();
        let refused = w.graph.insert_filter(&w.node, &filter).await;
        assert_eq!(kind(refused), ErrorKind::Busy, "frozen by another still");
        drop(again);
        w.graph.insert_filter(&w.node, &filter).await.unwrap();
    });
}

#[test]
fn only_a_chain_can_be_frozen() {
    let w = world();
    let [upper, middle] = chain(&w);
    let refused = w.graph.freeze(&w.node, &upper).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "'upper' is not in this backing file chain"
    );
    let frozen = w.graph.freeze(&middle, &middle).unwrap();
    w.graph.remove_node(&upper).unwrap();
    drop(frozen);
    let World { graph, node, .. } = w;
    let frozen = graph.freeze(&middle, &node).unwrap();
    drop((graph, node, middle));
    drop(frozen);
}
