//! Block nodes and requests; no jobs.
//!
//! # The graph model
//!
//! ```text
//!      export 'e'              job 'j'                users outside the graph
//!          | root                 | source, target    edges: Child
//!      node 'cbw' (filter)        |
//!       | file      | target      |                   edges held by node drivers: Child, too
//!      node 's'    node 't'  <----+
//! ```
//!
//! A [`Node`] is one vertex: a [`NodeDriver`] (what an implementer writes), an entrance, counters. Users hold
//! it by an edge, a [`Child`]: it has a [`ChildRole`], says what its user does and lets others do
//! ([`Permissions`]), and is the way in for requests. A node driver that needs other nodes is such a user.
//! The [`Graph`] is a value that knows all nodes and edges and is the only one to change them.
//!
//! **A request** runs on the context of whoever makes it, any number of contexts at once. On its
//! way it takes no lock: it loads the node its edge points at, counts itself in at that node's gate, looks
//! again that the edge still points there, is checked once, and reaches the node driver. Unaligned
//! requests are rounded by reading, changing and writing back, kept apart from what overlaps them.
//!
//! **Permissions** are checked whenever an edge is attached or moved, for the whole graph, before
//! anything changes. A node that nobody uses asks nothing of its children. A filter does to its child what its
//! users do to the filter, and lets others do only what they allow, so a user below a filter cannot undo what
//! the filter is for.
//!
//! **Drain** quiesces nodes: parents are asked to be quiet and finish, then the gate closes, then what is inside
//! leaves. A [`DrainedSection`] holds that state. New requests wait at the entrance, whoever makes them,
//! on old edges and on new ones; requests that are inside a node still reach its children.
//!
//! **Changes** happen inside a drained section of what they touch, and of nothing else:
//! [`Graph::insert_filter`], [`Graph::remove_filter`] and [`Graph::replace_node`] move all users of a node at one
//! instant or none. A request that waited at the gate sees that its edge has moved and goes to the new node, so none is
//! served by the old node after the switch.
//!
//! **Ownership**: the graph keeps nodes until they are removed; an edge keeps the node below it;
//! nothing keeps what is above. Locks: see [`graph`]; none is held while a parent, a waker or a node
//! driver's destructor runs.

#![forbid(unsafe_code)]

pub mod allocation;
pub mod bitmap;
pub mod copy;
pub mod dirty_bitmap;
pub mod drain;
pub mod error;
mod gate;
pub mod graph;
pub mod latency;
pub mod mirror;
pub mod node;
pub mod node_driver;
pub mod nodes;
mod request;
mod wait;

#[cfg(test)]
mod testing;

pub use allocation::{AllocationStatus, ByteRange, Extent};
pub use bitmap::{Bitmap, BitmapInfo, BitmapOptions, NodeBitmaps};
pub use dirty_bitmap::{DirtyBitmap, Run};
pub use drain::DrainedSection;
pub use error::{BlockError, ErrorKind};
pub use graph::{
    EdgeInfo, Graph, NodeBuilder,
    blocker::{Blocker, Operation},
    child::{Attachment, Child, ChildRole},
    freeze::FrozenChain,
    parent::{BoxFuture, ContextChange, DrainWaker, Parent},
    permission::{Permission, PermissionSet, Permissions},
};
pub use latency::{LatencyHistogram, NodeLatency};
pub use node::{DetectZeroes, Discard, Node, NodeOptions, NodeStatistics};
pub use node_driver::{
    Access, FilePlace, Limits, Located, NodeDriver, RequestFlags, RequestFuture, Transferred, Way,
    fixed_length,
};
