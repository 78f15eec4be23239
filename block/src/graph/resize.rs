//! Changing the length of a node for those who do not hold it.

use aio::AioContext;

use super::{
    Graph,
    blocker::Operation,
    child::{Attachment, ChildRole},
    permission::{Permission, Permissions},
};
use crate::{error::BlockError, node::Node};

impl Graph {
    /// Makes a node `len_bytes` long, as [`Child::truncate`](crate::Child::truncate) does, for somebody who has no edge
    /// to it. Dropping the future leaves a change that has begun to itself.
    ///
    /// # Errors
    ///
    /// The length is what it was.
    ///
    /// - [`ErrorKind::PermissionConflict`](crate::ErrorKind::PermissionConflict): a user does not allow it, as exports
    ///   and jobs do not.
    /// - [`ErrorKind::Busy`](crate::ErrorKind::Busy): somebody has forbidden [`Operation::Resize`].
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): the node is not in this graph.
    /// - As [`Child::truncate`](crate::Child::truncate).
    pub async fn resize(
        &self,
        node: &Node,
        cx: &AioContext,
        len_bytes: u64,
    ) -> Result<(), BlockError> {
        let resizes = Permissions::uses(&[Permission::Resize]);
        let user = Attachment::new("an unnamed block device", ChildRole::Primary, resizes);
        let edge = self.attach(node, user.staying())?;
        self.check_operation(node, Operation::Resize)?;
        edge.truncate(cx, len_bytes).await
    }
}
