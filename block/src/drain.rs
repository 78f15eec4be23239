//! The drained section: parents are quiet, nothing is in flight, new requests wait.
//!
//! ```text
//!   1  tell the nodes' parents to be quiet,     requests go on, so that a parent can finish its work
//!      and the nodes to hold nothing back
//!   2  wait until they are
//!   3  close the gates, upper nodes first,      requests that are inside an upper node still reach
//!      and wait for each to be empty            the lower ones
//!      ... the section ...                      graph changes happen here
//!   4  open the gates, tell the parents         whoever waited goes where its edge points now
//! ```
//!
//! Sections count and nest. Two of them must not be taken one inside the other on a node and then a
//! node above it, with requests in flight between the two: those wait for the first section to end.
//! Take all nodes in one call instead; that is also what makes one instant of several disks.

use std::sync::Arc;

use crate::{graph::Shared, node::Node};

/// Nodes without a request in flight, and without a new one until this is dropped.
///
/// Dropping it, on any thread, opens the nodes and tells their parents to go on.
#[must_use = "the section ends when this is dropped"]
pub struct DrainedSection {
    graph: Arc<Shared>,
    nodes: Vec<Node>,
    closed: Vec<Node>,
}

impl DrainedSection {
    /// Enters a section; a future dropped half-way takes back what it has done.
    pub(crate) async fn enter(graph: Arc<Shared>, nodes: &[Node]) -> Self {
        let mut section = Self {
            graph,
            nodes: without_repeats(nodes),
            closed: Vec::new(),
        };
        section.graph.begin_quiescing(&section.nodes);
        for node in &section.nodes {
            node.driver().drain_begin();
        }
        section.wait_for_parents().await;
        for node in section.graph.upper_first(&section.nodes) {
            node.gate().close();
            section.closed.push(node.clone());
            node.gate().wait_empty().await;
        }
        section
    }

    /// The nodes of this section.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    async fn wait_for_parents(&self) {
        let waker = self.graph.drain_waker();
        loop {
            let seen = waker.count();
            if self.graph.parents_are_quiet(&self.nodes) {
                return;
            }
            waker.kicked_since(seen).await;
        }
    }
}

impl Drop for DrainedSection {
    fn drop(&mut self) {
        for node in &self.closed {
            node.gate().open();
        }
        for node in &self.nodes {
            node.driver().drain_end();
        }
        self.graph.end_quiescing(&self.nodes);
    }
}

impl std::fmt::Debug for DrainedSection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.nodes.iter().map(Node::name).collect();
        f.debug_tuple("DrainedSection").field(&names).finish()
    }
}

fn without_repeats(nodes: &[Node]) -> Vec<Node> {
    let mut unique: Vec<Node> = Vec::new();
    for node in nodes {
        if !unique.contains(node) {
            unique.push(node.clone());
        }
    }
    unique
}
