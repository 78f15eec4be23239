//! The way of a request through a node: checked once, made to fit the node driver, counted.

use std::sync::atomic::Ordering::Relaxed;

use aio::{AioContext, IoBuf};

use super::{
    Node,
    options::{DetectZeroes, Discard, is_zero},
};
use crate::{
    allocation::{AllocationStatus, ByteRange, Extent},
    error::{BlockError, ErrorKind},
    gate::RequestGuard,
    latency::Timed,
    node_driver::{Limits, RequestFlags, Transferred, Way},
    request::{
        Passage,
        align::{self, Content},
        carried::carried,
    },
};

/// A request that is inside a node; it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// What the request may change, until it ends.
    changing: Option<ByteRange>,
    user: User,
    guard: RequestGuard<Node>,
}

/// Who makes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// Somebody outside the graph: what changes the node is carried to its end even if he gives it up.
    Outside,
    /// A node above, for a request of its own that is carried.
    Node,
}

impl Admitted {
    pub(crate) fn new(guard: RequestGuard<Node>, user: User) -> Self {
        Self {
            changing: None,
            user,
            guard,
        }
    }

    pub(super) fn node(&self) -> &Node {
        self.guard.holder()
    }

    /// Notes what the request may write from now on.
    pub(super) fn will_write(&mut self, range: ByteRange) {
        self.changing = Some(range);
        let inner = &self.node().inner;
        inner.counters.write_to(range.end());
        inner.threshold.write_to(range.end());
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
        mut self,
        cx: &AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> Transferred {
        let node = self.node();
        let limits = node.limits();
        let range = match node.check_change(&limits, range_of(offset_bytes, &buf)) {
            Ok(range) if range.is_empty() => return (buf, Ok(Way::Direct)),
            Ok(range) => range,
            Err(error) => return (buf, Err(error)),
        };
        self.will_write(range);
        if self.may_be_given_up() && align::fits(&limits, range) {
            return self.write_checked(cx, range, buf, flags).await;
        }
        let context = cx.clone();
        let write = async move { self.write_checked(&context, range, buf, flags).await };
        carried(cx, write).await
    }

    async fn write_checked(
        &self,
        cx: &AioContext,
        range: ByteRange,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> Transferred {
        let node = self.node();
        let _timed = node.inner.latencies.time(cx, Timed::Write);
        let (buf, result) = match self.passage(range, flags).await {
            Err(error) => (buf, Err(error)),
            Ok((_passage, limits)) if align::fits(&limits, range) => {
                write_or_zero(node, cx, range, buf, flags).await
            }
            Ok((_passage, _)) => {
                let rewriting = align::rewrite(node, cx, range, Content::Bytes(&buf), flags);
                let written = Box::pin(rewriting).await;
                (buf, written.map(|()| Way::Bounced))
            }
        };
        let counters = &node.inner.counters;
        node.count_bytes(&counters.written_bytes, range, &result);
        (buf, node.finished(&counters.writes, range, result))
    }

    /// Whether a request that changes the node may be given up half-way, provided that it needs no second buffer.
    ///
    /// An abandoned write may land late, and one that carries its neighbours' bytes along would then undo what they
    /// have written since.
    fn may_be_given_up(&self) -> bool {
        self.user == User::Node
    }

    /// The right to change `range`, and the limits that hold meanwhile: the length does not change beside it.
    async fn passage(
        &self,
        range: ByteRange,
        flags: RequestFlags,
    ) -> Result<(Passage<'_>, Limits), BlockError> {
        let node = self.node();
        if let Some(passage) = node.changing().try_pass().filter(|_| !flags.serialising) {
            let limits = node.limits();
            if align::is_aligned(&limits, range) {
                node.check(&limits, Some(range))?;
                return Ok((passage, limits));
            }
        }
        // Boxed, to keep small what every write pays for.
        Box::pin(self.slow_passage(range, flags)).await
    }

    async fn slow_passage(
        &self,
        range: ByteRange,
        flags: RequestFlags,
    ) -> Result<(Passage<'_>, Limits), BlockError> {
        let node = self.node();
        let mut limits = node.limits();
        loop {
            node.check(&limits, Some(range))?;
            let passage = if align::is_aligned(&limits, range) && !flags.serialising {
                node.changing().pass(range).await
            } else {
                let outer = align::outer(&limits, range);
                node.changing().serialise(outer).await
            };
            let now = node.limits();
            if now == limits {
                return Ok((passage, now));
            }
            limits = now;
        }
    }

    pub(crate) async fn write_zeroes(
        mut self,
        cx: &AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> Result<(), BlockError> {
        let limits = self.node().limits();
        let range = self.node().check_change(&limits, Some(range))?;
        if range.is_empty() {
            return Ok(());
        }
        self.will_write(range);
        if self.may_be_given_up() && align::is_aligned(&limits, range) {
            return self.zero_checked(cx, range, flags).await;
        }
        let context = cx.clone();
        let zeroing = async move { self.zero_checked(&context, range, flags).await };
        carried(cx, zeroing).await
    }

    async fn zero_checked(
        &self,
        cx: &AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> Result<(), BlockError> {
        let node = self.node();
        let _timed = node.inner.latencies.time(cx, Timed::Write);
        let result = self.zero(cx, range, flags).await;
        let counters = &node.inner.counters;
        if result.is_ok() {
            counters.written_bytes.fetch_add(range.len(), Relaxed);
        }
        node.finished(&counters.writes, range, result)
    }

    /// Zeroes the aligned middle by the node driver's own means, and rewrites both edges.
    async fn zero(
        &self,
        cx: &AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> Result<(), BlockError> {
        let node = self.node();
        let (_passage, limits) = self.passage(range, flags).await?;
        if align::is_aligned(&limits, range) {
            return zero_aligned(node, cx, range, flags).await;
        }
        if flags.no_fallback {
            let what = "zeroes at unaligned edges must be written";
            return Err(BlockError::new(ErrorKind::Unsupported, what));
        }
        let middle = align::inner(&limits, range);
        if middle.is_empty() {
            return Box::pin(align::rewrite(node, cx, range, Content::Zeroes, flags)).await;
        }
        zero_aligned(node, cx, middle, flags).await?;
        let head = ByteRange::between(range.start(), middle.start());
        let tail = ByteRange::between(middle.end(), range.end());
        for edge in [head, tail] {
            Box::pin(align::rewrite(node, cx, edge, Content::Zeroes, flags)).await?;
        }
        Ok(())
    }

    pub(crate) async fn discard(
        mut self,
        cx: &AioContext,
        range: ByteRange,
    ) -> Result<(), BlockError> {
        let limits = self.node().limits();
        let range = self.node().check_change(&limits, Some(range))?;
        // Never more than was asked: a block that is given up in part is not given up.
        let whole = align::inner(&limits, range);
        if whole.is_empty() || self.node().options().discard == Discard::Ignore {
            return Ok(());
        }
        self.changing = Some(whole);
        let context = cx.clone();
        let discarding = async move {
            let node = self.node();
            let result = match self.passage(whole, RequestFlags::default()).await {
                Ok(_passage) => node.driver().discard(&context, whole).await,
                Err(error) => Err(error),
            };
            node.finished(&node.inner.counters.discards, range, result)
        };
        carried(cx, discarding).await
    }

    pub(crate) async fn truncate(self, cx: &AioContext, len_bytes: u64) -> Result<(), BlockError> {
        let node = self.node();
        node.check_change(&node.limits(), Some(ByteRange::between(0, 0)))?;
        let context = cx.clone();
        let resizing = async move {
            let node = self.node();
            let everything = ByteRange::between(0, u64::MAX);
            let _passage = node.changing().serialise(everything).await;
            let resized = node.resize(&context, len_bytes).await;
            resized.map_err(|error| error.on_node(node.name()))
        };
        carried(cx, resizing).await
    }

    pub(crate) async fn flush(self, cx: &AioContext) -> Result<(), BlockError> {
        let node = self.node();
        let _timed = node.inner.latencies.time(cx, Timed::Flush);
        let flushed = node.driver().flush(cx).await;
        node.inner.counters.flushes.count(&flushed);
        flushed.map_err(|error| error.on_node(node.name()))
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

impl Node {
    /// Changes the length while nobody changes the content. Bitmaps are never shorter than the node.
    async fn resize(&self, cx: &AioContext, len_bytes: u64) -> Result<(), BlockError> {
        let before = self.len_bytes();
        self.bitmaps().check_resize()?;
        if len_bytes > before {
            self.bitmaps().resize(len_bytes)?;
        }
        let result = self.driver().truncate(cx, len_bytes).await;
        if self.len_bytes() < len_bytes.max(before) {
            self.bitmaps().resize(self.len_bytes())?;
        }
        result
    }
}

impl Drop for Admitted {
    /// Marks what the request may have changed: it has ended, well or not, or is abandoned. The request is still
    /// inside, so that a drain that waits for it returns later.
    fn drop(&mut self) {
        if let Some(range) = self.changing {
            let node = self.node();
            node.inner.bitmaps.mark(range, || node.len_bytes());
        }
    }
}

/// Writes what fits the node driver, as zeroes if that is what it is and what the node looks for.
async fn write_or_zero(
    node: &Node,
    cx: &AioContext,
    range: ByteRange,
    buf: IoBuf,
    flags: RequestFlags,
) -> Transferred {
    let detect = node.options().detect_zeroes;
    if detect != DetectZeroes::Off && is_zero(&buf) {
        let zeroes = RequestFlags {
            may_unmap: detect == DetectZeroes::Unmap,
            no_fallback: true,
            ..flags
        };
        match Box::pin(zero_aligned(node, cx, range, zeroes)).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            result => return (buf, result.map(|()| Way::Direct)),
        }
    }
    node.driver().write(cx, range.start(), buf, flags).await
}

/// Zeroes an aligned range: by the node driver's own means or, where that is allowed, by writing zeroes.
async fn zero_aligned(
    node: &Node,
    cx: &AioContext,
    range: ByteRange,
    mut flags: RequestFlags,
) -> Result<(), BlockError> {
    if flags.may_unmap && !node.options().may_unmap() {
        // What is allocated stays so; but a hole that might be made need not be filled either.
        flags.may_unmap = false;
        if !flags.fua && is_hole(node, cx, range).await {
            return Ok(());
        }
    }
    match node.driver().write_zeroes(cx, range, flags).await {
        Err(error) if error.kind() == ErrorKind::Unsupported && !flags.no_fallback => {
            Box::pin(align::rewrite(node, cx, range, Content::Zeroes, flags)).await
        }
        result => result,
    }
}

/// Whether an aligned range reads as zeroes already, all of it, as far as that can be known.
async fn is_hole(node: &Node, cx: &AioContext, range: ByteRange) -> bool {
    let extent = node.driver().extent(cx, range).await;
    extent.is_ok_and(|it| it.status == AllocationStatus::Zero && it.len_bytes >= range.len())
}

fn range_of(offset_bytes: u64, buf: &IoBuf) -> Option<ByteRange> {
    ByteRange::new(offset_bytes, u64::try_from(buf.len()).ok()?)
}
