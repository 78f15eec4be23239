//! Moving nodes to another home context: all that belong together, with the users that work there, or none.
//!
//! Nodes belong together that an edge connects, and those that one user holds. First every user is asked whether it
//! goes along, then each gets ready (a job stands still), and only then, in one step, all of them move. The
//! structure may change while they get ready: newcomers are asked too, those who have left are let go.

use std::{future::poll_fn, mem, ptr::addr_eq, sync::Arc, task::Poll};

use aio::Handle;

use super::{
    Shared,
    child::Edge,
    parent::{BoxFuture, ContextChange, Parent},
    state::{State, listener},
};
use crate::{
    error::BlockError,
    node::{Node, NodeId},
};

/// A user that is to go along, and a node that it holds.
type User = (Arc<dyn Parent>, Node);

/// A user that is ready to move.
type Ready = (Arc<dyn Parent>, ContextChange);

/// Nodes that can only move together, and the users that have a say.
struct Group {
    nodes: Vec<Node>,
    users: Vec<User>,
}

pub(super) async fn set_context(
    graph: &Arc<Shared>,
    node: &Node,
    to: &Handle,
) -> Result<(), BlockError> {
    // Two moves of one group would otherwise leave nodes here and users there.
    let _turn = graph.context_changes.lock().await;
    let mut ready = Vec::new();
    while let Some(users) = move_if_ready(graph, node, to, &mut ready)? {
        for (user, at) in &users {
            let checked = user.check_context_change(to);
            checked.map_err(|error| error.on_node(at.name()))?;
        }
        for (user, _) in users {
            let change = user.prepare_context_change(to).await;
            ready.push((user, change));
        }
    }
    let changes = ready.into_iter().map(|(_, change)| change.into_future());
    all(changes.collect()).await;
    Ok(())
}

/// Moves the nodes if all their users are ready, else names those that are not. Lets those go that have left.
fn move_if_ready(
    graph: &Shared,
    node: &Node,
    to: &Handle,
    ready: &mut Vec<Ready>,
) -> Result<Option<Vec<User>>, BlockError> {
    let state = graph.lock();
    let group = state.connected(node)?;
    let (here, left) = mem::take(ready)
        .into_iter()
        .partition::<Vec<_>, _>(|(user, _)| {
            group.users.iter().any(|(other, _)| is_same(user, other))
        });
    *ready = here;
    let mut unready = group.users;
    unready.retain(|(user, _)| !ready.iter().any(|(other, _)| is_same(user, other)));
    if unready.is_empty() {
        for node in &group.nodes {
            node.set_context(to);
        }
    }
    drop(state);
    // Not under the lock, since it tells the users.
    drop(left);
    Ok((!unready.is_empty()).then_some(unready))
}

impl State {
    /// The nodes that one user holds.
    pub(super) fn nodes_of(&self, user: &Arc<dyn Parent>) -> Vec<Node> {
        let mut nodes = Vec::new();
        for edge in self.edges().filter(|edge| is_of(edge, user)) {
            let node = edge.node();
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        nodes
    }

    /// What moves together with `node`.
    fn connected(&self, node: &Node) -> Result<Group, BlockError> {
        self.entry(node)?;
        let mut ids = vec![node.id()];
        let mut users: Vec<User> = Vec::new();
        loop {
            let before = (ids.len(), users.len());
            for edge in self.edges() {
                follow(edge, &mut ids, &mut users);
            }
            if (ids.len(), users.len()) == before {
                break;
            }
        }
        let nodes = self.nodes().filter(|node| ids.contains(&node.id()));
        let nodes = nodes.cloned().collect();
        Ok(Group { nodes, users })
    }
}

/// Takes in what is at the other end of an edge, if one end is in already.
fn follow(edge: &Edge, ids: &mut Vec<NodeId>, users: &mut Vec<User>) {
    let node = edge.node();
    let below = node.id();
    let is_known = users.iter().any(|(user, _)| is_of(edge, user));
    let is_in = |id| ids.contains(&id);
    if !(is_in(below) || edge.owner.is_some_and(is_in) || is_known) {
        return;
    }
    for id in [Some(below), edge.owner].into_iter().flatten() {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    if let (false, Some(user)) = (is_known, listener(edge)) {
        users.push((user, node));
    }
}

/// Whether the edge is one of `user`'s. Keeps nobody alive, so that nobody ends under the lock.
fn is_of(edge: &Edge, user: &Arc<dyn Parent>) -> bool {
    let listener = edge.attachment.listener.as_ref();
    listener.is_some_and(|listener| addr_eq(listener.as_ptr(), Arc::as_ptr(user)))
}

fn is_same(one: &Arc<dyn Parent>, other: &Arc<dyn Parent>) -> bool {
    addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

/// Ends when all have ended; each of them is polled in the first poll.
async fn all(mut futures: Vec<BoxFuture<'static, ()>>) {
    poll_fn(|cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        match futures.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

#[cfg(test)]
mod tests;
