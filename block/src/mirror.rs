//! A copy that follows its source: what differs, what is being made equal, and how guests' writes get to both sides.
//!
//! A background copy and the filter above the source share one [`MirrorCopy`]. The filter is there before the first
//! byte is looked at, and from then on no change of the source goes unnoticed:
//!
//! - In the mode [`Background`](CopyMode::Background) a guest's request marks what it has touched, whatever came of
//!   it, before the guest hears of its end. The copy takes the mark off *before* it reads. So whatever the copy has
//!   missed is marked when the guest's request is over.
//! - In the mode [`WriteBlocking`](CopyMode::WriteBlocking) it waits for its turn, writes the source, then the target
//!   from the same buffer, and only then ends. What it does not get to the target is marked.
//!
//! So the two sides are equal when no guest's request is inside the filter, nothing is marked and nothing in flight.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, AtomicU64, Ordering},
};

use aio::AioContext;

use crate::{
    allocation::ByteRange,
    copy::{
        BUFFER_BYTES_MAX, CopyClass, CopyCounters, CopyEdge, CopyError, CopySide, Found, Keeper,
        Layers, Mover, Offload, Outcome, TargetContent, given_up,
    },
    dirty_bitmap::DirtyBitmap,
    error::BlockError,
    graph::child::Child,
    node_driver::Limits,
};

mod guest;
mod ledger;

pub(crate) use guest::Turn;
pub use ledger::Claim;
use ledger::Ledger;

/// Granularity where the target has no opinion of its own, and the largest that it may choose.
const GRANULARITY_BYTES: u64 = 64 << 10;
/// The smallest granularity that the target may choose.
const GRANULARITY_BYTES_MIN: u64 = 4 << 10;

/// When a guest's write gets to the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyMode {
    /// Some time after it has ended.
    #[default]
    Background,
    /// Before it ends.
    WriteBlocking,
}

impl CopyMode {
    /// Every mode.
    pub const ALL: [Self; 2] = [Self::Background, Self::WriteBlocking];

    /// The name that clients use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Background => "background",
            Self::WriteBlocking => "write-blocking",
        }
    }

    /// The mode with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

/// What differs when a mirror begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MirrorStart {
    /// Everything may.
    #[default]
    Everything,
    /// What the source has itself, and not what it reads from its backing child, which the target has, too.
    Top,
    /// Nothing, or what is [marked](MirrorCopy::mark) before guests go on.
    Nothing,
}

/// Whether zeroes may be made by giving up space of the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmap {
    /// They may.
    #[default]
    Allowed,
    /// Zeroes take as much space as data.
    Forbidden,
}

/// How to mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorCopyOptions {
    /// Unit of what is remembered as different, in bytes: a power of two of at least 512. By default the cluster
    /// size of the target between 4 KiB and 64 KiB, or 64 KiB. Smaller than what either node takes it is rounded up.
    pub granularity_bytes: Option<u64>,
    /// What differs at the start.
    pub start: MirrorStart,
    /// What is known of the target.
    pub target_content: TargetContent,
    /// How the target gets zeroes.
    pub unmap: Unmap,
    /// What guests' writes do.
    pub mode: CopyMode,
    /// Most bytes of the copy's buffers, all together; one request's at least.
    pub buffer_bytes_max: u64,
    /// Whether the kernel may move the data of the background copy.
    pub offload: Offload,
}

impl Default for MirrorCopyOptions {
    fn default() -> Self {
        Self {
            granularity_bytes: None,
            start: MirrorStart::default(),
            target_content: TargetContent::default(),
            unmap: Unmap::default(),
            mode: CopyMode::default(),
            buffer_bytes_max: BUFFER_BYTES_MAX,
            offload: Offload::default(),
        }
    }
}

/// How a mirror stands, in bytes, all at about one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MirrorLoad {
    /// What differs, in whole granules, and is not in flight.
    pub dirty_bytes: u64,
    /// What is being made equal.
    pub in_flight_bytes: u64,
    /// What guests have made different so far; bytes count again each time they become so.
    pub dirtied_bytes: u64,
    /// What the background copy has made equal so far.
    pub copied_bytes: u64,
    /// What guests have written on both sides so far.
    pub mirrored_bytes: u64,
}

/// The shared state of one mirror from one node to another of the same length.
///
/// Any thread; each method's I/O runs on the context it is given. A mirror that is no longer wanted is
/// [given up](Self::give_up), since requests that never return cannot be waited for.
#[derive(Debug)]
pub struct MirrorCopy {
    mover: Mover,
    ledger: Arc<Ledger>,
    mode: AtomicU8,
    unmap: Unmap,
    copied_bytes: AtomicU64,
    guests: guest::Guests,
    /// The first error of a guest's request at the target that nobody has asked for yet.
    guest_error: Mutex<Option<CopyError>>,
}

impl MirrorCopy {
    /// A mirror that has moved no data yet.
    ///
    /// Both edges should already have their permissions: reading the source, writing the target, and nobody else
    /// writing or resizing either.
    ///
    /// # Errors
    ///
    /// - [`Invalid`](crate::ErrorKind::Invalid): the nodes differ in length, or the granularity is none.
    /// - [`NoSpace`](crate::ErrorKind::NoSpace): there is no memory for one bit per granule.
    pub fn new(
        source: Child,
        target: Child,
        options: MirrorCopyOptions,
    ) -> Result<Self, BlockError> {
        let (from, to) = (source.limits(), target.limits());
        let wanted = options.granularity_bytes;
        let granularity_bytes = wanted
            .unwrap_or_else(|| default_granularity_bytes(&to))
            .max(from.request_align_bytes.into())
            .max(to.request_align_bytes.into());
        // What is known of the target is for the ledger to know, since it does not stay so.
        let content = TargetContent::Unknown;
        let mover = Mover::new(source, target, granularity_bytes, content)?;
        let mover = mover
            .with_buffers(options.buffer_bytes_max)
            .with_offload(options.offload);
        let mover = match options.unmap {
            Unmap::Allowed => mover,
            Unmap::Forbidden => mover.keeping_space(),
        };
        let mover = match options.start {
            MirrorStart::Top => mover.with_layers(Layers::Top),
            MirrorStart::Everything | MirrorStart::Nothing => mover,
        };
        let len_bytes = mover.len_bytes();
        let ledger = Ledger::new(len_bytes, granularity_bytes, options.target_content)?;
        match options.start {
            // What of the top layer is not there is found out when it comes to that, so that nothing is looked at
            // before guests' changes are.
            MirrorStart::Everything | MirrorStart::Top => {
                ledger.mark(ByteRange::between(0, len_bytes));
            }
            MirrorStart::Nothing => {}
        }
        Ok(Self {
            mover,
            ledger: Arc::new(ledger),
            mode: AtomicU8::new(mode_to_bits(options.mode)),
            unmap: options.unmap,
            copied_bytes: AtomicU64::new(0),
            guests: guest::Guests::default(),
            guest_error: Mutex::new(None),
        })
    }

    /// Makes different what is dirty in `bitmap`: what a mirror from a bitmap copies at first.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid): the bitmap is for another length.
    pub fn mark(&self, bitmap: &DirtyBitmap) -> Result<(), BlockError> {
        self.ledger.mark_all(bitmap)
    }

    /// The edge that is read, unless the mirror was given up. Not to be kept: it would stay in the graph.
    #[must_use]
    pub fn source(&self) -> Option<Arc<CopyEdge>> {
        self.mover.source()
    }

    /// The edge that is written, unless the mirror was given up. Not to be kept, as above.
    #[must_use]
    pub fn target(&self) -> Option<Arc<CopyEdge>> {
        self.mover.target()
    }

    /// Moves nothing any more, lets go of both edges, and lets guests go on, whose requests from now on reach the
    /// source only.
    ///
    /// Requests under way keep the edge they need until they are back, which may be never. A write among them may
    /// change the target at any time until then, so `keeper` is dropped with the last of them. If there is none, it
    /// goes at once. The first call counts; the keepers of others are dropped.
    pub fn give_up(&self, keeper: Keeper) {
        self.ledger.give_up();
        self.mover.give_up(keeper);
    }

    /// Whether the mirror was given up.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.mover.is_given_up()
    }

    /// Makes stable what has been written to the target.
    ///
    /// # Errors
    ///
    /// Whatever the node driver says; [`GivenUp`](crate::ErrorKind::GivenUp).
    pub async fn flush(&self, cx: &AioContext) -> Result<(), BlockError> {
        self.mover.flush(cx).await
    }

    /// Length of both nodes in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.mover.len_bytes()
    }

    /// Unit of what is remembered as different, in bytes; a power of two.
    #[must_use]
    pub fn granularity_bytes(&self) -> u64 {
        self.ledger.granularity_bytes()
    }

    /// When guests' writes get to the target.
    #[must_use]
    pub fn mode(&self) -> CopyMode {
        match self.mode.load(Ordering::Acquire) {
            0 => CopyMode::Background,
            _ => CopyMode::WriteBlocking,
        }
    }

    /// Changes that for requests that begin from now on.
    pub fn set_mode(&self, mode: CopyMode) {
        self.mode.store(mode_to_bits(mode), Ordering::Release);
    }

    /// Most data that one claim copies as things stand: more than usual where the kernel only shares blocks.
    #[must_use]
    pub fn data_bytes_max(&self) -> u64 {
        self.mover.data_bytes_max()
    }

    /// How the bytes of the background copy went.
    #[must_use]
    pub fn counters(&self) -> CopyCounters {
        self.mover.counters()
    }

    /// How much there is to do, and how much was done.
    #[must_use]
    pub fn load(&self) -> MirrorLoad {
        let load = self.ledger.load();
        MirrorLoad {
            dirty_bytes: load.dirty_bytes,
            in_flight_bytes: load.in_flight_bytes,
            dirtied_bytes: load.dirtied_bytes,
            copied_bytes: self.copied_bytes.load(Ordering::Acquire),
            mirrored_bytes: self.guests.mirrored_bytes(),
        }
    }

    /// What the target may lack: a bitmap of it.
    #[must_use]
    pub fn not_copied(&self) -> DirtyBitmap {
        self.ledger.not_copied()
    }

    /// Whether nothing is known to differ and nothing that did is in flight.
    ///
    /// With no guest's request inside the filter, the two sides are equal then.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.ledger.is_synced()
    }

    /// Whether every write that has been acknowledged is on both sides, and will be from now on.
    #[must_use]
    pub fn is_actively_synced(&self) -> bool {
        // In this order: a request that is no longer counted has left its mark.
        let is_active = self.mode() == CopyMode::WriteBlocking && self.ledger.tracked() == 0;
        is_active && self.ledger.is_synced() && !self.is_given_up()
    }

    /// Has `waker` woken when something differs after [`claim`](Self::claim) has found nothing or the alarm
    /// was [armed](Self::arm), when a guest's request has failed at the target, and now and then when guests write
    /// on both sides.
    pub fn set_alarm(&self, waker: std::task::Waker) {
        self.ledger.set_alarm(waker);
    }

    /// Has the alarm ring when something differs, if nothing does now; returns whether it will.
    #[must_use]
    pub fn arm(&self) -> bool {
        self.ledger.arm()
    }

    /// The first error since the last call that a guest's request met at the target.
    ///
    /// The guest has not heard of it, and what it wrote is marked.
    pub fn take_guest_error(&self) -> Option<CopyError> {
        let mut error = self
            .guest_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        error.take()
    }

    fn note_guest_error(&self, error: BlockError) {
        let error = CopyError::new(CopySide::Write, error);
        {
            let mut first = self
                .guest_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error);
        }
        self.ledger.ring();
    }

    /// Takes the next area that differs and is not being copied, or `None` when there is none.
    ///
    /// It has whole granules, and at most `max_len_bytes` bytes but at least one granule.
    /// [`MirrorCopy::copy`] may give part of it back.
    pub fn claim(&self, max_len_bytes: u64) -> Option<Claim> {
        self.ledger.claim(max_len_bytes)
    }

    /// Makes equal what was claimed, or the first part of it that has one status, and gives the rest back.
    ///
    /// Of data it is at most `data_bytes_max`. First waits for guests that are at it. Dropping the future, or an
    /// error, gives everything back.
    ///
    /// # Errors
    ///
    /// The node's error, and on which side it happened; [`GivenUp`](crate::ErrorKind::GivenUp) if the mirror was given
    /// up meanwhile, whatever side comes with it.
    pub async fn copy(
        &self,
        cx: &AioContext,
        mut claim: Claim,
        data_bytes_max: u64,
    ) -> Result<Outcome, CopyError> {
        if !claim.turn().await {
            return Err(CopyError::new(CopySide::Read, given_up()));
        }
        let looked = self.mover.look(cx, claim.range(), data_bytes_max).await;
        let (found, len_bytes) = looked?;
        claim.keep(len_bytes);
        let range = claim.range();
        let (mut claim, done) = self.equalise(cx, range, found, claim).await;
        let (class, len_bytes) = done?;
        claim.keep(len_bytes);
        let range = claim.range();
        self.copied_bytes.fetch_add(range.len(), Ordering::AcqRel);
        claim.finish();
        Ok(Outcome { range, class })
    }

    /// As [`Mover::equalise`], of a range that nobody else is at, and keeps account of what the target has.
    async fn equalise<K: 'static>(
        &self,
        cx: &AioContext,
        range: ByteRange,
        found: Found,
        claim: K,
    ) -> (K, Result<(CopyClass, u64), CopyError>) {
        match found {
            Found::Data => self.ledger.target_changes(range),
            Found::Zero if self.ledger.is_target_zero(range) => {
                return (claim, Ok((self.mover.skip(range), range.len())));
            }
            Found::Zero | Found::Unallocated => {}
        }
        let (claim, done) = self.mover.equalise(cx, range, found, claim).await;
        if let Ok((CopyClass::Zero, _)) = done {
            self.ledger.target_zeroed(range);
        }
        (claim, done)
    }

    /// Waits until something that is in flight now has ended; if nothing is, it is ready at once.
    pub fn landed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.ledger.landed()
    }
}

/// The granularity of a mirror to a node with these limits that nobody has chosen one for.
#[must_use]
pub fn default_granularity_bytes(target: &Limits) -> u64 {
    match target.cluster_bytes {
        Some(cluster) => u64::from(cluster).clamp(GRANULARITY_BYTES_MIN, GRANULARITY_BYTES),
        None => GRANULARITY_BYTES,
    }
}

fn mode_to_bits(mode: CopyMode) -> u8 {
    match mode {
        CopyMode::Background => 0,
        CopyMode::WriteBlocking => 1,
    }
}

#[cfg(test)]
mod tests;
