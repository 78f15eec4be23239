//! `copy-before-write`: a filter that saves old data to a target before a guest write changes it.

use std::{
    any::Any,
    future::pending,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use aio::{AioContext, IoBuf};

use crate::{
    allocation::{ByteRange, Extent},
    copy::{self, BlockCopy, CopyEdge, CopyError, CopyOptions, Keeper, SourceAfter},
    error::{BlockError, ErrorKind},
    graph::{
        Graph,
        child::ChildRole,
        permission::{Permission, Permissions},
    },
    node::Node,
    node_driver::{
        Access, Limits, Located, NodeDriver, RequestFlags, RequestFuture, Transferred, fixed_length,
    },
    wait::{First, WaitList, first_of},
};

/// What gives way when old data cannot be saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCbwError {
    /// The guest write fails with the error, and the snapshot stays whole.
    #[default]
    BreakGuestWrite,
    /// The guest write goes on, and the snapshot is broken for good.
    BreakSnapshot,
}

/// How a [`CopyBeforeWriteNode`] behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CbwOptions {
    /// How to copy.
    pub copy: CopyOptions,
    /// What gives way when old data cannot be saved.
    pub on_cbw_error: OnCbwError,
    /// Longest time in nanoseconds that a guest write waits for its old data to be saved; `None` for no limit.
    pub timeout_ns: Option<u64>,
}

/// Whether the point-in-time copy can still be trusted. Any thread.
///
/// Whoever copies in the background must look at it *after* its last read, and must then fail if the
/// snapshot is broken: what it read later than that may be new data.
#[derive(Debug, Default)]
pub struct SnapshotState {
    failure: OnceLock<BlockError>,
    /// Those who save old data for a guest that need not wait for them once the snapshot is broken.
    saving: WaitList,
}

impl SnapshotState {
    /// Why the snapshot is broken; `None` while it is whole.
    #[must_use]
    pub fn failure(&self) -> Option<&BlockError> {
        self.failure.get()
    }

    /// The first failure is kept for good.
    fn break_with(&self, error: BlockError) {
        // An error that is not the first adds nothing.
        let _ = self.failure.set(error);
        self.saving.wake_all();
    }

    /// Ends once the snapshot is broken.
    pub async fn broken(&self) {
        self.saving.until(|| self.failure.get().is_some()).await;
    }
}

/// How long guest requests took more than they would have without a filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddedLatency {
    /// Guest requests that had to wait at all.
    pub requests: u64,
    /// Time they waited, all together, in nanoseconds.
    pub total_ns: u64,
    /// Longest time one of them waited, in nanoseconds.
    pub max_ns: u64,
}

/// The same as it grows.
#[derive(Debug, Default)]
pub(super) struct Latency {
    requests: AtomicU64,
    total_ns: AtomicU64,
    max_ns: AtomicU64,
}

/// What the users of a filter hold on to: the copy, its state, its cost. Cheap to clone; any thread.
///
/// The copy holds the filter's edges to source and target: drop every handle when the filter goes, or
/// [give it up](Self::give_up).
#[derive(Clone, Debug)]
pub struct CbwHandle {
    copy: Arc<BlockCopy>,
    snapshot: Arc<SnapshotState>,
    latency: Arc<Latency>,
}

impl CbwHandle {
    /// The copy that the filter and a background job share.
    #[must_use]
    pub fn block_copy(&self) -> &Arc<BlockCopy> {
        &self.copy
    }

    /// Whether the copy can still be trusted.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<SnapshotState> {
        &self.snapshot
    }

    /// Nobody wants the snapshot any more: guests go on at once, and the filter passes everything through.
    ///
    /// Old data that is being saved for guests is left to itself, as [`BlockCopy::give_up`] says.
    pub fn give_up(&self, keeper: Keeper) {
        let error = BlockError::new(ErrorKind::GivenUp, "the snapshot was given up");
        self.snapshot.break_with(error);
        self.copy.give_up(keeper);
    }

    /// What the filter has cost guest requests so far.
    #[must_use]
    pub fn added_latency(&self) -> AddedLatency {
        self.latency.read()
    }
}

/// A filter over the source of a [`BlockCopy`]: guest writes, zeroes and discards wait until the old
/// data of every cluster they touch is copied. All else passes through.
///
/// A guest request goes on although its future is dropped, and with it what it saves. If a guest goes on
/// before its old data is saved, because time ran out or the snapshot is broken, saving goes on in the
/// background and keeps the copy and its edges alive.
#[derive(Debug)]
pub struct CopyBeforeWriteNode {
    /// The copy's edge, held also for when the copy is given up.
    source: Arc<CopyEdge>,
    shared: CbwHandle,
    on_cbw_error: OnCbwError,
    timeout_ns: Option<u64>,
}

impl CopyBeforeWriteNode {
    /// Adds a filter node over `source` that saves to `target`, ready for [`Graph::insert_filter`].
    ///
    /// Its edges count while the filter is used. Nobody may then write the source past the
    /// filter, or resize either node; a job that copies in the background therefore attaches itself
    /// to the filter.
    ///
    /// # Errors
    ///
    /// As [`BlockCopy::new`] and [`Graph::build_node`]; [`NotFound`](crate::ErrorKind::NotFound) when
    /// a node is not in this graph.
    pub fn add_to(
        graph: &Graph,
        name: Option<&str>,
        (source, target): (&Node, &Node),
        options: CbwOptions,
    ) -> Result<(Node, CbwHandle), BlockError> {
        let builder = graph.build_node(name)?;
        let uses = match options.copy.source_after {
            SourceAfter::Kept => &[Permission::ConsistentRead][..],
            SourceAfter::Discarded => &[Permission::ConsistentRead, Permission::Write],
        };
        let reads = Permissions::uses(uses).unsharing(&[Permission::Write, Permission::Resize]);
        let writes = Permissions::uses(&[Permission::Write]).unsharing(&[Permission::Resize]);
        let source = builder.attach(source, "file", ChildRole::Filtered, reads)?;
        let target = builder.attach(target, "target", ChildRole::Data, writes)?;
        let copy = BlockCopy::new(source, target, options.copy)?;
        let source = copy.source().ok_or_else(copy::given_up)?;
        let shared = CbwHandle {
            copy: Arc::new(copy),
            snapshot: Arc::default(),
            latency: Arc::default(),
        };
        let handle = shared.clone();
        let filter = Self {
            source,
            shared,
            on_cbw_error: options.on_cbw_error,
            timeout_ns: options.timeout_ns,
        };
        Ok((builder.finish(filter), handle))
    }

    /// The handle of `filter`, if it is a node of this kind.
    #[must_use]
    pub fn handle_of(filter: &Node) -> Option<CbwHandle> {
        let driver: &dyn Any = filter.driver();
        Some(driver.downcast_ref::<Self>()?.shared.clone())
    }

    /// Returns once the guest may change `range`, or why it may not.
    async fn save(&self, cx: &AioContext, range: ByteRange) -> Result<(), BlockError> {
        if self.shared.snapshot.failure().is_some() || !self.shared.copy.needs_copy(range) {
            return Ok(());
        }
        let started_ns = cx.now_ns();
        let result = self.save_in_time(cx, range).await;
        let waited_ns = cx.now_ns().saturating_sub(started_ns);
        self.shared.latency.note(waited_ns);
        match (result, self.on_cbw_error) {
            // Nobody wants to know any more.
            (Err(_), _) if self.shared.snapshot.failure().is_some() => Ok(()),
            (Err(error), OnCbwError::BreakSnapshot) => {
                self.shared.snapshot.break_with(error);
                Ok(())
            }
            (result, _) => result,
        }
    }

    /// Saves the old data, until time runs out or the snapshot is broken; what is under way then goes on by itself.
    async fn save_in_time(&self, cx: &AioContext, range: ByteRange) -> Result<(), BlockError> {
        let (copy, home) = (self.shared.copy.clone(), cx.clone());
        let mut saving = Box::pin(async move {
            let result = copy.ensure_copied(&home, range).await;
            result.map_err(CopyError::into_error)?;
            copy.thawed(range).await;
            Ok(())
        });
        let time_up = async {
            match self.timeout_ns {
                Some(timeout_ns) => cx.sleep_ns(timeout_ns).await,
                None => pending().await,
            }
        };
        let broken = first_of(self.shared.snapshot.broken(), time_up);
        match first_of(saving.as_mut(), broken).await {
            First::Left(result) => result,
            First::Right(reason) => {
                drop(cx.spawn(saving));
                match reason {
                    First::Left(()) => Ok(()),
                    First::Right(()) => {
                        let source = io::Error::from_raw_os_error(libc::ETIMEDOUT);
                        let text = "the old data was not saved within the time limit";
                        Err(BlockError::io(text, source).at(range))
                    }
                }
            }
        }
    }
}

impl Latency {
    pub(super) fn note(&self, ns: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.total_ns.fetch_add(ns, Ordering::Relaxed);
        self.max_ns.fetch_max(ns, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> AddedLatency {
        AddedLatency {
            requests: self.requests.load(Ordering::Relaxed),
            total_ns: self.total_ns.load(Ordering::Relaxed),
            max_ns: self.max_ns.load(Ordering::Relaxed),
        }
    }
}

impl NodeDriver for CopyBeforeWriteNode {
    fn driver_name(&self) -> &'static str {
        "copy-before-write"
    }

    fn limits(&self) -> Limits {
        self.source.limits()
    }

    fn read<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(self.source.read(cx, offset_bytes, buf))
    }

    fn write<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
            let range = ByteRange::between(offset_bytes, offset_bytes.saturating_add(len));
            if !flags.unchanged
                && let Err(error) = self.save(cx, range).await
            {
                return (buf, Err(error));
            }
            self.source.write(cx, offset_bytes, buf, flags).await
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            if !flags.unchanged {
                self.save(cx, range).await?;
            }
            self.source.write_zeroes(cx, range, flags).await
        })
    }

    fn discard<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            self.save(cx, range).await?;
            self.source.discard(cx, range).await
        })
    }

    fn flush<'a>(&'a self, cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.source.flush(cx))
    }

    fn truncate<'a>(
        &'a self,
        _cx: &'a AioContext,
        _len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        fixed_length("a node keeps its length while it is copied")
    }

    fn extent<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        Box::pin(self.source.extent(cx, range))
    }

    /// Reads pass through; writes must be seen.
    fn locate(&self, range: ByteRange, access: Access) -> Located<'_> {
        match access {
            Access::Read => Located::Child {
                child: &self.source,
                offset_bytes: range.start(),
            },
            Access::Write => Located::Nowhere,
        }
    }

    fn cancel_in_flight(&self) {
        self.source.node().cancel_in_flight();
    }
}

#[cfg(test)]
mod tests;
