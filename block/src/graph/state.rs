//! The structure of a graph: what is behind the lock.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    blocker::{BlockerKey, Blockers, Operation},
    child::{Attachment, Child, ChildKey, ChildRole, Edge},
    needs::Needs,
    parent::{Notice, NoticeKind, Parent},
    permission::{EdgeFacts, Effective, Permissions, Table},
};
use crate::{
    error::{BlockError, ErrorKind},
    node::{Node, NodeId},
};

/// Nodes, edges, and what parents have yet to be told.
#[derive(Debug, Default)]
pub(super) struct State {
    nodes: BTreeMap<NodeId, NodeEntry>,
    /// Names in use, those of unfinished nodes among them.
    names: BTreeMap<String, NodeId>,
    edges: BTreeMap<ChildKey, EdgeEntry>,
    notices: VecDeque<Notice>,
    is_telling: bool,
    next_id: u64,
    automatic_names: u64,
}

#[derive(Debug)]
pub(super) struct NodeEntry {
    node: Node,
    /// Drained sections that hold, or are about to hold, this node.
    sections: u32,
    /// Put in by a job: asks for its permissions with or without users.
    is_pinned: bool,
    blockers: Blockers,
}

struct EdgeEntry {
    edge: Arc<Edge>,
    /// Whether the parent was told, or is about to be told, to be quiet because of this edge.
    is_told: bool,
    /// How many want it to stay as it is.
    frozen: u32,
}

impl State {
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().map(|entry| &entry.node)
    }

    pub(super) fn edges(&self) -> impl Iterator<Item = &Edge> {
        self.edges.values().map(|entry| &*entry.edge)
    }

    pub(super) fn node_named(&self, name: &str) -> Result<Node, BlockError> {
        let entry = self.names.get(name).and_then(|id| self.nodes.get(id));
        entry
            .map(|entry| entry.node.clone())
            .ok_or_else(|| not_found(name))
    }

    pub(super) fn reserve_name(
        &mut self,
        name: Option<&str>,
    ) -> Result<(NodeId, String), BlockError> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => {
                self.automatic_names += 1;
                format!("#block{:03}", self.automatic_names)
            }
        };
        if self.names.contains_key(&name) {
            let what = format!("Duplicate nodes with node-name='{name}'");
            return Err(BlockError::new(ErrorKind::Invalid, what));
        }
        let id = NodeId(self.fresh_id());
        self.names.insert(name.clone(), id);
        Ok((id, name))
    }

    pub(super) fn free_name(&mut self, name: &str) {
        self.names.remove(name);
    }

    pub(super) fn add(&mut self, node: Node) {
        // It works where what is below it works.
        let owned = self.edges().filter(|edge| edge.owner == Some(node.id()));
        if let Some(home) = { owned }.find_map(|edge| edge.node().context()) {
            node.set_context(&home);
        }
        let entry = NodeEntry {
            node: node.clone(),
            sections: 0,
            is_pinned: false,
            blockers: Blockers::default(),
        };
        self.nodes.insert(node.id(), entry);
    }

    /// Takes a node out; the caller drops the entry after it has unlocked.
    pub(super) fn remove(&mut self, node: &Node) -> Result<NodeEntry, BlockError> {
        self.check_operation(node, Operation::Remove)?;
        let owned = self.edges().filter(|edge| edge.owner == Some(node.id()));
        self.check_thawed(&owned.map(|edge| edge.key).collect::<Vec<_>>())?;
        if self.edges().any(|edge| edge.node() == *node) {
            let what = format!("Node {} is in use", node.name());
            return Err(BlockError::new(ErrorKind::Busy, what));
        }
        self.free_name(node.name());
        self.nodes
            .remove(&node.id())
            .ok_or_else(|| not_found(node.name()))
    }

    pub(super) fn attach(
        &mut self,
        owner: Option<NodeId>,
        node: &Node,
        attachment: Attachment,
    ) -> Result<Arc<Edge>, BlockError> {
        self.entry(node)?;
        let key = ChildKey(self.fresh_id());
        let edge = Arc::new(Edge::new(key, owner, node, attachment));
        let mut table = self.table();
        table.edges.push(facts(&edge));
        let effective = self.resolve(&table)?;
        let before = self.prepare(&Needs::of(&table, &effective))?;

        let entry = EdgeEntry {
            edge: Arc::clone(&edge),
            is_told: false,
            frozen: 0,
        };
        self.edges.insert(key, entry);
        self.apply(&effective);
        self.settle(&before);
        self.update_notices(&[key]);
        Ok(edge)
    }

    /// Takes an edge out; the caller drops it after it has unlocked.
    pub(super) fn detach(&mut self, key: ChildKey) -> Option<Arc<Edge>> {
        let before = self.needs();
        let edge = self.take_out(key)?;
        // Fewer users ask for less, so there is nothing to check.
        let effective = self.table().effective();
        self.apply(&effective);
        self.settle(&before);
        Some(edge)
    }

    /// Takes an edge out, which may do nothing from now on; what the others ask for is the caller's to set right.
    pub(super) fn take_out(&mut self, key: ChildKey) -> Option<Arc<Edge>> {
        let entry = self.edges.remove(&key)?;
        if entry.is_told {
            self.notify(&entry.edge, NoticeKind::End);
        }
        entry.edge.set_permissions(Permissions::IDLE);
        Some(entry.edge)
    }

    /// Makes edges point at another node. What they leave is drained.
    pub(super) fn point_at(&mut self, keys: &[ChildKey], to: &Node) {
        for key in keys {
            if let Some(entry) = self.edges.get(key) {
                entry.edge.point_at(to);
            }
        }
        self.update_notices(keys);
    }

    /// Checks that these edges may point elsewhere, or go.
    pub(super) fn check_thawed(&self, keys: &[ChildKey]) -> Result<(), BlockError> {
        let entries = keys.iter().filter_map(|key| self.edges.get(key));
        let Some(entry) = { entries }.find(|entry| entry.frozen > 0) else {
            return Ok(());
        };
        let edge = &entry.edge;
        let what = format!(
            "Cannot change frozen '{}' link of {} to '{}'",
            edge.attachment.child_name,
            edge.attachment.parent,
            edge.node().name()
        );
        Err(BlockError::new(ErrorKind::Busy, what))
    }

    /// Makes edges stay as they are, until as many [`State::thaw`].
    pub(super) fn freeze(&mut self, keys: &[ChildKey]) {
        for key in keys {
            if let Some(entry) = self.edges.get_mut(key) {
                entry.frozen += 1;
            }
        }
    }

    pub(super) fn thaw(&mut self, keys: &[ChildKey]) {
        for key in keys {
            // It is gone if its graph is.
            if let Some(entry) = self.edges.get_mut(key) {
                entry.frozen -= 1;
            }
        }
    }

    /// Makes these, and no others, the nodes that ask for their permissions with or without users.
    pub(super) fn set_pinned(&mut self, pinned: &[NodeId]) {
        for entry in self.nodes.values_mut() {
            entry.is_pinned = pinned.contains(&entry.node.id());
        }
    }

    pub(super) fn filtered_child(&self, filter: &Node) -> Option<Node> {
        let mut owned = self.edges().filter(|edge| edge.owner == Some(filter.id()));
        let edge = owned.find(|edge| edge.attachment.role == ChildRole::Filtered)?;
        Some(edge.node())
    }

    pub(super) fn is_root(&self, node: &Node) -> Result<bool, BlockError> {
        self.entry(node)?;
        // A node that was removed may live for as long as a request is on its way out.
        let is_held = |edge: &Edge| {
            let owner = edge
                .owner
                .is_some_and(|owner| self.nodes.contains_key(&owner));
            owner && edge.node() == *node
        };
        Ok(!self.edges().any(is_held))
    }

    pub(super) fn begin_quiescing(&mut self, nodes: &[Node]) {
        for node in nodes {
            if let Some(entry) = self.nodes.get_mut(&node.id()) {
                entry.sections += 1;
            }
        }
        self.update_notices(&self.edges_at(nodes));
    }

    pub(super) fn end_quiescing(&mut self, nodes: &[Node]) {
        for node in nodes {
            if let Some(entry) = self.nodes.get_mut(&node.id()) {
                entry.sections -= 1;
            }
        }
        self.update_notices(&self.edges_at(nodes));
    }

    /// The same nodes, each before all that are below it.
    pub(super) fn upper_first(&self, nodes: &[Node]) -> Vec<Node> {
        let mut heights = BTreeMap::new();
        let mut sorted = nodes.to_vec();
        sorted.sort_by_cached_key(|node| Reverse(self.height(node.id(), &mut heights)));
        sorted
    }

    /// The parents of these nodes, unless some notice is still on its way.
    pub(super) fn told_parents(&self, nodes: &[Node]) -> Option<Vec<Arc<dyn Parent>>> {
        if self.is_telling || !self.notices.is_empty() {
            return None;
        }
        let edges = self.edges().filter(|edge| nodes.contains(&edge.node()));
        Some(edges.filter_map(listener).collect())
    }

    /// Whether the caller is the one to tell; if so, it goes on until [`State::next_notice`] has none.
    pub(super) fn start_telling(&mut self) -> bool {
        let starts = !self.is_telling && !self.notices.is_empty();
        self.is_telling |= starts;
        starts
    }

    pub(super) fn next_notice(&mut self) -> Option<Notice> {
        let notice = self.notices.pop_front();
        self.is_telling = notice.is_some();
        notice
    }

    pub(super) fn block(
        &mut self,
        node: &Node,
        reason: &str,
        except: &[Operation],
    ) -> Result<BlockerKey, BlockError> {
        let key = BlockerKey(self.fresh_id());
        let entry = self
            .nodes
            .get_mut(&node.id())
            .ok_or_else(|| not_found(node.name()))?;
        entry.blockers.add(key, reason, except);
        Ok(key)
    }

    pub(super) fn unblock(&mut self, node: &Node, key: BlockerKey) {
        if let Some(entry) = self.nodes.get_mut(&node.id()) {
            entry.blockers.remove(key);
        }
    }

    pub(super) fn check_operation(
        &self,
        node: &Node,
        operation: Operation,
    ) -> Result<(), BlockError> {
        match self.entry(node)?.blockers.reason_against(operation) {
            None => Ok(()),
            Some(reason) => {
                let what = format!("Node '{}' is busy: {reason}", node.name());
                Err(BlockError::new(ErrorKind::Busy, what))
            }
        }
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn entry(&self, node: &Node) -> Result<&NodeEntry, BlockError> {
        let entry = self.nodes.get(&node.id());
        // Another graph may use the same number for another node.
        entry
            .filter(|entry| entry.node == *node)
            .ok_or_else(|| not_found(node.name()))
    }

    /// Checks that an edge is one of this graph's.
    pub(super) fn check_is_here(&self, child: &Child) -> Result<(), BlockError> {
        let entry = self.edges.get(&child.edge.key);
        // Another graph may use the same number for another edge.
        if entry.is_some_and(|entry| Arc::ptr_eq(&entry.edge, &child.edge)) {
            return Ok(());
        }
        let what = format!("{} no longer holds the node", child.edge.attachment.parent);
        Err(BlockError::new(ErrorKind::NotFound, what).on_node(child.node().name()))
    }

    pub(super) fn pinned(&self) -> Vec<NodeId> {
        let pinned = self.nodes.values().filter(|entry| entry.is_pinned);
        pinned.map(|entry| entry.node.id()).collect()
    }

    pub(super) fn table(&self) -> Table {
        Table {
            edges: self.edges().map(facts).collect(),
            pinned: self.pinned(),
        }
    }

    /// Whether somebody has leave to change the node.
    pub(super) fn has_writer(&self, node: &Node) -> bool {
        let mut edges = self.edges().filter(|edge| edge.node() == *node);
        edges.any(|edge| edge.permissions().change())
    }

    /// What each edge would ask for, if nobody minds.
    pub(super) fn resolve(&self, table: &Table) -> Result<Effective, BlockError> {
        let effective = table.effective();
        for edge in &table.edges {
            let changes = effective[&edge.key].change();
            let node = self.nodes.get(&edge.node).map(|entry| &entry.node);
            if let Some(node) = node.filter(|node| changes && node.is_read_only()) {
                let error = BlockError::new(ErrorKind::ReadOnly, "node is read-only");
                return Err(error.on_node(node.name()));
            }
        }
        table.check(&effective, |id| self.name_of(id))?;
        Ok(effective)
    }

    fn name_of(&self, id: NodeId) -> String {
        let node = self.nodes.get(&id).map(|entry| &entry.node);
        node.map_or_else(String::new, |node| node.name().to_owned())
    }

    pub(super) fn apply(&self, effective: &Effective) {
        for (key, permissions) in effective {
            if let Some(entry) = self.edges.get(key) {
                entry.edge.set_permissions(*permissions);
            }
        }
    }

    fn edges_at(&self, nodes: &[Node]) -> Vec<ChildKey> {
        let edges = self.edges().filter(|edge| nodes.contains(&edge.node()));
        edges.map(|edge| edge.key).collect()
    }

    /// Queues what the parents behind these edges do not know yet: whether the node is being drained.
    fn update_notices(&mut self, keys: &[ChildKey]) {
        for key in keys {
            let Some(entry) = self.edges.get_mut(key) else {
                continue;
            };
            let node = self.nodes.get(&entry.edge.node().id());
            let is_drained = node.is_some_and(|node| node.sections > 0);
            if entry.is_told == is_drained {
                continue;
            }
            entry.is_told = is_drained;
            let edge = Arc::clone(&entry.edge);
            let kind = if is_drained {
                NoticeKind::Begin
            } else {
                NoticeKind::End
            };
            self.notify(&edge, kind);
        }
    }

    fn notify(&mut self, edge: &Edge, kind: NoticeKind) {
        if let Some(parent) = listener(edge) {
            self.notices.push_back(Notice { parent, kind });
        }
    }

    /// Edges on the longest way down from a node; `known` has those of nodes that were asked for already.
    fn height(&self, id: NodeId, known: &mut BTreeMap<NodeId, usize>) -> usize {
        if let Some(height) = known.get(&id) {
            return *height;
        }
        let owned = self.edges().filter(|edge| edge.owner == Some(id));
        let children = owned.map(|edge| self.height(edge.node().id(), known) + 1);
        let height = children.max().unwrap_or(0);
        known.insert(id, height);
        height
    }

    /// Whether `id` is `upper` or can be reached from it.
    pub(super) fn is_below(&self, upper: NodeId, id: NodeId) -> bool {
        let mut reached = vec![upper];
        let mut at = 0;
        while let Some(&owner) = reached.get(at) {
            at += 1;
            let owned = self.edges().filter(|edge| edge.owner == Some(owner));
            let below: Vec<_> = owned.map(|edge| edge.node().id()).collect();
            reached.extend(below);
            // Those that were reached already stay where they are.
            let mut seen = BTreeSet::new();
            reached.retain(|id| seen.insert(*id));
        }
        reached.contains(&id)
    }
}

impl std::fmt::Debug for EdgeEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeEntry")
            .field("attachment", &self.edge.attachment)
            .field("is_told", &self.is_told)
            .finish_non_exhaustive()
    }
}

pub(super) fn listener(edge: &Edge) -> Option<Arc<dyn Parent>> {
    edge.attachment.listener.as_ref()?.upgrade()
}

fn facts(edge: &Edge) -> EdgeFacts {
    EdgeFacts {
        key: edge.key,
        owner: edge.owner,
        node: edge.node().id(),
        role: edge.attachment.role,
        declared: edge.attachment.permissions,
        parent: edge.attachment.parent.clone(),
        child_name: edge.attachment.child_name.clone(),
    }
}

fn not_found(name: &str) -> BlockError {
    let what = format!("Failed to find node with node-name='{name}'");
    BlockError::new(ErrorKind::NotFound, what)
}
