//! `block-dirty-bitmap-*`: the named bitmaps of nodes, as clients and transactions change them.

use std::rc::Rc;

use block::{
    BitmapOptions, Node,
    bitmap::{BitmapAction, BitmapRef},
};
use qmp::{QmpError, qapi_alternate, qapi_struct};

use super::{Daemon, command::Command, error::IntoQmp, nodes};

qapi_struct! {
    /// A bitmap that is to be.
    pub(crate) struct BlockDirtyBitmapAdd {
        /// The node that it is to watch.
        node: String,
        /// Its name, unique in its node.
        name: String,
        /// Bytes that one bit stands for, a power of two from 512 on.
        granularity: Option<u32>,
        /// To be stored in the image.
        persistent: Option<bool>,
        /// Records nothing until it is enabled.
        disabled: Option<bool>,
    }
}

qapi_struct! {
    /// A bitmap of a node.
    pub(crate) struct BlockDirtyBitmap {
        /// The node.
        node: String,
        /// The bitmap's name.
        name: String,
    }
}

qapi_alternate! {
    /// A bitmap of the same node, or of another.
    pub(crate) enum BlockDirtyBitmapOrStr {
        /// By its name.
        Local(String),
        /// By its node and name.
        External(BlockDirtyBitmap),
    }
}

qapi_struct! {
    /// Bitmaps that are to be added to one.
    pub(crate) struct BlockDirtyBitmapMerge {
        /// The node of the target.
        node: String,
        /// The bitmap that is added to.
        target: String,
        /// What is added.
        bitmaps: Vec<BlockDirtyBitmapOrStr>,
    }
}

qapi_struct! {
    /// A bitmap's content in short, for tests.
    pub(crate) struct BlockDirtyBitmapSha256 {
        /// SHA-256 of its bits.
        sha256: String,
    }
}

/// The commands of this file.
pub(super) fn commands() -> Vec<Command> {
    vec![
        Command::new("block-dirty-bitmap-add", add),
        Command::new("block-dirty-bitmap-remove", remove),
        Command::new("block-dirty-bitmap-clear", clear),
        Command::new("block-dirty-bitmap-enable", enable),
        Command::new("block-dirty-bitmap-disable", disable),
        Command::new("block-dirty-bitmap-merge", merge),
        Command::new("x-debug-block-dirty-bitmap-sha256", sha256),
    ]
}

async fn add(daemon: &Rc<Daemon>, args: BlockDirtyBitmapAdd) -> Result<(), QmpError> {
    carry_out(add_action(daemon, args)?)
}

async fn remove(daemon: &Rc<Daemon>, args: BlockDirtyBitmap) -> Result<(), QmpError> {
    carry_out(BitmapAction::Remove(named(daemon, args)?))
}

async fn clear(daemon: &Rc<Daemon>, args: BlockDirtyBitmap) -> Result<(), QmpError> {
    carry_out(BitmapAction::Clear(named(daemon, args)?))
}

async fn enable(daemon: &Rc<Daemon>, args: BlockDirtyBitmap) -> Result<(), QmpError> {
    carry_out(BitmapAction::Enable(named(daemon, args)?))
}

async fn disable(daemon: &Rc<Daemon>, args: BlockDirtyBitmap) -> Result<(), QmpError> {
    carry_out(BitmapAction::Disable(named(daemon, args)?))
}

async fn merge(daemon: &Rc<Daemon>, args: BlockDirtyBitmapMerge) -> Result<(), QmpError> {
    carry_out(merge_action(daemon, args)?)
}

async fn sha256(
    daemon: &Rc<Daemon>,
    args: BlockDirtyBitmap,
) -> Result<BlockDirtyBitmapSha256, QmpError> {
    let BitmapRef { node, name } = named(daemon, args)?;
    let bitmap = node.bitmaps().find(&name).map_err(IntoQmp::into_qmp)?;
    let content = bitmap.snapshot().map_err(IntoQmp::into_qmp)?;
    let hex = content.sha256().map(|byte| format!("{byte:02x}"));
    Ok(BlockDirtyBitmapSha256 {
        sha256: hex.concat(),
    })
}

/// `block-dirty-bitmap-add`, as an action of a transaction too.
pub(super) fn add_action(
    daemon: &Daemon,
    args: BlockDirtyBitmapAdd,
) -> Result<BitmapAction, QmpError> {
    let node = nodes::device_or_node(daemon, &args.node)?;
    let options = BitmapOptions {
        granularity_bytes: args.granularity.map(u64::from),
        persistent: args.persistent.unwrap_or(false),
        disabled: args.disabled.unwrap_or(false),
    };
    let name = args.name;
    Ok(BitmapAction::Add(BitmapRef { node, name }, options))
}

/// The bitmap that is called so; whether there is one, shows when it is used.
pub(super) fn named(daemon: &Daemon, args: BlockDirtyBitmap) -> Result<BitmapRef, QmpError> {
    let node = node_named(daemon, &args.node)?;
    let name = args.name;
    Ok(BitmapRef { node, name })
}

/// `block-dirty-bitmap-merge`, as an action of a transaction too.
pub(super) fn merge_action(
    daemon: &Daemon,
    args: BlockDirtyBitmapMerge,
) -> Result<BitmapAction, QmpError> {
    let node = node_named(daemon, &args.node)?;
    let source = |source| match source {
        BlockDirtyBitmapOrStr::Local(name) => Ok(BitmapRef {
            node: node.clone(),
            name,
        }),
        BlockDirtyBitmapOrStr::External(bitmap) => named(daemon, bitmap),
    };
    let sources = args.bitmaps.into_iter().map(source);
    let sources = sources.collect::<Result<_, _>>()?;
    let name = args.target;
    Ok(BitmapAction::Merge {
        target: BitmapRef { node, name },
        sources,
    })
}

fn node_named(daemon: &Daemon, name: &str) -> Result<Node, QmpError> {
    let node = daemon.engine.graph().node(name);
    node.map_err(|_| QmpError::generic(format!("Node '{name}' not found")))
}

fn carry_out(action: BitmapAction) -> Result<(), QmpError> {
    action.prepare().map_err(IntoQmp::into_qmp)?.commit();
    Ok(())
}
