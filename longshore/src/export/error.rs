//! [`ExportError`], and the one place where errors of nodes become error numbers of NBD.

use std::{io, net::SocketAddr};

use block::{BlockError, ErrorKind};
use nbd::{Errno, NbdAddress, UriError};

/// Why a server or an export could not be had, or not be removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A text is no NBD URI.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// The address names a host, and where to listen must be an address.
    #[error("the host of {0} is neither 'localhost' nor an IP address to listen on")]
    HostName(NbdAddress),
    /// The address is reachable from other hosts, and the options do not allow that.
    #[error("{0} is not a loopback address, and anybody who reaches it could read the export")]
    NotLoopback(SocketAddr),
    /// Another server listens there.
    #[error("another server listens on {0}")]
    AddressInUse(NbdAddress),
    /// The file in the way is not a socket, and stays.
    #[error("{0} exists and is not a socket")]
    NotASocket(NbdAddress),
    /// The system refuses to listen there.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: NbdAddress,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The server has an export of this name.
    #[error("NBD server already has export named '{0}'")]
    NameTaken(String),
    /// The name is longer than the protocol's 4096 bytes.
    #[error("export name '{0}' too long")]
    NameTooLong(String),
    /// The description is longer than the protocol's 4096 bytes.
    #[error("description '{0}' too long")]
    DescriptionTooLong(String),
    /// The node cannot be exported, or not in this way.
    #[error(transparent)]
    Node(#[from] BlockError),
    /// The bitmap records, and nobody would write through the export.
    #[error("Enabled bitmap '{0}' incompatible with readonly export")]
    EnabledBitmap(String),
    /// The bitmap is of a node of another length.
    #[error("Bitmap '{0}' is of another length than the exported node")]
    BitmapLength(String),
    /// Clients are connected.
    #[error("export '{0}' still in use")]
    InUse(String),
    /// The server has been stopped.
    #[error("NBD server not running")]
    Stopped,
}

/// How a client asked, where that decides what it may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// In any way but that below.
    Plainly,
    /// To fail at once rather than write zeroes the slow way.
    FastOnly,
}

/// What a client is told about an error of the node.
pub(super) fn errno_of(error: &BlockError, asked: Asked) -> Errno {
    match error.kind() {
        ErrorKind::Unsupported if asked == Asked::FastOnly => Errno::NotSup,
        ErrorKind::Unsupported | ErrorKind::Invalid | ErrorKind::OutOfRange => Errno::Inval,
        ErrorKind::ReadOnly | ErrorKind::PermissionConflict | ErrorKind::Locked => Errno::Perm,
        ErrorKind::NoSpace => Errno::NoSpc,
        ErrorKind::Io => match error.errno().map(Errno::from_os) {
            // These two mean something else to a client than to a node.
            Some(Errno::NotSup | Errno::Overflow) | None => Errno::Io,
            Some(errno) => errno,
        },
        _ => Errno::Io,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{Asked, BlockError, Errno, ErrorKind, errno_of};

    fn system(errno: i32) -> Errno {
        let error = BlockError::io("cannot write", io::Error::from_raw_os_error(errno));
        errno_of(&error, Asked::Plainly)
    }

    fn kind(kind: ErrorKind) -> Errno {
        errno_of(&BlockError::new(kind, "x"), Asked::Plainly)
    }

    #[test]
    fn errors_of_the_system_reach_the_client_as_what_they_are() {
        assert_eq!(system(libc::EIO), Errno::Io);
        assert_eq!(system(libc::ENOSPC), Errno::NoSpc);
        assert_eq!(system(libc::EDQUOT), Errno::NoSpc);
        assert_eq!(system(libc::EROFS), Errno::Perm);
        assert_eq!(system(libc::ENOMEM), Errno::NoMem);
        assert_eq!(system(libc::ETIMEDOUT), Errno::Io);
        assert_eq!(system(libc::EOVERFLOW), Errno::Io);
    }

    #[test]
    fn errors_of_nodes_have_their_nearest_number() {
        assert_eq!(kind(ErrorKind::ReadOnly), Errno::Perm);
        assert_eq!(kind(ErrorKind::OutOfRange), Errno::Inval);
        assert_eq!(kind(ErrorKind::Busy), Errno::Io);
        assert_eq!(kind(ErrorKind::TimedOut), Errno::Io);
    }

    #[test]
    fn not_supported_is_for_those_who_asked_for_speed() {
        let error = BlockError::new(ErrorKind::Unsupported, "x");
        assert_eq!(errno_of(&error, Asked::FastOnly), Errno::NotSup);
        assert_eq!(errno_of(&error, Asked::Plainly), Errno::Inval);
    }
}
