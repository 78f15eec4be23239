//! The edges of a copy, which it can let go of while requests on them are still under way.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwapOption;

use crate::graph::child::Child;

/// Whatever is to live as long as the target may still change.
pub type Keeper = Box<dyn Send + Sync>;

/// An edge of a copy. Requests under way hold it too, so it is in the graph at least until they are back.
pub struct CopyEdge {
    child: Child,
    keeper: OnceLock<Keeper>,
}

impl Deref for CopyEdge {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl fmt::Debug for CopyEdge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CopyEdge").field(&self.child).finish()
    }
}

/// An edge until it is let go of.
#[derive(Debug)]
pub(super) struct Held(ArcSwapOption<CopyEdge>);

impl Held {
    pub(super) fn new(child: Child) -> Self {
        let keeper = OnceLock::new();
        Self(ArcSwapOption::from_pointee(CopyEdge { child, keeper }))
    }

    /// The edge, for one request.
    pub(super) fn get(&self) -> Option<Arc<CopyEdge>> {
        self.0.load_full()
    }

    pub(super) fn is_let_go(&self) -> bool {
        self.0.load().is_none()
    }

    /// Leaves the edge to the requests under way, and with it `keeper`: both go with the last of them.
    pub(super) fn let_go(&self, keeper: Option<Keeper>) {
        if let (Some(edge), Some(keeper)) = (self.0.swap(None), keeper) {
            // Nobody else has let go of it, so that there is none yet.
            let _ = edge.keeper.set(keeper);
        }
    }
}
