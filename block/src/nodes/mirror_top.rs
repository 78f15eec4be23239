//! `mirror-top`: a filter above the source of a mirror, which notices every change and may make it on both sides.

use std::sync::Arc;

use aio::{AioContext, IoBuf};

use super::copy_before_write::{AddedLatency, Latency};
use crate::{
    allocation::{ByteRange, Extent},
    copy::{self, CopyEdge, Keeper},
    error::BlockError,
    graph::{
        Graph,
        child::ChildRole,
        permission::{Permission, Permissions},
    },
    mirror::{MirrorCopy, MirrorCopyOptions, Turn},
    node::Node,
    node_driver::{
        Access, Limits, Located, NodeDriver, RequestFlags, RequestFuture, Transferred, fixed_length,
    },
};

/// What the users of a filter hold on to: the mirror, and its cost. Cheap to clone; any thread.
///
/// The mirror holds the filter's edges to source and target: drop every handle when the filter goes, or
/// [give it up](Self::give_up).
#[derive(Clone, Debug)]
pub struct MirrorHandle {
    copy: Arc<MirrorCopy>,
    latency: Arc<Latency>,
}

impl MirrorHandle {
    /// The mirror that the filter and a background job share.
    #[must_use]
    pub fn mirror_copy(&self) -> &Arc<MirrorCopy> {
        &self.copy
    }

    /// What the filter has cost guest requests that change something so far: their wait for a turn, or for a policy,
    /// and the time of the target.
    #[must_use]
    pub fn added_latency(&self) -> AddedLatency {
        self.latency.read()
    }

    /// Nobody wants the mirror any more: see [`MirrorCopy::give_up`].
    pub fn give_up(&self, keeper: Keeper) {
        self.copy.give_up(keeper);
    }
}

/// A filter over the source of a [`MirrorCopy`], through which all changes of the source go from the moment it is
/// [put in](Graph::insert_filter). Reads and flushes are the source's.
///
/// Requests are to be awaited to their end: one whose future is dropped before has its range marked at that moment.
#[derive(Debug)]
pub struct MirrorTopNode {
    /// The mirror's edge, held also for when the mirror is given up.
    source: Arc<CopyEdge>,
    shared: MirrorHandle,
}

impl MirrorTopNode {
    /// Adds a filter node over `source` that mirrors to `target`, ready for [`Graph::insert_filter`].
    ///
    /// Its edges count while the filter is used. Nobody may then write the source past the filter, use the target,
    /// or resize either node.
    ///
    /// # Errors
    ///
    /// As [`MirrorCopy::new`] and [`Graph::build_node`]; [`NotFound`](crate::ErrorKind::NotFound) when
    /// a node is not in this graph.
    pub fn add_to(
        graph: &Graph,
        name: Option<&str>,
        (source, target): (&Node, &Node),
        options: MirrorCopyOptions,
    ) -> Result<(Node, MirrorHandle), BlockError> {
        let builder = graph.build_node(name)?;
        let reads = Permissions::uses(&[Permission::ConsistentRead])
            .unsharing(&[Permission::Write, Permission::Resize]);
        let writes = Permissions::uses(&[Permission::Write]).unsharing(&[
            Permission::ConsistentRead,
            Permission::Write,
            Permission::Resize,
        ]);
        let source = builder.attach(source, "file", ChildRole::Filtered, reads)?;
        let target = builder.attach(target, "target", ChildRole::Data, writes)?;
        let copy = MirrorCopy::new(source, target, options)?;
        let source = copy.source().ok_or_else(copy::given_up)?;
        let shared = MirrorHandle {
            copy: Arc::new(copy),
            latency: Arc::default(),
        };
        let handle = shared.clone();
        Ok((builder.finish(Self { source, shared }), handle))
    }

    fn copy(&self) -> &Arc<MirrorCopy> {
        &self.shared.copy
    }

    /// Waits until a change of `range` may begin, and counts the time if there was any.
    async fn admit(&self, cx: &AioContext, range: ByteRange) -> Turn<'_> {
        let started_ns = cx.now_ns();
        let turn = self.copy().admit(cx, range).await;
        self.count_since(cx, started_ns);
        turn
    }

    /// Awaits a request at the target and counts its time.
    async fn forward<T>(&self, cx: &AioContext, request: impl Future<Output = T>) -> T {
        let started_ns = cx.now_ns();
        let done = request.await;
        self.count_since(cx, started_ns);
        done
    }

    fn count_since(&self, cx: &AioContext, started_ns: u64) {
        let took_ns = cx.now_ns().saturating_sub(started_ns);
        if took_ns > 0 {
            self.shared.latency.note(took_ns);
        }
    }
}

impl NodeDriver for MirrorTopNode {
    fn driver_name(&self) -> &'static str {
        "mirror_top"
    }

    fn limits(&self) -> Limits {
        self.source.limits()
    }

    fn read<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(self.source.read(cx, offset_bytes, buf))
    }

    fn write<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            if flags.unchanged {
                return self.source.write(cx, offset_bytes, buf, flags).await;
            }
            let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
            let range = ByteRange::between(offset_bytes, offset_bytes.saturating_add(len));
            let turn = self.admit(cx, range).await;
            let (buf, written) = self.source.write(cx, offset_bytes, buf, flags).await;
            let buf = match turn {
                Turn::Both(taken) if written.is_ok() => {
                    let request = self.copy().forward_write(cx, offset_bytes, buf, taken);
                    self.forward(cx, request).await
                }
                Turn::Pass | Turn::Track(_) | Turn::Both(_) => buf,
            };
            (buf, written)
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            if flags.unchanged {
                return self.source.write_zeroes(cx, range, flags).await;
            }
            let turn = self.admit(cx, range).await;
            let zeroed = self.source.write_zeroes(cx, range, flags).await;
            if let (Turn::Both(taken), true) = (turn, zeroed.is_ok()) {
                let request = self.copy().forward_zeroes(cx, flags, taken);
                self.forward(cx, request).await;
            }
            zeroed
        })
    }

    fn discard<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            let turn = self.admit(cx, range).await;
            let discarded = self.source.discard(cx, range).await;
            if let (Turn::Both(taken), true) = (turn, discarded.is_ok()) {
                let request = self.copy().forward_discard(cx, taken);
                self.forward(cx, request).await;
            }
            discarded
        })
    }

    fn flush<'a>(&'a self, cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.source.flush(cx))
    }

    fn truncate<'a>(
        &'a self,
        _cx: &'a AioContext,
        _len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        fixed_length("a node keeps its length while it is mirrored")
    }

    fn extent<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        Box::pin(self.source.extent(cx, range))
    }

    fn locate(&self, range: ByteRange, access: Access) -> Located<'_> {
        match access {
            Access::Read => Located::Child {
                child: &self.source,
                offset_bytes: range.start(),
            },
            // Changes must come by, to be noticed.
            Access::Write => Located::Nowhere,
        }
    }

    fn cancel_in_flight(&self) {
        self.source.node().cancel_in_flight();
    }
}

#[cfg(test)]
mod tests;
