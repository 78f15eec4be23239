//! [`Listener`]: a listening socket, owner-only if it is a file, and gone when it is dropped.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use aio::Fd;
use nbd::NbdAddress;
use nix::{
    errno::Errno,
    sys::{
        signal::kill,
        socket::{
            AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrStorage, UnixAddr, bind,
            connect, getsockname, getsockopt, listen, setsockopt, shutdown, socket, sockopt,
        },
        stat::{Mode, fchmod},
    },
    unistd::Pid,
};

use super::{Reach, error::ExportError};

/// A socket that clients can connect to, until it is closed or dropped, which removes the socket file.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Fd,
    address: NbdAddress,
    /// The socket file, to be removed at the end if it is still ours.
    file: Option<SocketFile>,
    is_closed: AtomicBool,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Listener {
    /// Listens on `address`.
    pub(crate) fn bind(address: &NbdAddress, reach: Reach) -> Result<Self, ExportError> {
        match address {
            NbdAddress::Unix(path) => Self::bind_unix(path).map_err(|error| match error {
                Refused::InUse => ExportError::AddressInUse(address.clone()),
                Refused::NotASocket => ExportError::NotASocket(address.clone()),
                Refused::System(source) => ExportError::Listen {
                    address: address.clone(),
                    source,
                },
            }),
            NbdAddress::Tcp(tcp) if reach == Reach::Loopback && !tcp.ip().is_loopback() => {
                Err(ExportError::NotLoopback(*tcp))
            }
            NbdAddress::Tcp(tcp) => Self::bind_tcp(*tcp).map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => ExportError::AddressInUse(address.clone()),
                _ => ExportError::Listen {
                    address: address.clone(),
                    source,
                },
            }),
            NbdAddress::Host { .. } => Err(ExportError::HostName(address.clone())),
        }
    }

    fn bind_tcp(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = NbdAddress::Tcp(listener.local_addr()?);
        Ok(Self {
            socket: listener.into(),
            address,
            file: None,
            is_closed: AtomicBool::new(false),
        })
    }

    fn bind_unix(path: &Path) -> Result<Self, Refused> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        // The file gets the mode of the socket it is made from, so there is no moment at which
        // others could connect, whatever the umask.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let address = UnixAddr::new(path)?;
        match bind(socket.as_raw_fd(), &address) {
            Err(Errno::EADDRINUSE) => {
                reclaim(path)?;
                bind(socket.as_raw_fd(), &address)?;
            }
            bound => bound?,
        }
        let file = SocketFile::of(path)?;
        listen(&socket, Backlog::MAXCONN)?;
        Ok(Self {
            socket: Fd::from(socket),
            address: NbdAddress::Unix(path.to_owned()),
            file: Some(file),
            is_closed: AtomicBool::new(false),
        })
    }

    /// A socket that somebody else listens on for us: closing it here leaves it as it is.
    pub(crate) fn inherited(socket: OwnedFd) -> io::Result<Self> {
        if !getsockopt(&socket, sockopt::AcceptConn)? {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let name: SockaddrStorage = getsockname(socket.as_raw_fd())?;
        let tcp = match (name.as_sockaddr_in(), name.as_sockaddr_in6()) {
            (Some(name), _) => Some(SocketAddr::V4((*name).into())),
            (None, name) => name.map(|name| SocketAddr::V6((*name).into())),
        };
        let path = name.as_unix_addr().and_then(UnixAddr::path);
        let path = path.map(Path::to_owned).unwrap_or_default();
        Ok(Self {
            address: tcp.map_or(NbdAddress::Unix(path), NbdAddress::Tcp),
            socket: Fd::from(socket),
            file: None,
            is_closed: AtomicBool::new(true),
        })
    }

    /// Listens no more, so that another server can listen there at once, and removes the socket file. The socket
    /// itself lives on until nobody waits for a client any more.
    pub(crate) fn close(&self) {
        if self.is_closed.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(file) = &self.file {
            file.remove();
        }
        if let Err(error) = shutdown(self.socket.as_raw_fd(), Shutdown::Both) {
            tracing::debug!(%error, "a listening socket is closed the slow way");
        }
    }

    /// The socket to accept from.
    pub(crate) fn socket(&self) -> &Fd {
        &self.socket
    }

    /// Where it really listens.
    pub(crate) fn address(&self) -> &NbdAddress {
        &self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

/// Sets a new connection up for small replies that come soon.
pub(super) fn tune(socket: &Fd, address: &NbdAddress) {
    let tuned = match address {
        NbdAddress::Unix(_) => setsockopt(socket, sockopt::SndBuf, &SEND_BUFFER_BYTES),
        NbdAddress::Tcp(_) | NbdAddress::Host { .. } => {
            setsockopt(socket, sockopt::TcpNoDelay, &true)
                .and_then(|()| setsockopt(socket, sockopt::KeepAlive, &true))
        }
    };
    if let Err(error) = tuned {
        tracing::debug!(%error, "a connection works without its socket options");
    }
}

/// Room for some replies on their way to a client on the same host.
const SEND_BUFFER_BYTES: usize = 2 << 20;

enum Refused {
    InUse,
    NotASocket,
    System(io::Error),
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Removes the socket file of a server that has died; leaves everything else alone.
fn reclaim(path: &Path) -> Result<(), Refused> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(Refused::NotASocket);
    }
    // Not to wait where a server is alive and busy.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED) => {
            tracing::info!(path = %path.display(), "removing the socket of a server that has died");
            Ok(fs::remove_file(path)?)
        }
        Err(Errno::ENOENT) => Ok(()),
        // The kernel listens on for a moment when a server is killed that has a ring.
        Ok(()) if has_died(&probe) => Ok(fs::remove_file(path)?),
        // Its queue may be full, or it may not be ours to connect to: somebody listens.
        Ok(()) | Err(_) => Err(Refused::InUse),
    }
}

/// Whether the process that listens at the other end is no more.
fn has_died(probe: &OwnedFd) -> bool {
    let peer = getsockopt(probe, sockopt::PeerCredentials);
    peer.is_ok_and(|peer| {
        let pid = Pid::from_raw(peer.pid());
        // Zero is a process that cannot be seen from here.
        peer.pid() > 0 && kill(pid, None) == Err(Errno::ESRCH)
    })
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
        })
    }
}

impl SocketFile {
    fn remove(&self) {
        let now = Self::identity_at(&self.path);
        if now == Some(self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the socket");
        }
    }

    fn identity_at(path: &Path) -> Option<(u64, u64)> {
        let metadata = fs::symlink_metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    }
}
