//! Changes of the length of a node, and what follows it.

use super::*;
use crate::{
    ByteRange,
    bitmap::BitmapOptions,
    nodes::{
        FaultAction, FaultControl, FaultNode, FaultOp, FaultRule, MemoryNode, MemoryOptions,
        RawNode, RawOptions,
    },
};

const GRANULARITY: u64 = 4096;

struct Resizable {
    cx: AioContext,
    graph: Graph,
    node: Node,
}

fn resizable() -> Resizable {
    let graph = Graph::new();
    let memory = MemoryNode::new(MemoryOptions::new(1 << 16)).unwrap();
    let node = graph.add_node(Some("s"), memory).unwrap();
    Resizable {
        cx: context(),
        graph,
        node,
    }
}

impl Resizable {
    async fn resize(&self, len_bytes: u64) -> Result<(), BlockError> {
        self.graph.resize(&self.node, &self.cx, len_bytes).await
    }
}

#[test]
fn a_node_in_use_is_resized_only_if_its_users_allow_it() {
    let r = resizable();
    r.cx.block_on(async {
        let wants = writer().unsharing(&[Permission::Resize]);
        let guest = attach(&r.graph, &r.node, "export 'e'", wants);
        let refused = r.resize(1 << 17).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionConflict);
        assert_eq!(
            refused.to_string(),
            "Permission conflict on node 's': permissions 'resize' are both required by \
             an unnamed block device (uses node 's' as 'root' child) and unshared by \
             export 'e' (uses node 's' as 'root' child)."
        );
        let refused = guest.truncate(&r.cx, 1 << 17).await;
        assert_eq!(kind(refused), ErrorKind::PermissionConflict);

        drop(guest);
        let blocker = r.graph.block_operations(&r.node, "it is copied", &[]);
        assert_eq!(kind(r.resize(1 << 17).await), ErrorKind::Busy);
        drop(blocker);
        assert_eq!(r.node.len_bytes(), 1 << 16);
        r.resize(1 << 17).await.unwrap();
        assert_eq!(r.node.len_bytes(), 1 << 17);
        assert_eq!(r.graph.edges(), []);
    });
}

/// SEMANTICS D-11.
#[test]
fn bitmaps_follow_the_length_of_their_node() {
    let r = resizable();
    r.cx.block_on(async {
        let options = BitmapOptions {
            granularity_bytes: Some(GRANULARITY),
            ..BitmapOptions::default()
        };
        let bitmap = r.node.bitmaps().add("b", options).unwrap();
        let guest = attach(&r.graph, &r.node, "export 'e'", writer());
        let last = (1 << 16) - 512;
        write(&guest, &r.cx, last, 512, 1).await;

        r.resize(1 << 17).await.unwrap();
        write(&guest, &r.cx, (1 << 17) - 512, 512, 1).await;
        let grown = bitmap.snapshot().unwrap();
        assert_eq!(grown.len_bytes(), 1 << 17);
        assert_eq!(grown.next_dirty(0), Some((1 << 16) - GRANULARITY));
        assert!(grown.is_dirty((1 << 17) - GRANULARITY));

        r.resize(1 << 15).await.unwrap();
        let shrunk = bitmap.snapshot().unwrap();
        assert_eq!((shrunk.len_bytes(), shrunk.next_dirty(0)), (1 << 15, None));

        let frozen = bitmap.freeze().unwrap();
        assert_eq!(kind(r.resize(1 << 16).await), ErrorKind::Busy);
        assert_eq!(r.node.len_bytes(), 1 << 15);
        drop(frozen);
        r.resize(1 << 16).await.unwrap();
        assert_eq!(bitmap.snapshot().unwrap().next_dirty(0), None);
    });
}

#[test]
fn a_filter_passes_a_resize_on_and_a_window_refuses_it() {
    let r = resizable();
    r.cx.block_on(async {
        let filter = pass_over(&r.graph, "f", &r.node);
        r.graph.resize(&filter, &r.cx, 1 << 17).await.unwrap();
        assert_eq!((r.node.len_bytes(), filter.len_bytes()), (1 << 17, 1 << 17));

        let builder = r.graph.build_node(Some("raw")).unwrap();
        let child = builder.attach(&r.node, "file", ChildRole::Filtered, Permissions::IDLE);
        let options = RawOptions {
            offset_bytes: 512,
            len_bytes: Some(1024),
        };
        let raw = RawNode::new(child.unwrap(), options).unwrap();
        let raw = builder.finish(raw);
        let refused = r.graph.resize(&raw, &r.cx, 2048).await;
        assert_eq!(kind(refused), ErrorKind::Unsupported);
        r.resize(1024).await.unwrap();
        assert_eq!(raw.len_bytes(), 512, "never longer than what is below it");
    });
}

/// A write that was let in before the node became shorter is checked against what it is now.
#[test]
fn no_write_lands_behind_the_new_end() {
    let w = world();
    w.run(async {
        let memory = MemoryNode::new(MemoryOptions::new(1 << 16)).unwrap();
        let below = w.graph.add_node(None, memory).unwrap();
        let held = FaultControl::new();
        let builder = w.graph.build_node(None).unwrap();
        let file = builder.attach(&below, "file", ChildRole::Filtered, Permissions::IDLE);
        let fault = FaultNode::new(file.unwrap(), held.clone());
        let node = builder.finish(fault);
        let guest = Rc::new(attach(&w.graph, &node, "export 'e'", writer()));
        let hold = FaultAction::Hold;
        held.add(FaultRule::nth(FaultOp::Write, 1, hold));

        let first = w.start_write(&guest).await;
        let (graph, cx, at) = (w.graph.clone(), w.cx.clone(), node.clone());
        let shrinking =
            w.cx.spawn(async move { graph.resize(&at, &cx, 1 << 15).await });
        settle(&w.cx).await;
        let (late, cx) = (guest.clone(), w.cx.clone());
        let late = w.cx.spawn(async move {
            let flags = RequestFlags::default();
            late.write(&cx, 1 << 15, buffer(512, 1), flags).await.1
        });
        settle(&w.cx).await;
        assert_eq!(node.len_bytes(), 1 << 16, "it waits for the first write");

        held.release_all();
        first.await;
        shrinking.await.unwrap();
        assert_eq!(kind(late.await), ErrorKind::OutOfRange);
        let writes = held.seen().into_iter();
        let writes = writes.filter(|(op, _)| *op == FaultOp::Write);
        assert_eq!(writes.count(), 1, "the driver does not see the late one");
    });
}

/// Zero is a length, too.
#[test]
fn a_node_without_bytes_is_a_node() {
    let r = resizable();
    r.cx.block_on(async {
        let guest = attach(&r.graph, &r.node, "export 'e'", writer());
        r.resize(0).await.unwrap();
        let past = guest.discard(&r.cx, ByteRange::between(0, 1)).await;
        assert_eq!(kind(past), ErrorKind::OutOfRange);
        r.resize(1).await.unwrap();
        write(&guest, &r.cx, 0, 1, 1).await;
    });
}
