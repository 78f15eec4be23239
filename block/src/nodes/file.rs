//! `file`: a node over a regular file or a block device.

mod holes;
mod locking;
mod open;
mod place;
mod resize;
mod zeroes;

use std::{
    any::Any,
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::PathBuf,
    sync::{OnceLock, atomic::AtomicU64},
};

use aio::{AioContext, Fd, IoBuf};

use self::{
    holes::{HoleCache, find_run},
    locking::ReadOnly,
    open::InMemory,
    zeroes::Refused,
};
use crate::{
    allocation::{AllocationStatus, ByteRange, Extent},
    error::BlockError,
    node::Node,
    node_driver::{
        Access, Limits, Located, NodeDriver, RequestFlags, RequestFuture, Transferred, Way,
    },
};

/// Largest read or write that goes to the kernel in one piece.
const TRANSFER_BYTES_MAX: u32 = 16 << 20;
/// The page cache holds whole pages: where two descriptors meet, they must not share one.
const PAGE_BYTES: u64 = 4096;

/// Whether a feature is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOffAuto {
    /// Used where it works.
    #[default]
    Auto,
    /// Used, or opening fails.
    On,
    /// Not used.
    Off,
}

/// What other programs may do with the file while the node has it open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Read it; neither write nor resize it.
    #[default]
    Readers,
    /// Anything. Extents may then be out of date.
    Everyone,
}

/// How to open a [`FileNode`].
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// A regular file or a block device; must exist.
    pub path: PathBuf,
    /// Open for reading only.
    pub read_only: bool,
    /// Bypass the page cache (`O_DIRECT`).
    pub direct: OnOffAuto,
    /// Take the image locks that QEMU and its tools understand.
    pub locking: OnOffAuto,
    /// What the image locks leave to others.
    pub sharing: Sharing,
}

impl FileOptions {
    /// Reading and writing, past the page cache and with image locks where these work; others may read.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            read_only: false,
            direct: OnOffAuto::Auto,
            locking: OnOffAuto::Auto,
            sharing: Sharing::Readers,
        }
    }
}

/// What the path led to. Two nodes with equal identities have the same storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileIdentity {
    /// A regular file.
    Regular {
        /// Number of the file system it is on.
        device: u64,
        /// Its number there.
        inode: u64,
    },
    /// A block device.
    BlockDevice {
        /// The device's own number, whatever node of the file tree names it.
        device: u64,
    },
}

/// A node over a regular file or a block device.
///
/// With `O_DIRECT`, whole blocks travel between device and buffer. The end of a regular file that is
/// not a multiple of the alignment is read as a block that comes back short, and written through a
/// second descriptor with page cache; no request but a resize ever extends the file.
///
/// Dropping the node closes the file, and lets go of the image locks, once no request uses it.
#[derive(Debug)]
pub struct FileNode {
    /// Through the page cache; also for all that moves no data, and for the image locks.
    plain: Fd,
    direct: Option<Direct>,
    /// Way of a request through `direct`.
    direct_way: Way,
    identity: FileIdentity,
    /// With the length that the file had when it was opened.
    limits: Limits,
    len_bytes: AtomicU64,
    holes: HoleCache,
    refused: Refused,
    /// Error number of the first failed flush. What it should have made stable may be lost for good
    /// while the next flush would succeed, so none does.
    flush_failure: OnceLock<i32>,
}

#[derive(Debug)]
struct Direct {
    file: Fd,
    align_bytes: usize,
}

impl FileNode {
    /// Opens the file and takes its image locks.
    ///
    /// Any thread, but it waits for the file system: on a context's thread call it through
    /// [`AioContext::blocking`].
    ///
    /// # Errors
    ///
    /// - [`NotFound`](crate::ErrorKind::NotFound): there is no such file.
    /// - [`Invalid`](crate::ErrorKind::Invalid): it is neither a regular file nor a block device.
    /// - [`Locked`](crate::ErrorKind::Locked): another program's use of the image forbids this one.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported): `direct` or `locking` is on and does not work here.
    /// - [`Busy`](crate::ErrorKind::Busy): the path began to mean another file meanwhile.
    /// - [`Io`](crate::ErrorKind::Io) and others by errno: the system refused.
    pub fn open(options: &FileOptions) -> Result<Self, BlockError> {
        let opened = open::open(options)?;
        let read_only = if options.read_only {
            ReadOnly::Yes
        } else {
            ReadOnly::No
        };
        locking::lock_image(
            &opened.plain,
            &options.path,
            read_only,
            options.sharing,
            options.locking,
        )?;
        Ok(Self::from_opened(opened, options))
    }

    fn from_opened(opened: open::Opened, options: &FileOptions) -> Self {
        let len_bytes = opened.len_bytes;
        let align = opened.direct.as_ref().map_or(1, |file| file.align_bytes);
        let node = Self {
            plain: Fd::from(opened.plain),
            direct: opened.direct.map(|file| Direct {
                align_bytes: usize::try_from(file.align_bytes)
                    .expect("an alignment of 32 bits fits memory"),
                file: Fd::from(file.file),
            }),
            direct_way: match opened.in_memory {
                InMemory::Yes => Way::Buffered,
                InMemory::No => Way::Direct,
            },
            identity: opened.identity,
            limits: Limits {
                len_bytes,
                request_align_bytes: align,
                transfer_bytes_max: TRANSFER_BYTES_MAX,
                cluster_bytes: None,
                read_only: options.read_only,
            },
            len_bytes: AtomicU64::new(len_bytes),
            holes: HoleCache::default(),
            refused: Refused::default(),
            flush_failure: OnceLock::new(),
        };
        if opened.writes_block {
            let direct = node.direct.as_ref().map(|direct| &direct.file);
            direct
                .into_iter()
                .chain([&node.plain])
                .for_each(Fd::set_writes_block);
        }
        node
    }

    /// The driver of `node`, if it is a file node.
    #[must_use]
    pub fn of(node: &Node) -> Option<&Self> {
        let driver: &dyn Any = node.driver();
        driver.downcast_ref()
    }

    /// What the path led to, to see whether two nodes have the same storage.
    #[must_use]
    pub fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Whether the storage is a block device.
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        matches!(self.identity, FileIdentity::BlockDevice { .. })
    }

    /// Whether data requests go past the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct.is_some() && self.direct_way == Way::Direct
    }

    /// Bytes of storage that the file takes, now; all of a block device. Any thread.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) when the system does not tell.
    pub fn allocated_bytes(&self) -> Result<u64, BlockError> {
        if self.is_block_device() {
            return Ok(self.len_bytes());
        }
        let failed = |source| BlockError::io("cannot ask for the size of the file", source);
        let file = File::from(self.plain.as_fd().try_clone_to_owned().map_err(failed)?);
        let blocks = file.metadata().map_err(failed)?.blocks();
        Ok(blocks.saturating_mul(512))
    }

    async fn read_whole(&self, cx: &AioContext, offset_bytes: u64, mut buf: IoBuf) -> Transferred {
        if let Some(direct) = &self.direct {
            let result;
            (buf, result) = self.read_direct(cx, direct, offset_bytes, buf).await;
            if let Some(result) = result.transpose() {
                return (buf, result);
            }
        }
        let (buf, result) = cx.read_exact(&self.plain, offset_bytes, buf).await;
        let result = result.map_err(|source| self.failed("cannot read", source));
        (buf, result.map(|()| Way::Buffered))
    }

    /// Says `None` when the bytes must be read again with page cache: to go on where a short read
    /// stopped might be unaligned.
    async fn read_direct(
        &self,
        cx: &AioContext,
        direct: &Direct,
        offset_bytes: u64,
        mut buf: IoBuf,
    ) -> (IoBuf, Result<Option<Way>, BlockError>) {
        let wanted = buf.len();
        // Behind an unaligned end there is nothing: the block comes back short.
        let rounded = wanted.next_multiple_of(direct.align_bytes);
        if rounded > buf.capacity() {
            return (buf, Ok(None));
        }
        buf.set_len(rounded);
        let (mut buf, result) = cx.read(&direct.file, offset_bytes, buf).await;
        buf.set_len(wanted);
        match result {
            Ok(got) if got >= wanted => (buf, Ok(Some(self.direct_way))),
            Ok(_) => (buf, Ok(None)),
            Err(source) => (buf, Err(self.failed("cannot read", source))),
        }
    }

    async fn write_whole(&self, cx: &AioContext, offset_bytes: u64, mut buf: IoBuf) -> Transferred {
        let len = buf.len();
        let Some(direct) = &self.direct else {
            return self
                .write_to(cx, (&self.plain, Way::Buffered), offset_bytes, buf)
                .await;
        };
        let tail_start = self.tail_start();
        let before_tail = usize::try_from(tail_start.saturating_sub(offset_bytes))
            .map_or(len, |before| before.min(len));
        if before_tail == len {
            let target = (&direct.file, self.direct_way);
            return self.write_to(cx, target, offset_bytes, buf).await;
        }
        if before_tail == 0 {
            return self
                .write_to(cx, (&self.plain, Way::Buffered), offset_bytes, buf)
                .await;
        }
        let mut tail = IoBuf::heap(len - before_tail);
        tail.copy_from_slice(&buf[before_tail..]);
        buf.set_len(before_tail);
        let target = (&direct.file, self.direct_way);
        let (mut buf, result) = self.write_to(cx, target, offset_bytes, buf).await;
        buf.set_len(len);
        if result.is_err() {
            return (buf, result);
        }
        let target = (&self.plain, Way::Bounced);
        let (_tail, result) = self.write_to(cx, target, tail_start, tail).await;
        (buf, result)
    }

    async fn write_to(
        &self,
        cx: &AioContext,
        (file, way): (&Fd, Way),
        offset_bytes: u64,
        buf: IoBuf,
    ) -> Transferred {
        let (buf, result) = cx.write_all(file, offset_bytes, buf).await;
        let result = result.map_err(|source| self.failed("cannot write", source));
        (buf, result.map(|()| way))
    }

    async fn sync(&self, cx: &AioContext) -> Result<(), BlockError> {
        if let Some(errno) = self.flush_failure.get() {
            let source = io::Error::from_raw_os_error(*errno);
            let text = "an earlier flush failed, so what was written before it may be lost";
            return Err(BlockError::io(text, source));
        }
        cx.fdatasync(&self.plain).await.map_err(|source| {
            let errno = source.raw_os_error().unwrap_or(libc::EIO);
            // The first failure is the one to keep.
            let _ = self.flush_failure.set(errno);
            self.failed("cannot flush", source)
        })
    }

    async fn sync_if(&self, cx: &AioContext, flags: RequestFlags) -> Result<(), BlockError> {
        if flags.fua {
            self.sync(cx).await
        } else {
            Ok(())
        }
    }

    async fn find_extent(&self, cx: &AioContext, range: ByteRange) -> Result<Extent, BlockError> {
        let all_data = Extent {
            len_bytes: range.len(),
            status: AllocationStatus::Data,
        };
        if self.is_block_device() || self.refused.has_no_holes() {
            return Ok(all_data);
        }
        if let Some(extent) = self.holes.known(range) {
            return Ok(extent);
        }
        let look_up = self.holes.start_look_up();
        let (file, len_bytes) = (self.plain.clone(), self.len_bytes());
        let found = cx
            .blocking(move || find_run(&file, range.start(), len_bytes))
            .await;
        match found {
            Ok(run) => {
                self.holes.remember(&look_up, run);
                let end = run.range.end().min(range.end());
                Ok(Extent {
                    len_bytes: ByteRange::between(range.start(), end).len(),
                    status: run.status,
                })
            }
            Err(error)
                if zeroes::is_refusal(&error) || error.raw_os_error() == Some(libc::EINVAL) =>
            {
                self.refused.holes();
                Ok(all_data)
            }
            Err(source) => Err(self.failed("cannot look for data and holes", source)),
        }
    }

    fn failed(&self, what: &str, source: io::Error) -> BlockError {
        let place = if self.is_block_device() {
            "the device"
        } else if source.kind() == io::ErrorKind::UnexpectedEof {
            "the file, which became shorter"
        } else {
            "the file"
        };
        BlockError::io(format!("{what} {place}"), source)
    }
}

impl NodeDriver for FileNode {
    fn driver_name(&self) -> &'static str {
        "file"
    }

    fn limits(&self) -> Limits {
        Limits {
            len_bytes: self.len_bytes(),
            ..self.limits
        }
    }

    fn read<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(self.read_whole(cx, offset_bytes, buf))
    }

    fn write<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            let end = offset_bytes.saturating_add(u64::try_from(buf.len()).unwrap_or(u64::MAX));
            let change = self.holes.change(ByteRange::between(offset_bytes, end));
            let (buf, result) = self.write_whole(cx, offset_bytes, buf).await;
            change.finish();
            match result {
                Ok(way) => (buf, self.sync_if(cx, flags).await.map(|()| way)),
                Err(error) => (buf, Err(error)),
            }
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            let change = self.holes.change(range);
            let result = self.zero(cx, range, flags).await;
            change.finish();
            result?;
            self.sync_if(cx, flags).await
        })
    }

    fn discard<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            let change = self.holes.change(range);
            let result = self.let_go(cx, range).await;
            change.finish();
            result
        })
    }

    fn flush<'a>(&'a self, cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            if self.limits.read_only {
                return Ok(());
            }
            self.sync(cx).await
        })
    }

    fn truncate<'a>(
        &'a self,
        cx: &'a AioContext,
        len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.resize(cx, len_bytes))
    }

    fn extent<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        Box::pin(self.find_extent(cx, range))
    }

    fn locate(&self, range: ByteRange, access: Access) -> Located<'_> {
        self.place(range, access)
    }

    fn cancel_in_flight(&self) {}
}

#[cfg(test)]
mod tests;
