//! The NBD server on a socket that the process was started with.

use crate::{
    daemon::Daemon,
    export::{NbdServer, NbdServerOptions, listen::Listener},
};

/// Serves the clients of a socket that somebody else listens on for us.
pub(in crate::daemon) fn serve_inherited(daemon: &Daemon, listener: Listener) {
    let (handle, graph) = (daemon.context.handle(), daemon.engine.graph());
    let server = NbdServer::start_on(handle, graph, listener, NbdServerOptions::default());
    *daemon.exports.server.borrow_mut() = Some(server);
}
