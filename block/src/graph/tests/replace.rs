//! One node takes the place of another, as at the end of a mirror.

use super::*;

/// A source with guests above a mirror's filter, and the target that the filter writes to.
struct Mirrored {
    w: World,
    guest: Rc<Child>,
    filter: Node,
    target: Node,
    disk: Arc<Disk>,
    /// The filter's edges, which a job shares with it.
    edges: [Arc<Child>; 2],
}

fn mirrored() -> Mirrored {
    let w = world();
    let disk = Disk::new(1 << 16, 1);
    let target = w.graph.add_node(Some("t"), DiskNode(disk.clone())).unwrap();
    let guest = w.guest();
    let builder = w.graph.build_node(Some("top")).unwrap();
    let reads = Permissions::uses(&[READ]).unsharing(&[WRITE, Permission::Resize]);
    let writes = Permissions::uses(&[WRITE]).unsharing(&[READ, WRITE, Permission::Resize]);
    let source = builder.attach(&w.node, "file", ChildRole::Filtered, reads);
    let source = Arc::new(source.unwrap());
    let written = builder.attach(&target, "target", ChildRole::Data, writes);
    let filter = builder.finish(PassNode(source.clone()));
    w.run(w.graph.insert_filter(&w.node, &filter)).unwrap();
    Mirrored {
        w,
        guest,
        filter,
        target,
        disk,
        edges: [source, Arc::new(written.unwrap())],
    }
}

impl Mirrored {
    async fn pivot(&self) -> Result<(), BlockError> {
        let leaving = self.edges.each_ref().map(|edge| &**edge);
        let graph = &self.w.graph;
        graph
            .replace_node(&self.filter, &self.target, &leaving)
            .await
    }
}

#[test]
fn users_of_a_filter_move_to_the_target_and_its_edges_go() {
    let m = mirrored();
    m.w.run(async {
        let late = Attachment::new("export 'late'", ChildRole::Primary, writer());
        let refused = m.w.graph.attach(&m.target, late.clone());
        assert_eq!(kind(refused), ErrorKind::PermissionConflict);

        m.pivot().await.unwrap();
        write(&m.guest, &m.w.cx, 0, 512, 1).await;

        assert_eq!((m.guest.node(), m.disk.writes()), (m.target.clone(), 1));
        assert_eq!(m.w.disk.writes(), 0, "no write reaches the old source");
        let edges = m.w.graph.edges();
        let [edge] = edges.as_slice() else {
            panic!("{edges:?}");
        };
        assert_eq!(
            (edge.parent.as_str(), edge.node.as_str()),
            ("export 'e'", "t")
        );
        m.w.graph.attach(&m.target, late).unwrap();
        m.w.graph.remove_node(&m.filter).unwrap();
        m.w.graph.remove_node(&m.w.node).unwrap();
    });
}

#[test]
fn an_edge_that_has_left_changes_nothing_any_more() {
    let m = mirrored();
    m.w.run(async {
        m.pivot().await.unwrap();
        let flags = RequestFlags::default();
        let (_, refused) = m.edges[1].write(&m.w.cx, 0, buffer(512, 1), flags).await;
        assert_eq!(kind(refused), ErrorKind::ReadOnly);
        let again = m.pivot().await;
        assert_eq!(kind(again), ErrorKind::NotFound);
    });
    drop(m.edges);
    assert_eq!(m.w.graph.edges().len(), 1);
}

/// The mirror keeps its source drained from its last look on, and guests write all the time.
#[test]
fn requests_that_wait_at_the_filter_go_to_the_target() {
    let m = mirrored();
    m.w.run(async {
        let both = [m.filter.clone(), m.w.node.clone()];
        let section = m.w.graph.drain(&both).await;
        let held = m.w.start_write(&m.guest).await;

        m.pivot().await.unwrap();
        held.await;

        assert_eq!((m.w.disk.writes(), m.disk.writes()), (0, 1));
        assert_eq!(m.filter.in_flight(), 0);
        drop(section);
    });
}

#[test]
fn a_replacement_waits_for_what_is_in_flight_on_both_sides() {
    let m = mirrored();
    m.w.run(async {
        m.disk.hold();
        let (edge, cx) = (m.edges[1].clone(), m.w.cx.clone());
        let copying =
            m.w.cx
                .spawn(async move { write(&edge, &cx, 0, 512, 3).await });
        settle(&m.w.cx).await;
        {
            let mut pivot = pin!(m.pivot());
            assert!(poll_once(pivot.as_mut()).is_pending());
            settle(&m.w.cx).await;
            assert!(poll_once(pivot.as_mut()).is_pending());
        }
        assert_eq!(m.guest.node(), m.filter, "given up, it has changed nothing");
        let mut pivot = pin!(m.pivot());
        assert!(poll_once(pivot.as_mut()).is_pending());
        m.disk.release();
        copying.await;
        pivot.await.unwrap();
        assert_eq!(m.guest.node(), m.target);
    });
}

#[test]
fn a_replacement_that_conflicts_changes_nothing() {
    let m = mirrored();
    m.w.run(async {
        let reader = Permissions::uses(&[]).unsharing(&[Permission::WriteUnchanged, READ]);
        let _reader = attach(&m.w.graph, &m.target, "export 'x'", reader);
        let before = m.w.graph.edges();

        let refused = m.pivot().await.unwrap_err();

        assert_eq!(
            refused.to_string(),
            "Permission conflict on node 't': permissions 'consistent read' are both required by \
             export 'e' (uses node 't' as 'root' child) and unshared by \
             export 'x' (uses node 't' as 'root' child)."
        );
        assert_eq!(m.w.graph.edges(), before);
        write(&m.edges[1], &m.w.cx, 0, 512, 1).await;
        write(&m.guest, &m.w.cx, 0, 512, 1).await;
        assert_eq!((m.w.disk.writes(), m.disk.writes()), (1, 1));
    });
}

#[test]
fn what_is_replaced_must_be_alike_and_known() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let add = |disk| w.graph.add_node(None, DiskNode(disk)).unwrap();
        let (short, other) = (add(Disk::new(512, 1)), add(Disk::new(1 << 16, 1)));
        let read_only = add(Disk::with_limits(Limits {
            read_only: true,
            ..w.node.limits()
        }));
        let graph = Graph::new();
        let stranger = DiskNode(Disk::new(1 << 16, 1));
        let stranger = graph.add_node(None, stranger).unwrap();
        let strange_edge = attach(&graph, &stranger, "export 'e'", writer());
        let refuse = async |to: &Node, leaving: &[&Child]| {
            let checked = w.graph.check_replace(&w.node, to, leaving);
            let refused = w.graph.replace_node(&w.node, to, leaving).await;
            let (checked, refused) = (checked.unwrap_err(), refused.unwrap_err());
            assert_eq!(checked.to_string(), refused.to_string());
            refused.kind()
        };

        assert_eq!(refuse(&w.node, &[]).await, ErrorKind::Invalid);
        assert_eq!(refuse(&short, &[]).await, ErrorKind::Invalid);
        assert_eq!(refuse(&read_only, &[]).await, ErrorKind::ReadOnly);
        assert_eq!(refuse(&stranger, &[]).await, ErrorKind::NotFound);
        assert_eq!(refuse(&other, &[&strange_edge]).await, ErrorKind::NotFound);
        assert_eq!(guest.node(), w.node);
        w.graph.check_replace(&w.node, &other, &[]).unwrap();
    });
}

/// The target may be an overlay of the source, and jobs mean the node that they are attached to.
#[test]
fn edges_that_mean_the_old_node_stay_there() {
    let w = world();
    w.run(async {
        let guest = w.guest();
        let parent = Arc::new(CountingParent::default());
        let job = job_edge(&w.graph, &w.node, &parent);
        let overlay = w.graph.build_node(Some("overlay")).unwrap();
        let reads = Permissions::uses(&[READ]);
        let backing = overlay.attach(&w.node, "backing", ChildRole::Cow, reads);
        let backing = Arc::new(backing.unwrap());
        let overlay = overlay.finish(PassNode(backing.clone()));

        w.graph.replace_node(&w.node, &overlay, &[]).await.unwrap();

        assert_eq!(guest.node(), overlay);
        assert_eq!(
            (backing.node(), job.node()),
            (w.node.clone(), w.node.clone())
        );
        assert_eq!(parent.depth(), 0);
    });
}

#[test]
fn a_mirror_may_replace_what_its_source_passes_through() {
    let w = world();
    let filter = pass_over(&w.graph, "f", &w.node);
    let other = w.graph.add_node(Some("t"), DiskNode(Disk::new(512, 1)));
    let other = other.unwrap();

    w.graph.check_replaceable(&w.node, &w.node).unwrap();
    w.graph.check_replaceable(&filter, &w.node).unwrap();
    for source in [&w.node, &filter] {
        let refused = w.graph.check_replaceable(source, &other).unwrap_err();
        let text = format!(
            "Cannot replace 't' by a node mirrored from '{}', because it cannot be guaranteed that \
             doing so would not lead to an abrupt change of visible data",
            source.name()
        );
        assert_eq!(refused.to_string(), text);
    }
    let blocker = w.graph.block_operations(&w.node, "a stream reads it", &[]);
    let refused = w.graph.check_replaceable(&filter, &w.node);
    assert_eq!(kind(refused), ErrorKind::Busy);
    drop(blocker);
}
