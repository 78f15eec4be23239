//! Requests that a node driver cannot take as they are: unaligned, or too long.
//!
//! They go through a second buffer, in pieces. A piece whose edge the request cuts is read first,
//! so that the neighbours' bytes are written back as they were; see [`RangeLock`] for why nobody
//! changes them meanwhile.
//!
//! [`RangeLock`]: super::RangeLock

use aio::{AioContext, IoBuf};

use crate::{
    allocation::{AllocationStatus, ByteRange, Extent},
    error::BlockError,
    node::Node,
    node_driver::{Limits, RequestFlags, Transferred, Way},
};

/// Longest second buffer: long enough for a disk to be fast, short enough to be had.
const BOUNCE_BYTES_MAX: u64 = 1 << 20;

/// Whether both ends of the range are where the node driver wants them.
pub(crate) fn is_aligned(limits: &Limits, range: ByteRange) -> bool {
    let align = u64::from(limits.request_align_bytes);
    range.start().is_multiple_of(align)
        && (range.end().is_multiple_of(align) || range.end() == limits.len_bytes)
}

/// Whether the node driver takes a read or write of this range in one go.
pub(crate) fn fits(limits: &Limits, range: ByteRange) -> bool {
    is_aligned(limits, range) && range.len() <= u64::from(limits.transfer_bytes_max)
}

/// The smallest aligned range around `range`.
pub(crate) fn outer(limits: &Limits, range: ByteRange) -> ByteRange {
    range.widened(u64::from(limits.request_align_bytes), limits.len_bytes)
}

/// The largest aligned range inside `range`; it may be empty.
pub(crate) fn inner(limits: &Limits, range: ByteRange) -> ByteRange {
    let align = u64::from(limits.request_align_bytes);
    let end = if range.end() == limits.len_bytes {
        range.end()
    } else {
        range.end() / align * align
    };
    let start = range.start().div_ceil(align).saturating_mul(align);
    ByteRange::between(start.min(end), end)
}

/// What an answer about `outer` says about the `range` within.
pub(crate) fn cut_extent(
    extent: Extent,
    outer: ByteRange,
    range: ByteRange,
    limits: &Limits,
) -> Extent {
    let end = outer
        .start()
        .saturating_add(extent.len_bytes)
        .min(range.end());
    if end > range.start() {
        return Extent {
            len_bytes: end - range.start(),
            status: extent.status,
        };
    }
    // The run ends before the range starts, within its first block; "data" is always right.
    let block_end = outer.start() + u64::from(limits.request_align_bytes);
    Extent {
        len_bytes: block_end.min(range.end()) - range.start(),
        status: AllocationStatus::Data,
    }
}

/// Reads `range` into `buf` by way of a second buffer.
pub(crate) async fn read(
    node: &Node,
    cx: &AioContext,
    range: ByteRange,
    mut buf: IoBuf,
) -> Transferred {
    let limits = node.limits();
    for piece in pieces(&limits, outer(&limits, range)) {
        let bounce = bounce_buffer(cx, piece);
        let (bounce, result) = node.driver().read(cx, piece.start(), bounce).await;
        if let Err(error) = result {
            return (buf, Err(error));
        }
        let wanted = intersection(piece, range);
        let part = part_of(&mut buf, wanted, range);
        part.copy_from_slice(&bounce[offsets(wanted, piece)]);
    }
    (buf, Ok(Way::Bounced))
}

/// What a range shall contain.
#[derive(Clone, Copy)]
pub(crate) enum Content<'a> {
    /// These bytes, as many as the range has.
    Bytes(&'a [u8]),
    /// Zeroes.
    Zeroes,
}

/// Writes `content` to `range`, and what was there to the rest of the aligned range around it.
///
/// Unless the range is aligned, the caller has made the request serialising.
pub(crate) async fn rewrite(
    node: &Node,
    cx: &AioContext,
    range: ByteRange,
    content: Content<'_>,
    flags: RequestFlags,
) -> Result<(), BlockError> {
    let limits = node.limits();
    for piece in pieces(&limits, outer(&limits, range)) {
        let mut bounce = bounce_buffer(cx, piece);
        if !range.contains(piece) {
            let (filled, result) = node.driver().read(cx, piece.start(), bounce).await;
            result?;
            bounce = filled;
        }
        let wanted = intersection(piece, range);
        let part = &mut bounce[offsets(wanted, piece)];
        match content {
            Content::Bytes(bytes) => part.copy_from_slice(&bytes[offsets(wanted, range)]),
            Content::Zeroes => part.fill(0),
        }
        node.driver()
            .write(cx, piece.start(), bounce, flags)
            .await
            .1?;
    }
    Ok(())
}

/// Cuts an aligned range into pieces that the node driver takes and a second buffer holds.
fn pieces(limits: &Limits, range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let align = u64::from(limits.request_align_bytes);
    let max = u64::from(limits.transfer_bytes_max).min(BOUNCE_BYTES_MAX);
    let step = (max / align * align).max(align);
    let mut start = range.start();
    std::iter::from_fn(move || {
        let piece = ByteRange::between(start, range.end().min(start.saturating_add(step)));
        start = piece.end();
        (!piece.is_empty()).then_some(piece)
    })
}

/// Memory for one piece. Waiting for pool memory here could wait for ever: those who hold it may be
/// our own callers.
fn bounce_buffer(cx: &AioContext, piece: ByteRange) -> IoBuf {
    let len = to_usize(piece.len());
    let mut buf = cx
        .buffers()
        .try_acquire(len)
        .unwrap_or_else(|| IoBuf::heap(len));
    buf.set_len(len);
    buf
}

fn intersection(a: ByteRange, b: ByteRange) -> ByteRange {
    ByteRange::between(a.start().max(b.start()), a.end().min(b.end()))
}

/// Where `part` lies in a buffer that holds `whole`.
fn offsets(part: ByteRange, whole: ByteRange) -> std::ops::Range<usize> {
    to_usize(part.start() - whole.start())..to_usize(part.end() - whole.start())
}

fn part_of(buf: &mut IoBuf, part: ByteRange, whole: ByteRange) -> &mut [u8] {
    &mut buf[offsets(part, whole)]
}

fn to_usize(len_bytes: u64) -> usize {
    usize::try_from(len_bytes).expect("the bytes are in memory, so their number fits")
}
