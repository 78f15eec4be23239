//! One point-in-time copy of a node: what is still to copy, what is being copied, and the copying itself.
//!
//! A background copy and the filter that holds guest writes back share one [`BlockCopy`]. Every
//! cluster is in one of three states, and only the moves drawn here exist:
//!
//! ```text
//!            claim                    finish
//!  to copy ─────────▶ in flight ─────────────────▶ copied
//!     ▲                   │
//!     └───────────────────┘  an error, a claim given back, a dropped future
//! ```
//!
//! A cluster leaves "to copy" *before* its old data is read, and whoever wants to change the
//! source waits until it is copied ([`BlockCopy::ensure_copied`]). So each cluster is read at a time
//! when nobody has changed it since the copy began.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use aio::{AioContext, IoBuf};

use crate::{
    allocation::{AllocationStatus, ByteRange},
    error::{BlockError, ErrorKind},
    graph::child::Child,
    node_driver::{RequestFlags, Way},
};

mod edge;
mod ledger;
mod report;

use edge::Held;
pub use edge::{CopyEdge, Keeper};
pub use ledger::Claim;
use ledger::{Ledger, Step};
pub use report::{CopyClass, CopyCounters, CopyError, CopySide, Outcome};
use report::{Counters, Tally};

/// Smallest unit of copying.
pub const CLUSTER_BYTES_MIN: u64 = 64 << 10;
/// Most data that one claim holds on to, unless a single cluster is larger.
const CHUNK_BYTES: u64 = 1 << 20;

/// What is known of the target before the copy begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetContent {
    /// Anything may be there: zeroes of the source must be written.
    #[default]
    Unknown,
    /// Every byte reads as zero: zeroes of the source need nothing.
    Zero,
}

/// How to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Lower bound of the cluster size in bytes, a power of two; zero for none of its own.
    pub cluster_bytes_min: u64,
    /// What is known of the target.
    pub target_content: TargetContent,
}

/// The shared state of one point-in-time copy from one node to another of the same length.
///
/// Any thread; each method's I/O runs on the context it is given.
///
/// A copy that is no longer wanted is [given up](Self::give_up), since requests that never return cannot
/// be waited for.
#[derive(Debug)]
pub struct BlockCopy {
    source: Held,
    target: Held,
    options: CopyOptions,
    len_bytes: u64,
    /// Most bytes of one read and write.
    piece_bytes: u64,
    ledger: Arc<Ledger>,
    counters: Counters,
    done_bytes: AtomicU64,
}

impl BlockCopy {
    /// A copy of which everything is still to do. Moves no data yet.
    ///
    /// Both edges should already have their permissions: reading the source, writing the target,
    /// and nobody resizing either.
    ///
    /// # Errors
    ///
    /// - [`Invalid`](ErrorKind::Invalid): the nodes differ in length, or the cluster size is no power
    ///   of two or too large.
    /// - [`NoSpace`](ErrorKind::NoSpace): there is no memory for one bit per cluster.
    pub fn new(source: Child, target: Child, options: CopyOptions) -> Result<Self, BlockError> {
        let (from, to) = (source.limits(), target.limits());
        if from.len_bytes != to.len_bytes {
            let text = format!(
                "source and target differ in length: {} and {} bytes",
                from.len_bytes, to.len_bytes
            );
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        let cluster_bytes = CLUSTER_BYTES_MIN
            .max(options.cluster_bytes_min)
            .max(to.cluster_bytes.map_or(0, u64::from));
        let ledger = Ledger::new(from.len_bytes, cluster_bytes)?;
        let align = from.request_align_bytes.max(to.request_align_bytes);
        let transfer = from.transfer_bytes_max.min(to.transfer_bytes_max);
        let piece_bytes = CHUNK_BYTES.min(u64::from(transfer / align) * u64::from(align));
        Ok(Self {
            source: Held::new(source),
            target: Held::new(target),
            options,
            len_bytes: from.len_bytes,
            piece_bytes: piece_bytes.max(u64::from(align)),
            ledger: Arc::new(ledger),
            counters: Counters::default(),
            done_bytes: AtomicU64::new(0),
        })
    }

    /// The edge that is read, unless the copy was given up. Not to be kept: it would stay in the graph.
    #[must_use]
    pub fn source(&self) -> Option<Arc<CopyEdge>> {
        self.source.get()
    }

    /// The edge that is written, unless the copy was given up. Not to be kept, as above.
    #[must_use]
    pub fn target(&self) -> Option<Arc<CopyEdge>> {
        self.target.get()
    }

    /// Moves nothing any more, and lets go of both edges.
    ///
    /// Requests under way keep the edge they need until they are back, which may be never. A write
    /// among them may change the target at any time until then, so `keeper` is dropped with the last of them: it
    /// is to keep others from the target. If there is none, it goes at once.
    ///
    /// The first call counts; the keepers of others are dropped.
    pub fn give_up(&self, keeper: Keeper) {
        self.target.let_go(Some(keeper));
        self.source.let_go(None);
    }

    /// Whether the copy was given up.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.target.is_let_go()
    }

    /// Makes stable what has been written to the target: for whoever calls the copy complete.
    ///
    /// # Errors
    ///
    /// Whatever the node driver says; [`GivenUp`](ErrorKind::GivenUp).
    pub async fn flush(&self, cx: &AioContext) -> Result<(), BlockError> {
        match self.target() {
            Some(target) => target.flush(cx).await,
            None => Err(given_up()),
        }
    }

    fn to_read(&self) -> Result<Arc<CopyEdge>, CopyError> {
        let source = self.source.get();
        source.ok_or_else(|| CopyError::new(CopySide::Read, given_up()))
    }

    fn to_write(&self) -> Result<Arc<CopyEdge>, CopyError> {
        let target = self.target.get();
        target.ok_or_else(|| CopyError::new(CopySide::Write, given_up()))
    }

    /// Length of both nodes in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Unit of copying in bytes; a power of two.
    #[must_use]
    pub fn cluster_bytes(&self) -> u64 {
        self.ledger.cluster_bytes()
    }

    /// Bytes copied, zeroed or skipped for good; the length of the nodes when all is done.
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes.load(Ordering::Acquire)
    }

    /// Whether nothing is to copy and nothing in flight.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.ledger.is_complete()
    }

    /// How the bytes copied so far went.
    #[must_use]
    pub fn counters(&self) -> CopyCounters {
        self.counters.read()
    }

    /// Takes the first area in `limit` that is still to copy, or `None` when there is none (it may be in flight).
    ///
    /// The area starts and ends between clusters, and has at most `max_len_bytes` bytes but at least
    /// one cluster; [`BlockCopy::copy`] may give part of it back. Until then nobody can change these
    /// bytes of the source.
    pub fn claim(&self, limit: ByteRange, max_len_bytes: u64) -> Option<Claim> {
        self.ledger.claim(limit, max_len_bytes)
    }

    /// Copies what was claimed, or the part of it that has one status, and gives the rest back.
    ///
    /// Zeroes of the source become zeroes of the target by the cheapest way it has. The buffer comes
    /// from the context's pool if half of that is free and from the heap otherwise: to wait for one
    /// while holding a claim could wait for a guest write that holds a buffer and waits for the claim.
    /// The other half is for guests, since a device that does not answer keeps what it was given.
    ///
    /// Dropping the future gives everything back. So does an error.
    ///
    /// # Errors
    ///
    /// The node's error, and on which side it happened; [`GivenUp`](ErrorKind::GivenUp) if the copy was given
    /// up meanwhile, whatever side comes with it.
    pub async fn copy(&self, cx: &AioContext, mut claim: Claim) -> Result<Outcome, CopyError> {
        let status = self.narrow(cx, &mut claim).await?;
        let range = claim.range();
        let mut tally = Tally::default();
        let class = match (status, self.options.target_content) {
            (Found::Zero, TargetContent::Zero) => CopyClass::Skipped,
            (Found::Zero, TargetContent::Unknown) => {
                self.copy_zeroes(cx, range).await?;
                CopyClass::Zero
            }
            (Found::Data, _) => CopyClass::Copied(self.copy_data(cx, range, &mut tally).await?),
        };
        self.counters.add(&tally, class, range.len());
        self.done_bytes.fetch_add(range.len(), Ordering::AcqRel);
        claim.finish();
        Ok(Outcome { range, class })
    }

    /// Finds out what the claim begins with, and gives back what goes beyond it.
    async fn narrow(&self, cx: &AioContext, claim: &mut Claim) -> Result<Found, CopyError> {
        let range = claim.range();
        let cluster = self.cluster_bytes();
        let one_cluster = (Found::Data, cluster);
        let extent = self.to_read()?.extent(cx, range).await;
        let (found, len) = match extent {
            Ok(extent) if extent.status == AllocationStatus::Zero => {
                if extent.len_bytes >= range.len() {
                    (Found::Zero, range.len())
                } else if extent.len_bytes >= cluster {
                    (Found::Zero, extent.len_bytes / cluster * cluster)
                } else {
                    one_cluster
                }
            }
            Ok(extent) => {
                let whole = extent.len_bytes.div_ceil(cluster).saturating_mul(cluster);
                let most = claim.data_bytes_max().min(self.chunk_bytes()) / cluster * cluster;
                (Found::Data, whole.clamp(cluster, most.max(cluster)))
            }
            // The extents are advice. If the bytes cannot be read either, reading them will tell.
            Err(_) => one_cluster,
        };
        claim.keep(len);
        Ok(found)
    }

    /// Most data of one claim: whole clusters.
    fn chunk_bytes(&self) -> u64 {
        (CHUNK_BYTES / self.cluster_bytes()).max(1) * self.cluster_bytes()
    }

    async fn copy_zeroes(&self, cx: &AioContext, range: ByteRange) -> Result<(), CopyError> {
        let flags = RequestFlags {
            may_unmap: true,
            ..RequestFlags::default()
        };
        let result = self.to_write()?.write_zeroes(cx, range, flags).await;
        result.map_err(|error| CopyError::new(CopySide::Write, error))
    }

    async fn copy_data(
        &self,
        cx: &AioContext,
        range: ByteRange,
        tally: &mut Tally,
    ) -> Result<Way, CopyError> {
        let mut dearest = Way::Direct;
        let mut buf = take_buffer(cx, range.len().min(self.piece_bytes));
        let mut at = range.start();
        while at < range.end() {
            let len = (range.end() - at).min(self.piece_bytes);
            buf.set_len(in_memory(len));
            let (filled, read) = self.to_read()?.read(cx, at, buf).await;
            let read = read.map_err(|error| CopyError::new(CopySide::Read, error))?;
            let flags = RequestFlags::default();
            let (back, written) = self.to_write()?.write(cx, at, filled, flags).await;
            let written = written.map_err(|error| CopyError::new(CopySide::Write, error))?;
            buf = back;
            let way = read.max(written);
            tally.add(way, len);
            dearest = dearest.max(way);
            at += len;
        }
        Ok(dearest)
    }

    /// Waits until nothing in `range`, rounded to clusters, is still to copy or in flight, and copies
    /// what nobody else does.
    ///
    /// Errors of others are not reported: what they gave back is copied here. Dropping the
    /// future gives back what it was copying itself.
    ///
    /// # Errors
    ///
    /// The error of the copying done here, and on which side it happened.
    pub async fn ensure_copied(&self, cx: &AioContext, range: ByteRange) -> Result<(), CopyError> {
        loop {
            match self.ledger.next_step(range) {
                Step::Done => return Ok(()),
                Step::Copy(claim) => {
                    self.copy(cx, claim).await?;
                }
                Step::Wait(landed) => landed.await,
            }
        }
    }

    /// Waits until something that is in flight now has been copied or given back; if nothing is, it is ready at once.
    pub fn landed(&self) -> impl Future<Output = ()> + Send + use<> {
        let whole = ByteRange::between(0, self.len_bytes);
        let landed = self.ledger.landed(whole);
        async move {
            if let Some(landed) = landed {
                landed.await;
            }
        }
    }

    /// Whether [`BlockCopy::ensure_copied`] would have anything to do or to wait for.
    #[must_use]
    pub fn needs_copy(&self, range: ByteRange) -> bool {
        self.ledger.has_uncopied(range)
    }
}

/// The error of whatever is asked of a copy that was given up.
pub(crate) fn given_up() -> BlockError {
    BlockError::new(ErrorKind::GivenUp, "the copy was given up")
}

/// What a claim begins with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Data,
    Zero,
}

fn take_buffer(cx: &AioContext, len_bytes: u64) -> IoBuf {
    let (len, pool) = (in_memory(len_bytes), cx.buffers());
    let is_half_free = pool.bytes_in_use() + len <= pool.bytes_max() / 2;
    let pooled = is_half_free.then(|| pool.try_acquire(len)).flatten();
    pooled.unwrap_or_else(|| IoBuf::heap(len))
}

fn in_memory(len_bytes: u64) -> usize {
    usize::try_from(len_bytes).expect("a piece fits memory")
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
