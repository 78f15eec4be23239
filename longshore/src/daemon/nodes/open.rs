//! From options to nodes: what is nested is made first, and goes again if what is above it cannot be made.

use std::{future::Future, mem, pin::Pin, rc::Rc};

use block::{DetectZeroes, Discard, Graph, Node, NodeBuilder, NodeOptions};
use qmp::{Map, QmpError, Value, types::Qapi};

use super::{
    Made, Maker, filters, leaves,
    options::{
        BlockdevDetectZeroesOptions, BlockdevDiscardOptions, BlockdevOptions,
        BlockdevOptionsBranch as Branch, BlockdevRef,
    },
};
use crate::daemon::{Daemon, error::IntoQmp};

/// Most nodes on the way from one down to its storage: requests go down by calls.
const DEPTH_MAX: u32 = 64;
/// Options that every node has: in a reopen, what is not said is as if it had never been said.
pub(super) const COMMON_OPTIONS: [&str; 9] = [
    "node-name",
    "driver",
    "discard",
    "cache",
    "active",
    "read-only",
    "auto-read-only",
    "force-share",
    "detect-zeroes",
];
/// Longest name of a node, in bytes.
const NAME_BYTES_MAX: usize = 31;

/// Options that all nodes have, and that those nested inside take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent options, as clients know them"
)]
pub(super) struct Common {
    /// What the node makes of requests.
    pub(super) node: NodeOptions,
    /// Bypass the page cache.
    pub(super) direct: bool,
    /// Flushes need not be durable.
    pub(super) no_flush: bool,
    /// May turn out to be read-only.
    pub(super) auto_read_only: bool,
    /// Put up with whatever other programs do.
    pub(super) force_share: bool,
}

impl Common {
    /// Those of a node that is nested in one with `outer`, if it is.
    pub(super) fn of(options: &BlockdevOptions, outer: Option<&Self>) -> Result<Self, QmpError> {
        if options.active == Some(false) {
            return Err(QmpError::generic("Inactive nodes are not supported"));
        }
        let cache = options.cache.as_ref();
        let from_outer = |value: fn(&Self) -> bool| outer.is_some_and(value);
        let discard = match (options.discard, outer) {
            (Some(BlockdevDiscardOptions::Ignore), _) | (None, None) => Discard::Ignore,
            (Some(BlockdevDiscardOptions::Unmap), _) | (None, Some(_)) => Discard::Unmap,
        };
        let detect_zeroes = match options.detect_zeroes {
            None | Some(BlockdevDetectZeroesOptions::Off) => DetectZeroes::Off,
            Some(BlockdevDetectZeroesOptions::On) => DetectZeroes::On,
            Some(BlockdevDetectZeroesOptions::Unmap) => DetectZeroes::Unmap,
        };
        let read_only = options.read_only;
        let common = Self {
            node: NodeOptions {
                detect_zeroes,
                discard,
                read_only: read_only.unwrap_or_else(|| from_outer(|outer| outer.node.read_only)),
            },
            direct: cache
                .and_then(|cache| cache.direct)
                .unwrap_or_else(|| from_outer(|outer| outer.direct)),
            no_flush: cache
                .and_then(|cache| cache.no_flush)
                .unwrap_or_else(|| from_outer(|outer| outer.no_flush)),
            auto_read_only: options
                .auto_read_only
                .unwrap_or_else(|| from_outer(|outer| outer.auto_read_only)),
            force_share: options
                .force_share
                .unwrap_or_else(|| from_outer(|outer| outer.force_share)),
        };
        if common.force_share && !common.node.read_only {
            let text = "force-share=on can only be used with read-only images";
            return Err(QmpError::generic(text));
        }
        Ok(common)
    }
}

/// The nodes that have been made for one definition so far. Dropped unfinished, it takes them out again.
pub(super) struct Tree {
    graph: Graph,
    made: Vec<Made>,
}

impl Tree {
    pub(super) fn new(graph: &Graph) -> Self {
        Self {
            graph: graph.clone(),
            made: Vec::new(),
        }
    }

    /// All nodes, which stay.
    pub(super) fn finish(mut self) -> Vec<Made> {
        mem::take(&mut self.made)
    }

    fn find(&self, name: &str) -> Option<&Made> {
        self.made.iter().find(|made| made.node.name() == name)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Those above first: they hold those below.
        while let Some(made) = self.made.pop() {
            // Somebody else may use it by its name already; then it stays for as long as the graph does.
            let _ = self.graph.remove_node(&made.node);
        }
    }
}

/// One node on its way: what is said about it, and where what is nested in it goes.
pub(super) struct Opening<'a> {
    pub(super) daemon: &'a Rc<Daemon>,
    pub(super) name: Option<String>,
    pub(super) common: Common,
    pub(super) tree: &'a mut Tree,
    /// What the children that there are so far were made from, by the names of their edges.
    children: Map,
    /// Longest way down from them.
    depth_below: u32,
}

/// A node that was made, and the name by which its content can be found again, if it has one.
pub(super) struct Opened {
    pub(super) node: Node,
    pub(super) filename: Option<String>,
}

impl Opened {
    /// A node that stands for no file.
    pub(super) fn without_file(node: Node) -> Self {
        Self {
            node,
            filename: None,
        }
    }
}

/// Makes the node that `options` describe, and all that are nested in it.
pub(super) fn open<'a>(
    daemon: &'a Rc<Daemon>,
    options: BlockdevOptions,
    (outer, maker): (Option<Common>, Maker),
    tree: &'a mut Tree,
) -> Pin<Box<dyn Future<Output = Result<Node, QmpError>> + 'a>> {
    Box::pin(async move {
        let common = Common::of(&options, outer.as_ref())?;
        check_name(options.node_name.as_deref())?;
        let definition = options.clone();
        let is_storage = matches!(
            options.driver,
            Branch::File(_) | Branch::HostDevice(_) | Branch::Nbd(_)
        );
        let mut opening = Opening {
            daemon,
            name: options.node_name.clone(),
            common,
            tree,
            children: Map::new(),
            depth_below: 0,
        };
        let opened = make(&mut opening, options.driver).await?;
        let depth = opening.depth_below + 1;
        let full = full(&definition, opening.children);
        let node = opened.node.clone();
        let filename = opened.filename.unwrap_or_else(|| in_json(&full));
        tree.made.push(Made {
            node: opened.node,
            definition,
            common,
            is_opened_read_only: is_storage && common.node.read_only,
            full,
            filename,
            depth,
            maker,
        });
        Ok(node)
    })
}

async fn make(opening: &mut Opening<'_>, branch: Branch) -> Result<Opened, QmpError> {
    match branch {
        Branch::File(file) => leaves::file(opening, file, leaves::Kind::File).await,
        Branch::HostDevice(file) => leaves::file(opening, file, leaves::Kind::HostDevice).await,
        Branch::Nbd(nbd) => leaves::nbd(opening, nbd).await,
        Branch::NullCo(null) => leaves::null(opening, null, "null-co://"),
        Branch::NullAio(null) => leaves::null(opening, null, "null-aio://"),
        Branch::Raw(raw) => filters::raw(opening, raw).await,
        Branch::Throttle(throttle) => filters::throttle(opening, throttle).await,
        Branch::CopyOnRead(cor) => filters::copy_on_read(opening, cor).await,
        Branch::CopyBeforeWrite(cbw) => filters::copy_before_write(opening, cbw).await,
        Branch::SnapshotAccess(access) => filters::snapshot_access(opening, access).await,
        Branch::Blkdebug(debug) => filters::blkdebug(opening, debug).await,
    }
}

impl Opening<'_> {
    pub(super) fn graph(&self) -> &Graph {
        self.daemon.engine.graph()
    }

    /// Starts the node itself, with its common options.
    pub(super) fn build(&self) -> Result<NodeBuilder, QmpError> {
        let builder = self.graph().build_node(self.name.as_deref());
        let builder = builder.and_then(|builder| builder.options(self.common.node));
        builder.map_err(IntoQmp::into_qmp)
    }

    /// Sets the common options of a node that makes itself.
    pub(super) async fn set_options(&self, node: Node) -> Result<Node, QmpError> {
        let changes = [(node.clone(), self.common.node)];
        if let Err(error) = self.graph().reopen(&changes).await {
            // Nobody can have used it yet but by its name, and then it stays.
            let _ = self.graph().remove_node(&node);
            return Err(error.into_qmp());
        }
        Ok(node)
    }

    /// The node below, by the name of the edge to it: found, or made.
    pub(super) async fn child(
        &mut self,
        name: &str,
        reference: BlockdevRef,
    ) -> Result<Node, QmpError> {
        let node = match reference {
            BlockdevRef::Reference(name) => super::device_or_node(self.daemon, &name)?,
            BlockdevRef::Definition(options) => {
                let made_by = (Some(self.common), Maker::Nested);
                open(self.daemon, *options, made_by, self.tree).await?
            }
        };
        let facts = |made: &Made| (made.depth, made.full.clone());
        let known = match self.tree.find(node.name()) {
            Some(made) => Some(facts(made)),
            None => self.daemon.nodes.of(node.name(), facts),
        };
        let (below, full) = known.unwrap_or_else(|| (1, Value::from(node.name())));
        self.children.insert(name.to_owned(), full);
        self.depth_below = self.depth_below.max(below);
        if below >= DEPTH_MAX {
            let text = format!("No more than {DEPTH_MAX} nodes can be above each other");
            return Err(QmpError::generic(text));
        }
        Ok(node)
    }

    /// The name by which the content of a child can be found again.
    pub(super) fn filename_of(&self, child: &Node) -> Option<String> {
        let made = self.tree.find(child.name());
        match made {
            Some(made) => Some(made.filename.clone()),
            None => self.daemon.nodes.filename(child.name()),
        }
    }
}

fn check_name(name: Option<&str>) -> Result<(), QmpError> {
    match name {
        Some(name) if name.len() > NAME_BYTES_MAX && name.len() < 256 => {
            Err(QmpError::generic("Node name too long"))
        }
        _ => Ok(()),
    }
}

/// All that a node was made from, down to its storage; what has no influence on its content is left out.
fn full(definition: &BlockdevOptions, children: Map) -> Value {
    let mut options = definition.write();
    if let Value::Object(members) = &mut options {
        members.retain(|name, _| name == "driver" || !COMMON_OPTIONS.contains(&name.as_str()));
        members.extend(children);
    }
    options
}

/// How nodes are called that have no file of their own.
fn in_json(full: &Value) -> String {
    let mut text = String::from("json:");
    write_spaced(&mut text, full);
    text
}

/// JSON with spaces after commas and colons, as clients know it of names.
fn write_spaced(text: &mut String, value: &Value) {
    match value {
        Value::Object(members) => {
            text.push('{');
            for (at, (name, value)) in members.iter().enumerate() {
                text.push_str(if at == 0 { "" } else { ", " });
                text.push_str(&format!("{}: ", Value::from(name.as_str())));
                write_spaced(text, value);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                text.push_str(if at == 0 { "" } else { ", " });
                write_spaced(text, item);
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}
