//! Operations that somebody has forbidden on a node, and why.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use super::Shared;
use crate::{error::BlockError, node::Node};

/// Something that is done to a node as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Take the node out of the graph.
    Remove,
    /// Change its length.
    Resize,
    /// Put an overlay above it.
    Snapshot,
    /// Let another node take its place.
    Replace,
    /// Copy from it in a backup.
    BackupSource,
    /// Copy to it in a backup.
    BackupTarget,
    /// Copy from it in a mirror.
    MirrorSource,
    /// Copy to it in a mirror.
    MirrorTarget,
    /// Merge from it.
    CommitSource,
    /// Merge into it.
    CommitTarget,
    /// Pull data up into it.
    Stream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockerKey(pub(super) u64);

/// The blockers of one node.
#[derive(Debug, Default)]
pub(super) struct Blockers {
    reasons: BTreeMap<BlockerKey, (String, Vec<Operation>)>,
}

impl Blockers {
    pub(super) fn add(&mut self, key: BlockerKey, reason: &str, except: &[Operation]) {
        self.reasons
            .insert(key, (reason.to_owned(), except.to_vec()));
    }

    pub(super) fn remove(&mut self, key: BlockerKey) {
        self.reasons.remove(&key);
    }

    pub(super) fn reason_against(&self, operation: Operation) -> Option<&str> {
        let mut reasons = self.reasons.values();
        let (reason, _) = reasons.find(|(_, except)| !except.contains(&operation))?;
        Some(reason)
    }
}

/// Operations are forbidden on a node until this is dropped.
#[derive(Debug)]
#[must_use = "the operations are allowed again once this is dropped"]
pub struct Blocker {
    graph: Weak<Shared>,
    node: Node,
    key: BlockerKey,
}

impl Blocker {
    pub(super) fn new(
        graph: &Arc<Shared>,
        node: &Node,
        reason: &str,
        except: &[Operation],
    ) -> Result<Self, BlockError> {
        let key = graph.lock().block(node, reason, except)?;
        Ok(Self {
            graph: Arc::downgrade(graph),
            node: node.clone(),
            key,
        })
    }
}

impl Drop for Blocker {
    fn drop(&mut self) {
        if let Some(graph) = self.graph.upgrade() {
            graph.lock().unblock(&self.node, self.key);
        }
    }
}
