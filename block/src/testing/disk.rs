//! A disk for tests that can hold requests, a filter that passes them on, and a parent that counts.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use aio::{AioContext, Config, IoBuf};

use crate::{
    allocation::{AllocationStatus, ByteRange, Extent},
    error::{BlockError, ErrorKind},
    graph::{
        Graph,
        child::{Attachment, Child, ChildRole},
        parent::Parent,
        permission::{Permission, Permissions},
    },
    node::Node,
    node_driver::{
        Access, Limits, Located, NodeDriver, RequestFlags, RequestFuture, Transferred, Way,
        fixed_length,
    },
    wait::WaitList,
};

/// What reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Read(ByteRange),
    Write(ByteRange),
    Zero(ByteRange),
    Discard(ByteRange),
    Flush,
    Extent(ByteRange),
}

/// Bytes in memory, with limits to choose and a hand on the tap.
#[derive(Debug)]
pub(crate) struct Disk {
    limits: Limits,
    bytes: Mutex<Vec<u8>>,
    log: Mutex<Vec<Op>>,
    is_held: AtomicBool,
    released: WaitList,
    pub(crate) zeroes_unsupported: AtomicBool,
    heard: Mutex<Vec<Heard>>,
    pub(crate) refuses_permissions: AtomicBool,
}

/// What the disk heard of the permissions of its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Prepare(Permissions),
    Settle(Permissions),
}

impl Disk {
    pub(crate) fn new(len_bytes: u64, request_align_bytes: u32) -> Arc<Self> {
        Self::with_limits(Limits {
            len_bytes,
            request_align_bytes,
            transfer_bytes_max: 1 << 30,
            cluster_bytes: None,
            read_only: false,
        })
    }

    pub(crate) fn with_limits(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            bytes: Mutex::new(vec![0; usize::try_from(limits.len_bytes).unwrap()]),
            log: Mutex::default(),
            is_held: AtomicBool::new(false),
            released: WaitList::default(),
            zeroes_unsupported: AtomicBool::new(false),
            heard: Mutex::default(),
            refuses_permissions: AtomicBool::new(false),
        })
    }

    /// From now on requests wait before they do anything.
    pub(crate) fn hold(&self) {
        self.is_held.store(true, Ordering::SeqCst);
    }

    pub(crate) fn release(&self) {
        self.is_held.store(false, Ordering::SeqCst);
        self.released.wake_all();
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    pub(crate) fn fill(&self, byte: u8) {
        self.bytes.lock().unwrap().fill(byte);
    }

    pub(crate) fn log(&self) -> Vec<Op> {
        self.log.lock().unwrap().clone()
    }

    /// What it heard of permissions since it was asked last.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }

    pub(crate) fn writes(&self) -> usize {
        let log = self.log.lock().unwrap();
        log.iter().filter(|op| matches!(op, Op::Write(_))).count()
    }

    async fn begin(&self, op: Op) {
        let (Op::Read(range)
        | Op::Write(range)
        | Op::Zero(range)
        | Op::Discard(range)
        | Op::Extent(range)) = op
        else {
            self.log.lock().unwrap().push(op);
            return;
        };
        let align = u64::from(self.limits.request_align_bytes);
        let len = self.limits.len_bytes;
        assert!(!range.is_empty() && range.end() <= len, "{op:?}");
        assert!(range.start().is_multiple_of(align), "{op:?}");
        assert!(
            range.end().is_multiple_of(align) || range.end() == len,
            "{op:?}"
        );
        self.log.lock().unwrap().push(op);
        self.released
            .until(|| !self.is_held.load(Ordering::SeqCst))
            .await;
    }

    fn check_transfer(&self, buf: &IoBuf) {
        assert!(buf.len() <= usize::try_from(self.limits.transfer_bytes_max).unwrap());
    }
}

fn span(range: ByteRange) -> std::ops::Range<usize> {
    usize::try_from(range.start()).unwrap()..usize::try_from(range.end()).unwrap()
}

fn range_of(offset_bytes: u64, buf: &IoBuf) -> ByteRange {
    ByteRange::new(offset_bytes, u64::try_from(buf.len()).unwrap()).unwrap()
}

/// The disk as a node driver.
#[derive(Debug)]
pub(crate) struct DiskNode(pub(crate) Arc<Disk>);

impl NodeDriver for DiskNode {
    fn driver_name(&self) -> &'static str {
        "test-disk"
    }

    fn limits(&self) -> Limits {
        self.0.limits
    }

    fn read<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        mut buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            self.0.check_transfer(&buf);
            let range = range_of(offset_bytes, &buf);
            self.0.begin(Op::Read(range)).await;
            buf.copy_from_slice(&self.0.bytes.lock().unwrap()[span(range)]);
            cx.yield_now().await;
            (buf, Ok(Way::Buffered))
        })
    }

    fn write<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        _flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            self.0.check_transfer(&buf);
            let range = range_of(offset_bytes, &buf);
            self.0.begin(Op::Write(range)).await;
            cx.yield_now().await;
            self.0.bytes.lock().unwrap()[span(range)].copy_from_slice(&buf);
            (buf, Ok(Way::Buffered))
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        _cx: &'a AioContext,
        range: ByteRange,
        _flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            if self.0.zeroes_unsupported.load(Ordering::SeqCst) {
                return Err(BlockError::new(ErrorKind::Unsupported, "no zeroes here"));
            }
            self.0.begin(Op::Zero(range)).await;
            self.0.bytes.lock().unwrap()[span(range)].fill(0);
            Ok(())
        })
    }

    fn discard<'a>(
        &'a self,
        _cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            self.0.begin(Op::Discard(range)).await;
            Ok(())
        })
    }

    fn flush<'a>(&'a self, _cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            self.0.begin(Op::Flush).await;
            Ok(())
        })
    }

    fn truncate<'a>(
        &'a self,
        _cx: &'a AioContext,
        _len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        fixed_length("the disk keeps its length")
    }

    /// Whole blocks of zeroes are `Zero`, others `Data`.
    fn extent<'a>(
        &'a self,
        _cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        Box::pin(async move {
            self.0.begin(Op::Extent(range)).await;
            let align = usize::try_from(self.0.limits.request_align_bytes).unwrap();
            let bytes = self.0.bytes.lock().unwrap();
            let mut blocks = bytes[span(range)].chunks(align);
            let is_zero = |block: &[u8]| block.iter().all(|&byte| byte == 0);
            let first = is_zero(blocks.next().unwrap());
            let more = blocks.take_while(|block| is_zero(block) == first).count();
            let len = u64::try_from((more + 1) * align).unwrap();
            Ok(Extent {
                len_bytes: len.min(range.len()),
                status: if first {
                    AllocationStatus::Zero
                } else {
                    AllocationStatus::Data
                },
            })
        })
    }

    fn locate(&self, _range: ByteRange, _access: Access) -> Located<'_> {
        Located::Nowhere
    }

    fn cancel_in_flight(&self) {}

    fn prepare_permissions(&self, next: Permissions) -> Result<(), BlockError> {
        self.0.heard.lock().unwrap().push(Heard::Prepare(next));
        match self.0.refuses_permissions.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(BlockError::new(ErrorKind::Locked, "not now")),
        }
    }

    fn settle_permissions(&self, now: Permissions) {
        self.0.heard.lock().unwrap().push(Heard::Settle(now));
    }
}

/// A filter that passes everything on.
#[derive(Debug)]
pub(crate) struct PassNode(pub(crate) Arc<Child>);

impl NodeDriver for PassNode {
    fn driver_name(&self) -> &'static str {
        "test-pass"
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn read<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(self.0.read(cx, offset_bytes, buf))
    }

    fn write<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(self.0.write(cx, offset_bytes, buf, flags))
    }

    fn write_zeroes<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.0.write_zeroes(cx, range, flags))
    }

    fn discard<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.0.discard(cx, range))
    }

    fn flush<'a>(&'a self, cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.0.flush(cx))
    }

    fn truncate<'a>(
        &'a self,
        cx: &'a AioContext,
        len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.0.truncate(cx, len_bytes))
    }

    fn extent<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        Box::pin(self.0.extent(cx, range))
    }

    fn locate(&self, range: ByteRange, _access: Access) -> Located<'_> {
        Located::Child {
            child: &self.0,
            offset_bytes: range.start(),
        }
    }

    fn cancel_in_flight(&self) {
        self.0.node().cancel_in_flight();
    }
}

/// A parent that counts what it is told and is busy as long as the test wants.
#[derive(Debug, Default)]
pub(crate) struct CountingParent {
    pub(crate) begun: AtomicU64,
    pub(crate) ended: AtomicU64,
    pub(crate) is_busy: AtomicBool,
}

impl CountingParent {
    /// How often it is asked to be quiet at the moment.
    pub(crate) fn depth(&self) -> u64 {
        self.begun.load(Ordering::SeqCst) - self.ended.load(Ordering::SeqCst)
    }
}

impl Parent for CountingParent {
    fn name(&self) -> String {
        "block job 'j0'".to_owned()
    }

    fn drained_begin(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    fn drained_poll(&self) -> bool {
        self.is_busy.load(Ordering::SeqCst)
    }

    fn drained_end(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

pub(crate) const READ: Permission = Permission::ConsistentRead;
pub(crate) const WRITE: Permission = Permission::Write;

pub(crate) fn writer() -> Permissions {
    Permissions::uses(&[READ, WRITE])
}

pub(crate) fn attach(graph: &Graph, node: &Node, parent: &str, wants: Permissions) -> Child {
    let attachment = Attachment::new(parent, ChildRole::Primary, wants);
    graph.attach(node, attachment).unwrap()
}

/// A filter over `below` that lets nobody else write there.
pub(crate) fn pass_over(graph: &Graph, name: &str, below: &Node) -> Node {
    let builder = graph.build_node(Some(name)).unwrap();
    let wants = Permissions::uses(&[READ]).unsharing(&[WRITE, Permission::Resize]);
    let child = builder
        .attach(below, "file", ChildRole::Filtered, wants)
        .unwrap();
    builder.finish(PassNode(Arc::new(child)))
}

pub(crate) fn context() -> AioContext {
    AioContext::new(Config::default()).unwrap()
}

/// Lets every task run as far as it gets without anybody's help.
pub(crate) async fn settle(cx: &AioContext) {
    for _ in 0..30 {
        cx.yield_now().await;
    }
}

pub(crate) fn buffer(len: usize, byte: u8) -> IoBuf {
    let mut buf = IoBuf::heap(len);
    buf.fill(byte);
    buf
}

pub(crate) async fn write(child: &Child, cx: &AioContext, offset: u64, len: usize, byte: u8) {
    let flags = RequestFlags::default();
    child
        .write(cx, offset, buffer(len, byte), flags)
        .await
        .1
        .unwrap();
}
