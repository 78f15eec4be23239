//! What the users of each node do and allow together, and the node drivers that care.
//!
//! A change of the graph that could ask a node for more has its driver
//! [prepare](crate::NodeDriver::prepare_permissions) while everything is still as it was; one that cannot, refuses the
//! whole change. When it is made, or refused, those drivers hear what holds from now on. Both happen under the lock of
//! the graph, so that changes do not mix.

use std::collections::BTreeMap;

use super::{
    permission::{Effective, Permissions, Table},
    state::State,
};
use crate::{
    error::BlockError,
    node::{Node, NodeId},
};

/// What the users of each node do and allow together; what is not in it has no users.
#[derive(Debug, Default)]
pub(super) struct Needs(BTreeMap<NodeId, Permissions>);

impl Needs {
    /// Those of a graph with these edges, if it were so.
    pub(super) fn of(table: &Table, effective: &Effective) -> Self {
        let edges = table.edges.iter();
        edges
            .map(|edge| (edge.node, effective[&edge.key]))
            .collect()
    }

    fn at(&self, node: NodeId) -> Permissions {
        self.0.get(&node).copied().unwrap_or(Permissions::IDLE)
    }
}

impl FromIterator<(NodeId, Permissions)> for Needs {
    fn from_iter<T: IntoIterator<Item = (NodeId, Permissions)>>(edges: T) -> Self {
        let mut needs = Self::default();
        for (node, permissions) in edges {
            needs.0.insert(node, needs.at(node).and(permissions));
        }
        needs
    }
}

impl State {
    /// What holds now.
    pub(super) fn needs(&self) -> Needs {
        let edges = self.edges();
        edges
            .map(|edge| (edge.node().id(), edge.permissions()))
            .collect()
    }

    /// Has node drivers prepare for `next`: all of them, or none. Gives back what holds until then.
    pub(super) fn prepare(&self, next: &Needs) -> Result<Needs, BlockError> {
        let now = self.needs();
        let mut asked = Vec::new();
        for node in self.nodes() {
            let (was, wanted) = (now.at(node.id()), next.at(node.id()));
            if wanted == was {
                continue;
            }
            asked.push((node, was));
            if let Err(error) = node.driver().prepare_permissions(wanted) {
                let back = |(node, was): (&Node, _)| node.driver().settle_permissions(was);
                asked.into_iter().for_each(back);
                return Err(error);
            }
        }
        Ok(now)
    }

    /// Tells node drivers what holds now, if something else did `before`.
    pub(super) fn settle(&self, before: &Needs) {
        let now = self.needs();
        for node in self.nodes() {
            let holds = now.at(node.id());
            if holds != before.at(node.id()) {
                node.driver().settle_permissions(holds);
            }
        }
    }
}
