//! How to open a file node, and what the path led to.

use std::path::PathBuf;

/// Whether a feature is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOffAuto {
    /// Used where it works.
    #[default]
    Auto,
    /// Used, or opening fails.
    On,
    /// Not used.
    Off,
}

/// What other programs may do with the file while it is locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Read it; neither write nor resize it. With [`LockTerm::WhileUsed`], whatever the users of the node allow.
    #[default]
    Readers,
    /// Anything, whatever the users of the node say. Extents may then be out of date.
    Everyone,
}

/// For how long image locks are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockTerm {
    /// While the file is open: whoever opened it counts as a user that reads it at any moment and, unless it is opened
    /// for reading only, writes it. What users of the node do and forbid beyond that is locked while they do.
    #[default]
    WhileOpen,
    /// While the node is used: what its users do and forbid at the moment. A node that nobody uses locks nothing.
    WhileUsed,
}

/// How to open a [`FileNode`](super::FileNode).
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// A regular file or a block device; must exist.
    pub path: PathBuf,
    /// Open for reading only.
    pub read_only: bool,
    /// Bypass the page cache (`O_DIRECT`).
    pub direct: OnOffAuto,
    /// Take the image locks that QEMU and its tools understand.
    pub locking: OnOffAuto,
    /// What the image locks leave to others.
    pub sharing: Sharing,
    /// How long the image locks are held.
    pub lock_term: LockTerm,
}

impl FileOptions {
    /// Reading and writing, past the page cache and with image locks where these work; others may read.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            read_only: false,
            direct: OnOffAuto::Auto,
            locking: OnOffAuto::Auto,
            sharing: Sharing::Readers,
            lock_term: LockTerm::WhileOpen,
        }
    }
}

/// What the path led to. Two nodes with equal identities have the same storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileIdentity {
    /// A regular file.
    Regular {
        /// Number of the file system it is on.
        device: u64,
        /// Its number there.
        inode: u64,
    },
    /// A block device.
    BlockDevice {
        /// The device's own number, whatever node of the file tree names it.
        device: u64,
    },
}
