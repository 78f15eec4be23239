//! What users of the graph know a node by, and the way of a request through it.

use std::{
    borrow::Borrow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use aio::{AioContext, Handle, IoBuf};
use arc_swap::ArcSwapOption;

use crate::{
    allocation::{AllocationStatus, ByteRange, Extent},
    error::{BlockError, ErrorKind},
    gate::{Gate, RequestGuard},
    latency::{Latencies, NodeLatency, Timed},
    node_driver::{Limits, NodeDriver, RequestFlags, Transferred, Way},
    request::{
        RangeLock,
        align::{self, Content},
    },
};

#[cfg(test)]
mod tests;

/// One vertex of the graph: a node driver, its entrance and its counters. Cheap to clone; any thread.
///
/// A node is read and written through an edge to it, a [`Child`](crate::Child).
#[derive(Clone)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    id: NodeId,
    name: String,
    driver: Box<dyn NodeDriver>,
    read_only: bool,
    gate: Gate,
    changing: RangeLock,
    counters: Counters,
    latencies: Latencies,
    context: ArcSwapOption<Handle>,
}

/// Identity of a node within its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(pub(crate) u64);

/// What went through a node since it was added. Requests that failed are counted as errors only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeStatistics {
    /// Reads that succeeded.
    pub reads: u64,
    /// Bytes they read.
    pub read_bytes: u64,
    /// Writes and writes of zeroes that succeeded.
    pub writes: u64,
    /// Bytes they wrote.
    pub written_bytes: u64,
    /// Discards that succeeded.
    pub discards: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Data requests that took a second buffer, being unaligned or too long.
    pub bounced: u64,
    /// Requests of any kind that failed.
    pub errors: u64,
}

#[derive(Debug, Default)]
struct Counters {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    discards: AtomicU64,
    flushes: AtomicU64,
    bounced: AtomicU64,
    errors: AtomicU64,
}

impl Inner {
    pub(crate) fn driver(&self) -> &dyn NodeDriver {
        &*self.driver
    }
}

impl Node {
    pub(crate) fn new(id: NodeId, name: String, driver: Box<dyn NodeDriver>) -> Self {
        let read_only = driver.limits().read_only;
        Self {
            inner: Arc::new(Inner {
                id,
                name,
                driver,
                read_only,
                gate: Gate::default(),
                changing: RangeLock::default(),
                counters: Counters::default(),
                latencies: Latencies::default(),
                context: ArcSwapOption::empty(),
            }),
        }
    }

    /// The node's name, unique in its graph.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Name of the kind of node, as in `driver=file`.
    #[must_use]
    pub fn driver_name(&self) -> &'static str {
        self.inner.driver.driver_name()
    }

    /// What the node can take, now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.inner.driver.limits()
    }

    /// Length in bytes, now.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.limits().len_bytes
    }

    /// Whether the node refuses writes.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.inner.read_only
    }

    /// Whether new requests are held at the entrance and none is inside.
    #[must_use]
    pub fn is_quiesced(&self) -> bool {
        self.inner.gate.is_closed() && self.inner.gate.inside() == 0
    }

    /// Requests inside.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.inner.gate.inside()
    }

    /// What went through the node so far.
    #[must_use]
    pub fn statistics(&self) -> NodeStatistics {
        let counters = &self.inner.counters;
        NodeStatistics {
            reads: counters.reads.load(Relaxed),
            read_bytes: counters.read_bytes.load(Relaxed),
            writes: counters.writes.load(Relaxed),
            written_bytes: counters.written_bytes.load(Relaxed),
            discards: counters.discards.load(Relaxed),
            flushes: counters.flushes.load(Relaxed),
            bounced: counters.bounced.load(Relaxed),
            errors: counters.errors.load(Relaxed),
        }
    }

    /// Begins to measure how long requests take, unless that has begun. From then on each reads the clock twice.
    pub fn measure_latency(&self) {
        self.inner.latencies.measure();
    }

    /// How long requests have taken; `None` if nobody [measures](Self::measure_latency) that.
    #[must_use]
    pub fn latency(&self) -> Option<NodeLatency> {
        self.inner.latencies.read()
    }

    /// Makes requests inside that wait for a peer fail: [`NodeDriver::cancel_in_flight`]. Any thread.
    pub fn cancel_in_flight(&self) {
        self.inner.driver.cancel_in_flight();
    }

    /// The context where jobs on this node work, if somebody has [chosen](crate::Graph::set_context) one.
    ///
    /// A node that is built above others starts with the context of the first that has one. Requests run on the
    /// context of whoever makes them all the same: exports may be elsewhere.
    #[must_use]
    pub fn context(&self) -> Option<Handle> {
        self.inner.context.load().as_deref().cloned()
    }

    pub(crate) fn set_context(&self, context: &Handle) {
        let context = Arc::new(context.clone());
        self.inner.context.store(Some(context));
    }

    pub(crate) fn id(&self) -> NodeId {
        self.inner.id
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.inner.gate
    }

    pub(crate) fn driver(&self) -> &dyn NodeDriver {
        self.inner.driver()
    }

    fn changing(&self) -> &RangeLock {
        &self.inner.changing
    }

    /// The range, if it lies within the node.
    fn check(&self, limits: &Limits, range: Option<ByteRange>) -> Result<ByteRange, BlockError> {
        range
            .filter(|range| range.end() <= limits.len_bytes)
            .ok_or_else(|| {
                let error = BlockError::new(ErrorKind::OutOfRange, "request past end of node");
                error.on_node(self.name())
            })
    }

    fn check_change(
        &self,
        limits: &Limits,
        range: Option<ByteRange>,
    ) -> Result<ByteRange, BlockError> {
        if self.is_read_only() {
            return Err(
                BlockError::new(ErrorKind::ReadOnly, "node is read-only").on_node(self.name())
            );
        }
        self.check(limits, range)
    }

    /// Counts a finished request and names node and range in its error.
    fn finished<T>(
        &self,
        done: &AtomicU64,
        range: ByteRange,
        result: Result<T, BlockError>,
    ) -> Result<T, BlockError> {
        match result {
            Ok(value) => {
                done.fetch_add(1, Relaxed);
                Ok(value)
            }
            Err(error) => {
                self.inner.counters.errors.fetch_add(1, Relaxed);
                Err(error.on_node(self.name()).at(range))
            }
        }
    }

    fn count_bytes(&self, bytes: &AtomicU64, range: ByteRange, result: &Result<Way, BlockError>) {
        if let Ok(way) = result {
            bytes.fetch_add(range.len(), Relaxed);
            if *way == Way::Bounced {
                self.inner.counters.bounced.fetch_add(1, Relaxed);
            }
        }
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for Node {}

impl Borrow<Gate> for Node {
    fn borrow(&self) -> &Gate {
        self.gate()
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name())
            .field("driver", &self.inner.driver)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// A request that is inside a node; it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted(pub(crate) RequestGuard<Node>);

impl Admitted {
    fn node(&self) -> &Node {
        self.0.holder()
    }

    pub(crate) async fn read(self, cx: &AioContext, offset_bytes: u64, buf: IoBuf) -> Transferred {
        let node = self.node();
        let _timed = node.inner.latencies.time(cx, Timed::Read);
        let limits = node.limits();
        let range = match node.check(&limits, range_of(offset_bytes, &buf)) {
            Ok(range) if range.is_empty() => return (buf, Ok(Way::Direct)),
            Ok(range) => range,
            Err(error) => return (buf, Err(error)),
        };
        let (buf, result) = if align::fits(&limits, range) {
            node.driver().read(cx, offset_bytes, buf).await
        } else {
            align::read(node, cx, range, buf).await
        };
        let counters = &node.inner.counters;
        node.count_bytes(&counters.read_bytes, range, &result);
        (buf, node.finished(&counters.reads, range, result))
    }

    pub(crate) async fn write(
        self,
        cx: &AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> Transferred {
        let node = self.node().clone();
        let _timed = node.inner.latencies.time(cx, Timed::Write);
        let limits = node.limits();
        let range = match node.check_change(&limits, range_of(offset_bytes, &buf)) {
            Ok(range) if range.is_empty() => return (buf, Ok(Way::Direct)),
            Ok(range) => range,
            Err(error) => return (buf, Err(error)),
        };
        let (buf, result) = if align::fits(&limits, range) {
            let _passage = node.changing().pass(range).await;
            node.driver().write(cx, offset_bytes, buf, flags).await
        } else {
            self.write_bounced(cx, range, buf, flags).await
        };
        let counters = &node.inner.counters;
        node.count_bytes(&counters.written_bytes, range, &result);
        (buf, node.finished(&counters.writes, range, result))
    }

    /// A write that needs a second buffer.
    ///
    /// It runs as a task of its own: an abandoned write may land late, and one that carries its
    /// neighbours' bytes along would then undo what they have written since.
    async fn write_bounced(
        self,
        cx: &AioContext,
        range: ByteRange,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> Transferred {
        let context = cx.clone();
        cx.spawn(async move {
            let node = self.node();
            let _passage = self.pass_or_serialise(range).await;
            let written = align::rewrite(node, &context, range, Content::Bytes(&buf), flags).await;
            (buf, written.map(|()| Way::Bounced))
        })
        .await
    }

    async fn pass_or_serialise(&self, range: ByteRange) -> crate::request::Passage<'_> {
        let limits = self.node().limits();
        let changing = self.node().changing();
        if align::is_aligned(&limits, range) {
            changing.pass(range).await
        } else {
            changing.serialise(align::outer(&limits, range)).await
        }
    }

    pub(crate) async fn write_zeroes(
        self,
        cx: &AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> Result<(), BlockError> {
        let node = self.node().clone();
        let _timed = node.inner.latencies.time(cx, Timed::Write);
        let limits = node.limits();
        if node.check_change(&limits, Some(range))?.is_empty() {
            return Ok(());
        }
        let result = if align::is_aligned(&limits, range) {
            let _passage = node.changing().pass(range).await;
            zero_aligned(&node, cx, range, flags).await
        } else if flags.no_fallback {
            Err(BlockError::new(
                ErrorKind::Unsupported,
                "zeroes at unaligned edges must be written",
            ))
        } else {
            let context = cx.clone();
            let zeroing = async move { self.zero_unaligned(&context, range, flags).await };
            cx.spawn(zeroing).await
        };
        if result.is_ok() {
            let bytes = &node.inner.counters.written_bytes;
            bytes.fetch_add(range.len(), Relaxed);
        }
        node.finished(&node.inner.counters.writes, range, result)
    }

    /// Zeroes the aligned middle by the node driver's own means, and rewrites both edges.
    async fn zero_unaligned(
        &self,
        cx: &AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> Result<(), BlockError> {
        let node = self.node();
        let _passage = self.pass_or_serialise(range).await;
        let middle = align::inner(&node.limits(), range);
        if middle.is_empty() {
            return align::rewrite(node, cx, range, Content::Zeroes, flags).await;
        }
        zero_aligned(node, cx, middle, flags).await?;
        let head = ByteRange::between(range.start(), middle.start());
        let tail = ByteRange::between(middle.end(), range.end());
        for edge in [head, tail] {
            align::rewrite(node, cx, edge, Content::Zeroes, flags).await?;
        }
        Ok(())
    }

    pub(crate) async fn discard(self, cx: &AioContext, range: ByteRange) -> Result<(), BlockError> {
        let node = self.node();
        let limits = node.limits();
        let range = node.check_change(&limits, Some(range))?;
        // Never more than was asked: a block that is given up in part is not given up.
        let whole = align::inner(&limits, range);
        if whole.is_empty() {
            return Ok(());
        }
        let _passage = node.changing().pass(whole).await;
        let result = node.driver().discard(cx, whole).await;
        node.finished(&node.inner.counters.discards, range, result)
    }

    pub(crate) async fn flush(self, cx: &AioContext) -> Result<(), BlockError> {
        let node = self.node();
        let _timed = node.inner.latencies.time(cx, Timed::Flush);
        let counters = &node.inner.counters;
        match node.driver().flush(cx).await {
            Ok(()) => {
                counters.flushes.fetch_add(1, Relaxed);
                Ok(())
            }
            Err(error) => {
                counters.errors.fetch_add(1, Relaxed);
                Err(error.on_node(node.name()))
            }
        }
    }

    pub(crate) async fn extent(
        self,
        cx: &AioContext,
        range: ByteRange,
    ) -> Result<Extent, BlockError> {
        let node = self.node();
        let limits = node.limits();
        let range = node.check(&limits, Some(range))?;
        if range.is_empty() {
            return Ok(Extent {
                len_bytes: 0,
                status: AllocationStatus::Data,
            });
        }
        let outer = align::outer(&limits, range);
        let result = node.driver().extent(cx, outer).await;
        let extent = result.map_err(|error| error.on_node(node.name()).at(range))?;
        Ok(align::cut_extent(extent, outer, range, &limits))
    }
}

/// Zeroes an aligned range: by the node driver's own means or, where that is allowed, by writing zeroes.
async fn zero_aligned(
    node: &Node,
    cx: &AioContext,
    range: ByteRange,
    flags: RequestFlags,
) -> Result<(), BlockError> {
    match node.driver().write_zeroes(cx, range, flags).await {
        Err(error) if error.kind() == ErrorKind::Unsupported && !flags.no_fallback => {
            align::rewrite(node, cx, range, Content::Zeroes, flags).await
        }
        result => result,
    }
}

fn range_of(offset_bytes: u64, buf: &IoBuf) -> Option<ByteRange> {
    ByteRange::new(offset_bytes, u64::try_from(buf.len()).ok()?)
}
