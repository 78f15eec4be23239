//! Changing nodes that are there: `blockdev-reopen`, `block_resize`, `block-set-write-threshold` and others.

use std::rc::Rc;

use block::{
    Node, NodeDriver, NodeOptions,
    nodes::{FileNode, FileOptions, Reopening},
};
use qmp::{
    Map, QmpError, Value, qapi_alternate, qapi_struct,
    types::{Null, Qapi},
};

use super::{
    Maker, Nodes, device_or_node, is_node_or_job,
    leaves::{explain, file_options, forbids_writes},
    node,
    open::{COMMON_OPTIONS, Common},
    options::{BlockdevOptions, BlockdevOptionsBranch as Branch},
};
use crate::daemon::{
    Daemon,
    command::Command,
    error::IntoQmp,
    events::{BlockWriteThreshold, Event},
};

qapi_struct! {
    /// Arguments of `blockdev-reopen`.
    pub(crate) struct BlockdevReopen {
        /// What the nodes are to be like.
        options: Vec<BlockdevOptions>,
    }
}

qapi_struct! {
    /// Arguments of `block_resize`.
    pub(crate) struct BlockResize {
        /// The device; it has the name of its node.
        device: Option<String>,
        /// The node.
        node_name: Option<String>,
        /// How long it is to be, in bytes.
        size: i64,
    }
}

qapi_struct! {
    /// Arguments of `blockdev-set-active`.
    pub(crate) struct BlockdevSetActive {
        /// The node; all of them, if none is named.
        node_name: Option<String>,
        /// Whether it is to be active.
        active: bool,
    }
}

qapi_alternate! {
    /// A text or nothing.
    pub(crate) enum StrOrNull {
        /// A text.
        Str(String),
        /// Nothing.
        Null(Null),
    }
}

qapi_struct! {
    /// Arguments of `x-blockdev-set-iothread`.
    pub(crate) struct BlockdevSetIothread {
        /// The node.
        node_name: String,
        /// Where it is to be: an iothread, or the main loop.
        iothread: StrOrNull,
        /// Also if somebody may be using it.
        force: Option<bool>,
    }
}

qapi_struct! {
    /// Arguments of `block-set-write-threshold`.
    pub(crate) struct BlockSetWriteThreshold {
        /// The node.
        node_name: String,
        /// Beyond which offset a write is to be told of; zero is never.
        write_threshold: u64,
    }
}

/// The commands of this file.
pub(super) fn commands() -> Vec<Command> {
    vec![
        Command::new("blockdev-reopen", blockdev_reopen),
        Command::new("block_resize", block_resize),
        Command::new("block-set-write-threshold", set_write_threshold),
        Command::new("blockdev-set-active", set_active),
        Command::new("x-blockdev-set-iothread", set_iothread),
    ]
}

async fn block_resize(daemon: &Rc<Daemon>, args: BlockResize) -> Result<(), QmpError> {
    let found = match (args.device, args.node_name) {
        (Some(device), _) => device_or_node(daemon, &device)?,
        (None, name) => node(daemon, name.as_deref().unwrap_or_default())?,
    };
    let len_bytes = u64::try_from(args.size)
        .map_err(|_| QmpError::generic("Parameter 'size' expects a >0 size"))?;
    if found.is_read_only() {
        return Err(QmpError::generic("Image is read-only"));
    }
    let graph = daemon.engine.graph();
    let resized = graph.resize(&found, &daemon.context, len_bytes).await;
    resized.map_err(IntoQmp::into_qmp)
}

/// The first write beyond an offset is told of; the offset is forgotten then.
async fn set_write_threshold(
    daemon: &Rc<Daemon>,
    args: BlockSetWriteThreshold,
) -> Result<(), QmpError> {
    let write_threshold = args.write_threshold;
    // This command looks for nodes only, and calls what it does not find a device all the same.
    let found = node(daemon, &args.node_name);
    let found = found.map_err(|_| {
        let text = format!("Device '{}' not found", args.node_name);
        QmpError::generic(text)
    })?;
    if write_threshold == 0 {
        found.clear_write_threshold();
        return Ok(());
    }
    let (events, node_name) = (daemon.events.clone(), args.node_name);
    found.set_write_threshold(write_threshold, move |amount_exceeded| {
        events.emit(Event::BlockWriteThreshold(BlockWriteThreshold {
            node_name,
            amount_exceeded,
            write_threshold,
        }));
    });
    Ok(())
}

/// All nodes are active, always.
async fn set_active(daemon: &Rc<Daemon>, args: BlockdevSetActive) -> Result<(), QmpError> {
    if let Some(name) = args.node_name {
        node(daemon, &name)?;
    }
    match args.active {
        true => Ok(()),
        false => Err(QmpError::generic("Inactive nodes are not supported")),
    }
}

async fn set_iothread(daemon: &Rc<Daemon>, args: BlockdevSetIothread) -> Result<(), QmpError> {
    let name = &args.node_name;
    let graph = daemon.engine.graph();
    let node = graph.node(name).map_err(IntoQmp::into_qmp)?;
    let edges = graph.edges();
    let mut users = edges.iter().filter(|edge| edge.node == *name);
    if !args.force.unwrap_or(false) && users.any(|edge| !is_node_or_job(&edge.parent)) {
        return Err(QmpError::generic(format!(
            "Node {name} is associated with a BlockBackend and could be in use \
             (use force=true to override this check)"
        )));
    }
    let to = match args.iothread {
        StrOrNull::Null(Null) => daemon.context.handle().clone(),
        StrOrNull::Str(iothread) => daemon
            .objects
            .iothread(&iothread)
            .ok_or_else(|| QmpError::generic(format!("Cannot find iothread {iothread}")))?,
    };
    let moved = graph.set_context(&node, &to).await;
    moved.map_err(IntoQmp::into_qmp)
}

async fn blockdev_reopen(daemon: &Rc<Daemon>, args: BlockdevReopen) -> Result<(), QmpError> {
    let mut reopen = Reopen {
        daemon,
        changes: Vec::new(),
    };
    for options in args.options {
        let Some(name) = options.node_name.clone() else {
            return Err(QmpError::generic("node-name not specified"));
        };
        let node = daemon.engine.graph().node(&name);
        reopen.plan(node.map_err(IntoQmp::into_qmp)?, options, None)?;
    }
    let changes = reopen.changes;
    let options = changes.iter();
    let options = options.map(|change| (change.node.clone(), change.common.node));
    let options: Vec<(Node, NodeOptions)> = options.collect();
    let files = open_again(daemon, &changes).await?;
    let graph = daemon.engine.graph();
    let nodes: Vec<Node> = files.iter().map(|(node, _)| node.clone()).collect();
    let section = graph.drain(&nodes).await;
    // What the old descriptor has not been told of a failed write, the new one never hears.
    for file in nodes.iter().filter_map(FileNode::of) {
        let flushed = file.flush(&daemon.context).await;
        flushed.map_err(IntoQmp::into_qmp)?;
    }
    let reopened = graph.reopen(&options).await;
    reopened.map_err(IntoQmp::into_qmp)?;
    for (node, reopening) in files {
        if let Some(file) = FileNode::of(&node) {
            file.switch_to(reopening).map_err(IntoQmp::into_qmp)?;
        }
    }
    drop(section);
    daemon.nodes.note(changes);
    Ok(())
}

/// Opens those files a second time that have to be open in another way.
async fn open_again(
    daemon: &Daemon,
    changes: &[Change],
) -> Result<Vec<(Node, Reopening)>, QmpError> {
    let mut files = Vec::new();
    for change in changes {
        let Some(options) = change.file.clone() else {
            continue;
        };
        let node = change.node.clone();
        let auto_read_only = change.common.auto_read_only;
        let opened = daemon.context.blocking(move || {
            let file = FileNode::of(&node)?;
            match file.reopen(&options) {
                // It stays as it is.
                Err(error) if auto_read_only && forbids_writes(&error) => None,
                Err(error) => Some(Err(explain(error, &options.path))),
                Ok(reopening) => Some(Ok((node, reopening))),
            }
        });
        files.extend(opened.await.transpose()?);
    }
    Ok(files)
}

/// What a node is to become.
struct Change {
    node: Node,
    common: Common,
    definition: BlockdevOptions,
    /// How its file is to be opened again, if it has to be.
    file: Option<FileOptions>,
}

/// A reopen that is being looked at, before anything is changed.
struct Reopen<'a> {
    daemon: &'a Daemon,
    changes: Vec<Change>,
}

impl Reopen<'_> {
    /// Checks one node, and what is nested in it.
    fn plan(
        &mut self,
        node: Node,
        options: BlockdevOptions,
        outer: Option<&Common>,
    ) -> Result<(), QmpError> {
        let name = node.name();
        let nodes = &self.daemon.nodes;
        let facts = nodes.of(name, |made| {
            let old = made.definition.write();
            (made.common, made.is_opened_read_only, old)
        });
        let Some((before, is_opened_read_only, old)) = facts else {
            let text = format!("Node '{name}' was not made by a client and cannot be reopened");
            return Err(QmpError::generic(text));
        };
        let common = Common::of(&options, outer)?;
        check_common(&before, &common)?;
        let (old, new) = (members(old), members(options.write()));
        if old.get("driver") != new.get("driver") {
            return Err(cannot_change("driver"));
        }
        for (key, value) in &new {
            if COMMON_OPTIONS.contains(&key.as_str()) {
                continue;
            }
            match value {
                Value::Object(_) => self.plan_child(name, (key, value, old.get(key)), &common)?,
                _ if old.get(key) == Some(value) => {}
                _ => self.check_reference(name, (key, value))?,
            }
        }
        let wants_writes = !common.node.read_only;
        let file = match &options.driver {
            Branch::File(file) | Branch::HostDevice(file) => {
                let file = file_options(file, &common)?;
                let opened = FileNode::of(&node).map(NodeDriver::limits);
                let must_write = wants_writes && opened.is_some_and(|limits| limits.read_only);
                (must_write || before.direct != common.direct).then_some(file)
            }
            _ if wants_writes && is_opened_read_only => return Err(cannot_change("read-only")),
            _ => None,
        };
        self.changes.push(Change {
            node,
            common,
            definition: options,
            file,
        });
        Ok(())
    }

    /// What is nested may be given other options, but stays the node that it is.
    fn plan_child(
        &mut self,
        parent: &str,
        (key, new, old): (&str, &Value, Option<&Value>),
        outer: &Common,
    ) -> Result<(), QmpError> {
        let Some(child) = self.child(parent, key) else {
            return match old == Some(new) {
                true => Ok(()),
                false => Err(cannot_change(key)),
            };
        };
        let maker = self.daemon.nodes.of(child.name(), |made| made.maker);
        let mut options = BlockdevOptions::from_json(new)?;
        let name = options
            .node_name
            .get_or_insert_with(|| child.name().to_owned());
        if maker != Some(Maker::Nested) || name != child.name() {
            return Err(cannot_change(key));
        }
        self.plan(child, options, Some(outer))
    }

    /// A child may be given by the name that it has.
    fn check_reference(&self, parent: &str, (key, new): (&str, &Value)) -> Result<(), QmpError> {
        let child = self.child(parent, key);
        if let (Some(_), Some(new)) = (&child, new.as_str()) {
            node(self.daemon, new)?;
        }
        let name = child.as_ref().map(Node::name);
        match name.is_some() && new.as_str() == name {
            true => Ok(()),
            false => Err(cannot_change(key)),
        }
    }

    /// What a node holds by the edge of that name.
    fn child(&self, parent: &str, name: &str) -> Option<Node> {
        let graph = self.daemon.engine.graph();
        let owner = format!("node '{parent}'");
        let mut edges = graph.edges().into_iter();
        let edge = edges.find(|edge| edge.parent == owner && edge.child_name == name)?;
        graph.node(&edge.node).ok()
    }
}

impl Nodes {
    fn note(&self, changes: Vec<Change>) {
        let mut known = self.made.borrow_mut();
        for change in changes {
            if let Some(made) = known.get_mut(change.node.name()) {
                made.common = change.common;
                made.definition = change.definition;
            }
        }
    }
}

/// Options that say how something was opened stay as they are.
fn check_common(old: &Common, new: &Common) -> Result<(), QmpError> {
    if old.force_share != new.force_share {
        return Err(cannot_change("force-share"));
    }
    Ok(())
}

fn cannot_change(option: &str) -> QmpError {
    QmpError::generic(format!("Cannot change the option '{option}'"))
}

fn members(value: Value) -> Map {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
