//! [`Exported`]: one export as its server and its clients' connections share it.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use block::{
    Attachment, Bitmap, Child, ChildRole, Graph, Node, Parent, Permission, Permissions, Way,
    bitmap::BusyGuard,
};
use nbd::{BlockSizes, ExportInfo, MAX_STRING_BYTES, TransmissionFlags};

use super::{
    ExportCounters, ExportOptions,
    error::ExportError,
    gate::ExportGate,
    host::Host,
    signal::{Signal, until},
    status::context_names,
};

/// One export: its edge to the node, what clients are told of it, and its counters. Any thread.
#[derive(Debug)]
pub(super) struct Exported {
    name: String,
    description: String,
    writable: bool,
    writethrough: bool,
    gate: Arc<ExportGate>,
    /// Where clients are served that the server has let in; on its own context if there is none.
    host: Option<Arc<Host>>,
    /// The names of its metadata contexts.
    contexts: Vec<String>,
    /// Absent once the export is removed; connections keep it until their requests have ended.
    link: Mutex<Option<Arc<Link>>>,
    connections: AtomicU64,
    /// Raised when a connection has let go of the edge.
    left: Signal,
    pub(super) counters: Counters,
}

/// What an export holds of the graph.
#[derive(Debug)]
pub(super) struct Link {
    child: Child,
    bitmaps: Vec<BusyGuard>,
}

/// Counters under way, of which [`ExportCounters`] is the snapshot.
#[derive(Debug, Default)]
pub(super) struct Counters {
    connections: AtomicU64,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    flushes: AtomicU64,
    discards: AtomicU64,
    bounced_bytes: AtomicU64,
    errors: AtomicU64,
}

/// A connection's use of an export; the edge is let go when this is dropped.
#[derive(Debug)]
pub(super) struct Using {
    export: Arc<Exported>,
    link: Option<Arc<Link>>,
}

impl Exported {
    /// Attaches an export to its node.
    pub(super) fn attach(graph: &Graph, options: ExportOptions) -> Result<Arc<Self>, ExportError> {
        if options.name.len() > MAX_STRING_BYTES {
            return Err(ExportError::NameTooLong(options.name));
        }
        if options.description.len() > MAX_STRING_BYTES {
            return Err(ExportError::DescriptionTooLong(options.description));
        }
        let (name, moves) = (&options.name, options.node_moves);
        let gate = Arc::new(ExportGate::new(name, moves, graph.drain_waker()));
        let uses: &[Permission] = if options.writable {
            &[Permission::ConsistentRead, Permission::Write]
        } else {
            &[Permission::ConsistentRead]
        };
        let permissions = Permissions::uses(uses).unsharing(&[Permission::Resize]);
        let parent: Arc<dyn Parent> = gate.clone();
        let attachment = Attachment::of(&parent, ChildRole::Primary, permissions);
        let child = graph.attach(&options.node, attachment)?;
        let bitmaps = options.bitmaps.iter();
        let bitmaps = bitmaps.map(|bitmap| show(bitmap, &options));
        let bitmaps = bitmaps.collect::<Result<Vec<_>, ExportError>>()?;
        let contexts = context_names(&options);
        let link = Link { child, bitmaps };
        Ok(Arc::new(Self {
            name: options.name,
            description: options.description,
            writable: options.writable,
            writethrough: options.writethrough,
            gate,
            host: options.context.as_ref().map(Host::new),
            contexts,
            link: Mutex::new(Some(Arc::new(link))),
            connections: AtomicU64::new(0),
            left: Signal::default(),
            counters: Counters::default(),
        }))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn gate(&self) -> &Arc<ExportGate> {
        &self.gate
    }

    pub(super) fn host(&self) -> Option<&Arc<Host>> {
        self.host.as_ref()
    }

    pub(super) fn is_writethrough(&self) -> bool {
        self.writethrough
    }

    /// The node that is served now; `None` once the export is removed.
    pub(super) fn node(&self) -> Option<Node> {
        self.link().as_ref().map(|link| link.child.node())
    }

    /// What clients are told; `None` once the export is removed.
    pub(super) fn info(&self) -> Option<ExportInfo> {
        let link = self.link().clone()?;
        let limits = link.child.limits();
        let mut flags = TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_FUA
            | TransmissionFlags::CAN_MULTI_CONN;
        flags = flags
            | if self.writable {
                TransmissionFlags::SEND_TRIM
                    | TransmissionFlags::SEND_WRITE_ZEROES
                    | TransmissionFlags::SEND_FAST_ZERO
            } else {
                TransmissionFlags::READ_ONLY
            };
        let block_sizes = BlockSizes {
            preferred_bytes: limits.request_align_bytes.max(4096),
            ..BlockSizes::default()
        };
        Some(ExportInfo {
            name: self.name.clone(),
            description: self.description.clone(),
            size_bytes: limits.len_bytes,
            flags,
            block_sizes,
            contexts: self.contexts.clone(),
        })
    }

    /// Lets a connection use the edge; `None` once the export is removed.
    pub(super) fn begin_use(self: &Arc<Self>) -> Option<Using> {
        let link = self.link();
        let using = Using {
            export: self.clone(),
            link: Some(link.as_ref()?.clone()),
        };
        // Under the lock, so that whoever removes the export sees it.
        self.connections.fetch_add(1, Ordering::AcqRel);
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        Some(using)
    }

    /// Connections that hold the edge now.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Acquire)
    }

    /// Lets go of the edge, and no connection begins to use it any more. Fails in use, if that matters.
    pub(super) fn remove_if(&self, may: impl FnOnce(u64) -> bool) -> Result<(), ExportError> {
        let mut link = self.link();
        if !may(self.connections()) {
            return Err(ExportError::InUse(self.name.clone()));
        }
        let removed = link.take();
        // Detaching an edge takes the lock of the graph and tells parents.
        drop(link);
        drop(removed);
        if let Some(host) = &self.host {
            host.close();
        }
        Ok(())
    }

    /// Waits until the last connection has let go of the edge.
    pub(super) async fn unused(&self) {
        until([&self.left], || (self.connections() == 0).then_some(())).await;
    }

    /// Whether it is removed and clients' last requests have ended.
    pub(super) fn is_gone(&self) -> bool {
        self.link().is_none() && self.connections() == 0
    }

    fn link(&self) -> MutexGuard<'_, Option<Arc<Link>>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        // One that was never listed has not been removed either.
        if let Some(host) = &self.host {
            host.close();
        }
    }
}

/// Takes a bitmap into use for an export with these options.
fn show(bitmap: &Bitmap, options: &ExportOptions) -> Result<BusyGuard, ExportError> {
    // What changes beneath clients is not for them; of another node, whoever exports it knows better.
    let is_own = bitmap.node() == &options.node;
    let may_change = is_own && !options.node.is_read_only() && bitmap.info().is_recording;
    if !options.writable && may_change {
        return Err(ExportError::EnabledBitmap(bitmap.name().to_owned()));
    }
    let guard = bitmap.mark_busy()?;
    if bitmap.node().len_bytes() != options.node.len_bytes() {
        return Err(ExportError::BitmapLength(bitmap.name().to_owned()));
    }
    Ok(guard)
}

impl Link {
    /// The bitmaps that are shown.
    pub(super) fn bitmaps(&self) -> &[BusyGuard] {
        &self.bitmaps
    }
}

impl Using {
    /// The export that is used.
    pub(super) fn export(&self) -> &Arc<Exported> {
        &self.export
    }

    /// What the export holds of the graph.
    pub(super) fn link(&self) -> &Link {
        self.link.as_ref().expect("taken by the drop only")
    }

    /// The edge.
    pub(super) fn child(&self) -> &Child {
        &self.link().child
    }

    /// The bitmaps that are shown.
    pub(super) fn bitmaps(&self) -> &[BusyGuard] {
        self.link().bitmaps()
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        // The edge first: whoever waits for the count wants it gone.
        drop(self.link.take());
        self.export.connections.fetch_sub(1, Ordering::AcqRel);
        self.export.left.raise();
    }
}

impl Counters {
    pub(super) fn read(&self, len_bytes: u64, way: Way) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(len_bytes, Ordering::Relaxed);
        self.moved(len_bytes, way);
    }

    pub(super) fn wrote(&self, len_bytes: u64, way: Way) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.written_bytes.fetch_add(len_bytes, Ordering::Relaxed);
        self.moved(len_bytes, way);
    }

    fn moved(&self, len_bytes: u64, way: Way) {
        if way == Way::Bounced {
            self.bounced(len_bytes);
        }
    }

    /// Counts bytes that were copied from one buffer of ours to another.
    pub(super) fn bounced(&self, len_bytes: u64) {
        self.bounced_bytes.fetch_add(len_bytes, Ordering::Relaxed);
    }

    pub(super) fn flushed(&self) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn discarded(&self) {
        self.discards.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }
}

impl Exported {
    /// The counters as they are now.
    pub(super) fn counters(&self) -> ExportCounters {
        let counters = &self.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ExportCounters {
            connections: load(&counters.connections),
            connections_now: self.connections(),
            reads: load(&counters.reads),
            read_bytes: load(&counters.read_bytes),
            writes: load(&counters.writes),
            written_bytes: load(&counters.written_bytes),
            flushes: load(&counters.flushes),
            discards: load(&counters.discards),
            bounced_bytes: load(&counters.bounced_bytes),
            errors: load(&counters.errors),
        }
    }
}
