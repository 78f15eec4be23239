//! A layer over another node, in memory: what it has itself, and the rest from its backing child.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use aio::{AioContext, IoBuf};
use block::{
    Access, AllocationStatus, BlockError, ByteRange, Child, ChildRole, ErrorKind, Extent, Graph,
    Limits, Located, Node, NodeDriver, Permission, Permissions, RequestFlags, RequestFuture,
    Transferred, Way,
    nodes::{MemoryNode, MemoryOptions},
};

/// Unit in which a layer has bytes of its own; no cluster of a copy.
pub(crate) const UNIT: u64 = 16 << 10;

/// The units that a layer has itself. Clones are of the same layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own(Arc<Mutex<BTreeSet<u64>>>);

impl Own {
    fn units(range: ByteRange) -> std::ops::Range<u64> {
        range.start() / UNIT..range.end().div_ceil(UNIT)
    }

    fn take(&self, range: ByteRange) {
        self.0.lock().unwrap().extend(Self::units(range));
    }

    pub(crate) fn has(&self, offset_bytes: u64) -> bool {
        self.0.lock().unwrap().contains(&(offset_bytes / UNIT))
    }

    /// A copy that follows no more.
    pub(crate) fn now(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().unwrap().clone())))
    }
}

#[derive(Debug)]
struct Overlay {
    file: Child,
    backing: Child,
    own: Own,
}

/// Puts an empty layer called `name` over `backing`, with memory of its own below.
pub(crate) fn overlay(graph: &Graph, name: &str, backing: &Node) -> (Node, Own) {
    let memory = MemoryNode::new(MemoryOptions::new(backing.len_bytes())).unwrap();
    let memory = graph.add_node(Some(&format!("{name}-memory")), memory);
    let builder = graph.build_node(Some(name)).unwrap();
    let all = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
    let reads = Permissions::uses(&[Permission::ConsistentRead]);
    let file = builder.attach(&memory.unwrap(), "file", ChildRole::Data, all);
    let backing = builder.attach(backing, "backing", ChildRole::Cow, reads);
    let own = Own::default();
    let layer = Overlay {
        file: file.unwrap(),
        backing: backing.unwrap(),
        own: own.clone(),
    };
    (builder.finish(layer), own)
}

impl Overlay {
    async fn read_unit(
        &self,
        cx: &AioContext,
        offset_bytes: u64,
        len: usize,
    ) -> Result<IoBuf, BlockError> {
        let from = match self.own.has(offset_bytes) {
            true => &self.file,
            false => &self.backing,
        };
        let (part, read) = from.read(cx, offset_bytes, IoBuf::heap(len)).await;
        read.map(|_| part)
    }
}

impl NodeDriver for Overlay {
    fn driver_name(&self) -> &'static str {
        "overlay"
    }

    fn limits(&self) -> Limits {
        Limits {
            request_align_bytes: u32::try_from(UNIT).unwrap(),
            ..self.file.limits()
        }
    }

    fn read<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        mut buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            let mut at = 0;
            while at < buf.len() {
                let len = usize::try_from(UNIT).unwrap().min(buf.len() - at);
                let offset = offset_bytes + u64::try_from(at).unwrap();
                match self.read_unit(cx, offset, len).await {
                    Ok(part) => buf[at..][..len].copy_from_slice(&part),
                    Err(error) => return (buf, Err(error)),
                }
                at += len;
            }
            (buf, Ok(Way::Bounced))
        })
    }

    fn write<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            let len = u64::try_from(buf.len()).unwrap();
            let written = self.file.write(cx, offset_bytes, buf, flags).await;
            self.own.take(ByteRange::new(offset_bytes, len).unwrap());
            written
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            let zeroed = self.file.write_zeroes(cx, range, flags).await;
            self.own.take(range);
            zeroed
        })
    }

    fn discard<'a>(
        &'a self,
        _cx: &'a AioContext,
        _range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn flush<'a>(&'a self, cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.file.flush(cx))
    }

    fn extent<'a>(
        &'a self,
        _cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        let is_own = self.own.has(range.start());
        let other = Own::units(range).find(|unit| self.own.has(unit * UNIT) != is_own);
        let end = other.map_or(range.end(), |unit| unit * UNIT);
        let status = if is_own {
            AllocationStatus::Data
        } else {
            AllocationStatus::Unallocated
        };
        let len_bytes = end - range.start();
        Box::pin(std::future::ready(Ok(Extent { len_bytes, status })))
    }

    fn truncate<'a>(
        &'a self,
        _cx: &'a AioContext,
        _len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        let refused = BlockError::new(ErrorKind::Unsupported, "a layer keeps its length");
        Box::pin(std::future::ready(Err(refused)))
    }

    fn locate(&self, _range: ByteRange, _access: Access) -> Located<'_> {
        Located::Nowhere
    }

    fn cancel_in_flight(&self) {}
}
