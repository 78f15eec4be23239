//! Sockets: addresses, and what is done with them without waiting.

// UNSAFETY: raw system calls and structures of theirs.
#![expect(
    unsafe_code,
    reason = "calls the system directly where no safe wrapper exists"
)]

use std::{
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr,
        accept4, getsockopt, setsockopt, socket, sockopt,
    },
    time::TimeVal,
};

use super::{adopt, check};
use crate::op::Message;

/// Where to connect to, as the system wants it.
#[derive(Debug)]
pub(crate) enum SocketAddress {
    Unix(UnixAddr),
    Ip(SockaddrStorage),
}

impl SocketAddress {
    /// The address of a socket in the file system.
    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        Ok(Self::Unix(UnixAddr::new(path)?))
    }

    /// An address of the Internet.
    pub(crate) fn ip(address: SocketAddr) -> Self {
        Self::Ip(SockaddrStorage::from(address))
    }

    /// Where it lies in memory, and its length.
    pub(crate) fn as_raw(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        match self {
            Self::Unix(address) => (SockaddrLike::as_ptr(address), address.len()),
            Self::Ip(address) => (address.as_ptr(), address.len()),
        }
    }

    /// Whether it is one of this machine's file system.
    pub(crate) fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    fn family(&self) -> AddressFamily {
        match self {
            Self::Unix(_) => AddressFamily::Unix,
            Self::Ip(address) => address.family().unwrap_or(AddressFamily::Inet),
        }
    }
}

/// A stream socket for the address's family, that waits for as long as it takes.
pub(crate) fn new_socket(address: &SocketAddress) -> io::Result<OwnedFd> {
    let family = address.family();
    Ok(socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

/// `connect`, which waits or not as the socket does.
pub(crate) fn connect_now(socket: BorrowedFd<'_>, address: &SocketAddress) -> io::Result<()> {
    let (start, len) = address.as_raw();
    // SAFETY: `address` is `len` bytes at `start`, borrowed for the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), start, len) })?;
    Ok(())
}

/// Connects a socket that waits, for a minute at most. Blocks the calling thread.
pub(crate) fn connect_waiting(socket: BorrowedFd<'_>, address: &SocketAddress) -> io::Result<()> {
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(60, 0))?;
    let connected = connect_now(socket, address);
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(0, 0))?;
    connected.map_err(|error| match error.raw_os_error() {
        Some(libc::EAGAIN) => io::Error::from_raw_os_error(libc::ETIMEDOUT),
        _ => error,
    })
}

/// Whether it is a TCP socket.
pub(crate) fn is_tcp(socket: BorrowedFd<'_>) -> bool {
    let stream = getsockopt(&socket, sockopt::SockType).is_ok_and(|it| it == SockType::Stream);
    let family = nix::sys::socket::getsockname::<SockaddrStorage>(socket.as_raw_fd());
    let family = family.ok().and_then(|name| name.family());
    let ip = matches!(family, Some(AddressFamily::Inet | AddressFamily::Inet6));
    stream && ip
}

/// Accepts a connection, if one is waiting; the caller has made the listener non-blocking.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: just opened, owned by nobody else.
    Ok(unsafe { adopt(fd) })
}

/// What an operation on a descriptor does when it cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocking {
    /// It waits.
    Yes,
    /// It fails with `EAGAIN`.
    No,
}

/// Makes operations on `fd` wait in the kernel, or come back with `EAGAIN`.
pub(crate) fn set_blocking(fd: BorrowedFd<'_>, mode: Blocking) -> io::Result<()> {
    let mut on = libc::c_int::from(mode == Blocking::No);
    // SAFETY: FIONBIO reads one int, borrowed for the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw mut on) })?;
    Ok(())
}

/// Receives what has arrived, without waiting.
pub(crate) fn recv_now(socket: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    Ok(nix::sys::socket::recv(
        socket.as_raw_fd(),
        buf,
        MsgFlags::MSG_DONTWAIT,
    )?)
}

/// Sends what the socket takes now of the rest of `message`.
pub(crate) fn send_now(socket: BorrowedFd<'_>, message: &Message) -> io::Result<usize> {
    let slices: Vec<_> = message.slices(SLICES_MAX).collect();
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(nix::sys::socket::sendmsg::<()>(
        socket.as_raw_fd(),
        &slices,
        &[],
        flags,
        None,
    )?)
}

/// Most slices one call takes (`IOV_MAX`).
pub(crate) const SLICES_MAX: usize = 1024;

/// A `msghdr` that names nobody and sends nothing.
pub(crate) fn empty_message_header() -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid msghdr: null pointers with zero lengths.
    unsafe { MaybeUninit::<libc::msghdr>::zeroed().assume_init() }
}
