//! The nodes and edges of one application, and the only place that changes them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aio::{Handle, TaskMutex};

use crate::{
    copy::Crowd,
    drain::DrainedSection,
    error::{BlockError, ErrorKind},
    node::{Node, NodeId, NodeOptions},
    node_driver::NodeDriver,
};

pub mod blocker;
mod change;
pub mod child;
pub mod freeze;
mod home;
mod needs;
pub mod parent;
pub mod permission;
mod reopen;
mod resize;
mod state;
#[cfg(test)]
mod tests;

use self::{
    blocker::{Blocker, Operation},
    child::{Attachment, Child, ChildKey, ChildRole},
    parent::{DrainWaker, Parent},
    permission::Permissions,
    state::State,
};

/// Longest name that may be given to a node.
const NAME_BYTES_MAX: usize = 31;

/// The nodes and edges of one application. A value: clone it freely, use it on any thread.
///
/// Two graphs know nothing of each other. The graph keeps its nodes until they are removed, or until it
/// is itself dropped.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    shared: Arc<Shared>,
}

/// The structure behind its lock. Requests never take it; wakers and parents are called without it, and node drivers
/// when their permissions change under it.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    drain_waker: DrainWaker,
    /// Held while nodes move to another context.
    context_changes: TaskMutex,
    crowd: Crowd,
}

/// One edge, as a query sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeInfo {
    /// How errors call the user.
    pub parent: String,
    /// How the user calls this edge.
    pub child_name: String,
    /// Why the edge is there.
    pub role: ChildRole,
    /// Name of the node it points at.
    pub node: String,
    /// What the edge really uses and shares.
    pub permissions: Permissions,
}

impl Graph {
    /// A graph without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The background copies of this graph that have data on its way.
    #[must_use]
    pub fn crowd(&self) -> &Crowd {
        &self.shared.crowd
    }

    /// Adds a node without children; without a name, it gets an automatic one, `#block001` and so on.
    ///
    /// # Errors
    ///
    /// As [`Graph::build_node`].
    pub fn add_node(
        &self,
        name: Option<&str>,
        driver: impl NodeDriver,
    ) -> Result<Node, BlockError> {
        Ok(self.build_node(name)?.finish(driver))
    }

    /// Starts a node with children: attach them through the builder, make the node driver from them, finish.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`]: the name is taken, or not a letter followed by at most 30 letters, digits, `-`, `.`
    /// and `_`.
    pub fn build_node(&self, name: Option<&str>) -> Result<NodeBuilder, BlockError> {
        if let Some(name) = name.filter(|name| !is_valid_name(name)) {
            let what = format!("Invalid node-name: '{name}'");
            return Err(BlockError::new(ErrorKind::Invalid, what));
        }
        if name.is_some_and(|name| name.len() > NAME_BYTES_MAX) {
            return Err(BlockError::new(ErrorKind::Invalid, "Node name too long"));
        }
        let (id, name) = self.shared.lock().reserve_name(name)?;
        Ok(NodeBuilder {
            graph: self.clone(),
            id,
            name,
            options: NodeOptions::default(),
            is_finished: false,
        })
    }

    /// Attaches a user from outside the graph to a node: an export, a job.
    ///
    /// What the edge uses and shares counts at once, for this node and, through filters, for those below.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::PermissionConflict`]: another user does not allow what this one does, or the other way round.
    /// - [`ErrorKind::ReadOnly`]: the user wants to write to a node that cannot be written.
    /// - [`ErrorKind::Locked`]: another program does not allow it.
    /// - [`ErrorKind::NotFound`]: the node is not, or no longer, in this graph.
    pub fn attach(&self, node: &Node, attachment: Attachment) -> Result<Child, BlockError> {
        self.shared.attach(None, node, attachment)
    }

    /// Takes a node out of the graph. It is closed when its last clone is dropped.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Busy`]: somebody uses the node, or has blocked [`Operation::Remove`].
    /// - [`ErrorKind::NotFound`]: the node is not in this graph.
    pub fn remove_node(&self, node: &Node) -> Result<(), BlockError> {
        // The removed entry may hold the last reference, and dropping a node driver detaches its
        // children, which takes the lock again.
        let removed = self.shared.lock().remove(node)?;
        drop(removed);
        Ok(())
    }

    /// The node called `name`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]: there is none.
    pub fn node(&self, name: &str) -> Result<Node, BlockError> {
        self.shared.lock().node_named(name)
    }

    /// All nodes, in the order they were added.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        self.shared.lock().nodes().cloned().collect()
    }

    /// All edges, in the order they were attached.
    #[must_use]
    pub fn edges(&self) -> Vec<EdgeInfo> {
        self.shared.lock().edges().map(EdgeInfo::of).collect()
    }

    /// The nodes that `user` holds, in the order in which it was attached to them.
    #[must_use]
    pub fn nodes_of(&self, user: &Arc<dyn Parent>) -> Vec<Node> {
        self.shared.lock().nodes_of(user)
    }

    /// The node whose content `filter` passes through, if it is a filter.
    #[must_use]
    pub fn filtered_child(&self, filter: &Node) -> Option<Node> {
        self.shared.lock().filtered_child(filter)
    }

    /// Whether no other node holds this one: its users are outside the graph.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]: the node is not in this graph.
    pub fn is_root(&self, node: &Node) -> Result<bool, BlockError> {
        self.shared.lock().is_root(node)
    }

    /// Quiesces these nodes, all at one instant; see [`drain`](crate::drain).
    ///
    /// Returns once their parents are quiet and nothing is in flight; that takes as long as the
    /// slowest request. Dropping the future takes back what it has done so far. Needs no context.
    pub async fn drain(&self, nodes: &[Node]) -> DrainedSection {
        DrainedSection::enter(Arc::clone(&self.shared), nodes).await
    }

    /// What parents tell that they became quiet.
    #[must_use]
    pub fn drain_waker(&self) -> DrainWaker {
        self.shared.drain_waker.clone()
    }

    /// Makes the context behind `to` the [home](Node::context) of `node`, and of all that cannot be elsewhere: the
    /// nodes it is connected to by edges, and those that a user of one of these holds, such as a job.
    ///
    /// Users go along: a job, which stands still meanwhile, works on `to` when this returns, and nothing of it
    /// is left on the old context. Nothing is drained, since requests run on the context of whoever makes them.
    /// Takes as long as the slowest job needs to its next pause point. Moves of one graph happen one after the other.
    /// Dropping the future changes nothing, or everything. Any thread, any executor.
    ///
    /// # Errors
    ///
    /// Nothing is changed then.
    ///
    /// - [`ErrorKind::Busy`]: a user refuses; the text names it and the node that it holds.
    /// - [`ErrorKind::NotFound`]: the node is not in this graph.
    pub async fn set_context(&self, node: &Node, to: &Handle) -> Result<(), BlockError> {
        home::set_context(&self.shared, node, to).await
    }

    /// Forbids all operations on a node but those in `except`, until the blocker is dropped.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]: the node is not in this graph.
    pub fn block_operations(
        &self,
        node: &Node,
        reason: &str,
        except: &[Operation],
    ) -> Result<Blocker, BlockError> {
        Blocker::new(&self.shared, node, reason, except)
    }

    /// Checks that nobody has forbidden `operation` on the node.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`]: somebody has; the text says why.
    pub fn check_operation(&self, node: &Node, operation: Operation) -> Result<(), BlockError> {
        self.shared.lock().check_operation(node, operation)
    }
}

/// A node that is being put together. Dropping it unfinished frees the name.
#[derive(Debug)]
pub struct NodeBuilder {
    graph: Graph,
    id: NodeId,
    name: String,
    options: NodeOptions,
    is_finished: bool,
}

impl NodeBuilder {
    /// The name that the node will have.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives the node other options than the default.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`]: they contradict each other.
    pub fn options(mut self, options: NodeOptions) -> Result<Self, BlockError> {
        options.check()?;
        self.options = options;
        Ok(self)
    }

    /// Attaches a child to the node under construction.
    ///
    /// What the edge uses and shares counts as soon as, and as long as, the node itself is used. For a
    /// filtered child it comes on top of what the node's own users do and allow.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]: `below` is not, or no longer, in this graph.
    pub fn attach(
        &self,
        below: &Node,
        child_name: &str,
        role: ChildRole,
        permissions: Permissions,
    ) -> Result<Child, BlockError> {
        let parent = format!("node '{}'", self.name);
        let attachment = Attachment::new(parent, role, permissions).named(child_name);
        let shared = &self.graph.shared;
        shared.attach(Some(self.id), below, attachment)
    }

    /// Adds the node to the graph.
    #[must_use]
    pub fn finish(mut self, driver: impl NodeDriver) -> Node {
        self.is_finished = true;
        let identity = (self.id, self.name.clone());
        let node = Node::new(identity, self.options, Box::new(driver));
        self.graph.shared.lock().add(node.clone());
        node
    }
}

impl Drop for NodeBuilder {
    fn drop(&mut self) {
        if !self.is_finished {
            self.graph.shared.lock().free_name(&self.name);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attach(
        self: &Arc<Self>,
        owner: Option<NodeId>,
        node: &Node,
        attachment: Attachment,
    ) -> Result<Child, BlockError> {
        let edge = self.lock().attach(owner, node, attachment)?;
        self.tell_parents();
        Ok(Child {
            edge,
            graph: Arc::downgrade(self),
        })
    }

    fn detach(&self, key: ChildKey) {
        // The edge may hold the last reference to its node; see `remove_node`.
        let detached = self.lock().detach(key);
        drop(detached);
        self.tell_parents();
    }

    pub(crate) fn begin_quiescing(&self, nodes: &[Node]) {
        self.lock().begin_quiescing(nodes);
        self.tell_parents();
    }

    pub(crate) fn end_quiescing(&self, nodes: &[Node]) {
        self.lock().end_quiescing(nodes);
        self.tell_parents();
    }

    pub(crate) fn upper_first(&self, nodes: &[Node]) -> Vec<Node> {
        self.lock().upper_first(nodes)
    }

    pub(crate) fn drain_waker(&self) -> DrainWaker {
        self.drain_waker.clone()
    }

    /// Whether every parent of these nodes has been told to be quiet and is.
    pub(crate) fn parents_are_quiet(&self, nodes: &[Node]) -> bool {
        let told = self.lock().told_parents(nodes);
        told.is_some_and(|parents| parents.iter().all(|parent| !parent.drained_poll()))
    }

    /// Tells parents what the last change means for them, unlocked, in the order of the changes.
    ///
    /// One thread does the telling at a time; the others leave their notices to it, so that a
    /// parent never hears of an end before its begin.
    fn tell_parents(&self) {
        if !self.lock().start_telling() {
            return;
        }
        loop {
            let notice = self.lock().next_notice();
            match notice {
                Some(notice) => notice.tell(),
                None => break,
            }
        }
        self.drain_waker.kick();
    }
}

impl EdgeInfo {
    fn of(edge: &child::Edge) -> Self {
        Self {
            parent: edge.attachment.parent.clone(),
            child_name: edge.attachment.child_name.clone(),
            role: edge.attachment.role,
            node: edge.node().name().to_owned(),
            permissions: edge.permissions(),
        }
    }
}

/// Whether a user may call a node this: automatic names cannot be taken.
fn is_valid_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}
