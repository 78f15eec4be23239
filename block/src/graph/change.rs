//! Putting a filter in, taking it out, replacing a node: all users of a node move at once, while requests run.
//!
//! All ask for permission first, on paper, and again once the nodes are drained: the graph may have changed
//! while the section was waited for. Between that second look and the change nothing is awaited.

use std::sync::Arc;

use super::{
    Graph, Shared,
    blocker::Operation,
    child::{Child, ChildKey, Edge, Placement},
    needs::Needs,
    permission::Effective,
    state::State,
};
use crate::{
    drain::DrainedSection,
    error::{BlockError, ErrorKind},
    node::{Node, NodeId},
};

impl Graph {
    /// Puts `filter`, whose filtered child is `below`, between `below` and its users.
    ///
    /// The edges that are [to stay](crate::Attachment::staying), those of the filter itself and those of nodes below
    /// the filter stay. The others move inside one drained section of `below`, and nothing else is drained: requests
    /// that wait there go through the filter afterwards. To do more at the same instant, hold a section of `below`
    /// around this call. Dropping the future changes nothing.
    ///
    /// # Errors
    ///
    /// Nothing is changed then.
    ///
    /// - [`ErrorKind::Invalid`]: `below` is not the filtered child of `filter`, or they differ in length.
    /// - [`ErrorKind::PermissionConflict`], [`ErrorKind::ReadOnly`]: the users cannot be above the filter, or the
    ///   filter not beside those that stay.
    /// - [`ErrorKind::Locked`]: another program does not allow what is below the filter.
    /// - [`ErrorKind::NotFound`]: a node is not in this graph.
    pub async fn insert_filter(&self, below: &Node, filter: &Node) -> Result<(), BlockError> {
        let plan = |state: &State| state.plan_insertion(below, filter);
        move_users(&self.shared, std::slice::from_ref(below), plan).await
    }

    /// Makes all users of `filter` users of its filtered child; the filter stays in the graph, unused.
    ///
    /// Only `filter` is drained. Dropping the future changes nothing.
    ///
    /// # Errors
    ///
    /// Nothing is changed then.
    ///
    /// - [`ErrorKind::Invalid`]: the node is not a filter.
    /// - [`ErrorKind::PermissionConflict`], [`ErrorKind::ReadOnly`]: the users cannot be beside those of the child.
    /// - [`ErrorKind::NotFound`]: the node is not in this graph.
    pub async fn remove_filter(&self, filter: &Node) -> Result<(), BlockError> {
        let plan = |state: &State| state.plan_removal(filter);
        move_users(&self.shared, std::slice::from_ref(filter), plan).await
    }

    /// Makes the users of `from` users of `to`, while the edges in `leaving` go: a mirror's switch to its target.
    ///
    /// `from` may be a filter, whose users move then, and which nobody needs afterwards. The edges that are
    /// [to stay](crate::Attachment::staying) stay, and those of nodes that can be reached from `to`. Permissions are
    /// those of the graph after the change. Whoever holds an edge that has left has a dead one: it changes nothing any
    /// more, and is to be dropped.
    ///
    /// All happens inside one drained section of both nodes, and nothing else is drained: requests that wait at `from`
    /// go to `to`. The caller may hold a section already; if `to` is above `from`, of both, since requests from `to`
    /// would wait for it otherwise. Dropping the future changes nothing.
    ///
    /// # Errors
    ///
    /// Nothing is changed then, and the edges in `leaving` are as they were.
    ///
    /// - [`ErrorKind::Invalid`]: `from` is `to`, or they differ in length.
    /// - [`ErrorKind::PermissionConflict`], [`ErrorKind::ReadOnly`]: the users cannot be beside those of `to`.
    /// - [`ErrorKind::Locked`]: another program does not allow them there.
    /// - [`ErrorKind::NotFound`]: a node or an edge is not in this graph.
    pub async fn replace_node(
        &self,
        from: &Node,
        to: &Node,
        leaving: &[&Child],
    ) -> Result<(), BlockError> {
        let plan = |state: &State| state.plan_replacement((from, to), leaving);
        move_users(&self.shared, &[from.clone(), to.clone()], plan).await
    }

    /// Checks that [`Graph::replace_node`] would do it now, as far as the users here go. Drains nothing.
    ///
    /// # Errors
    ///
    /// As [`Graph::replace_node`].
    pub fn check_replace(
        &self,
        from: &Node,
        to: &Node,
        leaving: &[&Child],
    ) -> Result<(), BlockError> {
        let state = self.shared.lock();
        state.plan_replacement((from, to), leaving)?;
        Ok(())
    }

    /// Checks that a mirror from `source` may put its target in the place of `replaced`: users of that node see the
    /// same afterwards.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Invalid`]: `replaced` is neither the source nor a node whose content the source passes through.
    /// - [`ErrorKind::Busy`]: somebody has forbidden [`Operation::Replace`] on it.
    /// - [`ErrorKind::NotFound`]: a node is not in this graph.
    pub fn check_replaceable(&self, source: &Node, replaced: &Node) -> Result<(), BlockError> {
        self.shared.lock().check_replaceable(source, replaced)
    }
}

/// Moves users as planned, inside a drained section of `drained`: what they leave, and more if need be.
async fn move_users(
    graph: &Arc<Shared>,
    drained: &[Node],
    plan: impl Fn(&State) -> Result<Move, BlockError>,
) -> Result<(), BlockError> {
    plan(&graph.lock())?;
    let section = DrainedSection::enter(Arc::clone(graph), drained).await;
    let left = {
        let mut state = graph.lock();
        let change = plan(&state)?;
        state.commit(&change)?
    };
    drop(left);
    // Requests that wait here may be wanted elsewhere now, even if another section keeps these nodes closed.
    for node in drained {
        node.gate().ask_again();
    }
    graph.tell_parents();
    drop(section);
    Ok(())
}

/// A change of the graph that has been found to be possible.
struct Move {
    edges: Vec<ChildKey>,
    to: Node,
    leaving: Vec<ChildKey>,
    pinned: Vec<NodeId>,
    effective: Effective,
    needs: Needs,
}

impl State {
    /// The edges that would move if `filter` were put above `below`, checked.
    fn plan_insertion(&self, below: &Node, filter: &Node) -> Result<Move, BlockError> {
        self.entry(below)?;
        self.entry(filter)?;
        if self.filtered_child(filter).as_ref() != Some(below) {
            let what = format!(
                "node '{}' is not a filter of node '{}'",
                filter.name(),
                below.name()
            );
            return Err(BlockError::new(ErrorKind::Invalid, what));
        }
        check_length(filter, below)?;
        let mut pinned = self.pinned();
        pinned.push(filter.id());
        self.plan(self.following(below, filter), filter, &[], pinned)
    }

    /// The edges that would move if `filter` went away, checked.
    fn plan_removal(&self, filter: &Node) -> Result<Move, BlockError> {
        self.entry(filter)?;
        let Some(below) = self.filtered_child(filter) else {
            let what = format!("node '{}' is not a filter", filter.name());
            return Err(BlockError::new(ErrorKind::Invalid, what));
        };
        let mut pinned = self.pinned();
        pinned.retain(|id| *id != filter.id());
        let users = self.edges().filter(|edge| edge.node() == *filter);
        let users = users.map(|edge| edge.key).collect();
        self.plan(users, &below, &[], pinned)
    }

    /// The edges that would move if `to` took the place of `from` while `leaving` go, checked.
    fn plan_replacement(
        &self,
        (from, to): (&Node, &Node),
        leaving: &[&Child],
    ) -> Result<Move, BlockError> {
        self.entry(from)?;
        self.entry(to)?;
        if from == to {
            let what = format!("node '{}' cannot replace itself", to.name());
            return Err(BlockError::new(ErrorKind::Invalid, what));
        }
        check_length(to, from)?;
        for child in leaving {
            self.check_is_here(child)?;
        }
        let leaving: Vec<_> = leaving.iter().map(|child| child.edge.key).collect();
        let mut moving = self.following(from, to);
        moving.retain(|key| !leaving.contains(key));
        let mut pinned = self.pinned();
        pinned.retain(|id| *id != from.id());
        self.plan(moving, to, &leaving, pinned)
    }

    pub(super) fn check_replaceable(
        &self,
        source: &Node,
        replaced: &Node,
    ) -> Result<(), BlockError> {
        self.entry(source)?;
        self.check_operation(replaced, Operation::Replace)?;
        let mut at = source.clone();
        while at != *replaced {
            at = self.filtered_child(&at).ok_or_else(|| {
                let what = format!(
                    "Cannot replace '{}' by a node mirrored from '{}', because it cannot be guaranteed that \
                     doing so would not lead to an abrupt change of visible data",
                    replaced.name(),
                    source.name(),
                );
                BlockError::new(ErrorKind::Invalid, what)
            })?;
        }
        Ok(())
    }

    /// The edges at `from` that go along when `to` takes its place: not those that mean this node, nor those that
    /// would end up above themselves.
    fn following(&self, from: &Node, to: &Node) -> Vec<ChildKey> {
        let stays = |edge: &Edge| {
            let owner = edge.owner;
            edge.attachment.placement == Placement::Stays
                || owner.is_some_and(|owner| self.is_below(to.id(), owner))
        };
        let edges = self.edges().filter(|edge| edge.node() == *from);
        edges
            .filter(|edge| !stays(edge))
            .map(|edge| edge.key)
            .collect()
    }

    fn plan(
        &self,
        moving: Vec<ChildKey>,
        to: &Node,
        leaving: &[ChildKey],
        pinned: Vec<NodeId>,
    ) -> Result<Move, BlockError> {
        self.check_thawed(&moving)?;
        self.check_thawed(leaving)?;
        let mut table = self.table();
        table.pinned.clone_from(&pinned);
        table.edges.retain(|edge| !leaving.contains(&edge.key));
        for edge in &mut table.edges {
            if moving.contains(&edge.key) {
                edge.node = to.id();
            }
        }
        let effective = self.resolve(&table)?;
        Ok(Move {
            needs: Needs::of(&table, &effective),
            effective,
            edges: moving,
            to: to.clone(),
            leaving: leaving.to_vec(),
            pinned,
        })
    }

    /// Carries a move out, unless a node driver cannot. The nodes that edges leave are drained, and nothing has changed
    /// since the plan.
    ///
    /// The caller drops the edges that it gets after it has unlocked.
    fn commit(&mut self, change: &Move) -> Result<Vec<Arc<Edge>>, BlockError> {
        let before = self.prepare(&change.needs)?;
        // Permissions come first: an edge is followed the moment it moves, and the filter must be
        // allowed to do by then what its new users do. What is taken away here only drained nodes needed.
        self.apply(&change.effective);
        self.set_pinned(&change.pinned);
        self.point_at(&change.edges, &change.to);
        let leaving = change.leaving.iter();
        let left = leaving.filter_map(|key| self.take_out(*key)).collect();
        self.settle(&before);
        Ok(left)
    }
}

/// Whether users of `below` can be users of `node`, as far as its length goes.
fn check_length(node: &Node, instead_of: &Node) -> Result<(), BlockError> {
    let (len_bytes, old_len_bytes) = (node.len_bytes(), instead_of.len_bytes());
    if len_bytes == old_len_bytes {
        return Ok(());
    }
    let what = format!(
        "node '{}' of {len_bytes} bytes cannot stand for node '{}' of {old_len_bytes} bytes",
        node.name(),
        instead_of.name(),
    );
    Err(BlockError::new(ErrorKind::Invalid, what))
}
