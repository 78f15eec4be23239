//! Two disks in memory, each behind a filter that fails and holds requests, and a registry of jobs,
//! on a loop of their own.

use std::{
    future::Future,
    io::{self, Write as _},
    ops::Deref,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use aio::{AioContext, BackendKind, Clock, Config, IoBuf, ManualClock};
use block::{
    Attachment, BlockError, ByteRange, Child, ChildRole, DrainedSection, EdgeInfo, Graph, Node,
    Operation, Permission, Permissions, RequestFlags,
    nodes::{FaultAction, FaultControl, FaultNode, FaultOp, FaultRule, MemoryNode, MemoryOptions},
};
use drivers::backup::{Backup, BackupError, BackupOptions};
use job::{JobEvent, JobRegistry, JobStatus, Subscription};

pub(crate) const CLUSTER: u64 = 64 << 10;
pub(crate) const MIB: u64 = 1 << 20;
/// More than the parts of a test take together on a slow machine.
const HANGS_AFTER: Duration = Duration::from_secs(300);

/// Runs a test on each backend that this machine has. A test that hangs ends the process.
pub(crate) fn on_each_backend<F: Future<Output = ()>>(test: impl Fn(AioContext) -> F) {
    for backend in backends() {
        run_on(backend, Clock::Monotonic, &test);
    }
}

/// The same by a clock that the test moves.
pub(crate) fn with_clock<F: Future<Output = ()>>(test: impl Fn(AioContext, ManualClock) -> F) {
    for backend in backends() {
        let (clock, hand) = Clock::manual();
        run_on(backend, clock, |cx| test(cx, hand.clone()));
    }
}

pub(crate) fn backends() -> impl Iterator<Item = BackendKind> {
    [BackendKind::Epoll, BackendKind::IoUring]
        .into_iter()
        .filter(|backend| *backend == BackendKind::Epoll || aio::probe_io_uring().is_ok())
}

fn run_on<F: Future<Output = ()>>(
    backend: BackendKind,
    clock: Clock,
    test: impl FnOnce(AioContext) -> F,
) {
    let watch = Watch::start();
    let config = Config {
        backend: Some(backend),
        clock,
        ..Config::default()
    };
    aio::run(config, test).unwrap();
    watch.end();
}

/// Ends the process when a test hangs, so that the rest of a run does not hang with it.
pub(crate) struct Watch(mpsc::Sender<()>);

impl Watch {
    pub(crate) fn start() -> Self {
        let (ended, end) = mpsc::channel();
        let test = std::thread::current().name().map(str::to_owned);
        std::thread::spawn(move || {
            if end.recv_timeout(HANGS_AFTER) == Err(mpsc::RecvTimeoutError::Timeout) {
                // Not by a macro, whose output belongs to the test and would be lost with it.
                drop(writeln!(io::stderr(), "{test:?} hangs"));
                std::process::abort();
            }
        });
        Self(ended)
    }

    pub(crate) fn end(self) {
        drop(self.0);
    }
}

/// Source or target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Source,
    Target,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Source, Self::Target];
}

/// The disks, without a loop. Any thread.
#[derive(Clone)]
pub(crate) struct Disks {
    pub(crate) graph: Graph,
    pub(crate) source: Node,
    pub(crate) target: Node,
    pub(crate) at_source: FaultControl,
    pub(crate) at_target: FaultControl,
    pub(crate) len_bytes: u64,
}

impl Disks {
    pub(crate) fn new(len_bytes: u64) -> Self {
        Self::with_options(MemoryOptions::new(len_bytes), MemoryOptions::new(len_bytes))
    }

    pub(crate) fn with_options(source: MemoryOptions, target: MemoryOptions) -> Self {
        let (graph, len_bytes) = (Graph::new(), source.len_bytes);
        let (source, at_source) = disk(&graph, "source", source);
        let (target, at_target) = disk(&graph, "target", target);
        Self {
            graph,
            source,
            target,
            at_source,
            at_target,
            len_bytes,
        }
    }

    pub(crate) fn whole(&self) -> ByteRange {
        ByteRange::between(0, self.len_bytes)
    }

    /// A user of the source that reads and writes.
    pub(crate) fn guest(&self) -> Child {
        attach(&self.graph, &self.source)
    }

    /// One of the two nodes.
    pub(crate) fn node(&self, side: Side) -> &Node {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }

    pub(crate) async fn drain(&self, node: &Node) -> DrainedSection {
        self.graph.drain(std::slice::from_ref(node)).await
    }

    pub(crate) async fn content(&self, cx: &AioContext, node: &Node) -> Vec<u8> {
        let reads = Permissions::uses(&[Permission::ConsistentRead]);
        let attachment = Attachment::new("reader", ChildRole::Primary, reads);
        read(
            &self.graph.attach(node, attachment).unwrap(),
            cx,
            self.whole(),
        )
        .await
    }

    /// Which of these is above the source now.
    pub(crate) fn filters(&self) -> usize {
        let filters = self.graph.nodes().into_iter();
        filters
            .filter(|node| node.driver_name() == "copy-before-write")
            .count()
    }

    /// Everything of the graph that a backup could leave changed.
    pub(crate) fn shape(&self) -> Shape {
        let operations = [
            Operation::Remove,
            Operation::Resize,
            Operation::BackupSource,
            Operation::BackupTarget,
            Operation::MirrorSource,
        ];
        let refused = [&self.source, &self.target].map(|node| {
            operations.map(|operation| self.graph.check_operation(node, operation).is_err())
        });
        let nodes = self.graph.nodes();
        Shape {
            nodes: nodes.iter().map(|node| node.name().to_owned()).collect(),
            edges: self.graph.edges(),
            refused,
            quiesced: nodes.iter().any(Node::is_quiesced),
        }
    }
}

/// Nodes, edges with their permissions, forbidden operations, drained sections.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    nodes: Vec<String>,
    edges: Vec<EdgeInfo>,
    refused: [[bool; 5]; 2],
    quiesced: bool,
}

/// Disks, a registry and its events, on one loop that is main context and home of the jobs.
pub(crate) struct World {
    pub(crate) cx: AioContext,
    pub(crate) jobs: JobRegistry,
    pub(crate) guest: Child,
    disks: Disks,
    events: Arc<Mutex<Vec<JobEvent>>>,
    _subscription: Subscription,
}

impl Deref for World {
    type Target = Disks;

    fn deref(&self) -> &Disks {
        &self.disks
    }
}

impl World {
    /// The disks alone, for another world.
    pub(crate) fn disks(&self) -> Disks {
        self.disks.clone()
    }

    /// Empty disks.
    pub(crate) fn new(cx: &AioContext, len_bytes: u64) -> Self {
        Self::with_disks(cx, Disks::new(len_bytes))
    }

    pub(crate) fn with_disks(cx: &AioContext, disks: Disks) -> Self {
        let jobs = JobRegistry::new(cx.handle().clone());
        let events = Arc::<Mutex<Vec<JobEvent>>>::default();
        let heard = events.clone();
        let subscription = jobs.subscribe(move |event| heard.lock().unwrap().push(event.clone()));
        Self {
            cx: cx.clone(),
            jobs,
            guest: disks.guest(),
            disks,
            events,
            _subscription: subscription,
        }
    }

    /// Disks whose source has other bytes everywhere.
    pub(crate) async fn full(cx: &AioContext, len_bytes: u64) -> Self {
        let world = Self::new(cx, len_bytes);
        let bytes = pattern(world.whole(), 1);
        write(&world.guest, cx, 0, &bytes).await.unwrap();
        world
    }

    pub(crate) async fn start(&self, options: BackupOptions) -> Result<Backup, BackupError> {
        let nodes = (&self.source, &self.target);
        let home = self.cx.handle();
        Backup::start((&self.graph, &self.jobs), home, nodes, options).await
    }

    /// Runs a backup to its end, and well.
    pub(crate) async fn back_up(&self, options: BackupOptions) -> Backup {
        let backup = self.start(options).await.unwrap();
        backup.job().wait().await.into_result().unwrap();
        backup
    }

    pub(crate) async fn source_bytes(&self) -> Vec<u8> {
        self.content(&self.cx, &self.source).await
    }

    pub(crate) async fn target_bytes(&self) -> Vec<u8> {
        self.content(&self.cx, &self.target).await
    }

    pub(crate) async fn guest_writes(&self, range: ByteRange, byte: u8) -> Result<(), BlockError> {
        let bytes = vec![byte; in_memory(range.len())];
        write(&self.guest, &self.cx, range.start(), &bytes).await
    }

    /// A guest write that goes on by itself; the edge is one of its own.
    pub(crate) fn guest_writes_later(
        &self,
        range: ByteRange,
        byte: u8,
    ) -> aio::Task<Result<(), BlockError>> {
        let (guest, cx) = (self.guest_above(), self.cx.clone());
        self.cx.spawn(async move {
            let bytes = vec![byte; in_memory(range.len())];
            write(&guest, &cx, range.start(), &bytes).await
        })
    }

    /// A new user of whatever the guest uses now.
    pub(crate) fn guest_above(&self) -> Child {
        attach(&self.graph, &self.guest.node())
    }

    /// What the events said of errors, as `write stop`, in order.
    pub(crate) fn errors_told(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let errors = events.iter().filter_map(|event| match event {
            JobEvent::Error {
                operation, action, ..
            } => Some(format!("{operation} {action}")),
            _ => None,
        });
        errors.collect()
    }

    /// The statuses that the events told, and how the job ended.
    pub(crate) fn life(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let told = events.iter().filter_map(|event| match event {
            JobEvent::StatusChange { status, .. } => Some(status.to_string()),
            JobEvent::Completed { error: None, .. } => Some("COMPLETED".to_owned()),
            JobEvent::Completed { .. } => Some("FAILED".to_owned()),
            JobEvent::Cancelled(_) => Some("CANCELLED".to_owned()),
            _ => None,
        });
        told.collect()
    }

    /// Waits until the job is in `status`.
    pub(crate) async fn until_status(&self, backup: &Backup, status: JobStatus) {
        until(&self.cx, || backup.job().status() == status).await;
    }
}

/// Options of a job called `b`.
pub(crate) fn options() -> BackupOptions {
    BackupOptions::new("b")
}

pub(crate) fn disk(graph: &Graph, name: &str, options: MemoryOptions) -> (Node, FaultControl) {
    let memory = MemoryNode::new(options).unwrap();
    let below = graph
        .add_node(Some(&format!("{name}-memory")), memory)
        .unwrap();
    let builder = graph.build_node(Some(name)).unwrap();
    let idle = Permissions::IDLE;
    let child = builder
        .attach(&below, "file", ChildRole::Filtered, idle)
        .unwrap();
    let control = FaultControl::new();
    let node = builder.finish(FaultNode::new(child, control.clone()));
    (node, control)
}

pub(crate) fn attach(graph: &Graph, node: &Node) -> Child {
    let permissions = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
    let attachment = Attachment::new("guest", ChildRole::Primary, permissions);
    graph.attach(node, attachment).unwrap()
}

pub(crate) async fn write(
    edge: &Child,
    cx: &AioContext,
    offset_bytes: u64,
    bytes: &[u8],
) -> Result<(), BlockError> {
    let mut buf = IoBuf::heap(bytes.len());
    buf.copy_from_slice(bytes);
    let flags = RequestFlags::default();
    edge.write(cx, offset_bytes, buf, flags).await.1.map(drop)
}

pub(crate) async fn read(edge: &Child, cx: &AioContext, range: ByteRange) -> Vec<u8> {
    let buf = IoBuf::heap(in_memory(range.len()));
    let (buf, result) = edge.read(cx, range.start(), buf).await;
    result.unwrap();
    buf.to_vec()
}

/// Bytes that depend on their place and on who wrote them; none is zero.
pub(crate) fn pattern(range: ByteRange, writer: u64) -> Vec<u8> {
    const BLOCK: u64 = 512;
    let ring: Vec<u8> = (1..=255).cycle().take(255 + in_memory(BLOCK)).collect();
    let (first, last) = (range.start() / BLOCK, range.end().div_ceil(BLOCK));
    let mut bytes = Vec::with_capacity(in_memory((last - first) * BLOCK));
    for block in first..last {
        let turned = in_memory((block * 7 + block * BLOCK + writer * 31) % 255);
        bytes.extend_from_slice(&ring[turned..][..in_memory(BLOCK)]);
    }
    bytes.drain(..in_memory(range.start() - first * BLOCK));
    bytes.truncate(in_memory(range.len()));
    bytes
}

pub(crate) fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

pub(crate) fn range(offset_bytes: u64, len_bytes: u64) -> ByteRange {
    ByteRange::new(offset_bytes, len_bytes).unwrap()
}

/// The cluster with this number.
pub(crate) fn cluster(number: u64) -> ByteRange {
    range(number * CLUSTER, CLUSTER)
}

/// Lets everything run that can; what is held stays held.
pub(crate) async fn settle(cx: &AioContext) {
    for _ in 0..200 {
        cx.yield_now().await;
    }
}

/// Lets everything run until `holds`.
pub(crate) async fn until(cx: &AioContext, holds: impl Fn() -> bool) {
    while !holds() {
        cx.yield_now().await;
    }
}

/// A rule for the first `times` requests of a kind.
pub(crate) fn first(op: FaultOp, times: u64, action: FaultAction) -> FaultRule {
    FaultRule {
        times: Some(times),
        ..FaultRule::every(op, action)
    }
}

pub(crate) fn fail(errno: i32) -> FaultAction {
    FaultAction::Fail { errno }
}

/// How many requests of a kind have arrived.
pub(crate) fn seen(control: &FaultControl, op: FaultOp) -> usize {
    let seen = control.seen();
    seen.iter().filter(|(arrived, _)| *arrived == op).count()
}
