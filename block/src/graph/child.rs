//! An edge: how a user holds a node, and the way in for its requests.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU8, Ordering},
    },
};

use aio::{AioContext, IoBuf};
use arc_swap::ArcSwap;

use super::{
    Shared,
    parent::Parent,
    permission::{Permission, PermissionSet, Permissions},
};
use crate::{
    allocation::{ByteRange, Extent},
    error::{BlockError, ErrorKind},
    gate::RequestGuard,
    node::{Admitted, Inner, Node, NodeId, User},
    node_driver::{Limits, RequestFlags, Transferred},
};

/// Why a child is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChildRole {
    /// The parent keeps its data there.
    Data,
    /// The parent keeps its own records there.
    Metadata,
    /// The parent passes the content through unchanged.
    Filtered,
    /// Read where the parent has nothing of its own.
    Cow,
    /// The node that a user outside the graph works with.
    Primary,
}

impl ChildRole {
    /// What an edge of this role is called unless it is named.
    fn child_name(self) -> &'static str {
        match self {
            Self::Data | Self::Filtered => "file",
            Self::Metadata => "metadata",
            Self::Cow => "backing",
            Self::Primary => "root",
        }
    }
}

/// Identity of an edge within its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ChildKey(pub(super) u64);

/// How a user wants to hold a node; see [`Graph::attach`](super::Graph::attach).
#[derive(Clone)]
pub struct Attachment {
    pub(super) parent: String,
    pub(super) child_name: String,
    pub(super) role: ChildRole,
    pub(super) permissions: Permissions,
    pub(super) listener: Option<Weak<dyn Parent>>,
    pub(super) placement: Placement,
}

/// Where an edge goes when a filter is put above its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// Above the filter: the user is to see what the filter makes of the node.
    Follows,
    /// Nowhere: the user means this node.
    Stays,
}

impl Attachment {
    /// An edge of a user that errors call `parent` and that is not told about drained sections.
    ///
    /// Its requests wait at the node's entrance all the same.
    pub fn new(parent: impl Into<String>, role: ChildRole, permissions: Permissions) -> Self {
        Self {
            parent: parent.into(),
            child_name: role.child_name().to_owned(),
            role,
            permissions,
            listener: None,
            placement: Placement::Follows,
        }
    }

    /// An edge of a user that is asked to keep quiet while the node is drained.
    ///
    /// The edge does not keep the user alive, since the user usually holds the edge.
    pub fn of(parent: &Arc<dyn Parent>, role: ChildRole, permissions: Permissions) -> Self {
        Self {
            listener: Some(Arc::downgrade(parent)),
            ..Self::new(parent.name(), role, permissions)
        }
    }

    /// The same, calling the edge `child_name`, as in `target`.
    #[must_use]
    pub fn named(self, child_name: impl Into<String>) -> Self {
        Self {
            child_name: child_name.into(),
            ..self
        }
    }

    /// The same, staying at the node when a filter is put above it, as the edges of jobs do.
    ///
    /// An edge to a filter leaves it all the same when the filter is taken out.
    #[must_use]
    pub fn staying(self) -> Self {
        Self {
            placement: Placement::Stays,
            ..self
        }
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment")
            .field("parent", &self.parent)
            .field("child_name", &self.child_name)
            .field("role", &self.role)
            .field("permissions", &self.permissions)
            .field("is_told_of_drains", &self.listener.is_some())
            .field("placement", &self.placement)
            .finish()
    }
}

/// What the graph and the holder of an edge share.
pub(crate) struct Edge {
    pub(super) key: ChildKey,
    pub(super) owner: Option<NodeId>,
    pub(super) attachment: Attachment,
    /// What the edge really uses and shares now; the graph keeps it right.
    uses: AtomicU8,
    shares: AtomicU8,
    node: ArcSwap<Inner>,
}

impl Edge {
    pub(super) fn new(
        key: ChildKey,
        owner: Option<NodeId>,
        node: &Node,
        attachment: Attachment,
    ) -> Self {
        Self {
            key,
            owner,
            attachment,
            uses: AtomicU8::new(PermissionSet::NONE.to_bits()),
            shares: AtomicU8::new(PermissionSet::ALL.to_bits()),
            node: ArcSwap::new(Arc::clone(&node.inner)),
        }
    }

    pub(super) fn node(&self) -> Node {
        Node {
            inner: self.node.load_full(),
        }
    }

    /// Makes the edge point elsewhere. The graph does so while the old node is drained.
    pub(super) fn point_at(&self, node: &Node) {
        self.node.store(Arc::clone(&node.inner));
    }

    pub(super) fn permissions(&self) -> Permissions {
        Permissions {
            uses: PermissionSet::from_bits(self.uses.load(Ordering::Relaxed)),
            shares: PermissionSet::from_bits(self.shares.load(Ordering::Relaxed)),
        }
    }

    pub(super) fn set_permissions(&self, permissions: Permissions) {
        self.uses
            .store(permissions.uses.to_bits(), Ordering::Relaxed);
        self.shares
            .store(permissions.shares.to_bits(), Ordering::Relaxed);
    }

    fn points_at(&self, node: &Node) -> bool {
        Arc::ptr_eq(&self.node.load(), &node.inner)
    }
}

/// An edge of the graph, held by the user of the node it points at: a filter, an export, a job.
///
/// Any thread may hold it and make requests, each on the context it passes. The graph may make the edge
/// point at another node, a filter that is put in for instance; requests follow without noticing.
/// While the node is drained, new requests wait.
///
/// Ranges need not be aligned; requests that are, and are no longer than [`Limits::transfer_bytes_max`],
/// reach the node driver without a copy. Dropping the future of a request abandons its result. What changes the node
/// and has begun goes on by itself, as a task of the context that it was made on, and the node counts it as in flight
/// until it has ended; other requests are no longer counted. For edges of node drivers it is the request above, for
/// which they make theirs, that goes on; what a driver does for itself, it awaits.
///
/// Dropping the child takes the edge out of the graph.
pub struct Child {
    pub(super) edge: Arc<Edge>,
    pub(super) graph: Weak<Shared>,
}

impl Child {
    /// The node the edge points at, now.
    #[must_use]
    pub fn node(&self) -> Node {
        self.edge.node()
    }

    /// Why the edge is there.
    #[must_use]
    pub fn role(&self) -> ChildRole {
        self.edge.attachment.role
    }

    /// What this edge really uses and shares, now; see [`Graph::attach`](super::Graph::attach).
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        self.edge.permissions()
    }

    /// What the node can take, now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.edge.node.load().limits()
    }

    /// Length of the node in bytes, now.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.limits().len_bytes
    }

    /// Fills the whole of `buf` with the bytes from `offset_bytes` on. The buffer always comes back.
    ///
    /// # Errors
    ///
    /// In the second half of the pair: [`ErrorKind::OutOfRange`], or whatever the node driver says.
    /// The content of `buf` is then undefined.
    pub async fn read(&self, cx: &AioContext, offset_bytes: u64, buf: IoBuf) -> Transferred {
        self.enter().await.read(cx, offset_bytes, buf).await
    }

    /// Writes the whole of `buf` at `offset_bytes`. The buffer always comes back.
    ///
    /// # Errors
    ///
    /// In the second half of the pair: [`ErrorKind::OutOfRange`], [`ErrorKind::ReadOnly`] when the node
    /// or this edge takes no writes, or whatever the node driver says. Part of the bytes may then be written.
    pub async fn write(
        &self,
        cx: &AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> Transferred {
        if let Err(error) = self.may_write(flags) {
            return (buf, Err(error));
        }
        self.enter().await.write(cx, offset_bytes, buf, flags).await
    }

    /// Makes the range read as zeroes.
    ///
    /// # Errors
    ///
    /// As [`Child::write`]; [`ErrorKind::Unsupported`] when zeroes would have to be written one by one
    /// and the flags forbid that.
    pub async fn write_zeroes(
        &self,
        cx: &AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> Result<(), BlockError> {
        self.may_write(flags)?;
        self.enter().await.write_zeroes(cx, range, flags).await
    }

    /// Says that the bytes are no longer needed; blocks that the range covers only in part are left alone.
    ///
    /// # Errors
    ///
    /// As [`Child::write`].
    pub async fn discard(&self, cx: &AioContext, range: ByteRange) -> Result<(), BlockError> {
        self.may_write(RequestFlags::default())?;
        self.enter().await.discard(cx, range).await
    }

    /// Makes every write that completed before this call stable.
    ///
    /// # Errors
    ///
    /// Whatever the node driver says; which writes are stable is then unknown.
    pub async fn flush(&self, cx: &AioContext) -> Result<(), BlockError> {
        self.enter().await.flush(cx).await
    }

    /// Makes the node `len_bytes` long; what is new reads as zeroes. Its dirty bitmaps follow.
    ///
    /// Waits until no request that changes the node is under way, and keeps others waiting. A read that meets the
    /// new end may fail.
    ///
    /// # Errors
    ///
    /// The length is what it was.
    ///
    /// - [`ErrorKind::PermissionConflict`]: this edge may not resize the node.
    /// - [`ErrorKind::ReadOnly`]: the node cannot be written.
    /// - [`ErrorKind::Busy`]: an operation uses one of its bitmaps.
    /// - [`ErrorKind::Unsupported`]: its length is fixed. Or whatever else the node driver says.
    pub async fn truncate(&self, cx: &AioContext, len_bytes: u64) -> Result<(), BlockError> {
        if !self.edge.permissions().uses.contains(Permission::Resize) {
            let what = format!("{} may not resize", self.edge.attachment.parent);
            let error = BlockError::new(ErrorKind::PermissionConflict, what);
            return Err(error.on_node(self.node().name()));
        }
        self.enter().await.truncate(cx, len_bytes).await
    }

    /// What is at the start of `range`, and how far that goes on, at most to the end of `range`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfRange`], or whatever the node driver says.
    pub async fn extent(&self, cx: &AioContext, range: ByteRange) -> Result<Extent, BlockError> {
        self.enter().await.extent(cx, range).await
    }

    /// Enters the node that the edge points at, and is sure that it still does.
    ///
    /// The graph moves an edge while the node it leaves is closed and empty. So once inside, with
    /// the edge seen to point here, it stays here until the request is done.
    async fn enter(&self) -> Admitted {
        loop {
            let node = self.edge.node();
            let here = node.clone();
            let wanted = || self.edge.points_at(&here);
            if let Some(guard) = RequestGuard::enter_if(node, wanted).await {
                return self.admitted(guard);
            }
        }
    }

    fn admitted(&self, guard: RequestGuard<Node>) -> Admitted {
        let user = match self.edge.owner {
            None => User::Outside,
            Some(_) => User::Node,
        };
        Admitted::new(guard, user)
    }

    /// Enters as [`enter`](Self::enter) does, if nobody is to wait now.
    pub(crate) fn try_enter(&self) -> Option<Admitted> {
        let guard = RequestGuard::try_enter(self.edge.node())?;
        self.edge
            .points_at(guard.holder())
            .then(|| self.admitted(guard))
    }

    pub(crate) fn may_write(&self, flags: RequestFlags) -> Result<(), BlockError> {
        let uses = self.edge.permissions().uses;
        let allowed = uses.contains(Permission::Write)
            || (flags.unchanged && uses.contains(Permission::WriteUnchanged));
        if allowed {
            return Ok(());
        }
        let what = format!("{} may not write", self.edge.attachment.parent);
        Err(BlockError::new(ErrorKind::ReadOnly, what).on_node(self.node().name()))
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("attachment", &self.edge.attachment)
            .field("node", &self.edge.node().name())
            .finish_non_exhaustive()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(graph) = self.graph.upgrade() {
            graph.detach(self.edge.key);
        }
    }
}
