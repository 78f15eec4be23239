//! `Fd`: a file descriptor shared with the requests that use it.

use std::{
    fs::File,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    sync::Arc,
};

/// An open descriptor that stays open while anybody, the in-flight table included, holds a clone.
///
/// A request keeps a clone from submission to completion, so that dropping the last one outside
/// never closes a number that the kernel still works on.
#[derive(Clone, Debug)]
pub struct Fd(Arc<OwnedFd>);

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }
}

impl From<File> for Fd {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}

impl From<UnixStream> for Fd {
    fn from(socket: UnixStream) -> Self {
        OwnedFd::from(socket).into()
    }
}

impl From<UnixListener> for Fd {
    fn from(socket: UnixListener) -> Self {
        OwnedFd::from(socket).into()
    }
}

impl From<TcpStream> for Fd {
    fn from(socket: TcpStream) -> Self {
        OwnedFd::from(socket).into()
    }
}

impl From<TcpListener> for Fd {
    fn from(socket: TcpListener) -> Self {
        OwnedFd::from(socket).into()
    }
}
