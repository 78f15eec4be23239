//! [`Server`]: a server as its handles and its tasks share it.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aio::Fd;
use block::Graph;

use super::{
    NbdServerOptions, error::ExportError, exported::Exported, line::Line, listen::Listener,
    signal::Signal,
};

/// Longest time that stopping a server waits for requests that have begun.
const STOP_MAX: Duration = Duration::from_secs(2);

/// Its exports, its clients, and whether it stops.
#[derive(Debug)]
pub(super) struct Server {
    graph: Graph,
    options: NbdServerOptions,
    listener: Arc<Listener>,
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
    /// A server without exports.
    pub(super) fn new(
        graph: &Graph,
        options: NbdServerOptions,
        listener: &Arc<Listener>,
    ) -> Arc<Self> {
        Arc::new(Self {
            graph: graph.clone(),
            options,
            listener: listener.clone(),
            state: Mutex::default(),
            clients: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            changed: Signal::default(),
            has_ended: Mutex::new(false),
            end: Condvar::new(),
        })
    }

    pub(super) fn graph(&self) -> &Graph {
        &self.graph
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exports, in the order in which they were added.
    pub(super) fn exported(&self) -> Vec<Arc<Exported>> {
        self.state().exports.clone()
    }

    /// Raised when a client leaves or the server is to stop.
    pub(super) fn changed(&self) -> &Signal {
        &self.changed
    }

    /// Clients that were let in and have not left.
    pub(super) fn clients(&self) -> usize {
        self.clients.load(Ordering::Acquire)
    }

    /// Most clients at once.
    pub(super) fn clients_max(&self) -> usize {
        self.options.clients_max.max(1)
    }

    /// Longest time a client may take to choose an export, in nanoseconds.
    pub(super) fn handshake_ns_max(&self) -> u64 {
        self.options.handshake_ns_max
    }

    /// Whether the server is to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Whether an export may get this name.
    pub(super) fn check_name(&self, name: &str) -> Result<(), ExportError> {
        if self.is_stopping() {
            return Err(ExportError::Stopped);
        }
        let taken = self.exported().iter().any(|export| export.name() == name);
        if taken {
            return Err(ExportError::NameTaken(name.to_owned()));
        }
        Ok(())
    }

    /// Lists an export.
    pub(super) fn insert(&self, exported: &Arc<Exported>) -> Result<(), ExportError> {
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
    pub(super) fn forget(&self, exported: &Arc<Exported>) {
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
    pub(super) fn admit(&self, socket: Fd) -> Option<Arc<Line>> {
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
    pub(super) fn leave(&self, line: &Arc<Line>) {
        let mut state = self.state();
        state.lines.retain(|other| !Arc::ptr_eq(other, line));
        self.clients.store(state.lines.len(), Ordering::Release);
        drop(state);
        self.changed.raise();
    }

    /// Lets nobody in, disconnects all, and removes all exports.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        self.stopping.store(true, Ordering::Release);
        let exports = std::mem::take(&mut state.exports);
        let lines = state.lines.clone();
        drop(state);
        self.listener.close();
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
    pub(super) fn ended(&self) {
        self.stop();
        *self
            .has_ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.end.notify_all();
    }

    /// Waits for the server's task, but not for long.
    pub(super) fn wait_ended(&self) {
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
