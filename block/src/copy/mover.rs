//! Moving bytes from a source to a target: what is there, zeroes as zeroes, data by the kernel or through a buffer.
//! Keeps no books.

use std::sync::Arc;

use aio::{AioContext, ByteSemaphore, IoBuf};

use super::{
    BUFFER_BYTES_MAX, CHUNK_BYTES, CopyClass, CopyCounters, CopyEdge, CopyError, CopySide, Keeper,
    Offload, TargetContent,
    edge::Held,
    given_up,
    method::{self, Method, Methods},
    report::{Counters, Tally},
};
use crate::{
    allocation::{AllocationStatus, ByteRange},
    error::{BlockError, ErrorKind},
    graph::child::Child,
    node::offload::{self, OffloadKind, Refusal},
    node_driver::{RequestFlags, Way},
    request::carried::carried,
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
    methods: Methods,
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
            methods: Methods::new(),
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

    /// The same, of which the kernel may move the data, or not.
    pub(crate) fn with_offload(self, offload: Offload) -> Self {
        let methods = match offload {
            Offload::Auto => Methods::new(),
            Offload::Off => Methods::none(),
        };
        Self { methods, ..self }
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
                    let most = self.data_bytes_max().max(CHUNK_BYTES);
                    let most = data_bytes_max.min(most) / unit * unit;
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

    /// Most data that is moved at once as things stand, where there is no need for less.
    pub(crate) fn data_bytes_max(&self) -> u64 {
        self.whole_units(self.methods.data_bytes_max())
    }

    /// As many as fit in `bytes`, but at least one.
    fn whole_units(&self, bytes: u64) -> u64 {
        (bytes / self.unit_bytes).max(1) * self.unit_bytes
    }

    /// Makes `range` equal on both sides, which the source has as `found`, and counts how.
    ///
    /// Nobody may change it on either side meanwhile, or the caller copies it again afterwards. An error, or a
    /// dropped future, leaves the range of the target with some of both.
    ///
    /// Of data the kernel refuses to move, only the first units may be done: what comes with the class is how many
    /// bytes are. `claim` is whatever keeps others away. It comes back, unless the future is dropped: then
    /// the kernel may still be reading the source, and the claim is dropped when it is done.
    pub(crate) async fn equalise<K: 'static>(
        &self,
        cx: &AioContext,
        range: ByteRange,
        found: Found,
        claim: K,
    ) -> (K, Result<(CopyClass, u64), CopyError>) {
        let mut tally = Tally::default();
        let (claim, done) = match (found, self.target_content) {
            (Found::Zero, TargetContent::Zero) => (claim, Ok((CopyClass::Skipped, range.len()))),
            (Found::Zero, TargetContent::Unknown) => {
                let zeroed = self.copy_zeroes(cx, range).await;
                (claim, zeroed.map(|()| (CopyClass::Zero, range.len())))
            }
            (Found::Data, _) => self.copy_data(cx, range, &mut tally, claim).await,
            (Found::Unallocated, _) => (claim, Ok((CopyClass::Unallocated, range.len()))),
        };
        if let Ok((class, len_bytes)) = done {
            self.counters.add(&tally, class, len_bytes);
        }
        (claim, done)
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

    async fn copy_zeroes(&self, cx: &AioContext, range: ByteRange) -> Result<(), CopyError> {
        let flags = RequestFlags {
            may_unmap: self.may_unmap,
            ..RequestFlags::default()
        };
        let result = self.to_write()?.write_zeroes(cx, range, flags).await;
        result.map_err(|error| CopyError::new(CopySide::Write, error))
    }

    /// By the kernel if it can, and what it leaves through a buffer.
    async fn copy_data<K: 'static>(
        &self,
        cx: &AioContext,
        range: ByteRange,
        tally: &mut Tally,
        claim: K,
    ) -> (K, Result<(CopyClass, u64), CopyError>) {
        let attempt = self.methods.attempt();
        let started_ns = cx.now_ns();
        let (kind, part) = match (attempt.method, method::part_for_kernel(range)) {
            (Method::Offload(kind), Some(part)) => (kind, part),
            (Method::Offload(_) | Method::ReadWrite, _) => {
                let moved = self.read_and_write(cx, range, tally).await;
                let took_ns = cx.now_ns().saturating_sub(started_ns);
                if moved.is_ok() && attempt.method == Method::ReadWrite {
                    attempt.moved(range.len(), took_ns);
                }
                return (
                    claim,
                    moved.map(|way| (CopyClass::Copied(way), range.len())),
                );
            }
        };
        let (claim, offloaded) = match self.offload(cx, kind, part, claim).await {
            Ok(offloaded) => offloaded,
            Err((claim, error)) => return (claim, Err(error)),
        };
        let rest = match offloaded {
            Ok(()) => {
                attempt.moved(part.len(), cx.now_ns().saturating_sub(started_ns));
                tally.add(Way::Offloaded, part.len());
                ByteRange::between(part.end(), range.end())
            }
            Err(refusal) => {
                attempt.refused(refusal);
                // A claim as long as those that only share blocks is too much to be read and written at once.
                let end = range.start() + self.whole_units(CHUNK_BYTES);
                ByteRange::between(range.start(), range.end().min(end))
            }
        };
        let moved = self.read_and_write(cx, rest, tally).await;
        let done_bytes = rest.end() - range.start();
        (claim, moved.map(|way| (CopyClass::Copied(way), done_bytes)))
    }

    /// Has the kernel move a range, holding both edges and the claim until it is done, whether or not anybody waits.
    async fn offload<K: 'static>(
        &self,
        cx: &AioContext,
        kind: OffloadKind,
        range: ByteRange,
        claim: K,
    ) -> Result<(K, Result<(), Refusal>), (K, CopyError)> {
        let (source, target) = match (self.to_read(), self.to_write()) {
            (Ok(source), Ok(target)) => (source, target),
            (Err(error), _) | (_, Err(error)) => return Err((claim, error)),
        };
        let home = cx.clone();
        let moving = async move {
            let (from, to) = ((&**source, range), (&**target, range.start()));
            let moved = offload::offload(&home, kind, from, to).await;
            (claim, moved)
        };
        Ok(carried(cx, moving).await)
    }

    /// Reads and writes, a piece at a time.
    async fn read_and_write(
        &self,
        cx: &AioContext,
        range: ByteRange,
        tally: &mut Tally,
    ) -> Result<Way, CopyError> {
        let mut dearest = Way::Offloaded;
        if range.is_empty() {
            return Ok(dearest);
        }
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

#[cfg(test)]
mod tests;
