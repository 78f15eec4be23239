//! Commands for the NBD server and its exports.
//!
//! ```text
//!   added ── block-export-del, nbd-server-stop ──▶ shutting down ── last request ended ──▶ BLOCK_EXPORT_DELETED
//! ```
//!
//! An export that shuts down is found by nobody, but its id is taken until it is gone. No command waits for a client
//! of an export, nor for a node that does not answer.

mod address;
mod inherited;
mod types;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use aio::Handle;
use block::{Bitmap, ErrorKind, Node};
use qmp::QmpError;

pub(super) use self::inherited::serve_inherited;
use self::{
    address::addresses,
    types::{
        BlockExportBranch, BlockExportDel, BlockExportInfo, BlockExportOptions,
        BlockExportRemoveMode, BlockExportStatistics, BlockExportType, ExportedBitmap,
        NbdExportOptions, NbdServerAdd, NbdServerLine, NbdServerRemove, NbdServerStart,
    },
};
use super::{
    Daemon,
    command::Command,
    error::{self, IntoQmp},
    events::{BlockExportDeleted, Event},
    nodes,
};
use crate::export::{
    Export, ExportError, ExportOptions, NbdAddress, NbdServer, NbdServerOptions, NodeMoves, Reach,
    RemoveMode,
    signal::{Signal, until},
};

/// Longest time that `nbd-server-stop` waits for requests that have begun.
const STOP_NS_MAX: u64 = 2_000_000_000;

/// The NBD server and the exports.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    server: RefCell<Option<NbdServer>>,
    /// In the order in which they were added.
    list: RefCell<Vec<Rc<Entry>>>,
    /// Raised when one of them is gone.
    changed: Signal,
}

/// An export and what clients call it.
#[derive(Debug)]
struct Entry {
    id: String,
    export: Export,
    /// The thread that serves its clients, if that is not the main one.
    iothread: Option<Handle>,
    node_moves: NodeMoves,
    /// The name of the node that was served when somebody last looked.
    node_name: RefCell<String>,
    is_shutting_down: Cell<bool>,
}

/// The commands of this file.
///
/// `--nbd-server` is the command `nbd-server` for command lines only: the flat form of `nbd-server-start`.
pub(super) fn commands() -> Vec<Command> {
    vec![
        Command::new("nbd-server-start", nbd_server_start),
        Command::new("nbd-server", nbd_server).line_only(),
        Command::new("nbd-server-stop", nbd_server_stop),
        Command::new("nbd-server-add", nbd_server_add).deprecated(),
        Command::new("nbd-server-remove", nbd_server_remove).deprecated(),
        Command::new("block-export-add", block_export_add),
        Command::new("block-export-del", block_export_del),
        Command::new("query-block-exports", query_block_exports),
        Command::new(
            "x-longshore-query-export-statistics",
            query_export_statistics,
        ),
    ]
}

/// Stops the server and closes all exports: the daemon ends.
pub(super) async fn close_all(daemon: &Rc<Daemon>) {
    let exports = &daemon.exports;
    drop(exports.server.take());
    exports.close(daemon);
    until([&exports.changed], || {
        exports.list.borrow().is_empty().then_some(())
    })
    .await;
}

async fn nbd_server_start(daemon: &Rc<Daemon>, start: NbdServerStart) -> Result<(), QmpError> {
    nbd_server(daemon, start.into()).await
}

async fn nbd_server(daemon: &Rc<Daemon>, line: NbdServerLine) -> Result<(), QmpError> {
    let exports = &daemon.exports;
    let addresses = addresses(&daemon.context, &line.addr).await;
    if exports.server.borrow().is_some() {
        return Err(QmpError::generic("NBD server already running"));
    }
    if line.tls_creds.is_some() || line.tls_authz.is_some() {
        return Err(QmpError::generic("The NBD server does not support TLS"));
    }
    let mut refused = None;
    for address in addresses? {
        let server = NbdServer::start(
            daemon.context.handle(),
            daemon.engine.graph(),
            &address,
            server_options(&line),
        );
        match server {
            Ok(server) => {
                *exports.server.borrow_mut() = Some(server);
                return Ok(());
            }
            // Another port may do.
            Err(error @ ExportError::AddressInUse(_)) => refused = Some(error),
            Err(error) => return Err(cannot_listen(error)),
        }
    }
    Err(cannot_listen(refused.expect("there is an address to try")))
}

/// A limit of zero is none.
fn server_options(line: &NbdServerLine) -> NbdServerOptions {
    let default = NbdServerOptions::default();
    let handshake_ns_max = match line.handshake_max_seconds {
        None => default.handshake_ns_max,
        Some(0) => u64::MAX >> 1,
        Some(seconds) => u64::from(seconds) * 1_000_000_000,
    };
    let clients_max = match line.max_connections {
        None => default.clients_max,
        Some(0) => usize::MAX,
        Some(most) => usize::try_from(most).unwrap_or(usize::MAX),
    };
    NbdServerOptions {
        reach: match line.x_longshore_allow_remote {
            Some(true) => Reach::Anywhere,
            Some(false) | None => Reach::Loopback,
        },
        clients_max,
        handshake_ns_max,
    }
}

fn cannot_listen(error: ExportError) -> QmpError {
    let text = match error {
        ExportError::Listen { address, source } => {
            let why = error::system_text(&source);
            match address {
                NbdAddress::Unix(path) => {
                    format!("Failed to bind socket to {}: {why}", path.display())
                }
                address => format!("Failed to bind socket to {address}: {why}"),
            }
        }
        ExportError::NotLoopback(address) => format!(
            "{address} is not a loopback address, and there is neither encryption nor a password; \
             'x-longshore-allow-remote' allows it"
        ),
        error => return error.into_qmp(),
    };
    QmpError::generic(text)
}

async fn nbd_server_stop(daemon: &Rc<Daemon>, (): ()) -> Result<(), QmpError> {
    let exports = &daemon.exports;
    // On its own thread this waits for nobody.
    let server = exports.server.take();
    drop(server.ok_or_else(not_running)?);
    let left = exports.close(daemon);
    let all_gone = until([&exports.changed], || {
        left.iter()
            .all(|entry| entry.export.is_gone())
            .then_some(())
    });
    // Whoever stops the server wants the nodes free, but a request may never end.
    if daemon
        .context
        .timeout_ns(STOP_NS_MAX, all_gone)
        .await
        .is_err()
    {
        tracing::warn!("requests of the stopped NBD server do not end yet");
    }
    Ok(())
}

fn not_running() -> QmpError {
    QmpError::generic("NBD server not running")
}

async fn nbd_server_add(daemon: &Rc<Daemon>, args: NbdServerAdd) -> Result<(), QmpError> {
    let name = args.name.unwrap_or_else(|| args.device.clone());
    let node = nodes::device_or_node(daemon, &args.device)?;
    let bitmaps = args
        .bitmap
        .map(|bitmap| vec![ExportedBitmap::Local(bitmap)]);
    let options = BlockExportOptions {
        id: name.clone(),
        node_name: args.device,
        // One that was meant to be writable and cannot be is made for reading.
        writable: args
            .writable
            .map(|writable| writable && !node.is_read_only()),
        writethrough: None,
        iothread: None,
        fixed_iothread: None,
        allow_inactive: None,
        r#type: BlockExportBranch::Nbd(NbdExportOptions {
            name: Some(name),
            description: args.description,
            bitmaps,
            allocation_depth: None,
        }),
    };
    block_export_add(daemon, options).await
}

async fn nbd_server_remove(daemon: &Rc<Daemon>, args: NbdServerRemove) -> Result<(), QmpError> {
    let entry = daemon.exports.entry(&args.name)?;
    if entry.export.name() != args.name {
        return Err(not_found(&args.name));
    }
    entry.remove(daemon, args.mode)
}

async fn block_export_add(
    daemon: &Rc<Daemon>,
    options: BlockExportOptions,
) -> Result<(), QmpError> {
    let exports = &daemon.exports;
    exports.check_id(&options.id)?;
    let node = nodes::node(daemon, &options.node_name)?;
    let writable = options.writable == Some(true);
    if writable && node.is_read_only() {
        let text = "Cannot export read-only node as writable";
        return Err(QmpError::generic(text));
    }
    let context = options.iothread.as_deref();
    let context = context
        .map(|name| find_iothread(daemon, name))
        .transpose()?;
    let node_moves = match options.fixed_iothread {
        Some(true) => NodeMoves::Refused,
        Some(false) | None => NodeMoves::Allowed,
    };
    if node_moves == NodeMoves::Refused {
        exports.check_fixed(&node, context.as_ref())?;
    }
    let BlockExportBranch::Nbd(nbd) = options.r#type;
    let server = exports.server.borrow();
    let server = server.as_ref().ok_or_else(not_running)?;
    let name = nbd.name.unwrap_or_else(|| options.node_name.clone());
    let bitmaps = nbd.bitmaps.unwrap_or_default();
    let export = ExportOptions {
        writable,
        description: nbd.description.unwrap_or_default(),
        writethrough: options.writethrough == Some(true),
        bitmaps: find_bitmaps(daemon, &node, (&bitmaps, writable))?,
        allocation_depth: nbd.allocation_depth == Some(true),
        context: context.clone(),
        node_moves,
        ..ExportOptions::new(name, &node)
    };
    let export = server.add_export(export).map_err(IntoQmp::into_qmp)?;
    exports.list.borrow_mut().push(Rc::new(Entry {
        id: options.id,
        export,
        iothread: context,
        node_moves,
        node_name: RefCell::new(options.node_name),
        is_shutting_down: Cell::new(false),
    }));
    Ok(())
}

fn find_iothread(daemon: &Daemon, name: &str) -> Result<Handle, QmpError> {
    let found = daemon.objects.iothread(name);
    found.ok_or_else(|| QmpError::generic(format!("iothread \"{name}\" not found")))
}

/// The bitmaps to be shown, each once. Those without a node are looked for in the export's node and below its filters.
fn find_bitmaps(
    daemon: &Daemon,
    node: &Node,
    (wanted, writable): (&[ExportedBitmap], bool),
) -> Result<Vec<Bitmap>, QmpError> {
    let mut found: Vec<Bitmap> = Vec::new();
    for bitmap in wanted {
        let bitmap = match bitmap {
            ExportedBitmap::Local(name) => {
                let bitmap = find_below(daemon, node, name)?;
                if !writable && bitmap.info().is_recording && !bitmap.node().is_read_only() {
                    let refused = ExportError::EnabledBitmap(name.clone());
                    return Err(refused.into_qmp());
                }
                bitmap
            }
            ExportedBitmap::External(bitmap) => {
                let node = nodes::device_or_node(daemon, &bitmap.node)?;
                node.bitmaps()
                    .find(&bitmap.name)
                    .map_err(IntoQmp::into_qmp)?
            }
        };
        if !found.contains(&bitmap) {
            found.push(bitmap);
        }
    }
    Ok(found)
}

fn find_below(daemon: &Daemon, node: &Node, name: &str) -> Result<Bitmap, QmpError> {
    let mut node = Some(node.clone());
    while let Some(here) = node {
        match here.bitmaps().find(name) {
            Ok(bitmap) => return Ok(bitmap),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into_qmp()),
        }
        node = daemon.engine.graph().filtered_child(&here);
    }
    Err(QmpError::generic(format!("Bitmap '{name}' is not found")))
}

async fn block_export_del(daemon: &Rc<Daemon>, args: BlockExportDel) -> Result<(), QmpError> {
    daemon.exports.entry(&args.id)?.remove(daemon, args.mode)
}

async fn query_block_exports(
    daemon: &Rc<Daemon>,
    (): (),
) -> Result<Vec<BlockExportInfo>, QmpError> {
    let list = daemon.exports.list.borrow();
    Ok(list.iter().rev().map(|entry| entry.info()).collect())
}

async fn query_export_statistics(
    daemon: &Rc<Daemon>,
    (): (),
) -> Result<Vec<BlockExportStatistics>, QmpError> {
    let list = daemon.exports.list.borrow();
    Ok(list.iter().rev().map(|entry| entry.statistics()).collect())
}

fn not_found(id: &str) -> QmpError {
    QmpError::generic(format!("Export '{id}' is not found"))
}

impl Exports {
    /// Whether clients of an export are served on this context.
    pub(super) fn are_served_on(&self, context: &Handle) -> bool {
        let list = self.list.borrow();
        let mut iothreads = list.iter().filter_map(|entry| entry.iothread.as_ref());
        iothreads.any(|iothread| iothread.is_same(context))
    }

    fn entry(&self, id: &str) -> Result<Rc<Entry>, QmpError> {
        let list = self.list.borrow();
        let entry = list.iter().find(|entry| entry.id == id);
        entry.cloned().ok_or_else(|| not_found(id))
    }

    fn check_id(&self, id: &str) -> Result<(), QmpError> {
        let rest_is_fine = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if !id.starts_with(|c: char| c.is_ascii_alphabetic()) || !id.chars().all(rest_is_fine) {
            return Err(QmpError::generic("Invalid block export id"));
        }
        if self.entry(id).is_ok() {
            let text = format!("Block export id '{id}' is already in use");
            return Err(QmpError::generic(text));
        }
        Ok(())
    }

    /// Refuses to hold `node` on an iothread if another export holds it on another.
    fn check_fixed(&self, node: &Node, iothread: Option<&Handle>) -> Result<(), QmpError> {
        let is_same = |other: Option<&Handle>| match (iothread, other) {
            (Some(this), Some(other)) => this.is_same(other),
            (this, other) => this.is_none() && other.is_none(),
        };
        let list = self.list.borrow();
        let mut holders = list.iter().filter(|entry| {
            entry.node_moves == NodeMoves::Refused && entry.export.node().as_ref() == Some(node)
        });
        if holders.any(|entry| !is_same(entry.iothread.as_ref())) {
            let text = "Cannot change iothread of active block backend";
            return Err(QmpError::generic(text));
        }
        Ok(())
    }

    /// Removes all exports by force, and says which there were.
    fn close(&self, daemon: &Rc<Daemon>) -> Vec<Rc<Entry>> {
        let all = self.list.borrow().clone();
        // The newest first, as lists show them.
        for entry in all.iter().rev() {
            if !entry.is_shutting_down.get() {
                let removed = entry.remove(daemon, Some(BlockExportRemoveMode::Hard));
                debug_assert!(removed.is_ok(), "by force, nothing is in the way");
            }
        }
        all
    }

    /// Forgets an export that is gone, and tells clients.
    fn forget(&self, daemon: &Daemon, entry: &Rc<Entry>) {
        let is_other = |other: &Rc<Entry>| !Rc::ptr_eq(other, entry);
        self.list.borrow_mut().retain(is_other);
        let id = entry.id.clone();
        let deleted = BlockExportDeleted { id };
        daemon.events.emit(Event::BlockExportDeleted(deleted));
        self.changed.raise();
    }
}

impl Entry {
    /// Begins to remove the export. If it is gone by then, clients hear that before the command is answered.
    fn remove(
        self: &Rc<Self>,
        daemon: &Rc<Daemon>,
        mode: Option<BlockExportRemoveMode>,
    ) -> Result<(), QmpError> {
        if self.is_shutting_down.get() {
            let text = format!("Export '{}' is already shutting down", self.id);
            return Err(QmpError::generic(text));
        }
        self.look();
        let mode = match mode {
            None | Some(BlockExportRemoveMode::Safe) => RemoveMode::Safe,
            Some(BlockExportRemoveMode::Hard) => RemoveMode::Hard,
        };
        self.export
            .begin_remove(mode)
            .map_err(|error| match error {
                ExportError::InUse(_) => {
                    QmpError::generic(format!("export '{}' still in use", self.id))
                }
                error => error.into_qmp(),
            })?;
        self.is_shutting_down.set(true);
        if self.export.is_gone() {
            daemon.exports.forget(daemon, self);
            return Ok(());
        }
        let entry = self.clone();
        drop(daemon.spawn(|daemon| async move {
            entry.export.gone().await;
            daemon.exports.forget(&daemon, &entry);
        }));
        Ok(())
    }

    /// Notes which node is served now, as long as there is one.
    fn look(&self) {
        if let Some(node) = self.export.node() {
            node.name().clone_into(&mut self.node_name.borrow_mut());
        }
    }

    fn info(&self) -> BlockExportInfo {
        self.look();
        BlockExportInfo {
            id: self.id.clone(),
            r#type: BlockExportType::Nbd,
            node_name: self.node_name.borrow().clone(),
            shutting_down: self.is_shutting_down.get(),
        }
    }

    fn statistics(&self) -> BlockExportStatistics {
        let counters = self.export.counters();
        BlockExportStatistics {
            id: self.id.clone(),
            connections: counters.connections_now,
            connections_total: counters.connections,
            reads: counters.reads,
            read_bytes: counters.read_bytes,
            writes: counters.writes,
            written_bytes: counters.written_bytes,
            flushes: counters.flushes,
            discards: counters.discards,
            errors: counters.errors,
        }
    }
}
