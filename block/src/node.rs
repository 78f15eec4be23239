//! What users of the graph know a node by.

use std::{
    borrow::Borrow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use aio::Handle;
use arc_swap::ArcSwapOption;

use crate::{
    allocation::ByteRange,
    bitmap::Table,
    error::{BlockError, ErrorKind},
    gate::Gate,
    latency::{Latencies, NodeLatency},
    node_driver::{Limits, NodeDriver, Way},
    request::RangeLock,
};

mod admitted;
mod counters;
pub(crate) mod offload;
mod options;
#[cfg(test)]
mod tests;
mod threshold;

pub(crate) use self::admitted::{Admitted, User};
pub use self::counters::NodeStatistics;
pub use self::options::{DetectZeroes, Discard, NodeOptions};
use self::{
    counters::{Counters, Tally},
    options::OptionsCell,
    threshold::Threshold,
};

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
    options: OptionsCell,
    gate: Gate,
    changing: RangeLock,
    pub(crate) bitmaps: Table,
    counters: Counters,
    latencies: Latencies,
    threshold: Threshold,
    context: ArcSwapOption<Handle>,
}

/// Identity of a node within its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(pub(crate) u64);

impl Inner {
    pub(crate) fn driver(&self) -> &dyn NodeDriver {
        &*self.driver
    }

    pub(crate) fn limits(&self) -> Limits {
        let mut limits = self.driver.limits();
        limits.read_only |= self.options.get().read_only;
        limits
    }
}

impl Node {
    pub(crate) fn new(
        (id, name): (NodeId, String),
        options: NodeOptions,
        driver: Box<dyn NodeDriver>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                id,
                name,
                driver,
                options: OptionsCell::new(options),
                gate: Gate::default(),
                changing: RangeLock::default(),
                bitmaps: Table::default(),
                counters: Counters::default(),
                latencies: Latencies::default(),
                threshold: Threshold::default(),
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
        self.inner.limits()
    }

    /// Length in bytes, now.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.limits().len_bytes
    }

    /// Whether the node refuses writes.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.limits().read_only
    }

    /// What the node makes of requests, now.
    #[must_use]
    pub fn options(&self) -> NodeOptions {
        self.inner.options.get()
    }

    /// The graph does so, while the node is drained.
    pub(crate) fn set_options(&self, options: NodeOptions) {
        self.inner.options.set(options);
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
        self.inner.counters.statistics()
    }

    /// The first write beyond `offset_bytes` from now on is told of when it begins, with the number of bytes by which
    /// it goes beyond; then there is no threshold any more. Of several, the last one set holds.
    ///
    /// `tell` is called on the thread of the write, which waits for it: it must not block.
    pub fn set_write_threshold(&self, offset_bytes: u64, tell: impl FnOnce(u64) + Send + 'static) {
        self.inner.threshold.set(offset_bytes, Box::new(tell));
    }

    /// From now on no write is told of.
    pub fn clear_write_threshold(&self) {
        self.inner.threshold.clear();
    }

    /// The offset beyond which a write is to be told of.
    #[must_use]
    pub fn write_threshold(&self) -> Option<u64> {
        self.inner.threshold.offset_bytes()
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
        if limits.read_only {
            return Err(
                BlockError::new(ErrorKind::ReadOnly, "node is read-only").on_node(self.name())
            );
        }
        self.check(limits, range)
    }

    /// Counts a finished request and names node and range in its error.
    fn finished<T>(
        &self,
        tally: &Tally,
        range: ByteRange,
        result: Result<T, BlockError>,
    ) -> Result<T, BlockError> {
        tally.count(&result);
        result.map_err(|error| error.on_node(self.name()).at(range))
    }

    fn count_bytes(&self, bytes: &AtomicU64, range: ByteRange, result: &Result<Way, BlockError>) {
        if let Ok(way) = result {
            bytes.fetch_add(range.len(), Relaxed);
            self.inner.counters.moved(*way, range);
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
