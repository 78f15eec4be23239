//! Exports: nodes served to NBD clients over Unix sockets and TCP.
//!
//! An [`NbdServer`] listens at one address; each [`Export`] is a node with a name there. All runs
//! on one context:
//!
//! ```text
//!   serve      accepts; one per server          negotiate  one per client, at most ten seconds
//!   connection reads, sends, one per client     request    one task per request, on the node
//! ```
//!
//! Data goes from the node's buffer to the socket and back without a copy; what had to be copied is
//! counted ([`ExportCounters::bounced_bytes`]). Requests run at the same time and are answered in
//! the order in which they end. An export keeps quiet while its node is drained, new clients
//! included, and never notices that a filter is put between it and its node.
//!
//! Missing on purpose: TLS (so only this host is served unless that is asked for), dirty bitmaps as
//! metadata contexts, extended headers.

use std::{
    fmt,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aio::Fd;
use block::{Graph, Node};

mod connection;
mod error;
mod exported;
mod gate;
mod inbox;
mod line;
mod listen;
mod memory;
mod negotiate;
mod outbox;
mod request;
mod send;
mod serve;
mod signal;

pub use self::error::ExportError;
use self::{
    exported::Exported,
    line::Line,
    listen::Listener,
    serve::{Serving, serve},
    signal::Signal,
};
pub use nbd::{NbdAddress, NbdUri, UriError};

/// Longest time that stopping a server waits for requests that have begun.
const STOP_MAX: Duration = Duration::from_secs(2);

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
}

impl ExportOptions {
    /// The node `node` for reading, under the name `name`.
    pub fn new(name: impl Into<String>, node: &Node) -> Self {
        Self {
            name: name.into(),
            node: node.clone(),
            writable: false,
            description: String::new(),
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
    handle: aio::Handle,
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
        handle: &aio::Handle,
        graph: &Graph,
        address: &NbdAddress,
        options: NbdServerOptions,
    ) -> Result<Self, ExportError> {
        let listener = Listener::bind(address, options.reach)?;
        let address = listener.address().clone();
        let shared = Arc::new(Server {
            graph: graph.clone(),
            options,
            state: Mutex::default(),
            clients: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            changed: Signal::default(),
            has_ended: Mutex::new(false),
            end: Condvar::new(),
        });
        let serving = Serving(shared.clone());
        drop(handle.spawn(move |cx| serve(cx, listener, serving)));
        Ok(Self {
            shared,
            address,
            handle: handle.clone(),
        })
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
    /// - [`ExportError::NameTaken`], [`ExportError::NameTooLong`].
    /// - [`ExportError::Node`]: another user of the node does not allow it, or the node is read-only.
    /// - [`ExportError::Stopped`]: the server has lost its context.
    pub fn add_export(&self, options: ExportOptions) -> Result<Export, ExportError> {
        self.shared.check_name(&options.name)?;
        let exported = Exported::attach(&self.shared.graph, options)?;
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

    /// Stops the server: no new clients, all clients disconnected, all exports removed, the socket file gone.
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

    /// Takes the export away, and returns once its edge to the node is gone: no client is left and every
    /// request has ended.
    ///
    /// Needs no context. Dropping the future after its first poll leaves the export removed.
    ///
    /// # Errors
    ///
    /// [`ExportError::InUse`] in safe mode, with a client; nothing is changed then.
    pub async fn remove(&self, mode: RemoveMode) -> Result<(), ExportError> {
        let exported = &self.exported;
        exported.remove_if(|clients| mode == RemoveMode::Hard || clients == 0)?;
        if let Some(server) = self.server.upgrade() {
            server.forget(exported);
        }
        exported.unused().await;
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

/// A server as its handles and its tasks share it.
#[derive(Debug)]
struct Server {
    graph: Graph,
    options: NbdServerOptions,
    state: Mutex<State>,
    clients: AtomicUsize,
    stopping: AtomicBool,
    /// Raised when a client leaves or the server is to stop.
    changed: Signal,
    has_ended: Mutex<bool>,
    end: Condvar,
}

#[derive(Debug, Default)]
struct State {
    exports: Vec<Arc<Exported>>,
    lines: Vec<Arc<Line>>,
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exported(&self) -> Vec<Arc<Exported>> {
        self.state().exports.clone()
    }

    fn changed(&self) -> &Signal {
        &self.changed
    }

    fn clients(&self) -> usize {
        self.clients.load(Ordering::Acquire)
    }

    fn clients_max(&self) -> usize {
        self.options.clients_max.max(1)
    }

    fn handshake_ns_max(&self) -> u64 {
        self.options.handshake_ns_max
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn check_name(&self, name: &str) -> Result<(), ExportError> {
        if self.is_stopping() {
            return Err(ExportError::Stopped);
        }
        let taken = self.exported().iter().any(|export| export.name() == name);
        if taken {
            return Err(ExportError::NameTaken(name.to_owned()));
        }
        Ok(())
    }

    fn insert(&self, exported: &Arc<Exported>) -> Result<(), ExportError> {
        let mut state = self.state();
        let mut exports = state.exports.iter();
        // Another thread may have been quicker since the name was checked.
        if exports.any(|export| export.name() == exported.name()) {
            return Err(ExportError::NameTaken(exported.name().to_owned()));
        }
        if self.is_stopping() {
            return Err(ExportError::Stopped);
        }
        state.exports.push(exported.clone());
        Ok(())
    }

    /// Takes a removed export off the list and disconnects its clients.
    fn forget(&self, exported: &Arc<Exported>) {
        let mut state = self.state();
        state
            .exports
            .retain(|export| !Arc::ptr_eq(export, exported));
        let lines = state.lines.clone();
        drop(state);
        for line in lines {
            let chosen = line.export();
            if chosen.is_some_and(|export| Arc::ptr_eq(export, exported)) {
                line.close();
            }
        }
    }

    /// Takes a new client in, unless the server is to stop.
    fn admit(&self, socket: Fd) -> Option<Arc<Line>> {
        let mut state = self.state();
        // Under the lock, so that whoever stops the server sees this line or keeps it out.
        if self.is_stopping() {
            return None;
        }
        let line = Arc::new(Line::new(socket));
        state.lines.push(line.clone());
        self.clients.store(state.lines.len(), Ordering::Release);
        Some(line)
    }

    /// Forgets a client that has left.
    fn leave(&self, line: &Arc<Line>) {
        let mut state = self.state();
        state.lines.retain(|other| !Arc::ptr_eq(other, line));
        self.clients.store(state.lines.len(), Ordering::Release);
        drop(state);
        self.changed.raise();
    }

    fn stop(&self) {
        let mut state = self.state();
        self.stopping.store(true, Ordering::Release);
        let exports = std::mem::take(&mut state.exports);
        let lines = state.lines.clone();
        drop(state);
        for export in exports {
            let removed = export.remove_if(|_| true);
            debug_assert!(removed.is_ok(), "any number of clients will do");
        }
        for line in lines {
            line.close();
        }
        self.changed.raise();
    }

    /// Notes that the server's task is over; its context may have been closed under it.
    fn ended(&self) {
        self.stop();
        *self
            .has_ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.end.notify_all();
    }

    fn wait_ended(&self) {
        let has_ended = self
            .has_ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .end
            .wait_timeout_while(has_ended, STOP_MAX, |ended| !*ended);
        let (has_ended, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if !*has_ended {
            tracing::warn!("requests of an NBD server do not end; it is left to itself");
        }
    }
}
