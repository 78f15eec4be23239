//! `Fd`: a file descriptor shared with the requests that use it.

use std::{
    fs::File,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use crate::sys;

/// An open descriptor that stays open while anybody, the in-flight table included, holds a clone.
/// Cheap to clone, and for any thread; requests of any context may use it.
///
/// A request keeps a clone from submission to completion, so that dropping the last one outside
/// never closes a number that the kernel still works on. Sockets may be blocking or not: requests on
/// them wait without blocking the thread, and may change which they are.
#[derive(Clone, Debug)]
pub struct Fd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    fd: OwnedFd,
    /// The ring that knows the file by a place in its table, and that place; zero if none does.
    registered: AtomicU64,
    /// What we have found out about it: the bits below.
    known: AtomicU8,
}

const DIRECT: u8 = 1;
const NOT_DIRECT: u8 = 2;
const ZERO_COPY: u8 = 4;
const NO_ZERO_COPY: u8 = 8;
const WRITES_BLOCK: u8 = 16;

impl Fd {
    fn known(&self) -> u8 {
        self.0.known.load(Ordering::Relaxed)
    }

    fn learn(&self, bits: u8) -> u8 {
        self.0.known.fetch_or(bits, Ordering::Relaxed) | bits
    }

    /// Whether I/O on the file goes around the page cache, as of the first time this is asked.
    pub(crate) fn is_direct(&self) -> bool {
        let mut known = self.known();
        if known & (DIRECT | NOT_DIRECT) == 0 {
            let flags = nix::fcntl::fcntl(self, nix::fcntl::FcntlArg::F_GETFL);
            let direct = flags.is_ok_and(|flags| flags & libc::O_DIRECT != 0);
            known = self.learn(if direct { DIRECT } else { NOT_DIRECT });
        }
        known & DIRECT != 0
    }

    /// Has writes to the file be made by threads that block, and not by a ring.
    ///
    /// For FUSE: there, the kernel says of an asynchronous write that was cut short that it failed with `EIO`, and
    /// not how far it came.
    pub fn set_writes_block(&self) {
        self.learn(WRITES_BLOCK);
    }

    /// Whether a thread that blocks has to make writes to the file.
    pub(crate) fn writes_block(&self) -> bool {
        self.known() & WRITES_BLOCK != 0
    }

    /// Whether zero-copy sends are worth trying on the socket: only TCP has them.
    pub(crate) fn takes_zero_copy(&self) -> bool {
        let mut known = self.known();
        if known & (ZERO_COPY | NO_ZERO_COPY) == 0 {
            let tcp = sys::is_tcp(self.as_fd());
            known = self.learn(if tcp { ZERO_COPY } else { NO_ZERO_COPY });
        }
        known & NO_ZERO_COPY == 0
    }

    /// Notes that the kernel copies all the same, or refuses.
    pub(crate) fn set_no_zero_copy(&self) {
        self.learn(NO_ZERO_COPY);
    }

    /// The place of the file in the table of the ring with the number `ring`, if it has one.
    pub(crate) fn registered_with(&self, ring: u32) -> Option<u16> {
        let registered = self.0.registered.load(Ordering::Relaxed);
        if registered >> 32 != u64::from(ring) {
            return None;
        }
        u16::try_from(registered & u64::from(u32::MAX)).ok()
    }

    /// Notes that the ring knows the file by `place`; returns whether no other does.
    pub(crate) fn set_registered(&self, ring: u32, place: u16) -> bool {
        let registered = u64::from(ring) << 32 | u64::from(place);
        let known = &self.0.registered;
        known
            .compare_exchange(0, registered, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Notes that the ring, which knew the file, does not any more.
    pub(crate) fn set_unregistered(&self) {
        self.0.registered.store(0, Ordering::Relaxed);
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(Shared {
            fd,
            registered: AtomicU64::new(0),
            known: AtomicU8::new(0),
        }))
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
