//! Commands for nodes: `blockdev-add` and what goes with it.

use std::rc::Rc;

use super::{Daemon, command::Command};

/// The nodes that clients own, by name, and what is known of them.
#[derive(Debug, Default)]
pub(crate) struct Nodes {}

/// The commands of this file.
pub(super) fn commands() -> Vec<Command> {
    Vec::new()
}

/// Makes what was written stable and lets go of all nodes: the daemon ends.
pub(super) async fn close_all(daemon: &Rc<Daemon>) {
    let Nodes {} = &daemon.nodes;
}
