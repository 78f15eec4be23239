//! [`Line`]: one client's socket as the server sees it, from any thread.

use std::{
    os::fd::AsRawFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use aio::Fd;
use nix::sys::socket::{Shutdown, shutdown};

use super::{exported::Exported, signal::Signal};

/// One client's connection, and the way to end it.
#[derive(Debug)]
pub(super) struct Line {
    socket: Fd,
    closed: AtomicBool,
    changed: Signal,
    /// What the client has chosen, once it has.
    export: OnceLock<Arc<Exported>>,
}

impl Line {
    pub(super) fn new(socket: Fd) -> Self {
        Self {
            socket,
            closed: AtomicBool::new(false),
            changed: Signal::default(),
            export: OnceLock::new(),
        }
    }

    pub(super) fn socket(&self) -> &Fd {
        &self.socket
    }

    /// Raised when the connection is closed; its own tasks raise it for each other, too.
    pub(super) fn changed(&self) -> &Signal {
        &self.changed
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The export that the client uses.
    pub(super) fn export(&self) -> Option<&Arc<Exported>> {
        self.export.get()
    }

    /// Notes which export the client uses.
    pub(super) fn choose(&self, export: &Arc<Exported>) {
        // A client negotiates once.
        let _ = self.export.set(export.clone());
    }

    /// Ends the connection: whatever waits for the client comes back at once. Any thread.
    pub(super) fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        // The number is valid while `self.socket` lives; a client that has gone is no error here.
        if let Err(error) = shutdown(self.socket.as_raw_fd(), Shutdown::Both) {
            tracing::trace!(%error, "the client was gone already");
        }
        self.changed.raise();
        if let Some(export) = self.export() {
            export.gate().opened().raise();
        }
    }
}
