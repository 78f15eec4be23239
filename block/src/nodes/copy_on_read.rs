//! `copy-on-read`: a filter that has its child keep what was read from the layers below it.
//!
//! What the child has nothing of its own for is read, written to it as a change that changes nothing, and
//! read again for whoever asked. Nobody changes the range meanwhile: all who may write are above. If who asked
//! goes away in between, nothing is written; a write that has begun is carried to its end by the child, which
//! keeps others away from it until then.

use aio::{AioContext, IoBuf};

use crate::{
    allocation::{AllocationStatus, ByteRange, Extent},
    error::BlockError,
    graph::{
        Graph,
        child::{Attachment, Child, ChildRole},
        freeze::FrozenChain,
        permission::{Permission, Permissions},
    },
    node::Node,
    node_driver::{Access, Limits, Located, NodeDriver, RequestFlags, RequestFuture, Transferred},
    request::RangeLock,
};

/// Most bytes that are copied at once.
const PIECE_BYTES_MAX: u64 = 1 << 20;

/// A filter that has its child keep what is read through it.
///
/// A read fails if what it read cannot be kept.
#[derive(Debug)]
pub struct CopyOnReadNode {
    child: Child,
    /// What is kept is written by this edge, which is nobody's but ours: see the head of the file.
    keeper: Child,
    /// The layers below the child whose data is to be kept; `None`: all.
    layers: Option<Vec<Child>>,
    changing: RangeLock,
    _frozen: Option<FrozenChain>,
}

/// What becomes of a run of bytes that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is there, or is not wanted.
    Leave,
    Copy,
    /// It is zero in a layer.
    Zero,
}

impl CopyOnReadNode {
    /// Adds a filter above `child`, so far without users.
    ///
    /// With `bottom`, the data of layers below that is not kept; the layers down to it stay as they are for as
    /// long as the filter is there.
    ///
    /// # Errors
    ///
    /// As [`Graph::build_node`] and [`Graph::freeze`].
    pub fn add_to(
        graph: &Graph,
        name: Option<&str>,
        child: &Node,
        bottom: Option<&Node>,
    ) -> Result<Node, BlockError> {
        let builder = graph.build_node(name)?;
        let frozen = bottom.map(|bottom| graph.freeze(child, bottom));
        let frozen = frozen.transpose()?;
        let alone = Permissions::uses(&[Permission::ConsistentRead])
            .unsharing(&[Permission::Write, Permission::Resize]);
        let below = builder.attach(child, "file", ChildRole::Filtered, alone)?;
        let keeps = Permissions::uses(&[Permission::WriteUnchanged]);
        let user = format!("node '{}'", builder.name());
        let keeper = Attachment::new(user, ChildRole::Data, keeps).named("keeper");
        let keeper = graph.attach(child, keeper)?;
        let layers = match bottom {
            None => None,
            Some(bottom) => {
                let layers = graph.chain(child, bottom)?;
                let attach = |layer: &Node| {
                    builder.attach(layer, "layer", ChildRole::Metadata, Permissions::IDLE)
                };
                Some(layers.iter().map(attach).collect::<Result<_, _>>()?)
            }
        };
        Ok(builder.finish(Self {
            child: below,
            keeper,
            layers,
            changing: RangeLock::default(),
            _frozen: frozen,
        }))
    }

    /// What becomes of the start of `range`, and how far that goes.
    async fn fate(&self, cx: &AioContext, range: ByteRange) -> Result<(Fate, u64), BlockError> {
        let own = self.child.extent(cx, range).await?;
        if own.status != AllocationStatus::Unallocated {
            return Ok((Fate::Leave, own.len_bytes));
        }
        let Some(layers) = &self.layers else {
            return Ok((Fate::Copy, own.len_bytes));
        };
        let mut len_bytes = own.len_bytes;
        for layer in layers {
            let left = ByteRange::between(range.start(), range.start() + len_bytes);
            // A layer may be shorter than those above it.
            let left = ByteRange::between(left.start(), left.end().min(layer.len_bytes()));
            if left.is_empty() {
                return Ok((Fate::Zero, len_bytes));
            }
            let found = layer.extent(cx, left).await?;
            len_bytes = found.len_bytes;
            match found.status {
                AllocationStatus::Data => return Ok((Fate::Copy, len_bytes)),
                AllocationStatus::Zero => return Ok((Fate::Zero, len_bytes)),
                AllocationStatus::Unallocated => {}
            }
        }
        Ok((Fate::Leave, len_bytes))
    }

    /// Whether something in `range` is to be kept.
    async fn is_wanted(&self, cx: &AioContext, range: ByteRange) -> Result<bool, BlockError> {
        let mut at = range.start();
        while at < range.end() {
            let (fate, len_bytes) = self.fate(cx, ByteRange::between(at, range.end())).await?;
            if fate != Fate::Leave {
                return Ok(true);
            }
            at += len_bytes;
        }
        Ok(false)
    }

    /// Has the child keep what is in `range`.
    async fn keep(&self, cx: &AioContext, range: ByteRange) -> Result<(), BlockError> {
        let unit = self.child.limits().cluster_bytes.unwrap_or(1);
        let range = range.widened(u64::from(unit), self.child.len_bytes());
        let _alone = self.changing.serialise(range).await;
        let flags = RequestFlags {
            unchanged: true,
            serialising: true,
            ..RequestFlags::default()
        };
        let mut at = range.start();
        while at < range.end() {
            let left = ByteRange::between(at, range.end());
            let (fate, len_bytes) = self.fate(cx, left).await?;
            let len_bytes = match fate {
                Fate::Copy => len_bytes.min(PIECE_BYTES_MAX),
                Fate::Leave | Fate::Zero => len_bytes,
            };
            match fate {
                Fate::Leave => {}
                Fate::Zero => {
                    let zeroes = ByteRange::between(at, at + len_bytes);
                    self.keeper.write_zeroes(cx, zeroes, flags).await?;
                }
                Fate::Copy => {
                    let len = usize::try_from(len_bytes).expect("a piece fits memory");
                    let (buf, result) = self.child.read(cx, at, IoBuf::heap(len)).await;
                    result?;
                    self.keeper.write(cx, at, buf, flags).await.1?;
                }
            }
            at += len_bytes;
        }
        Ok(())
    }

    async fn keep_what_is_read(&self, cx: &AioContext, range: ByteRange) -> Result<(), BlockError> {
        if self.is_wanted(cx, range).await? {
            self.keep(cx, range).await?;
        }
        Ok(())
    }
}

/// The bytes of a data request; its end has been checked.
fn data_range(offset_bytes: u64, buf: &IoBuf) -> ByteRange {
    let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
    ByteRange::between(offset_bytes, offset_bytes.saturating_add(len))
}

impl NodeDriver for CopyOnReadNode {
    fn driver_name(&self) -> &'static str {
        "copy-on-read"
    }

    fn limits(&self) -> Limits {
        self.child.limits()
    }

    fn read<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            let range = data_range(offset_bytes, &buf);
            if let Err(error) = self.keep_what_is_read(cx, range).await {
                return (buf, Err(error));
            }
            self.child.read(cx, offset_bytes, buf).await
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
            let _passage = self.changing.pass(data_range(offset_bytes, &buf)).await;
            self.child.write(cx, offset_bytes, buf, flags).await
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            let _passage = self.changing.pass(range).await;
            self.child.write_zeroes(cx, range, flags).await
        })
    }

    fn discard<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            let _passage = self.changing.pass(range).await;
            self.child.discard(cx, range).await
        })
    }

    fn flush<'a>(&'a self, cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.child.flush(cx))
    }

    fn truncate<'a>(
        &'a self,
        cx: &'a AioContext,
        len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.child.truncate(cx, len_bytes))
    }

    fn extent<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        Box::pin(self.child.extent(cx, range))
    }

    /// Nowhere: reads are to be kept, and changes to keep out of their way.
    fn locate(&self, _range: ByteRange, _access: Access) -> Located<'_> {
        Located::Nowhere
    }

    fn cancel_in_flight(&self) {
        self.child.node().cancel_in_flight();
    }
}
