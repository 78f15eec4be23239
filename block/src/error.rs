//! The one error type of this crate: a kind to branch on, the node and range, the errno, the source.

use std::{fmt, io};

use crate::allocation::ByteRange;

/// What went wrong, coarse enough to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The range ends past the node.
    OutOfRange,
    /// The node, or this edge to it, does not allow writes.
    ReadOnly,
    /// The node driver has no way to do this.
    Unsupported,
    /// Another user of the node forbids what was asked.
    PermissionConflict,
    /// Another process holds the image.
    Locked,
    /// The name, option or structure given makes no sense.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// The node is in use, or blocked by an operation.
    Busy,
    /// No space is left below.
    NoSpace,
    /// A time limit ran out.
    TimedOut,
    /// What this was part of has been given up.
    GivenUp,
    /// The kernel, the device or the peer failed.
    Io,
}

/// An error of a node, with all that is known of where it happened.
///
/// The text names operation, node and range; it never repeats its source.
#[derive(Debug)]
pub struct BlockError {
    kind: ErrorKind,
    what: String,
    hint: Option<Box<str>>,
    node: Option<String>,
    range: Option<ByteRange>,
    source: Option<io::Error>,
}

impl BlockError {
    /// An error of `kind`; `what` is lower case, without a full stop, and without the node's name.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            hint: None,
            node: None,
            range: None,
            source: None,
        }
    }

    /// An error from the system: the kind follows from its errno, the text says what was being done.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => ErrorKind::NoSpace,
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => ErrorKind::Unsupported,
            Some(libc::EROFS) => ErrorKind::ReadOnly,
            Some(libc::ETIMEDOUT) => ErrorKind::TimedOut,
            Some(libc::ENOENT) => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Self {
            source: Some(source),
            ..Self::new(kind, what)
        }
    }

    /// The same error, naming the node it happened on unless one is named already.
    #[must_use]
    pub fn on_node(mut self, name: &str) -> Self {
        self.node.get_or_insert_with(|| name.to_owned());
        self
    }

    /// The same error, naming the bytes it happened at unless they are named already.
    #[must_use]
    pub fn at(mut self, range: ByteRange) -> Self {
        self.range.get_or_insert(range);
        self
    }

    /// The same error, with a sentence on what may be behind it.
    #[must_use]
    pub fn hinting(mut self, hint: impl Into<Box<str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What may be behind it, for people at a terminal; no part of the text.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// What to branch on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The system's error number, where there was one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.as_ref().and_then(io::Error::raw_os_error)
    }

    /// The node it happened on, where known.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// The bytes it happened at, where known.
    #[must_use]
    pub fn range(&self) -> Option<ByteRange> {
        self.range
    }
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(range) = self.range {
            write!(f, ", {range}")?;
        }
        if let Some(node) = &self.node {
            write!(f, ", on node '{node}'")?;
        }
        Ok(())
    }
}

impl std::error::Error for BlockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_ref()
            .map(|source| -> &(dyn std::error::Error + 'static) { source })
    }
}
