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

use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
};

use aio::AioContext;

use crate::{
    allocation::{AllocationStatus, ByteRange},
    dirty_bitmap::DirtyBitmap,
    error::{BlockError, ErrorKind},
    graph::child::Child,
    node_driver::Limits,
};

mod budget;
mod crowd;
mod edge;
mod ledger;
mod method;
mod mover;
mod report;
mod snapshot;

pub use budget::{OnFull, SpaceBudget};
pub use crowd::{Crowd, CrowdMember};
pub use edge::{CopyEdge, Keeper};
pub use ledger::{Claim, CopyProgress};
use ledger::{Ledger, Step};
pub(crate) use mover::{Found, Layers, Mover};
pub use report::{CopyClass, CopyCounters, CopyError, CopySide, Outcome};
use snapshot::Readable;

/// Smallest unit of copying.
pub const CLUSTER_BYTES_MIN: u64 = 64 << 10;
/// Most data that one claim holds on to, unless a single cluster is larger: what a buffer of a context's pool holds.
///
/// What a request costs besides its bytes is the same whatever its length: on a disk that takes 2 MiB in one piece
/// they cost half of the processor time that twice 1 MiB do.
const CHUNK_BYTES: u64 = 2 << 20;
const _: () = assert!(CHUNK_BYTES == aio::BUFFER_BYTES_MAX as u64);
/// Most bytes of buffers of one copy, unless it is told otherwise.
pub const BUFFER_BYTES_MAX: u64 = 64 << 20;
/// Longest area that a scan looks at, and keeps guests from, at a time.
const SCAN_BYTES: u64 = 1 << 30;

/// What is known of the target before the copy begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetContent {
    /// Anything may be there: zeroes of the source must be written.
    #[default]
    Unknown,
    /// Every byte reads as zero: zeroes of the source need nothing.
    Zero,
}

/// What is to copy when the copy begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum InitialSet {
    /// Everything.
    #[default]
    All,
    /// What the source has itself, and not what it reads from its backing child.
    ///
    /// Everything counts as to copy at first. What turns out not to be the source's own is dropped when somebody
    /// wants to copy it, or when a [scan](BlockCopy::scan) comes there.
    Top,
    /// The clusters that these bits touch; the rest is neither copied nor saved for guests.
    Bitmap(DirtyBitmap),
}

/// What becomes of the source's bytes once the target has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceAfter {
    /// They stay.
    #[default]
    Kept,
    /// They are discarded. For a source that is read for this copy alone: a snapshot in a scratch node.
    Discarded,
}

/// How to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyOptions {
    /// Lower bound of the cluster size in bytes, a power of two; zero for none of its own.
    pub cluster_bytes_min: u64,
    /// What is known of the target.
    pub target_content: TargetContent,
    /// What is to copy.
    pub initial: InitialSet,
    /// What becomes of the source's bytes.
    pub source_after: SourceAfter,
    /// Most bytes of buffers at any time, but one buffer at least.
    pub buffer_bytes_max: u64,
    /// Most bytes of data to keep in the target, where that is scratch space, and what to do when it is full.
    pub scratch: Option<(u64, OnFull)>,
    /// Whether the kernel may move the data.
    pub offload: Offload,
}

/// Whether the kernel may move data from file to file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// It does where that works, and is not slower: by sharing blocks where the file system can, which takes
    /// neither time nor space, and is undone block by block as either file is written.
    #[default]
    Auto,
    /// Everything is read and written, so that the two files have nothing in common.
    Off,
}

impl Default for CopyOptions {
    /// All of it, to a target of which nothing is known, with buffers of 64 MiB at most.
    fn default() -> Self {
        Self {
            cluster_bytes_min: 0,
            target_content: TargetContent::default(),
            initial: InitialSet::default(),
            source_after: SourceAfter::default(),
            buffer_bytes_max: BUFFER_BYTES_MAX,
            scratch: None,
            offload: Offload::default(),
        }
    }
}

/// Hears of areas that were copied because a guest wants to overwrite them: how many bytes were moved for that, none
/// for zeroes, and when by the context's clock in nanoseconds. Any thread; no lock is held.
pub type SavedBytes = dyn Fn(u64, u64) + Send + Sync;

/// The shared state of one point-in-time copy from one node to another of the same length.
///
/// Any thread; each method's I/O runs on the context it is given.
///
/// A copy that is no longer wanted is [given up](Self::give_up), since requests that never return cannot
/// be waited for.
pub struct BlockCopy {
    mover: Mover,
    ledger: Arc<Ledger>,
    source_after: SourceAfter,
    budget: Option<SpaceBudget>,
    readable: Readable,
    saved: OnceLock<Weak<SavedBytes>>,
}

impl BlockCopy {
    /// The unit in which these two nodes would be copied: as large as 64 KiB, as `cluster_bytes_min` and as what the
    /// target allocates at a time.
    #[must_use]
    pub fn cluster_bytes_for(target: &Limits, cluster_bytes_min: u64) -> u64 {
        CLUSTER_BYTES_MIN
            .max(cluster_bytes_min)
            .max(target.cluster_bytes.map_or(0, u64::from))
    }

    /// A copy of which everything is still to do. Moves no data yet.
    ///
    /// Both edges should already have their permissions: reading the source, writing the target,
    /// and nobody resizing either.
    ///
    /// # Errors
    ///
    /// - [`Invalid`](ErrorKind::Invalid): the nodes differ in length, the cluster size is no power
    ///   of two or too large, or the bitmap is of another length.
    /// - [`NoSpace`](ErrorKind::NoSpace): there is no memory for one bit per cluster.
    pub fn new(source: Child, target: Child, options: CopyOptions) -> Result<Self, BlockError> {
        let cluster_bytes = Self::cluster_bytes_for(&target.limits(), options.cluster_bytes_min);
        let mover = Mover::new(source, target, cluster_bytes, options.target_content)?;
        let (layers, set) = match &options.initial {
            InitialSet::All => (Layers::All, None),
            InitialSet::Top => (Layers::Top, None),
            InitialSet::Bitmap(set) => (Layers::All, Some(set)),
        };
        let len_bytes = mover.len_bytes();
        let ledger = Ledger::new(len_bytes, cluster_bytes, set)?;
        let budget = options.scratch;
        let budget = budget.map(|limit| SpaceBudget::new(limit, len_bytes, cluster_bytes));
        let mover = mover.with_layers(layers).with_offload(options.offload);
        Ok(Self {
            mover: mover.with_buffers(options.buffer_bytes_max),
            source_after: options.source_after,
            budget: budget.transpose()?,
            readable: Readable::of(&options.initial, &ledger)?,
            ledger: Arc::new(ledger),
            saved: OnceLock::new(),
        })
    }

    /// The edge that is read, unless the copy was given up. Not to be kept: it would stay in the graph.
    #[must_use]
    pub fn source(&self) -> Option<Arc<CopyEdge>> {
        self.mover.source()
    }

    /// The edge that is written, unless the copy was given up. Not to be kept, as above.
    #[must_use]
    pub fn target(&self) -> Option<Arc<CopyEdge>> {
        self.mover.target()
    }

    /// Moves nothing any more, and lets go of both edges.
    ///
    /// Requests under way keep the edge they need until they are back, which may be never. A write
    /// among them may change the target at any time until then, so `keeper` is dropped with the last of them: it
    /// is to keep others from the target. If there is none, it goes at once.
    ///
    /// The first call counts; the keepers of others are dropped.
    pub fn give_up(&self, keeper: Keeper) {
        self.mover.give_up(keeper);
        if let Some(budget) = &self.budget {
            budget.close();
        }
    }

    /// Whether the copy was given up.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.mover.is_given_up()
    }

    /// Makes stable what has been written to the target: for whoever calls the copy complete.
    ///
    /// # Errors
    ///
    /// Whatever the node driver says; [`GivenUp`](ErrorKind::GivenUp).
    pub async fn flush(&self, cx: &AioContext) -> Result<(), BlockError> {
        self.mover.flush(cx).await
    }

    /// Length of both nodes in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.mover.len_bytes()
    }

    /// Unit of copying in bytes; a power of two.
    #[must_use]
    pub fn cluster_bytes(&self) -> u64 {
        self.ledger.cluster_bytes()
    }

    /// Bytes copied, zeroed or skipped for good; all that was to copy, when all is done.
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        self.progress().done_bytes
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> CopyProgress {
        self.ledger.progress()
    }

    /// What is still to copy, or in flight, now: a bitmap with a bit per cluster.
    ///
    /// # Errors
    ///
    /// [`NoSpace`](ErrorKind::NoSpace): there is no memory for one more.
    pub fn uncopied(&self) -> Result<DirtyBitmap, BlockError> {
        self.ledger.uncopied()
    }

    /// Tells `saved`, as long as it lives, of all that is copied for guests from now on. The first call counts.
    pub fn tell_saved(&self, saved: &Arc<SavedBytes>) {
        // Whoever came first keeps his place.
        drop(self.saved.set(Arc::downgrade(saved)));
    }

    /// Whether nothing is to copy and nothing in flight.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.ledger.is_complete()
    }

    /// Most data that one claim copies as things stand: more than usual where the kernel only shares blocks.
    #[must_use]
    pub fn data_bytes_max(&self) -> u64 {
        self.mover.data_bytes_max()
    }

    /// How the bytes copied so far went.
    #[must_use]
    pub fn counters(&self) -> CopyCounters {
        self.mover.counters()
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
    /// Dropping the future gives everything back, as soon as the kernel does not read it any more. So does an error.
    ///
    /// # Errors
    ///
    /// The node's error, and on which side it happened; [`GivenUp`](ErrorKind::GivenUp) if the copy was given
    /// up meanwhile, whatever side comes with it.
    pub async fn copy(&self, cx: &AioContext, mut claim: Claim) -> Result<Outcome, CopyError> {
        let most = claim.data_bytes_max();
        let (found, len_bytes) = self.mover.look(cx, claim.range(), most).await?;
        claim.keep(len_bytes);
        let range = claim.range();
        self.take_room(range, found).await?;
        let (mut claim, done) = self.mover.equalise(cx, range, found, claim).await;
        let (class, len_bytes) = done?;
        claim.keep(len_bytes);
        let range = claim.range();
        if class == CopyClass::Unallocated {
            claim.leave_out();
        } else {
            if self.source_after == SourceAfter::Discarded {
                // Before anybody may write there again.
                self.mover.discard_source(cx, range).await;
            }
            claim.finish();
        }
        Ok(Outcome { range, class })
    }

    /// Looks at the first area from `from_bytes` on that is still to copy, and drops what is not the source's own,
    /// in a copy of the [top layer](InitialSet::Top). Returns where to look next; `None` at the end.
    ///
    /// Guests that want to write there wait for the look. Advice that cannot be had ends the scan: whoever copies asks
    /// again.
    pub async fn scan(&self, cx: &AioContext, from_bytes: u64) -> Option<u64> {
        let rest = ByteRange::between(from_bytes, self.len_bytes());
        let mut claim = self.claim(rest, SCAN_BYTES)?;
        let range = claim.range();
        let extent = self.source()?.extent(cx, range).await.ok()?;
        let (unit, len) = (self.cluster_bytes(), extent.len_bytes.min(range.len()));
        if extent.status != AllocationStatus::Unallocated {
            return Some((range.start() + len).next_multiple_of(unit));
        }
        let whole = if len == range.len() {
            len
        } else {
            len / unit * unit
        };
        if whole > 0 {
            claim.keep(whole);
            claim.leave_out();
        }
        // A cluster that is unallocated in part is copied.
        Some(range.start() + whole.max(unit))
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
                    let outcome = self.copy(cx, claim).await?;
                    self.note_saved(cx, outcome);
                }
                Step::Wait(landed) => landed.await,
            }
        }
    }

    fn note_saved(&self, cx: &AioContext, outcome: Outcome) {
        let moved_bytes = match outcome.class {
            CopyClass::Copied(_) => outcome.range.len(),
            CopyClass::Zero | CopyClass::Skipped | CopyClass::Unallocated => 0,
        };
        if let Some(saved) = self.saved.get().and_then(Weak::upgrade) {
            saved(moved_bytes, cx.now_ns());
        }
    }

    /// Waits until something that is in flight now has been copied or given back; if nothing is, it is ready at once.
    pub fn landed(&self) -> impl Future<Output = ()> + Send + use<> {
        let whole = ByteRange::between(0, self.len_bytes());
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

impl fmt::Debug for BlockCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockCopy")
            .field("mover", &self.mover)
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}

/// The error of whatever is asked of a copy that was given up.
pub(crate) fn given_up() -> BlockError {
    BlockError::new(ErrorKind::GivenUp, "the copy was given up")
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
