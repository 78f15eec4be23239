//! What is read through a copy-on-read filter stays in the layer below it, and guests lose nothing.

use std::{future::poll_fn, pin::pin, rc::Rc};

use aio::{AioContext, IoBuf};
use block::{
    ByteRange, Child, ChildRole, Graph, Node, Permissions, RequestFlags,
    nodes::{
        CopyOnReadNode, FaultAction, FaultControl, FaultNode, FaultOp, FaultRule, MemoryNode,
        MemoryOptions,
    },
};

use super::{
    overlay::{Own, UNIT, overlay},
    world::{attach, in_memory, on_each_backend, range, read, settle, write},
};

const LEN: u64 = 16 * UNIT;

/// base ← middle ← top, each with a byte of its own in some units, and a filter above the top.
struct Layers {
    graph: Graph,
    base: Node,
    middle: (Node, Own),
    top: (Node, Own),
}

impl Layers {
    async fn new(cx: &AioContext) -> Self {
        let graph = Graph::new();
        let memory = MemoryNode::new(MemoryOptions::new(LEN)).unwrap();
        let base = graph.add_node(Some("base"), memory).unwrap();
        fill(cx, (&graph, &base), range(0, LEN), 1).await;
        let middle = overlay(&graph, "middle", &base);
        fill(cx, (&graph, &middle.0), range(2 * UNIT, 2 * UNIT), 2).await;
        let top = overlay(&graph, "top", &middle.0);
        fill(cx, (&graph, &top.0), range(3 * UNIT, UNIT), 3).await;
        Self {
            graph,
            base,
            middle,
            top,
        }
    }

    fn filter(&self, bottom: Option<&Node>) -> (Node, Child) {
        let filter = CopyOnReadNode::add_to(&self.graph, Some("cor"), &self.top.0, bottom);
        let filter = filter.unwrap();
        let edge = attach(&self.graph, &filter);
        (filter, edge)
    }

    fn units_of_top(&self) -> Vec<u64> {
        let own = &self.top.1;
        (0..LEN / UNIT)
            .filter(|unit| own.has(unit * UNIT))
            .collect()
    }
}

async fn fill(cx: &AioContext, (graph, node): (&Graph, &Node), place: ByteRange, byte: u8) {
    let edge = attach(graph, node);
    let bytes = bytes(place.len(), byte);
    write(&edge, cx, place.start(), &bytes).await.unwrap();
}

fn bytes(len: u64, byte: u8) -> Vec<u8> {
    vec![byte; in_memory(len)]
}

fn run<F: Future<Output = ()>>(test: impl Fn(AioContext) -> F) {
    on_each_backend(test);
}

#[test]
fn what_is_read_is_kept_and_nothing_else() {
    run(|cx| async move {
        let layers = Layers::new(&cx).await;
        let (_, edge) = layers.filter(None);
        let found = read(&edge, &cx, range(UNIT + 5, 2 * UNIT)).await;
        let unit = in_memory(UNIT);
        assert!(found[..unit - 5].iter().all(|byte| *byte == 1));
        assert!(found[unit - 5..][..unit].iter().all(|byte| *byte == 2));
        assert_eq!(layers.units_of_top(), [1, 2, 3]);
        // From now on without the others.
        fill(&cx, (&layers.graph, &layers.base), range(UNIT, UNIT), 9).await;
        assert_eq!(read(&edge, &cx, range(UNIT, 1)).await, [1]);
    });
}

#[test]
fn below_the_bottom_nothing_is_kept() {
    run(|cx| async move {
        let layers = Layers::new(&cx).await;
        let (filter, edge) = layers.filter(Some(&layers.middle.0));
        read(&edge, &cx, range(0, LEN)).await;
        assert_eq!(layers.units_of_top(), [2, 3]);
        let graph = &layers.graph;
        let refused = CopyOnReadNode::add_to(graph, None, &layers.middle.0, Some(&filter));
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("not in this backing file chain"),
            "{refused}"
        );
    });
}

#[test]
fn writes_go_through_and_are_not_undone() {
    run(|cx| async move {
        let layers = Layers::new(&cx).await;
        let (_, edge) = layers.filter(None);
        write(&edge, &cx, 5 * UNIT, &bytes(UNIT, 7)).await.unwrap();
        assert_eq!(layers.units_of_top(), [3, 5]);
        assert_eq!(read(&edge, &cx, range(4 * UNIT, 2)).await, [1, 1]);
        assert_eq!(read(&edge, &cx, range(5 * UNIT, 2)).await, [7, 7]);
        let zeroed = edge.write_zeroes(&cx, range(4 * UNIT, UNIT), RequestFlags::default());
        zeroed.await.unwrap();
        assert_eq!(read(&edge, &cx, range(4 * UNIT, 2)).await, [0, 0]);
    });
}

/// A filter of faults above `below`.
fn faults(graph: &Graph, below: &Node) -> (Node, FaultControl) {
    let control = FaultControl::new();
    let builder = graph.build_node(None).unwrap();
    let child = builder.attach(below, "file", ChildRole::Filtered, Permissions::IDLE);
    let node = builder.finish(FaultNode::new(child.unwrap(), control.clone()));
    (node, control)
}

/// A layer whose requests can be held, a filter above it, and a guest.
async fn slow(cx: &AioContext) -> (Layers, Rc<Child>, FaultControl) {
    let layers = Layers::new(cx).await;
    let (slow, control) = faults(&layers.graph, &layers.top.0);
    let filter = CopyOnReadNode::add_to(&layers.graph, None, &slow, None).unwrap();
    let edge = Rc::new(attach(&layers.graph, &filter));
    (layers, edge, control)
}

fn hold_one(control: &FaultControl, op: FaultOp) {
    control.add(FaultRule {
        times: Some(1),
        ..FaultRule::every(op, FaultAction::Hold)
    });
}

/// A guest overwrites what is being kept: it waits for that, and is not undone.
async fn overwritten_meanwhile(cx: &AioContext, edge: &Rc<Child>, control: &FaultControl) {
    let (home, writer) = (cx.clone(), edge.clone());
    let writing = cx.spawn(async move { write(&writer, &home, 0, &bytes(UNIT, 7)).await });
    settle(cx).await;
    assert!(!writing.is_finished());
    control.release(control.held()[0].id);
    writing.await.unwrap();
    assert_eq!(read(edge, cx, range(0, 2)).await, [7, 7]);
}

#[test]
fn a_write_that_comes_while_a_range_is_being_kept_waits_for_that() {
    run(|cx| async move {
        for op in [FaultOp::Read, FaultOp::Write] {
            let (_layers, edge, control) = slow(&cx).await;
            hold_one(&control, op);
            let (home, reader) = (cx.clone(), edge.clone());
            let reading = cx.spawn(async move { read(&reader, &home, range(0, 512)).await });
            control.wait_held(1).await;
            overwritten_meanwhile(&cx, &edge, &control).await;
            reading.await;
        }
    });
}

#[test]
fn a_read_that_is_dropped_while_it_is_kept_undoes_no_later_write() {
    run(|cx| async move {
        let (_layers, edge, control) = slow(&cx).await;
        hold_one(&control, FaultOp::Write);
        let mut reading = Box::pin(edge.read(&cx, 0, IoBuf::heap(512)));
        let mut held = pin!(control.wait_held(1));
        poll_fn(|task| {
            assert!(reading.as_mut().poll(task).is_pending());
            held.as_mut().poll(task).map(drop)
        })
        .await;
        drop(reading);
        overwritten_meanwhile(&cx, &edge, &control).await;
    });
}

#[test]
fn a_read_fails_if_it_cannot_be_kept() {
    run(|cx| async move {
        let layers = Layers::new(&cx).await;
        let (broken, control) = faults(&layers.graph, &layers.top.0);
        let filter = CopyOnReadNode::add_to(&layers.graph, None, &broken, None).unwrap();
        let edge = attach(&layers.graph, &filter);
        let errno = libc::ENOSPC;
        control.add(FaultRule::every(
            FaultOp::Write,
            FaultAction::Fail { errno },
        ));
        let (_, result) = edge.read(&cx, 0, IoBuf::heap(512)).await;
        assert_eq!(result.unwrap_err().errno(), Some(errno));
        let (_, result) = edge.read(&cx, 3 * UNIT, IoBuf::heap(512)).await;
        result.unwrap();
    });
}

#[test]
fn nobody_else_may_write_below() {
    run(|cx| async move {
        let layers = Layers::new(&cx).await;
        let (filter, edge) = layers.filter(None);
        let attachment = block::Attachment::new(
            "other",
            ChildRole::Primary,
            Permissions::uses(&[block::Permission::Write]),
        );
        layers.graph.attach(&layers.top.0, attachment).unwrap_err();
        drop(edge);
        layers.graph.remove_node(&filter).unwrap();
        drop(filter);
        fill(&cx, (&layers.graph, &layers.top.0), range(0, UNIT), 1).await;
    });
}
