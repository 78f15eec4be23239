//! Commands for jobs: those that start one, and those that change one.

use std::rc::Rc;

use super::{Daemon, command::Command};

/// What is known of jobs besides the registry.
#[derive(Debug, Default)]
pub(crate) struct Jobs {}

/// The commands of this file.
pub(super) fn commands() -> Vec<Command> {
    Vec::new()
}

/// Cancels all jobs by force and waits for their ends: the daemon ends.
pub(super) async fn end_all(daemon: &Rc<Daemon>) {
    let Jobs {} = &daemon.jobs;
    daemon.registry().cancel_all().await;
}
