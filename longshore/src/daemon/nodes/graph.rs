//! `x-debug-query-block-graph`: nodes, users and edges, for people who look for what holds what.

use std::{collections::BTreeMap, rc::Rc};

use block::{EdgeInfo, Permission, PermissionSet};
use qmp::{QmpError, qapi_enum, qapi_struct};

use crate::daemon::{Daemon, command::Command};

qapi_enum! {
    /// Kinds of vertices.
    pub(crate) enum XDbgBlockGraphNodeType {
        /// A user such as an export.
        Backend = "block-backend",
        /// A job.
        Job = "block-job",
        /// A node.
        Driver = "block-driver",
    }
}

qapi_struct! {
    /// One vertex.
    pub(crate) struct XDbgBlockGraphNode {
        /// Its number, in this reply only.
        id: u64,
        /// Its kind.
        r#type: XDbgBlockGraphNodeType,
        /// Its name.
        name: String,
    }
}

qapi_enum! {
    /// What a user does with a node.
    pub(crate) enum BlockPermission {
        /// Reads, and relies on it.
        ConsistentRead,
        /// Changes what readers see.
        Write,
        /// Writes what is there already.
        WriteUnchanged,
        /// Changes the length.
        Resize,
    }
}

qapi_struct! {
    /// One edge.
    pub(crate) struct XDbgBlockGraphEdge {
        /// Number of the user.
        parent: u64,
        /// Number of the node.
        child: u64,
        /// How the user calls the edge.
        name: String,
        /// What the user does.
        perm: Vec<BlockPermission>,
        /// What it lets others do.
        shared_perm: Vec<BlockPermission>,
    }
}

qapi_struct! {
    /// All of it.
    pub(crate) struct XDbgBlockGraph {
        /// The vertices.
        nodes: Vec<XDbgBlockGraphNode>,
        /// The edges.
        edges: Vec<XDbgBlockGraphEdge>,
    }
}

/// The commands of this file.
pub(super) fn commands() -> Vec<Command> {
    vec![Command::new("x-debug-query-block-graph", block_graph)]
}

async fn block_graph(daemon: &Rc<Daemon>, (): ()) -> Result<XDbgBlockGraph, QmpError> {
    let mut shown = Shown::default();
    for node in daemon.engine.graph().nodes() {
        shown.node(node.name());
    }
    let edges = daemon.engine.graph().edges();
    let edges = edges.iter().map(|edge| shown.edge(edge)).collect();
    let nodes = shown.nodes;
    Ok(XDbgBlockGraph { nodes, edges })
}

/// What has been numbered so far.
#[derive(Default)]
struct Shown {
    nodes: Vec<XDbgBlockGraphNode>,
    numbers: BTreeMap<String, u64>,
}

impl Shown {
    fn node(&mut self, name: &str) -> u64 {
        self.vertex(&format!("node '{name}'"))
    }

    fn edge(&mut self, edge: &EdgeInfo) -> XDbgBlockGraphEdge {
        XDbgBlockGraphEdge {
            parent: self.vertex(&edge.parent),
            child: self.node(&edge.node),
            name: edge.child_name.clone(),
            perm: permissions(edge.permissions.uses),
            shared_perm: permissions(edge.permissions.shares),
        }
    }

    /// The number of what errors call `user`.
    fn vertex(&mut self, user: &str) -> u64 {
        if let Some(id) = self.numbers.get(user) {
            return *id;
        }
        let quoted = |prefix: &str| user.strip_prefix(prefix)?.strip_suffix('\'');
        let (r#type, name) = match (quoted("node '"), quoted("block job '")) {
            (Some(name), _) => (XDbgBlockGraphNodeType::Driver, name),
            (None, Some(name)) => (XDbgBlockGraphNodeType::Job, name),
            (None, None) => (XDbgBlockGraphNodeType::Backend, user),
        };
        let id = u64::try_from(self.nodes.len()).map_or(u64::MAX, |len| len + 1);
        self.nodes.push(XDbgBlockGraphNode {
            id,
            r#type,
            name: name.to_owned(),
        });
        self.numbers.insert(user.to_owned(), id);
        id
    }
}

fn permissions(set: PermissionSet) -> Vec<BlockPermission> {
    let name = |permission: Permission| match permission {
        Permission::ConsistentRead => BlockPermission::ConsistentRead,
        Permission::Write => BlockPermission::Write,
        Permission::WriteUnchanged => BlockPermission::WriteUnchanged,
        Permission::Resize => BlockPermission::Resize,
    };
    let held = Permission::ALL.into_iter().filter(|it| set.contains(*it));
    held.map(name).collect()
}
