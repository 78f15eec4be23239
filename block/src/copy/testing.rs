//! Two disks in memory, each behind a filter that can fail and hold requests, for tests of copying.

use std::{future::Future, rc::Rc};

use aio::{AioContext, BackendKind, Config, IoBuf};

use super::{BlockCopy, CopyOptions};
use crate::{
    allocation::ByteRange,
    error::BlockError,
    graph::{
        Graph,
        child::{Attachment, Child, ChildRole},
        permission::{Permission, Permissions},
    },
    node::Node,
    node_driver::{RequestFlags, Way},
    nodes::{FaultControl, FaultNode, MemoryNode, MemoryOptions},
};

pub(crate) const CLUSTER: u64 = 64 << 10;

/// Runs a test on each backend that this machine has.
pub(crate) fn on_each_backend<F: Future<Output = ()>>(test: impl Fn(AioContext) -> F) {
    for backend in [BackendKind::Epoll, BackendKind::IoUring] {
        if backend == BackendKind::Epoll || aio::probe_io_uring().is_ok() {
            let config = Config {
                backend: Some(backend),
                ..Config::default()
            };
            aio::run(config, &test).unwrap();
        }
    }
}

pub(crate) struct Disks {
    pub(crate) graph: Graph,
    pub(crate) source: Node,
    pub(crate) target: Node,
    pub(crate) at_source: FaultControl,
    pub(crate) at_target: FaultControl,
    pub(crate) len_bytes: u64,
}

impl Disks {
    pub(crate) fn new(len_bytes: u64) -> Self {
        Self::with_alignment(len_bytes, 1)
    }

    pub(crate) fn with_alignment(len_bytes: u64, request_align_bytes: u32) -> Self {
        let graph = Graph::new();
        let options = MemoryOptions {
            request_align_bytes,
            ..MemoryOptions::new(len_bytes)
        };
        let (source, at_source) = disk(&graph, "source", options);
        let (target, at_target) = disk(&graph, "target", options);
        Self {
            graph,
            source,
            target,
            at_source,
            at_target,
            len_bytes,
        }
    }

    /// A copy with edges of its own, not those of a filter.
    pub(crate) fn copy(&self, options: CopyOptions) -> Result<Rc<BlockCopy>, BlockError> {
        let copy = BlockCopy::new(
            attach(&self.graph, &self.source),
            attach(&self.graph, &self.target),
            options,
        );
        copy.map(Rc::new)
    }

    pub(crate) fn whole(&self) -> ByteRange {
        ByteRange::between(0, self.len_bytes)
    }

    pub(crate) async fn fill(&self, cx: &AioContext, node: &Node, range: ByteRange, byte: u8) {
        let way = write(&attach(&self.graph, node), cx, range, byte).await;
        way.unwrap();
    }

    pub(crate) async fn content(&self, cx: &AioContext, node: &Node) -> Vec<u8> {
        read(&attach(&self.graph, node), cx, self.whole()).await
    }
}

fn disk(graph: &Graph, name: &str, options: MemoryOptions) -> (Node, FaultControl) {
    let memory = MemoryNode::new(options).unwrap();
    let below = graph
        .add_node(Some(&format!("{name}-memory")), memory)
        .unwrap();
    let builder = graph.build_node(Some(name)).unwrap();
    let idle = Permissions::IDLE;
    let child = builder
        .attach(&below, "file", ChildRole::Filtered, idle)
        .unwrap();
    let control = FaultControl::new();
    (
        builder.finish(FaultNode::new(child, control.clone())),
        control,
    )
}

pub(crate) fn attach(graph: &Graph, node: &Node) -> Child {
    let permissions = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
    let attachment = Attachment::new("test", ChildRole::Primary, permissions);
    graph.attach(node, attachment).unwrap()
}

pub(crate) async fn write(
    edge: &Child,
    cx: &AioContext,
    range: ByteRange,
    byte: u8,
) -> Result<Way, BlockError> {
    let mut buf = IoBuf::heap(usize::try_from(range.len()).unwrap());
    buf.fill(byte);
    let flags = RequestFlags::default();
    edge.write(cx, range.start(), buf, flags).await.1
}

pub(crate) async fn read(edge: &Child, cx: &AioContext, range: ByteRange) -> Vec<u8> {
    let buf = IoBuf::heap(usize::try_from(range.len()).unwrap());
    let (buf, result) = edge.read(cx, range.start(), buf).await;
    result.unwrap();
    buf.to_vec()
}

/// The cluster with this number.
pub(crate) fn cluster(number: u64) -> ByteRange {
    clusters(number, 1)
}

pub(crate) fn clusters(first: u64, count: u64) -> ByteRange {
    ByteRange::new(first * CLUSTER, count * CLUSTER).unwrap()
}

/// Lets everything run that can; what is held stays held.
pub(crate) async fn settle(cx: &AioContext) {
    for _ in 0..50 {
        cx.yield_now().await;
    }
}
