//! Compares two nodes byte by byte, skipping what both call zeroes, and sums up the content.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use aio::{AioContext, IoBuf, Task};
use block::{
    AllocationStatus, Attachment, BlockError, ByteRange, Child, ChildRole, Graph, Node, Permission,
    Permissions,
};

/// Bytes compared at once.
const PIECE_BYTES: u64 = 1 << 20;
/// Pieces being read at once.
const PIECES: usize = 4;
/// Zeroes are passed over in runs of this length, so that a stop is seen.
const ZEROES_BYTES_MAX: u64 = 1 << 40;

/// Whether the content is summed up as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// blake3 of all bytes, zeroes included.
    Blake3,
    /// None.
    No,
}

/// How far a comparison is, and the way to stop it. Any thread.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    done_bytes: AtomicU64,
    read_bytes: AtomicU64,
    is_stopped: AtomicBool,
}

impl Watch {
    /// Bytes compared or passed over.
    pub(crate) fn done_bytes(&self) -> u64 {
        self.done_bytes.load(Ordering::Relaxed)
    }

    /// Bytes read on both sides.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Asks for an early end.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }
}

/// What a comparison came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All bytes are equal.
    Equal {
        /// Checksum in hexadecimal digits, where one was asked for.
        blake3: Option<String>,
    },
    /// This byte is the first that differs.
    DiffersAt(u64),
    /// Somebody asked for an early end.
    Stopped,
}

/// A node that could not be read, by what the caller called it.
#[derive(Debug)]
pub(crate) struct CompareError {
    pub(crate) side: &'static str,
    pub(crate) error: BlockError,
}

/// Two nodes and what is known of their comparison.
#[derive(Debug)]
pub(crate) struct Comparison {
    left: Arc<Child>,
    right: Arc<Child>,
    names: [&'static str; 2],
    len_bytes: u64,
    checksum: Checksum,
    watch: Arc<Watch>,
}

/// A run of both nodes that is all zeroes, or data to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Zeroes,
    Data,
}

/// A piece under way: where it begins, and both contents.
type Piece = Task<Result<(u64, IoBuf, IoBuf), CompareError>>;

impl Comparison {
    /// The first `len_bytes` bytes of the nodes, which errors call by `names`.
    pub(crate) fn new(
        graph: &Graph,
        nodes: [&Node; 2],
        names: [&'static str; 2],
        (len_bytes, checksum): (u64, Checksum),
        watch: &Arc<Watch>,
    ) -> Result<Self, BlockError> {
        let attach = |node| {
            let reads = Permissions::uses(&[Permission::ConsistentRead]);
            let user = Attachment::new("comparison", ChildRole::Primary, reads);
            graph.attach(node, user).map(Arc::new)
        };
        Ok(Self {
            left: attach(nodes[0])?,
            right: attach(nodes[1])?,
            names,
            len_bytes,
            checksum,
            watch: Arc::clone(watch),
        })
    }

    /// Compares until the end or the first difference.
    pub(crate) async fn run(self, cx: &AioContext) -> Result<Verdict, CompareError> {
        let mut hasher = Some(blake3::Hasher::new());
        let mut pieces: VecDeque<Piece> = VecDeque::new();
        let mut at = 0;
        while at < self.len_bytes {
            if self.watch.is_stopped.load(Ordering::Relaxed) {
                return Ok(Verdict::Stopped);
            }
            let (found, len) = self.find(cx, at).await?;
            // Zeroes come behind all that is under way, or the checksum would be of another order.
            let left_under_way = match found {
                Found::Data => PIECES - 1,
                Found::Zeroes => 0,
            };
            let finished = self.finish_pieces(cx, &mut pieces, left_under_way, &mut hasher);
            if let Some(verdict) = finished.await? {
                return Ok(verdict);
            }
            match found {
                Found::Data => pieces.push_back(self.start_piece(cx, at, len)),
                Found::Zeroes => self.pass_zeroes(cx, len, &mut hasher).await,
            }
            at += len;
        }
        if let Some(verdict) = self.finish_pieces(cx, &mut pieces, 0, &mut hasher).await? {
            return Ok(verdict);
        }
        // A stop that was seen below left something out.
        if self.watch.is_stopped.load(Ordering::Relaxed) {
            return Ok(Verdict::Stopped);
        }
        let blake3 = hasher.filter(|_| self.checksum == Checksum::Blake3);
        Ok(Verdict::Equal {
            blake3: blake3.map(|hasher| hasher.finalize().to_hex().to_string()),
        })
    }

    /// What both nodes have at `at`, and for how long.
    async fn find(&self, cx: &AioContext, at: u64) -> Result<(Found, u64), CompareError> {
        let end = self.len_bytes.min(at.saturating_add(ZEROES_BYTES_MAX));
        let range = ByteRange::between(at, end);
        let mut len = range.len();
        let mut found = Found::Zeroes;
        for (child, side) in [(&self.left, self.names[0]), (&self.right, self.names[1])] {
            let extent = child.extent(cx, range).await;
            let extent = extent.map_err(|error| CompareError { side, error })?;
            if extent.status != AllocationStatus::Zero {
                found = Found::Data;
            }
            len = len.min(extent.len_bytes.max(1));
        }
        // Unaligned ends make reads that need a second buffer; only the last piece has one.
        if found == Found::Data {
            let piece_end = (at / PIECE_BYTES + 1) * PIECE_BYTES;
            let aligned = at.saturating_add(len).next_multiple_of(4096);
            len = aligned.min(piece_end).min(self.len_bytes) - at;
        }
        Ok((found, len))
    }

    fn start_piece(&self, cx: &AioContext, at: u64, len_bytes: u64) -> Piece {
        let len = usize::try_from(len_bytes).expect("a piece fits memory");
        let (left, right, names) = (self.left.clone(), self.right.clone(), self.names);
        let context = cx.clone();
        cx.spawn(async move {
            let there = context.clone();
            let other = context.spawn(async move { read(&there, &right, names[1], at, len).await });
            let one = read(&context, &left, names[0], at, len).await;
            let other = other.await;
            Ok((at, one?, other?))
        })
    }

    /// Takes pieces until only `left_under_way` are left; says where they differ.
    async fn finish_pieces(
        &self,
        cx: &AioContext,
        pieces: &mut VecDeque<Piece>,
        left_under_way: usize,
        hasher: &mut Option<blake3::Hasher>,
    ) -> Result<Option<Verdict>, CompareError> {
        while pieces.len() > left_under_way {
            let Some(piece) = pieces.pop_front() else {
                break;
            };
            let (at, one, other) = piece.await?;
            let len = u64::try_from(one.len()).unwrap_or(u64::MAX);
            if let Some(index) = first_difference(&one, &other) {
                return Ok(Some(Verdict::DiffersAt(at + index)));
            }
            if self.checksum == Checksum::Blake3 {
                self.hash(cx, hasher, move |hasher| hash_bytes(hasher, &one))
                    .await;
            }
            self.watch.done_bytes.fetch_add(len, Ordering::Relaxed);
            self.watch.read_bytes.fetch_add(len, Ordering::Relaxed);
        }
        Ok(None)
    }

    async fn pass_zeroes(&self, cx: &AioContext, len: u64, hasher: &mut Option<blake3::Hasher>) {
        let mut left = len;
        while left > 0 && !self.watch.is_stopped.load(Ordering::Relaxed) {
            let run = match self.checksum {
                Checksum::Blake3 => left.min(ZEROES_AT_ONCE_BYTES),
                Checksum::No => left,
            };
            if self.checksum == Checksum::Blake3 {
                self.hash(cx, hasher, move |hasher| hash_zeroes(hasher, run))
                    .await;
            }
            self.watch.done_bytes.fetch_add(run, Ordering::Relaxed);
            left -= run;
        }
    }

    /// Hashes on a worker thread: the loop goes on reading meanwhile.
    async fn hash(
        &self,
        cx: &AioContext,
        hasher: &mut Option<blake3::Hasher>,
        update: impl FnOnce(&mut blake3::Hasher) + Send + 'static,
    ) {
        let mut state = hasher.take().expect("the hasher is put back below");
        let hashed = cx.blocking(move || {
            update(&mut state);
            state
        });
        *hasher = Some(hashed.await);
    }
}

/// Zeroes hashed between two looks at whether to stop.
const ZEROES_AT_ONCE_BYTES: u64 = 64 << 20;

fn hash_bytes(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(bytes);
}

fn hash_zeroes(hasher: &mut blake3::Hasher, len_bytes: u64) {
    static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
    let mut left = len_bytes;
    while left > 0 {
        let count = usize::try_from(left).map_or(ZEROES.len(), |left| left.min(ZEROES.len()));
        hasher.update(&ZEROES[..count]);
        left -= u64::try_from(count).unwrap_or(left);
    }
}

async fn read(
    cx: &AioContext,
    child: &Child,
    side: &'static str,
    at: u64,
    len: usize,
) -> Result<IoBuf, CompareError> {
    let mut buf = match cx.buffers().try_acquire(len) {
        Some(buf) => buf,
        None => IoBuf::heap(len),
    };
    buf.set_len(len);
    let (buf, result) = child.read(cx, at, buf).await;
    match result {
        Ok(_) => Ok(buf),
        Err(error) => Err(CompareError { side, error }),
    }
}

/// Index of the first byte that differs.
fn first_difference(one: &[u8], other: &[u8]) -> Option<u64> {
    if one == other {
        return None;
    }
    let index = one.iter().zip(other).position(|(a, b)| a != b);
    let index = index.unwrap_or(one.len().min(other.len()));
    u64::try_from(index).ok()
}

#[cfg(test)]
mod tests {
    use block::RequestFlags;
    use block::nodes::memory::{MemoryNode, MemoryOptions};
    use longshore::{Engine, EngineConfig};

    use super::*;

    const LEN_BYTES: u64 = 5_000_001;

    fn engine() -> Engine {
        Engine::start(EngineConfig::default()).unwrap()
    }

    /// A node with `bytes` written at their offsets.
    fn node(engine: &Engine, writes: &[(u64, u8)]) -> Node {
        let memory = MemoryNode::new(MemoryOptions::new(LEN_BYTES)).unwrap();
        let node = engine.graph().add_node(None, memory).unwrap();
        let writing = Permissions::uses(&[Permission::Write]);
        let user = Attachment::new("test", ChildRole::Primary, writing);
        let child = engine.graph().attach(&node, user).unwrap();
        let writes = writes.to_vec();
        let written = engine.handle().spawn(move |cx| async move {
            for (at, byte) in writes {
                let mut buf = IoBuf::heap(1);
                buf[0] = byte;
                let (_, result) = child.write(&cx, at, buf, RequestFlags::default()).await;
                result.unwrap();
            }
        });
        written.wait();
        node
    }

    fn compare(engine: &Engine, nodes: [&Node; 2], checksum: Checksum) -> Verdict {
        let watch = Arc::default();
        let what = (LEN_BYTES, checksum);
        let names = ["one", "other"];
        let comparison = Comparison::new(engine.graph(), nodes, names, what, &watch).unwrap();
        let ran = engine
            .handle()
            .spawn(move |cx| async move { comparison.run(&cx).await });
        ran.wait().unwrap()
    }

    #[test]
    fn equal_contents_have_the_checksum_of_their_bytes() {
        let engine = engine();
        let writes = [(0, 1), (70_000, 2), (LEN_BYTES - 1, 3)];
        let (one, other) = (node(&engine, &writes), node(&engine, &writes));
        let mut bytes = vec![0; usize::try_from(LEN_BYTES).unwrap()];
        for (at, byte) in writes {
            bytes[usize::try_from(at).unwrap()] = byte;
        }
        let want = Verdict::Equal {
            blake3: Some(blake3::hash(&bytes).to_hex().to_string()),
        };
        assert_eq!(compare(&engine, [&one, &other], Checksum::Blake3), want);
    }

    #[test]
    fn the_first_difference_is_told_also_against_a_hole() {
        let engine = engine();
        let empty = node(&engine, &[]);
        for at in [0, 4095, 3_000_000, LEN_BYTES - 1] {
            let one = node(&engine, &[(at, 9), (LEN_BYTES - 1, 9)]);
            let verdict = compare(&engine, [&one, &empty], Checksum::No);
            assert_eq!(verdict, Verdict::DiffersAt(at));
            let verdict = compare(&engine, [&empty, &one], Checksum::Blake3);
            assert_eq!(verdict, Verdict::DiffersAt(at));
        }
    }

    #[test]
    fn a_comparison_can_be_stopped() {
        let engine = engine();
        let one = node(&engine, &[]);
        let watch = Arc::new(Watch::default());
        watch.stop();
        let what = (LEN_BYTES, Checksum::No);
        let nodes = [&one, &one];
        let comparison = Comparison::new(engine.graph(), nodes, ["a", "b"], what, &watch).unwrap();
        let ran = engine
            .handle()
            .spawn(move |cx| async move { comparison.run(&cx).await });
        assert_eq!(ran.wait().unwrap(), Verdict::Stopped);
    }
}
