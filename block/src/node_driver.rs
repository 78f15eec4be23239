//! What an implementer of a node writes: [`NodeDriver`].

use std::{
    any::Any,
    fmt,
    future::{Future, ready},
    pin::Pin,
};

use aio::{AioContext, Fd, IoBuf};

use crate::{
    allocation::{ByteRange, Extent},
    error::{BlockError, ErrorKind},
    graph::{child::Child, permission::Permissions},
    nodes::FileIdentity,
};

/// A request under way: local to the context that made it.
pub type RequestFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What a data request gives back: its buffer, always, and how the bytes went or why they did not.
pub type Transferred = (IoBuf, Result<Way, BlockError>);

/// How bytes travelled between the caller's buffer and the storage.
///
/// Ordered by cost; a request that went several ways reports the dearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Not at all: the kernel or the file system moved or shared them, from file to file.
    Offloaded,
    /// Between device and buffer without a copy by the CPU.
    Direct,
    /// Through the kernel's page cache, or a copy in memory that is the storage itself.
    Buffered,
    /// We copied it to a second buffer first: alignment edges and the like.
    Bounced,
}

/// What a request asks for besides moving bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent flags, each named where it is set"
)]
pub struct RequestFlags {
    /// Stable on the storage when the request completes.
    pub fua: bool,
    /// Write zeroes: the range may be deallocated to get there.
    pub may_unmap: bool,
    /// Write zeroes: fail with `Unsupported` rather than write zero bytes the slow way.
    pub no_fallback: bool,
    /// The content as seen by readers does not change (copy-on-read and the like): filters need not save the old data.
    pub unchanged: bool,
    /// Changes: nothing that overlaps changes the node at the same time, by whomever it is made.
    pub serialising: bool,
}

/// What a node can take. All facts are fixed while the node is open, but for the length and whether it is read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Length of the node in bytes.
    pub len_bytes: u64,
    /// Multiple that offset and length of each request to the driver have; a power of two.
    pub request_align_bytes: u32,
    /// Largest read or write the driver takes; a multiple of the request alignment.
    pub transfer_bytes_max: u32,
    /// Unit in which the storage allocates, where it is known (a copy in smaller pieces wastes work).
    pub cluster_bytes: Option<u32>,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// What bytes are looked for; see [`NodeDriver::locate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read them.
    Read,
    /// To put others in their place.
    Write,
}

/// Where a range of bytes is, for the kernel to move it without a buffer of ours.
#[derive(Debug)]
pub enum Located<'a> {
    /// In a file, in one piece.
    File(FilePlace<'a>),
    /// In a child, as they are.
    Child {
        /// The edge to it.
        child: &'a Child,
        /// Where the range begins there.
        offset_bytes: u64,
    },
    /// Nowhere that the kernel could get at without us, or not without our seeing it: they must be read or written.
    Nowhere,
}

/// A range of bytes in a file.
pub struct FilePlace<'a> {
    /// What to use it by; no other descriptor, because there may be one with page cache and one without.
    pub fd: Fd,
    /// Where the range begins in the file.
    pub offset_bytes: u64,
    /// Which file that is.
    pub identity: FileIdentity,
    /// To be called when the kernel is done with the range; dropped uncalled, if nobody knows when that is.
    pub done: Option<Box<dyn FnOnce() + Send + 'a>>,
}

impl fmt::Debug for FilePlace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilePlace")
            .field("identity", &self.identity)
            .field("offset_bytes", &self.offset_bytes)
            .finish_non_exhaustive()
    }
}

/// A node's inside, written by the implementer of a node driver; users hold a `Node` and go through its edges.
///
/// The caller (`Node`) has already checked, once, that
/// - the range lies within [`Limits::len_bytes`] and is not empty,
/// - its offset is a multiple of [`Limits::request_align_bytes`], and so is its length,
///   except that a range may end exactly at the node's unaligned end,
/// - reads and writes are no longer than [`Limits::transfer_bytes_max`],
/// - the node is not read-only when the request would change it,
///
/// and counts the request as in flight until the future returns or is dropped. A driver never sees
/// two *overlapping* requests kept apart for it: whoever needs that serialises.
///
/// Requests run on the context of whoever makes them, any number of contexts at once; a driver
/// protects its own state. Dropping the future abandons the result, never the request: buffers and
/// descriptors stay with the context's in-flight table. No method has a default body, because a
/// silent default is how data gets lost; but for those that tell of drains and permissions, which few care for.
pub trait NodeDriver: Any + fmt::Debug + Send + Sync {
    /// Name of the kind of node, as in `driver=file`.
    fn driver_name(&self) -> &'static str;

    /// What the node can take, now.
    fn limits(&self) -> Limits;

    /// Fills the whole of `buf` from `offset_bytes`. Unallocated bytes read as zeroes.
    fn read<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> RequestFuture<'a, Transferred>;

    /// Writes the whole of `buf` at `offset_bytes`.
    fn write<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred>;

    /// Makes the range read as zeroes, by the cheapest way the flags allow.
    fn write_zeroes<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>>;

    /// Says that the bytes are no longer needed. What they read as afterwards is undefined; doing nothing is allowed.
    fn discard<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>>;

    /// Makes every write that completed before this call stable.
    fn flush<'a>(&'a self, cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>>;

    /// Makes the node `len_bytes` long: what is new reads as zeroes, what is past the end is gone.
    ///
    /// No request that changes the node runs beside it, for `Node` sees to that; a read that meets the new end may
    /// fail. [`Limits::len_bytes`] says the new length once this has ended well, and the old one if not. A node
    /// whose length is fixed refuses with [`fixed_length`].
    fn truncate<'a>(
        &'a self,
        cx: &'a AioContext,
        len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>>;

    /// The longest run with one status from the start of `range` on, at most `range` long.
    ///
    /// An answer of `Data` is always right; `Zero` promises that every byte of the run reads as zero.
    fn extent<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>>;

    /// Where the bytes of `range` are, so that the kernel can move them without us. Does not block.
    ///
    /// The caller has checked what it checks before [`read`](Self::read) or [`write`](Self::write), but for the
    /// longest length, and counts the request as in flight for as long as it uses the answer. A node
    /// that does anything about its requests, or holds, counts, changes or saves what goes through,
    /// says [`Located::Nowhere`], which is always right: the bytes then come here.
    fn locate(&self, range: ByteRange, access: Access) -> Located<'_>;

    /// Makes the requests that wait for a peer fail soon, whoever's they are; those that a device or the
    /// kernel has are left to it. For users who have given up on a server that does not answer.
    ///
    /// A write that fails so may still change the node later, if the server has it already. Later
    /// requests are served as ever. Filters pass this on to the child that theirs go to. Any thread.
    fn cancel_in_flight(&self);

    /// The node is to be quiesced, once more: what the driver holds back of its own accord is to go on now, and what
    /// comes until the same number of [`drain_end`](Self::drain_end), too. Any thread; it must not block.
    fn drain_begin(&self) {}

    /// One drained section that the node was in is over. Any thread; it must not block.
    fn drain_end(&self) {}

    /// The users of the node are about to do and to allow `next` together, if every node that hears so agrees. Now is
    /// the time to get what that takes, from other programs say; what it no longer takes is still needed.
    /// [`settle_permissions`](Self::settle_permissions) follows, whatever is answered.
    ///
    /// Any thread, under the lock of the graph: it must be quick, and must not call the graph. Users that only go, or
    /// ask for less, are not asked about.
    ///
    /// # Errors
    ///
    /// Why not. The change of the graph is refused with it, and nothing of it happens.
    fn prepare_permissions(&self, _next: Permissions) -> Result<(), BlockError> {
        Ok(())
    }

    /// The users of the node do and allow `now` together: what was prepared, or again what was before. What that does
    /// not take can be given back. Called as [`prepare_permissions`](Self::prepare_permissions) is.
    fn settle_permissions(&self, _now: Permissions) {}
}

/// What a node answers to [`NodeDriver::truncate`] whose length is fixed: `Unsupported`, because of `why`.
#[must_use]
pub fn fixed_length<'a>(why: &'static str) -> RequestFuture<'a, Result<(), BlockError>> {
    Box::pin(ready(Err(BlockError::new(ErrorKind::Unsupported, why))))
}
