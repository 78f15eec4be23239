//! Moving bytes from a source to a target: what is there, zeroes as zeroes, data through a buffer. Keeps no books.

use std::sync::Arc;

use aio::{AioContext, ByteSemaphore, IoBuf};

use super::{
    BUFFER_BYTES_MAX, CHUNK_BYTES, CopyClass, CopyCounters, CopyEdge, CopyError, CopySide, Keeper,
    TargetContent,
    edge::Held,
    given_up,
    report::{Counters, Tally},
};
use crate::{
    allocation::{AllocationStatus, ByteRange},
    error::{BlockError, ErrorKind},
    graph::child::Child,
    node_driver::{RequestFlags, Way},
};

/// Two nodes of one length, and how to get bytes from one to the other. Any thread; I/O runs where it is asked for.
#[derive(Debug)]
pub(crate) struct Mover {
    source: Held,
    target: Held,
    target_content: TargetContent,
    /// Whether the target may give up space where it gets zeroes.
    may_unmap: bool,
    len_bytes: u64,
    /// What areas are rounded to.
    unit_bytes: u64,
    /// Most bytes of one read and write.
    piece_bytes: u64,
    layers: Layers,
    /// What buffers may take, all together.
    buffers: ByteSemaphore,
    counters: Counters,
}

/// Which bytes of the source count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Layers {
    /// All that a reader sees.
    #[default]
    All,
    /// What the source has itself, and not what it reads from its backing child.
    Top,
}

/// What an area begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Data,
    Zero,
    /// Nothing of the source's own, and only that counts.
    Unallocated,
}

impl Mover {
    /// Areas will be whole units of `unit_bytes`, a power of two.
    pub(crate) fn new(
        source: Child,
        target: Child,
        unit_bytes: u64,
        target_content: TargetContent,
    ) -> Result<Self, BlockError> {
        let (from, to) = (source.limits(), target.limits());
        if from.len_bytes != to.len_bytes {
            let text = format!(
                "source and target differ in length: {} and {} bytes",
                from.len_bytes, to.len_bytes
            );
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        let align = from.request_align_bytes.max(to.request_align_bytes);
        let transfer = from.transfer_bytes_max.min(to.transfer_bytes_max);
        let piece_bytes = CHUNK_BYTES.min(u64::from(transfer / align) * u64::from(align));
        Ok(Self {
            source: Held::new(source),
            target: Held::new(target),
            target_content,
            may_unmap: true,
            len_bytes: from.len_bytes,
            unit_bytes,
            piece_bytes: piece_bytes.max(u64::from(align)),
            layers: Layers::default(),
            buffers: ByteSemaphore::new(BUFFER_BYTES_MAX),
            counters: Counters::default(),
        })
    }

    /// The same, of which only these layers count.
    pub(crate) fn with_layers(self, layers: Layers) -> Self {
        Self { layers, ..self }
    }

    /// The same, whose buffers take at most `bytes` all together, but one piece at least.
    pub(crate) fn with_buffers(self, bytes: u64) -> Self {
        let bytes = bytes.clamp(self.piece_bytes, i64::MAX.unsigned_abs());
        let buffers = ByteSemaphore::new(bytes);
        Self { buffers, ..self }
    }

    /// The same, with zeroes that take as much space of the target as data.
    pub(crate) fn keeping_space(self) -> Self {
        Self {
            may_unmap: false,
            ..self
        }
    }

    /// The edge that is read, unless the copy was given up.
    pub(crate) fn source(&self) -> Option<Arc<CopyEdge>> {
        self.source.get()
    }

    /// The edge that is written, unless the copy was given up.
    pub(crate) fn target(&self) -> Option<Arc<CopyEdge>> {
        self.target.get()
    }

    /// See [`BlockCopy::give_up`](super::BlockCopy::give_up).
    pub(crate) fn give_up(&self, keeper: Keeper) {
        self.target.let_go(Some(keeper));
        self.source.let_go(None);
    }

    /// Whether the copy was given up.
    pub(crate) fn is_given_up(&self) -> bool {
        self.target.is_let_go()
    }

    /// Length of both nodes in bytes.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// How the bytes moved so far went.
    pub(crate) fn counters(&self) -> CopyCounters {
        self.counters.read()
    }

    /// Makes stable what has been written to the target.
    pub(crate) async fn flush(&self, cx: &AioContext) -> Result<(), BlockError> {
        match self.target() {
            Some(target) => target.flush(cx).await,
            None => Err(given_up()),
        }
    }

    /// What `range`, some whole units, begins with, and how many bytes of it, whole units again, to move as that.
    ///
    /// Of data they are at most `data_bytes_max`, but at least one unit. A unit that is zero in part counts as data.
    pub(crate) async fn look(
        &self,
        cx: &AioContext,
        range: ByteRange,
        data_bytes_max: u64,
    ) -> Result<(Found, u64), CopyError> {
        let unit = self.unit_bytes;
        let one_unit = (Found::Data, unit);
        let extent = self.to_read()?.extent(cx, range).await;
        Ok(match extent {
            Ok(extent) => match self.found(extent.status) {
                Found::Data => {
                    let whole = extent.len_bytes.div_ceil(unit).saturating_mul(unit);
                    let most = data_bytes_max.min(self.chunk_bytes()) / unit * unit;
                    (Found::Data, whole.clamp(unit, most.max(unit)))
                }
                found if extent.len_bytes >= range.len() => (found, range.len()),
                found if extent.len_bytes >= unit => (found, extent.len_bytes / unit * unit),
                Found::Zero | Found::Unallocated => one_unit,
            },
            // The extents are advice. If the bytes cannot be read either, reading them will tell.
            Err(_) => one_unit,
        })
    }

    fn found(&self, status: AllocationStatus) -> Found {
        match (status, self.layers) {
            (AllocationStatus::Zero, _) => Found::Zero,
            (AllocationStatus::Unallocated, Layers::Top) => Found::Unallocated,
            (AllocationStatus::Data | AllocationStatus::Unallocated, _) => Found::Data,
        }
    }

    /// Gives up `range` of the source, which the target has.
    ///
    /// That is to save space, so that it does no harm if it fails.
    pub(crate) async fn discard_source(&self, cx: &AioContext, range: ByteRange) {
        if let Some(source) = self.source() {
            drop(source.discard(cx, range).await);
        }
    }

    /// Makes `range` equal on both sides, which the source has as `found`, and counts how.
    ///
    /// Nobody may change it on either side meanwhile, or the caller copies it again afterwards. An error, or a
    /// dropped future, leaves the range of the target with some of both.
    pub(crate) async fn equalise(
        &self,
        cx: &AioContext,
        range: ByteRange,
        found: Found,
    ) -> Result<CopyClass, CopyError> {
        let mut tally = Tally::default();
        let class = match (found, self.target_content) {
            (Found::Zero, TargetContent::Zero) => CopyClass::Skipped,
            (Found::Zero, TargetContent::Unknown) => {
                self.copy_zeroes(cx, range).await?;
                CopyClass::Zero
            }
            (Found::Data, _) => CopyClass::Copied(self.copy_data(cx, range, &mut tally).await?),
            (Found::Unallocated, _) => CopyClass::Unallocated,
        };
        self.counters.add(&tally, class, range.len());
        Ok(class)
    }

    /// Counts `range` as zeroes that the target has already.
    pub(crate) fn skip(&self, range: ByteRange) -> CopyClass {
        let class = CopyClass::Skipped;
        self.counters.add(&Tally::default(), class, range.len());
        class
    }

    fn to_read(&self) -> Result<Arc<CopyEdge>, CopyError> {
        let source = self.source.get();
        source.ok_or_else(|| CopyError::new(CopySide::Read, given_up()))
    }

    fn to_write(&self) -> Result<Arc<CopyEdge>, CopyError> {
        let target = self.target.get();
        target.ok_or_else(|| CopyError::new(CopySide::Write, given_up()))
    }

    /// Most data of one area: whole units.
    fn chunk_bytes(&self) -> u64 {
        (CHUNK_BYTES / self.unit_bytes).max(1) * self.unit_bytes
    }

    async fn copy_zeroes(&self, cx: &AioContext, range: ByteRange) -> Result<(), CopyError> {
        let flags = RequestFlags {
            may_unmap: self.may_unmap,
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
        let buf_bytes = range.len().min(self.piece_bytes);
        let budget = self.buffers.acquire(buf_bytes).await;
        let _budget = budget.expect("the budget is at least one piece");
        let mut buf = take_buffer(cx, buf_bytes);
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
}

/// A buffer from the context's pool if half of that is free, and from the heap otherwise.
fn take_buffer(cx: &AioContext, len_bytes: u64) -> IoBuf {
    let (len, pool) = (in_memory(len_bytes), cx.buffers());
    let is_half_free = pool.bytes_in_use() + len <= pool.bytes_max() / 2;
    let pooled = is_half_free.then(|| pool.try_acquire(len)).flatten();
    pooled.unwrap_or_else(|| IoBuf::heap(len))
}

fn in_memory(len_bytes: u64) -> usize {
    usize::try_from(len_bytes).expect("a piece fits memory")
}
