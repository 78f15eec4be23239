//! Live block jobs on Linux hosts: the library facade.
//!
//! An [`Engine`] owns a loop thread, a graph of nodes and a list of jobs. Its handles are `Send`,
//! `Sync` and `Clone`, and usable from any thread and any async runtime; what runs on the loop never leaves it.
//!
//! ```
//! use longshore::{BackupOptions, Engine, EngineConfig};
//! use block::nodes::memory::{MemoryNode, MemoryOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::start(EngineConfig::default())?;
//! let memory = || MemoryNode::new(MemoryOptions::new(64 << 20));
//! let source = engine.graph().add_node(Some("disk"), memory()?)?;
//! let target = engine.graph().add_node(Some("copy"), memory()?)?;
//! let backup = engine.backup(&source, &target, BackupOptions::new("nightly"))?;
//! backup.job().wait_blocking().into_result()?;
//! assert_eq!(backup.report().done_bytes, 64 << 20);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod daemon;
mod engine;
pub mod export;

pub use drivers::{
    BitmapMode, PaceReason, PaceReport,
    backup::{
        Action as BackupAction, Backup, BackupBitmap, BackupError, BackupOptions, BackupReport,
        BackupSpec, BackupSync, Completion,
    },
    mirror::{
        Mirror, MirrorBitmap, MirrorChange, MirrorError, MirrorOptions, MirrorReport,
        MirrorRequest, MirrorSpec, MirrorSync, NamedBitmaps, RequestedMirrorSync,
    },
};
pub use engine::{Engine, EngineConfig, OpenedFile};
