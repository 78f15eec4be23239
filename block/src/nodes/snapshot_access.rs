//! `snapshot-access`: shows the instant that a copy-before-write filter keeps, while guests write on.

use aio::{AioContext, IoBuf};

use super::copy_before_write::{CbwHandle, CopyBeforeWriteNode};
use crate::{
    allocation::{ByteRange, Extent},
    error::{BlockError, ErrorKind},
    graph::{
        Graph,
        child::{Child, ChildRole},
        permission::{Permission, Permissions},
    },
    node::Node,
    node_driver::{
        Access, Limits, Located, NodeDriver, RequestFlags, RequestFuture, Transferred, fixed_length,
    },
};

/// A node whose content is that of a [`CopyBeforeWriteNode`]'s source at the instant when the filter went in.
///
/// What has been saved is read from the filter's target, all else from its source, where a guest that wants to
/// write waits for such reads. Once the snapshot is broken, all reads fail. Nothing can be written. A discard
/// says that bytes will not be read again: whole clusters of them need not be saved any more, and their room in the
/// filter's target is free.
#[derive(Debug)]
pub struct SnapshotAccessNode {
    /// Keeps the filter, and counts as its user.
    filter: Child,
    handle: CbwHandle,
}

impl SnapshotAccessNode {
    /// Adds a node that shows the instant of `filter`.
    ///
    /// # Errors
    ///
    /// - [`Invalid`](ErrorKind::Invalid): `filter` is of another kind, or the name cannot be given.
    /// - As [`NodeBuilder::attach`](crate::NodeBuilder::attach).
    pub fn add_to(graph: &Graph, name: Option<&str>, filter: &Node) -> Result<Node, BlockError> {
        let handle = CopyBeforeWriteNode::handle_of(filter).ok_or_else(|| {
            let text = format!(
                "node '{}' ({}) keeps no snapshot",
                filter.name(),
                filter.driver_name()
            );
            BlockError::new(ErrorKind::Invalid, text)
        })?;
        let builder = graph.build_node(name)?;
        let reads = Permissions::uses(&[Permission::ConsistentRead]);
        let filter = builder.attach(filter, "file", ChildRole::Data, reads)?;
        Ok(builder.finish(Self { filter, handle }))
    }

    /// Fails once the snapshot is broken. What was read before the answer belongs to the instant.
    fn whole(&self) -> Result<(), BlockError> {
        match self.handle.snapshot().failure() {
            None => Ok(()),
            Some(failure) => {
                let text = format!("the snapshot is broken: {failure}");
                let source = std::io::Error::from_raw_os_error(libc::EACCES);
                Err(BlockError::io(text, source))
            }
        }
    }

    fn cannot_change() -> BlockError {
        let source = std::io::Error::from_raw_os_error(libc::ENOTSUP);
        BlockError::io("a snapshot cannot be written", source)
    }
}

impl NodeDriver for SnapshotAccessNode {
    fn driver_name(&self) -> &'static str {
        "snapshot-access"
    }

    fn limits(&self) -> Limits {
        self.filter.limits()
    }

    fn read<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            if let Err(error) = self.whole() {
                return (buf, Err(error));
            }
            let copy = self.handle.block_copy();
            let (buf, result) = copy.read_instant(cx, offset_bytes, buf).await;
            // Guests do not wait for reads of a snapshot that is broken.
            let result = self.whole().and(result);
            (buf, result)
        })
    }

    fn write<'a>(
        &'a self,
        _cx: &'a AioContext,
        _offset_bytes: u64,
        buf: IoBuf,
        _flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move { (buf, Err(Self::cannot_change())) })
    }

    fn write_zeroes<'a>(
        &'a self,
        _cx: &'a AioContext,
        _range: ByteRange,
        _flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async { Err(Self::cannot_change()) })
    }

    fn discard<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.handle.block_copy().discard_instant(cx, range))
    }

    fn flush<'a>(&'a self, _cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async { Ok(()) })
    }

    fn truncate<'a>(
        &'a self,
        _cx: &'a AioContext,
        _len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        fixed_length("a snapshot keeps its length")
    }

    fn extent<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        Box::pin(async move {
            self.whole()?;
            let extent = self.handle.block_copy().extent_of_instant(cx, range).await;
            self.whole()?;
            extent
        })
    }

    /// Nowhere: which file has the bytes changes with every guest write.
    fn locate(&self, _range: ByteRange, _access: Access) -> Located<'_> {
        Located::Nowhere
    }

    fn cancel_in_flight(&self) {
        let copy = self.handle.block_copy();
        for edge in [copy.source(), copy.target()].into_iter().flatten() {
            edge.node().cancel_in_flight();
        }
    }
}

#[cfg(test)]
mod tests;
