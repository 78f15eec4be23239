//! `file`: a node over a regular file or a block device.

mod create;
mod holes;
mod locking;
mod open;
mod options;
mod place;
mod reopen;
mod resize;
mod zeroes;

use std::{
    any::Any,
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use aio::{AioContext, Fd, IoBuf};
use arc_swap::ArcSwap;

pub use self::create::{CreateOptions, NewFile, Preallocation};
pub use self::options::{FileIdentity, FileOptions, LockTerm, OnOffAuto, Sharing};
pub use self::reopen::Reopening;
use self::{
    holes::{HoleCache, find_run},
    locking::ImageLocks,
    open::InMemory,
    zeroes::Refused,
};
use crate::{
    allocation::{AllocationStatus, ByteRange, Extent},
    error::BlockError,
    graph::permission::Permissions,
    node::Node,
    node_driver::{
        Access, Limits, Located, NodeDriver, RequestFlags, RequestFuture, Transferred, Way,
    },
};

/// Largest read or write that goes to the kernel in one piece.
const TRANSFER_BYTES_MAX: u32 = 16 << 20;
/// The page cache holds whole pages: where two descriptors meet, they must not share one.
const PAGE_BYTES: u64 = 4096;

/// A node over a regular file or a block device.
///
/// With `O_DIRECT`, whole blocks travel between device and buffer. The end of a regular file that is
/// not a multiple of the alignment is read as a block that comes back short, and written through a
/// second descriptor with page cache; no request but a resize ever extends the file.
///
/// Its image locks follow what the users of the node do and allow, see [`LockTerm`]; a user whom another program does
/// not allow is refused with [`Locked`](crate::ErrorKind::Locked). Dropping the node closes the file, and lets go of
/// all locks, once no request uses it.
#[derive(Debug)]
pub struct FileNode {
    /// Replaced when the file is opened again, while no request is in flight.
    files: ArcSwap<Files>,
    /// Way of a request through `direct`.
    direct_way: Way,
    identity: FileIdentity,
    align_bytes: AtomicU32,
    read_only: AtomicBool,
    locks: Option<ImageLocks>,
    lock_term: LockTerm,
    len_bytes: AtomicU64,
    holes: HoleCache,
    refused: Refused,
    /// Error number of the first failed flush. What it should have made stable may be lost for good
    /// while the next flush would succeed, so none does.
    flush_failure: OnceLock<i32>,
}

/// The descriptors of one opening of the file.
#[derive(Debug)]
struct Files {
    /// Through the page cache; also for all that moves no data, and for the image locks.
    plain: Fd,
    direct: Option<Direct>,
}

#[derive(Debug)]
struct Direct {
    file: Fd,
    align_bytes: usize,
}

impl FileNode {
    /// Opens the file, and takes the image locks that are held [for as long as that](LockTerm::WhileOpen).
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
        let facts = (opened.identity, opened.len_bytes, opened.in_memory);
        let (files, align_bytes) = Files::of(opened);
        let locks = ImageLocks::open(&files.plain, options)?;
        Ok(Self::from_files(
            (files, align_bytes),
            locks,
            facts,
            options,
        ))
    }

    fn from_files(
        (files, align_bytes): (Files, u32),
        locks: Option<ImageLocks>,
        (identity, len_bytes, in_memory): (FileIdentity, u64, InMemory),
        options: &FileOptions,
    ) -> Self {
        Self {
            files: ArcSwap::from_pointee(files),
            direct_way: match in_memory {
                InMemory::Yes => Way::Buffered,
                InMemory::No => Way::Direct,
            },
            identity,
            align_bytes: AtomicU32::new(align_bytes),
            read_only: AtomicBool::new(options.read_only),
            locks,
            lock_term: options.lock_term,
            len_bytes: AtomicU64::new(len_bytes),
            holes: HoleCache::default(),
            refused: Refused::default(),
            flush_failure: OnceLock::new(),
        }
    }

    /// The descriptor for all that moves no data.
    fn plain(&self) -> Fd {
        self.files.load().plain.clone()
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
        self.direct_way == Way::Direct && self.files.load().direct.is_some()
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
        let file = File::from(self.plain().as_fd().try_clone_to_owned().map_err(failed)?);
        let blocks = file.metadata().map_err(failed)?.blocks();
        Ok(blocks.saturating_mul(512))
    }

    async fn read_whole(&self, cx: &AioContext, offset_bytes: u64, mut buf: IoBuf) -> Transferred {
        let files = self.files.load();
        if let Some(direct) = &files.direct {
            let result;
            (buf, result) = self.read_direct(cx, direct, offset_bytes, buf).await;
            if let Some(result) = result.transpose() {
                return (buf, result);
            }
        }
        let (buf, result) = cx.read_exact(&files.plain, offset_bytes, buf).await;
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
        let files = self.files.load();
        let Some(direct) = &files.direct else {
            return self
                .write_to(cx, (&files.plain, Way::Buffered), offset_bytes, buf)
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
                .write_to(cx, (&files.plain, Way::Buffered), offset_bytes, buf)
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
        let target = (&files.plain, Way::Bounced);
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
        cx.fdatasync(&self.plain()).await.map_err(|source| {
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
        let known = self.holes.known(range);
        if let Some(extent) = known.filter(|extent| self.stays_true(extent.status)) {
            return Ok(extent);
        }
        let look_up = self.holes.start_look_up();
        let (file, len_bytes) = (self.plain(), self.len_bytes());
        let found = cx
            .blocking(move || find_run(&file, range.start(), len_bytes))
            .await;
        match found {
            Ok(run) => {
                if self.stays_true(run.status) {
                    self.holes.remember(&look_up, run);
                }
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

    /// Whether what was found out about data and holes can be told again later: nobody else fills a hole meanwhile.
    fn stays_true(&self, status: AllocationStatus) -> bool {
        status == AllocationStatus::Data
            || match self.lock_term {
                LockTerm::WhileOpen => true,
                LockTerm::WhileUsed => self.locks.as_ref().is_some_and(ImageLocks::forbid_writes),
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
            request_align_bytes: self.align_bytes.load(Ordering::Relaxed),
            transfer_bytes_max: TRANSFER_BYTES_MAX,
            cluster_bytes: None,
            read_only: self.read_only.load(Ordering::Relaxed),
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
            if self.read_only.load(Ordering::Relaxed) {
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

    fn prepare_permissions(&self, next: Permissions) -> Result<(), BlockError> {
        let Some(locks) = &self.locks else {
            return Ok(());
        };
        locks.prepare(next)
    }

    fn settle_permissions(&self, now: Permissions) {
        if let Some(locks) = &self.locks {
            locks.settle(now);
        }
        // Until now somebody else may have been allowed to write, or is from now on.
        let everything = ByteRange::between(0, u64::MAX);
        self.holes.change(everything).finish();
    }
}

#[cfg(test)]
mod tests;
