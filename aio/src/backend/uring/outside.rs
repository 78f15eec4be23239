//! What an outside loop waits on in place of the ring: the eventfd that the ring signals, and watched
//! descriptors by themselves.
//!
//! A ring signals its eventfd for every completion but one kind late, or not at all: what a write to
//! another eventfd brings about, since the kernel does not signal one eventfd from within another.
//! It leaves that for later, some milliseconds, and newer kernels (6.18 among them) do so once for
//! each registration of the eventfd and forget it ever after. Events between threads, kicks of
//! virtual devices, are just that; so watched descriptors are taken from the ring while somebody
//! else's loop drives the context, and left to epoll, which reports levels.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::{
    fd::Fd,
    op::Key,
    sys::{self, EventFd},
};

/// What an event carries when it is the eventfd's; no watch has this number.
const EVENT: u64 = u64::MAX;

/// Watches to report at once; the rest stays ready.
const EVENTS: usize = 64;

/// An epoll for somebody else to wait on.
#[derive(Debug)]
pub(super) struct Outside {
    epoll: Epoll,
}

/// A watched descriptor: a duplicate, since one descriptor may be watched more than once.
#[derive(Debug)]
pub(super) struct Seen(OwnedFd);

impl Outside {
    pub(super) fn new(event: &EventFd) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(event, EpollEvent::new(EpollFlags::EPOLLIN, EVENT))?;
        Ok(Self { epoll })
    }

    /// A duplicate of the descriptor to wait on.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.epoll.0.as_fd().try_clone_to_owned()
    }

    /// Watches `fd` for the `poll(2)` events, on behalf of `key`.
    pub(super) fn add(&self, key: Key, fd: &Fd, events: i16) -> io::Result<Seen> {
        let fd = fd.as_fd().try_clone_to_owned()?;
        let flags = EpollFlags::from_bits_truncate(i32::from(events));
        self.epoll.add(&fd, EpollEvent::new(flags, key.to_bits()))?;
        Ok(Seen(fd))
    }

    /// Ends that. Closing the duplicate would not: the epoll knows the open file behind it.
    pub(super) fn remove(&self, seen: &Seen) {
        if let Err(error) = self.epoll.delete(&seen.0) {
            tracing::debug!(%error, "a watch could not be ended");
        }
    }

    /// Waits, and tells `note` which watches are ready for what; returns whether the eventfd is signalled.
    pub(super) fn look(&self, timeout_ns: Option<u64>, mut note: impl FnMut(Key, i16)) -> bool {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let count = sys::epoll_wait(self.epoll.0.as_fd(), &mut events, timeout_ns).unwrap_or_else(
            |error| {
                tracing::trace!(%error, "epoll_wait came back early");
                0
            },
        );
        let mut signalled = false;
        for event in &events[..count] {
            if event.u64 == EVENT {
                signalled = true;
            } else {
                let holds = event.events & 0x7fff;
                let holds = i16::try_from(holds).expect("masked to what fits");
                note(Key::from_bits(event.u64), holds);
            }
        }
        signalled
    }
}
