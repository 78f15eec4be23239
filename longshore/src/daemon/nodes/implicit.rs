//! [`ImplicitNode`]: the target that a job gets from a path. It goes when nobody uses it any more.

use std::{fs, os::unix::fs::FileTypeExt, rc::Rc};

use block::{
    Node,
    nodes::{CreateOptions, FileIdentity, FileNode, NewFile},
};
use qmp::{QmpError, qapi_enum, types::Qapi};
use serde_json::json;

use super::{
    Maker,
    open::{self, Tree},
    options::BlockdevOptions,
};
use crate::daemon::{Daemon, error::IntoQmp};

qapi_enum! {
    /// Whether the image of a new node is there.
    pub(crate) enum NewImageMode {
        /// It is.
        Existing,
        /// It is made, or emptied and made anew.
        AbsolutePaths,
    }
}

/// An image at a path, which is to be the target of a job.
#[derive(Clone, Copy, Debug)]
pub(in crate::daemon) struct Image<'a> {
    /// The path, which may have `file:` before it.
    pub(in crate::daemon) target: &'a str,
    /// Its format. There are no others than `raw`, and it is never guessed.
    pub(in crate::daemon) format: Option<&'a str>,
    /// Whether it is there.
    pub(in crate::daemon) mode: Option<NewImageMode>,
    /// How its node is to be called.
    pub(in crate::daemon) node_name: Option<&'a str>,
    /// What it becomes a copy of.
    pub(in crate::daemon) source: &'a Node,
}

/// A node over an image. Dropped, it is taken out again.
pub(in crate::daemon) struct ImplicitNode {
    pub(in crate::daemon) node: Node,
    tree: Tree,
}

impl ImplicitNode {
    /// Opens the image; makes it before, if it is to be made.
    pub(in crate::daemon) async fn open(
        daemon: &Rc<Daemon>,
        image: Image<'_>,
    ) -> Result<Self, QmpError> {
        let path = path_of(image.target)?;
        let is_new = image.mode != Some(NewImageMode::Existing);
        check_format(image.format, is_new)?;
        check_name(daemon, image.node_name)?;
        daemon.nodes.sweep(daemon.engine.graph());
        if is_new {
            let mut options = CreateOptions::new(path, image.source.len_bytes());
            options.spared = files(daemon);
            let made = daemon.context.blocking(move || NewFile::create(&options));
            made.await.map_err(IntoQmp::into_qmp)?;
        }
        let options = definition(daemon, image, path).await?;
        let mut tree = Tree::new(daemon.engine.graph());
        let node = open::open(daemon, options, (None, Maker::Nested), &mut tree).await?;
        Ok(Self { node, tree })
    }

    /// Leaves the node to those who use it, the job `id` first of all.
    pub(in crate::daemon) fn leave_to(self, daemon: &Rc<Daemon>, id: Option<&str>) {
        daemon.nodes.keep(self.tree.finish());
        let job = daemon.registry().find(id.unwrap_or_default());
        drop(daemon.spawn(|daemon| async move {
            if let Ok(job) = job {
                job.wait().await;
            }
            daemon.nodes.sweep(daemon.engine.graph());
        }));
    }
}

/// The files that have nodes, with the names of these: no such file must be emptied.
pub(in crate::daemon) fn files(daemon: &Daemon) -> Vec<(FileIdentity, String)> {
    let nodes = daemon.engine.graph().nodes();
    let files = nodes.iter().filter_map(|node| {
        let file = FileNode::of(node)?;
        Some((file.identity(), node.name().to_owned()))
    });
    files.collect()
}

/// The path alone. What is before the first colon is a protocol, unless that is part of a folder's name.
fn path_of(target: &str) -> Result<&str, QmpError> {
    match target.split_once(':') {
        Some(("file", path)) => Ok(path),
        Some((protocol, _)) if !protocol.contains('/') => {
            Err(QmpError::generic(format!("Unknown protocol '{protocol}'")))
        }
        Some(_) | None => Ok(target),
    }
}

#[expect(
    clippy::fn_params_excessive_bools,
    reason = "the two cases differ in a word"
)]
fn check_format(format: Option<&str>, is_new: bool) -> Result<(), QmpError> {
    match (format, is_new) {
        (Some("raw"), _) | (None, true) => Ok(()),
        (Some(other), true) => Err(QmpError::generic(format!("Unknown file format '{other}'"))),
        (Some(other), false) => Err(QmpError::generic(format!("Unknown driver '{other}'"))),
        (None, false) => {
            let text =
                "The format of an image that is there is not guessed: 'format' must be given";
            Err(QmpError::generic(text))
        }
    }
}

/// Before a file is made for a node that cannot be.
fn check_name(daemon: &Daemon, name: Option<&str>) -> Result<(), QmpError> {
    let Some(name) = name else {
        return Ok(());
    };
    let builder = daemon.engine.graph().build_node(Some(name));
    builder.map(drop).map_err(IntoQmp::into_qmp)
}

/// The node that shows the image, which is read and written as its source is.
async fn definition(
    daemon: &Rc<Daemon>,
    image: Image<'_>,
    path: &str,
) -> Result<BlockdevOptions, QmpError> {
    let of_source = |made: &super::Made| made.common.direct;
    let direct = daemon.nodes.of(image.source.name(), of_source);
    let owned = path.to_owned();
    let is_device = daemon.context.blocking(move || {
        fs::metadata(owned).is_ok_and(|found| found.file_type().is_block_device())
    });
    let driver = match is_device.await {
        true => "host_device",
        false => "file",
    };
    let mut options = json!({
        "driver": "raw",
        "cache": { "direct": direct.unwrap_or(false) },
        "discard": "unmap",
        "file": { "driver": driver, "filename": path },
    });
    if let Some(name) = image.node_name {
        options["node-name"] = json!(name);
    }
    BlockdevOptions::from_json(&options)
}
