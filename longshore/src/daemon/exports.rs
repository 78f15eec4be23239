//! Commands for the NBD server and its exports.

use std::rc::Rc;

use super::{Daemon, command::Command};

/// The NBD server and the exports.
#[derive(Debug, Default)]
pub(crate) struct Exports {}

/// The commands of this file.
///
/// `--nbd-server` is the command `nbd-server` for command lines only: the flat form of `nbd-server-start`.
pub(super) fn commands() -> Vec<Command> {
    Vec::new()
}

/// Stops the server and closes all exports: the daemon ends.
pub(super) async fn close_all(daemon: &Rc<Daemon>) {
    let Exports {} = &daemon.exports;
}
