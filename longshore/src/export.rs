//! Exports: nodes served to NBD clients over Unix sockets and TCP.
//!
//! An [`NbdServer`] listens at one address; each [`Export`] is a node with a name there. All runs
//! on one context:
//!
//! ```text
//!   serve      accepts; one per server          negotiate  one per client, at most ten seconds
//!   connection reads, sends, one per client     request    one task per request, on the node
//!   status     what metadata contexts tell      host       connections on another context
//! ```
//!
//! Data goes from the node's buffer to the socket and back without a copy; what had to be copied is
//! counted ([`ExportCounters::bounced_bytes`]). Requests run at the same time and are answered in
//! the order in which they end. An export keeps quiet while its node is drained, new clients
//! included, and never notices that a filter is put between it and its node.
//!
//! Missing on purpose: TLS (so only this host is served unless that is asked for).

use std::{
    fmt,
    sync::{Arc, Weak},
};

use aio::Handle;
use block::{Bitmap, Graph, Node};

mod connection;
mod error;
mod exported;
mod gate;
mod host;
mod inbox;
mod line;
pub(crate) mod listen;
mod memory;
mod negotiate;
mod outbox;
mod request;
mod send;
mod serve;
mod server;
pub(crate) mod signal;
mod status;

pub use self::error::ExportError;
use self::{
    exported::Exported,
    listen::Listener,
    serve::{Serving, serve},
    server::Server,
};
pub use nbd::{NbdAddress, NbdUri, UriError};

/// Who can reach a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// This host; other TCP addresses are refused.
    #[default]
    Loopback,
    /// Everybody whom the address lets through. There is neither encryption nor a password.
    Anywhere,
}

/// How a server serves.
#[derive(Clone, Debug)]
pub struct NbdServerOptions {
    /// Who can reach it over TCP.
    pub reach: Reach,
    /// Most clients at once; more of them wait to be accepted.
    pub clients_max: usize,
    /// Longest time a client may take to choose an export, in nanoseconds.
    pub handshake_ns_max: u64,
}

impl Default for NbdServerOptions {
    /// This host, 100 clients, 10 seconds.
    fn default() -> Self {
        Self {
            reach: Reach::Loopback,
            clients_max: 100,
            handshake_ns_max: 10_000_000_000,
        }
    }
}

/// What to export, and how.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The name that clients ask for; empty is what they get who ask for none.
    pub name: String,
    /// The node to serve.
    pub node: Node,
    /// Whether clients may write.
    pub writable: bool,
    /// One line for people who list the exports; may be empty.
    pub description: String,
    /// Whether each write is durable when it is answered, as if the client had asked for that.
    pub writethrough: bool,
    /// Bitmaps to show, each as the metadata context `qemu:dirty-bitmap:NAME`. They are busy until the export is gone.
    pub bitmaps: Vec<Bitmap>,
    /// Whether to show in which layer the bytes are, as the metadata context `qemu:allocation-depth`.
    pub allocation_depth: bool,
    /// The context that serves clients after their handshake; the server's if there is none.
    pub context: Option<Handle>,
    /// Whether the node may move to another context meanwhile. The export itself stays where it is in any case.
    pub node_moves: NodeMoves,
}

/// Whether an exported node may move to another context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeMoves {
    /// It may, and requests go on where they are made.
    #[default]
    Allowed,
    /// It may not, as long as the export is there.
    Refused,
}

impl ExportOptions {
    /// The node `node` for reading, under the name `name`.
    pub fn new(name: impl Into<String>, node: &Node) -> Self {
        Self {
            name: name.into(),
            node: node.clone(),
            writable: false,
            description: String::new(),
            writethrough: false,
            bitmaps: Vec::new(),
            allocation_depth: false,
            context: None,
            node_moves: NodeMoves::Allowed,
        }
    }
}

/// What went through an export since it was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportCounters {
    /// Clients that have chosen the export.
    pub connections: u64,
    /// Clients that use it now, with those whose last requests are still ending.
    pub connections_now: u64,
    /// Reads of the node that succeeded.
    pub reads: u64,
    /// Bytes they read.
    pub read_bytes: u64,
    /// Writes of data and of zeroes that succeeded.
    pub writes: u64,
    /// Bytes they wrote.
    pub written_bytes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Discards that succeeded.
    pub discards: u64,
    /// Bytes that were copied between buffers of ours: data that arrived together with headers, and what the
    /// node could not take as it came.
    pub bounced_bytes: u64,
    /// Requests that the node failed.
    pub errors: u64,
}

/// Which exports may be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveMode {
    /// Those that no client uses.
    Safe,
    /// All; the clients are disconnected.
    Hard,
}

/// A server of exports at one address.
///
/// Any thread may hold it. Dropping it stops it: see [`stop`](Self::stop).
pub struct NbdServer {
    shared: Arc<Server>,
    address: NbdAddress,
    handle: Handle,
}

impl NbdServer {
    /// Listens on `address` and serves clients on the context behind `handle`.
    ///
    /// A Unix socket is made for its owner only; one that a dead server has left there is replaced.
    /// Any thread; it makes some system calls that do not wait. The first clients may connect
    /// before there is an export: they are told that there is none.
    ///
    /// # Errors
    ///
    /// - [`ExportError::NotLoopback`]: the options do not allow the address.
    /// - [`ExportError::AddressInUse`], [`ExportError::NotASocket`]: something is in the way.
    /// - [`ExportError::Listen`]: the system refuses.
    pub fn start(
        handle: &Handle,
        graph: &Graph,
        address: &NbdAddress,
        options: NbdServerOptions,
    ) -> Result<Self, ExportError> {
        let listener = Listener::bind(address, options.reach)?;
        Ok(Self::start_on(handle, graph, listener, options))
    }

    /// Serves the clients of a socket that listens already.
    pub(crate) fn start_on(
        handle: &Handle,
        graph: &Graph,
        listener: Listener,
        options: NbdServerOptions,
    ) -> Self {
        let listener = Arc::new(listener);
        let address = listener.address().clone();
        let shared = Server::new(graph, options, &listener);
        let serving = Serving(shared.clone());
        drop(handle.spawn(move |cx| serve(cx, listener, serving)));
        Self {
            shared,
            address,
            handle: handle.clone(),
        }
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> &NbdAddress {
        &self.address
    }

    /// What clients call the export `name` of this server.
    #[must_use]
    pub fn uri(&self, name: &str) -> NbdUri {
        NbdUri {
            address: self.address.clone(),
            export: name.to_owned(),
        }
    }

    /// Adds an export. It stays until it is removed or the server stops, whatever becomes of the returned handle.
    ///
    /// # Errors
    ///
    /// - [`ExportError::NameTaken`], [`ExportError::NameTooLong`], [`ExportError::DescriptionTooLong`].
    /// - [`ExportError::Node`]: another user of the node does not allow it, the node is read-only, or a bitmap is in
    ///   use or inconsistent.
    /// - [`ExportError::EnabledBitmap`], [`ExportError::BitmapLength`].
    /// - [`ExportError::Stopped`]: the server has lost its context.
    pub fn add_export(&self, options: ExportOptions) -> Result<Export, ExportError> {
        self.shared.check_name(&options.name)?;
        let exported = Exported::attach(self.shared.graph(), options)?;
        self.shared.insert(&exported)?;
        Ok(Export {
            server: Arc::downgrade(&self.shared),
            exported,
        })
    }

    /// The exports, in the order in which they were added.
    #[must_use]
    pub fn exports(&self) -> Vec<Export> {
        let exported = self.shared.exported().into_iter();
        let server = Arc::downgrade(&self.shared);
        exported
            .map(|exported| Export {
                server: server.clone(),
                exported,
            })
            .collect()
    }

    /// Stops the server: no new clients, all clients disconnected, all exports removed, the socket file gone, so that
    /// another server can listen there.
    ///
    /// Requests that have begun are not broken off. This waits for them, but not longer than two
    /// seconds, and not at all on the thread of the server's own context.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        self.shared.stop();
        if !self.handle.is_home() {
            self.shared.wait_ended();
        }
    }
}

impl fmt::Debug for NbdServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NbdServer")
            .field("address", &self.address)
            .field("clients", &self.shared.clients())
            .finish_non_exhaustive()
    }
}

/// A node served under a name. Cheap to clone; any thread; dropping it changes nothing.
#[derive(Clone)]
pub struct Export {
    server: Weak<Server>,
    exported: Arc<Exported>,
}

impl Export {
    /// The name that clients ask for.
    #[must_use]
    pub fn name(&self) -> &str {
        self.exported.name()
    }

    /// What went through so far.
    #[must_use]
    pub fn counters(&self) -> ExportCounters {
        self.exported.counters()
    }

    /// The node that is served now, which may be a filter above the one that was exported; `None` once the export is
    /// removed.
    #[must_use]
    pub fn node(&self) -> Option<Node> {
        self.exported.node()
    }

    /// Whether the export is removed and every request of its last clients has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.exported.is_gone()
    }

    /// Takes the export away: nobody finds it any more, and its clients are disconnected. It is
    /// [gone](Self::gone) when their requests have ended. Waits for nothing.
    ///
    /// # Errors
    ///
    /// [`ExportError::InUse`] in safe mode, with a client; nothing is changed then.
    pub fn begin_remove(&self, mode: RemoveMode) -> Result<(), ExportError> {
        let exported = &self.exported;
        exported.remove_if(|clients| mode == RemoveMode::Hard || clients == 0)?;
        if let Some(server) = self.server.upgrade() {
            server.forget(exported);
        }
        Ok(())
    }

    /// Waits until the last connection to an export that was removed has let go of the node. Needs no context.
    pub async fn gone(&self) {
        self.exported.unused().await;
    }

    /// Takes the export away, and returns once its edge to the node is gone: no client is left and every
    /// request has ended.
    ///
    /// Needs no context. Dropping the future after its first poll leaves the export removed.
    ///
    /// # Errors
    ///
    /// As [`begin_remove`](Self::begin_remove).
    pub async fn remove(&self, mode: RemoveMode) -> Result<(), ExportError> {
        self.begin_remove(mode)?;
        self.gone().await;
        Ok(())
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("name", &self.name())
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}
