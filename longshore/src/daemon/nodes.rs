//! The nodes that clients have made: `blockdev-add`, `blockdev-del`, and how others find a node by its name.
//!
//! A node that a client has named in `blockdev-add` stays until `blockdev-del`; one that is nested in another goes
//! with the last user that it has.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use block::{Attachment, ChildRole, Graph, Node, Operation, Permissions};
use qmp::{QmpError, Value, qapi_struct};

use super::{Daemon, command::Command, error::IntoQmp};

mod change;
mod filters;
mod graph;
mod implicit;
mod leaves;
mod open;
mod options;
mod query;
#[cfg(test)]
mod tests;

use self::open::{Common, Tree};
pub(super) use self::{
    implicit::{Image, ImplicitNode, NewImageMode, files},
    options::BlockdevOptions,
};

/// The nodes that clients own, by name, and what is known of them.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    made: RefCell<BTreeMap<String, Made>>,
}

/// For whom a node was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    /// For a client, who has named it.
    Client,
    /// For a node that it is nested in.
    Nested,
}

/// A node, and what it was made from.
#[derive(Debug)]
struct Made {
    node: Node,
    definition: BlockdevOptions,
    common: Common,
    /// Whether its storage was opened for reading only.
    is_opened_read_only: bool,
    /// Its options with those of all nodes below in their places.
    full: Value,
    filename: String,
    /// Nodes on the longest way down, this one included.
    depth: u32,
    maker: Maker,
}

qapi_struct! {
    /// A node by its name.
    pub(crate) struct NodeName {
        /// The name.
        node_name: String,
    }
}

/// The commands of this file and those below.
pub(super) fn commands() -> Vec<Command> {
    let mut commands = vec![
        Command::new("blockdev-add", blockdev_add),
        Command::new("blockdev-del", blockdev_del),
    ];
    commands.extend(change::commands());
    commands.extend(query::commands());
    commands.extend(graph::commands());
    commands
}

/// Makes a node, as `--blockdev` does.
pub(super) async fn blockdev_add(
    daemon: &Rc<Daemon>,
    options: BlockdevOptions,
) -> Result<(), QmpError> {
    if options.node_name.is_none() {
        let text = "'node-name' must be specified for the root node";
        return Err(QmpError::generic(text));
    }
    daemon.nodes.sweep(daemon.engine.graph());
    let mut tree = Tree::new(daemon.engine.graph());
    open::open(daemon, options, (None, Maker::Client), &mut tree).await?;
    daemon.nodes.keep(tree.finish());
    Ok(())
}

async fn blockdev_del(daemon: &Rc<Daemon>, args: NodeName) -> Result<(), QmpError> {
    daemon.nodes.remove(daemon.engine.graph(), &args.node_name)
}

/// The node called `name`, for commands that look for a device of that name first.
pub(super) fn device_or_node(daemon: &Daemon, name: &str) -> Result<Node, QmpError> {
    find(daemon, (name, name))
}

/// The node called `name`, for commands that know nothing but nodes.
pub(super) fn node(daemon: &Daemon, name: &str) -> Result<Node, QmpError> {
    find(daemon, ("", name))
}

/// Makes what was written stable and lets go of all nodes: the daemon ends.
pub(super) async fn close_all(daemon: &Rc<Daemon>) {
    let graph = daemon.engine.graph();
    for node in graph.nodes() {
        let user = Attachment::new("the daemon", ChildRole::Primary, Permissions::IDLE);
        // A node that is being taken out needs nothing from us.
        let Ok(edge) = graph.attach(&node, user.staying()) else {
            continue;
        };
        if let Err(error) = edge.flush(&daemon.context).await {
            let node = node.name();
            tracing::warn!(node, %error, "what was written may not be stable");
        }
    }
    let nodes = &daemon.nodes;
    // Those above first, in whichever order; what cannot go now goes with the process.
    while { nodes.names_of(Maker::Client) }
        .iter()
        .any(|name| nodes.remove(graph, name).is_ok())
    {}
}

fn find(daemon: &Daemon, (device, name): (&str, &str)) -> Result<Node, QmpError> {
    daemon.engine.graph().node(name).map_err(|_| {
        let text = format!("Cannot find device='{device}' nor node-name='{name}'");
        QmpError::generic(text)
    })
}

impl Nodes {
    fn filename(&self, name: &str) -> Option<String> {
        self.of(name, |made| made.filename.clone())
    }

    fn of<T>(&self, name: &str, part: impl FnOnce(&Made) -> T) -> Option<T> {
        self.made.borrow().get(name).map(part)
    }

    fn names_of(&self, maker: Maker) -> Vec<String> {
        let made = self.made.borrow();
        let made = made.iter().filter(|(_, made)| made.maker == maker);
        made.map(|(name, _)| name.clone()).collect()
    }

    fn keep(&self, all: Vec<Made>) {
        let mut known = self.made.borrow_mut();
        for made in all {
            known.insert(made.node.name().to_owned(), made);
        }
    }

    /// Forgets a node that has left the graph. It is closed, unless a request still uses it.
    fn forget(&self, name: &str) {
        let removed = self.made.borrow_mut().remove(name);
        drop(removed);
    }

    fn remove(&self, graph: &Graph, name: &str) -> Result<(), QmpError> {
        self.sweep(graph);
        let node = graph.node(name).map_err(IntoQmp::into_qmp)?;
        let edges = graph.edges();
        let mut users = edges.iter().filter(|edge| edge.node == name);
        if users.any(|edge| !is_node_or_job(&edge.parent)) {
            return Err(QmpError::generic(format!("Node {name} is in use")));
        }
        let allowed = graph.check_operation(&node, Operation::Remove);
        allowed.map_err(IntoQmp::into_qmp)?;
        if self.of(name, |made| made.maker) != Some(Maker::Client) {
            let text = format!("Node {name} is not owned by the monitor");
            return Err(QmpError::generic(text));
        }
        if graph.remove_node(&node).is_err() {
            return Err(QmpError::generic(format!("Block device {name} is in use")));
        }
        drop(node);
        self.forget(name);
        self.sweep(graph);
        Ok(())
    }

    /// Takes out nested nodes that nobody uses any more.
    fn sweep(&self, graph: &Graph) {
        loop {
            let is_unused = |name: &String| {
                let node = self.of(name, |made| made.node.clone());
                node.is_some_and(|node| graph.remove_node(&node).is_ok())
            };
            let mut unused = self.names_of(Maker::Nested);
            unused.retain(is_unused);
            if unused.is_empty() {
                return;
            }
            for name in unused {
                self.forget(&name);
            }
        }
    }
}

/// Whether errors call this user a node or a job: neither holds a node as an export does.
fn is_node_or_job(user: &str) -> bool {
    user.starts_with("node '") || user.starts_with("block job '")
}
