//! Changing the options of nodes while they are in use: all of them or none, as their users allow.

use std::sync::Arc;

use super::{Graph, state::State};
use crate::{
    drain::DrainedSection,
    error::{BlockError, ErrorKind},
    node::{Node, NodeOptions},
};

impl Graph {
    /// Gives nodes other options, all of them or none.
    ///
    /// Happens inside one drained section of these nodes, so no request sees a part of it. The caller may hold one
    /// already. Dropping the future changes nothing.
    ///
    /// # Errors
    ///
    /// Nothing is changed then.
    ///
    /// - [`ErrorKind::ReadOnly`]: a node would become read-only that somebody writes to.
    /// - [`ErrorKind::Invalid`]: the options of a node contradict each other, or it is named twice.
    /// - [`ErrorKind::NotFound`]: a node is not in this graph.
    pub async fn reopen(&self, changes: &[(Node, NodeOptions)]) -> Result<(), BlockError> {
        self.shared.lock().check_reopen(changes)?;
        let nodes: Vec<_> = changes.iter().map(|(node, _)| node.clone()).collect();
        let section = DrainedSection::enter(Arc::clone(&self.shared), &nodes).await;
        {
            let state = self.shared.lock();
            state.check_reopen(changes)?;
            // Under the lock, so that no writer is attached in between.
            for (node, options) in changes {
                node.set_options(*options);
            }
        }
        drop(section);
        Ok(())
    }
}

impl State {
    fn check_reopen(&self, changes: &[(Node, NodeOptions)]) -> Result<(), BlockError> {
        for (at, (node, options)) in changes.iter().enumerate() {
            self.entry(node)?;
            options.check()?;
            let before = &changes[..at];
            if before.iter().any(|(other, _)| other == node) {
                let what = format!("node '{}' is to be reopened twice", node.name());
                return Err(BlockError::new(ErrorKind::Invalid, what));
            }
            if options.read_only && self.has_writer(node) {
                let name = node.name();
                let what = format!("Read-only block node '{name}' cannot support read-write users");
                return Err(BlockError::new(ErrorKind::ReadOnly, what));
            }
        }
        Ok(())
    }
}
