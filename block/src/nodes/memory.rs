//! `memory`: a node whose storage is heap bytes, allocated as they are written.

use std::{
    array,
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aio::{AioContext, IoBuf};

use crate::{
    allocation::{AllocationStatus, ByteRange, Extent},
    error::{BlockError, ErrorKind},
    node_driver::{
        Access, Limits, Located, NodeDriver, RequestFlags, RequestFuture, Transferred, Way,
    },
};

/// Unit of allocation.
const CHUNK_BYTES: u64 = 64 << 10;
const CHUNK_LEN: usize = 64 << 10;
/// Locks over which neighbouring chunks are dealt out, so that contexts seldom meet.
const STRIPES: usize = 16;
const TRANSFER_BYTES_MAX: u32 = 1 << 30;

/// What a [`MemoryNode`] is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Length in bytes, to begin with.
    pub len_bytes: u64,
    /// Multiple that requests must have, to try out what a device asks for; a power of two.
    pub request_align_bytes: u32,
    /// Refuse changes.
    pub read_only: bool,
}

impl MemoryOptions {
    /// `len_bytes` writable bytes without alignment.
    #[must_use]
    pub fn new(len_bytes: u64) -> Self {
        Self {
            len_bytes,
            request_align_bytes: 1,
            read_only: false,
        }
    }
}

type Chunks = BTreeMap<u64, Box<[u8]>>;

/// A node whose storage is heap bytes. Chunks of 64 KiB that were never written take no memory.
pub struct MemoryNode {
    options: MemoryOptions,
    len_bytes: AtomicU64,
    stripes: [Mutex<Chunks>; STRIPES],
}

impl MemoryNode {
    /// A node of zeroes.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when the alignment is not a power of two, or more than a chunk of 64 KiB.
    pub fn new(options: MemoryOptions) -> Result<Self, BlockError> {
        let align = options.request_align_bytes;
        if !align.is_power_of_two() || u64::from(align) > CHUNK_BYTES {
            let text = "the alignment must be a power of two of at most 64 KiB";
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        Ok(Self {
            options,
            len_bytes: AtomicU64::new(options.len_bytes),
            stripes: array::from_fn(|_| Mutex::default()),
        })
    }

    /// Bytes of memory that chunks take. Any thread.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        let chunks: usize = self.stripes.iter().map(|stripe| lock(stripe).len()).sum();
        u64::try_from(chunks)
            .unwrap_or(u64::MAX)
            .saturating_mul(CHUNK_BYTES)
    }

    fn len_bytes(&self) -> u64 {
        self.len_bytes.load(Ordering::Relaxed)
    }

    /// What is past the new end goes, so that it reads as zeroes if the node grows again.
    fn resize(&self, len_bytes: u64) {
        let gone = ByteRange::between(len_bytes, self.len_bytes());
        self.zero(gone, WholeChunks::Free);
        self.len_bytes.store(len_bytes, Ordering::Relaxed);
    }

    fn stripe(&self, chunk: u64) -> MutexGuard<'_, Chunks> {
        let count = u64::try_from(STRIPES).expect("a handful of stripes");
        let index = usize::try_from(chunk % count).expect("smaller than the number of stripes");
        lock(&self.stripes[index])
    }

    fn copy_out(&self, offset_bytes: u64, out: &mut [u8]) {
        for piece in Pieces::new(offset_bytes, out.len()) {
            let out = &mut out[piece.in_buffer..piece.in_buffer + piece.len];
            match self.stripe(piece.chunk).get(&piece.chunk) {
                Some(bytes) => out.copy_from_slice(&bytes[piece.in_chunk..][..piece.len]),
                None => out.fill(0),
            }
        }
    }

    fn copy_in(&self, offset_bytes: u64, bytes: &[u8]) {
        for piece in Pieces::new(offset_bytes, bytes.len()) {
            let from = &bytes[piece.in_buffer..piece.in_buffer + piece.len];
            self.stripe(piece.chunk)
                .entry(piece.chunk)
                .or_insert_with(|| vec![0; CHUNK_LEN].into_boxed_slice())[piece.in_chunk..]
                [..piece.len]
                .copy_from_slice(from);
        }
    }

    fn zero(&self, range: ByteRange, whole_chunks: WholeChunks) {
        let mut at = range.start();
        while at < range.end() {
            // Walks over chunks that exist only: a hole of a terabyte costs one step.
            let Some(chunk) = self.next_chunk(at / CHUNK_BYTES) else {
                return;
            };
            let here = ByteRange::between(
                (chunk * CHUNK_BYTES).max(at),
                chunk
                    .saturating_add(1)
                    .saturating_mul(CHUNK_BYTES)
                    .min(range.end()),
            );
            if here.is_empty() {
                return;
            }
            self.zero_in_chunk(chunk, here, whole_chunks);
            at = here.end();
        }
    }

    fn zero_in_chunk(&self, chunk: u64, here: ByteRange, whole_chunks: WholeChunks) {
        let mut stripe = self.stripe(chunk);
        let covers = here.len() == CHUNK_BYTES || here.end() == self.len_bytes();
        if covers && here.start() == chunk * CHUNK_BYTES && whole_chunks == WholeChunks::Free {
            stripe.remove(&chunk);
        } else if let Some(bytes) = stripe.get_mut(&chunk) {
            let from = index(here.start() - chunk * CHUNK_BYTES);
            bytes[from..from + index(here.len())].fill(0);
        }
    }

    /// The first chunk that exists at or behind `chunk`.
    fn next_chunk(&self, chunk: u64) -> Option<u64> {
        self.stripes
            .iter()
            .filter_map(|stripe| lock(stripe).range(chunk..).next().map(|(found, _)| *found))
            .min()
    }

    fn find_extent(&self, range: ByteRange) -> Extent {
        let first = range.start() / CHUNK_BYTES;
        let (end, status) = match self.next_chunk(first) {
            Some(found) if found == first => {
                let mut chunk = first + 1;
                while chunk.saturating_mul(CHUNK_BYTES) < range.end()
                    && self.stripe(chunk).contains_key(&chunk)
                {
                    chunk += 1;
                }
                (chunk.saturating_mul(CHUNK_BYTES), AllocationStatus::Data)
            }
            Some(found) => (found * CHUNK_BYTES, AllocationStatus::Zero),
            None => (range.end(), AllocationStatus::Zero),
        };
        Extent {
            len_bytes: ByteRange::between(range.start(), end.min(range.end())).len(),
            status,
        }
    }
}

/// What becomes of a chunk that lies wholly in a zeroed range.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WholeChunks {
    Free,
    Keep,
}

fn lock(stripe: &Mutex<Chunks>) -> MutexGuard<'_, Chunks> {
    stripe.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number of bytes within a chunk.
fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("at most a chunk")
}

/// A range of bytes, chunk by chunk.
struct Pieces {
    at: u64,
    done: usize,
    len: usize,
}

struct Piece {
    chunk: u64,
    in_chunk: usize,
    in_buffer: usize,
    len: usize,
}

impl Pieces {
    fn new(offset_bytes: u64, len: usize) -> Self {
        Self {
            at: offset_bytes,
            done: 0,
            len,
        }
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let left = self.len - self.done;
        if left == 0 {
            return None;
        }
        let in_chunk = index(self.at % CHUNK_BYTES);
        let piece = Piece {
            chunk: self.at / CHUNK_BYTES,
            in_chunk,
            in_buffer: self.done,
            len: left.min(CHUNK_LEN - in_chunk),
        };
        self.done += piece.len;
        self.at += u64::try_from(piece.len).expect("at most a chunk");
        Some(piece)
    }
}

impl fmt::Debug for MemoryNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryNode")
            .field("options", &self.options)
            .field("allocated_bytes", &self.allocated_bytes())
            .finish_non_exhaustive()
    }
}

impl NodeDriver for MemoryNode {
    fn driver_name(&self) -> &'static str {
        "memory"
    }

    fn limits(&self) -> Limits {
        Limits {
            len_bytes: self.len_bytes(),
            request_align_bytes: self.options.request_align_bytes,
            transfer_bytes_max: TRANSFER_BYTES_MAX,
            cluster_bytes: None,
            read_only: self.options.read_only,
        }
    }

    fn read<'a>(
        &'a self,
        _cx: &'a AioContext,
        offset_bytes: u64,
        mut buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            self.copy_out(offset_bytes, &mut buf);
            (buf, Ok(Way::Buffered))
        })
    }

    fn write<'a>(
        &'a self,
        _cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        _flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            self.copy_in(offset_bytes, &buf);
            (buf, Ok(Way::Buffered))
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        _cx: &'a AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            let whole_chunks = if flags.may_unmap {
                WholeChunks::Free
            } else {
                WholeChunks::Keep
            };
            self.zero(range, whole_chunks);
            Ok(())
        })
    }

    fn discard<'a>(
        &'a self,
        _cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            self.zero(range, WholeChunks::Free);
            Ok(())
        })
    }

    fn flush<'a>(&'a self, _cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async { Ok(()) })
    }

    fn truncate<'a>(
        &'a self,
        _cx: &'a AioContext,
        len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            self.resize(len_bytes);
            Ok(())
        })
    }

    fn extent<'a>(
        &'a self,
        _cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        Box::pin(async move { Ok(self.find_extent(range)) })
    }

    fn locate(&self, _range: ByteRange, _access: Access) -> Located<'_> {
        Located::Nowhere
    }

    fn cancel_in_flight(&self) {}
}
