//! The node drivers, one file each.

pub mod copy_before_write;
pub mod copy_on_read;
pub mod fault;
pub mod file;
pub mod memory;
pub mod mirror_top;
pub mod nbd;
pub mod null;
pub mod raw;
pub mod snapshot_access;
pub mod throttle;

pub use self::nbd::{NbdNode, NbdOptions};
pub use copy_before_write::{
    AddedLatency, CbwHandle, CbwOptions, CopyBeforeWriteNode, OnCbwError, SnapshotState,
};
pub use copy_on_read::CopyOnReadNode;
pub use fault::{
    FaultAction, FaultControl, FaultEvent, FaultNode, FaultOp, FaultOptions, FaultRule,
    HeldRequest, InjectError, SetState,
};
pub use file::{
    CreateOptions, FileIdentity, FileNode, FileOptions, LockTerm, NewFile, OnOffAuto,
    Preallocation, Reopening, Sharing,
};
pub use memory::{MemoryNode, MemoryOptions};
pub use mirror_top::{MirrorHandle, MirrorTopNode};
pub use null::{NullNode, NullOptions};
pub use raw::{RawNode, RawOptions};
pub use snapshot_access::SnapshotAccessNode;
pub use throttle::{ThrottleGroup, ThrottleLimit, ThrottleLimits, ThrottleNode};
