//! Links between nodes that nobody may change, for a job that works along a backing chain.

use std::sync::{Arc, Weak};

use super::{
    Graph, Shared,
    child::{ChildKey, ChildRole},
    state::State,
};
use crate::{
    error::{BlockError, ErrorKind},
    node::Node,
};

impl Graph {
    /// Keeps the links from `upper` down to `lower` as they are, through filters and backing files, until the guard
    /// is dropped. What would change them is refused: filters between these nodes, replacing or removing them.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Invalid`]: `lower` cannot be reached from `upper`.
    /// - [`ErrorKind::NotFound`]: a node is not in this graph.
    pub fn freeze(&self, upper: &Node, lower: &Node) -> Result<FrozenChain, BlockError> {
        let mut state = self.shared.lock();
        let links = state.links(upper, lower)?;
        state.freeze(&links);
        Ok(FrozenChain {
            graph: Arc::downgrade(&self.shared),
            links,
        })
    }

    /// The nodes from `upper` (without it) down to `lower` (with it), through filters and backing files.
    ///
    /// # Errors
    ///
    /// As [`freeze`](Self::freeze).
    pub(crate) fn chain(&self, upper: &Node, lower: &Node) -> Result<Vec<Node>, BlockError> {
        let state = self.shared.lock();
        let links = state.links(upper, lower)?;
        let below = |key| state.edges().find(|edge| edge.key == key);
        let nodes = links.into_iter().filter_map(below);
        Ok(nodes.map(|edge| edge.node()).collect())
    }
}

/// Links stay as they are until this is dropped, on any thread.
#[derive(Debug)]
#[must_use = "the links may change again once this is dropped"]
pub struct FrozenChain {
    graph: Weak<Shared>,
    links: Vec<ChildKey>,
}

impl Drop for FrozenChain {
    fn drop(&mut self) {
        if let Some(graph) = self.graph.upgrade() {
            graph.lock().thaw(&self.links);
        }
    }
}

impl State {
    /// The edges on the way from `upper` down to `lower`.
    fn links(&self, upper: &Node, lower: &Node) -> Result<Vec<ChildKey>, BlockError> {
        self.entry(upper)?;
        self.entry(lower)?;
        let mut links = Vec::new();
        let mut at = upper.clone();
        while at != *lower {
            let mut owned = self.edges().filter(|edge| edge.owner == Some(at.id()));
            let passed = [ChildRole::Filtered, ChildRole::Cow];
            let link = owned.find(|edge| passed.contains(&edge.attachment.role));
            let link = link.ok_or_else(|| {
                let what = format!("'{}' is not in this backing file chain", lower.name());
                BlockError::new(ErrorKind::Invalid, what)
            })?;
            links.push(link.key);
            at = link.node();
        }
        Ok(links)
    }
}
