//! The system calls that nix does not offer, or only as `unsafe`, each behind a safe function.
//!
//! All may be called on any thread, and block it for as long as the system takes: on the thread of a
//! context, by way of [`AioContext::blocking`](crate::AioContext::blocking).

// UNSAFETY: raw system calls. Each function owns or borrows what it passes for the whole call.
#![expect(
    unsafe_code,
    reason = "calls the system directly where no safe wrapper exists"
)]

mod epoll;
mod file;
mod fork;
mod new_file;
mod ring;
#[cfg(test)]
#[cfg(not(loom))]
mod sleep_tests;
mod socket;
mod status;
mod transfer;

use std::{
    cell::Cell,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicU64, Ordering},
};

pub(crate) use epoll::epoll_wait;
pub(crate) use file::offset;
pub use file::{
    byte_locked_by_other, free_bytes, is_fuse, is_tmpfs, lock_byte_shared, seek_data, seek_hole,
    unlock_byte,
};
pub(crate) use fork::ForkMark;
pub use new_file::{overwrite_in_place, reserve_space, set_extent_size_hint};
pub(crate) use ring::{ENTER_REGISTERED, enter_ring, register_ring, unregister_ring};
pub(crate) use socket::{
    Blocking, SLICES_MAX, SocketAddress, accept, connect_now, connect_waiting,
    empty_message_header, is_tcp, new_socket, recv_now, send_now, set_blocking,
};
pub(crate) use status::StatusBuffer;
pub use status::{DirectAlignment, FileStatus, direct_alignment};
pub use transfer::discard_device;
pub(crate) use transfer::{clone_range, copy_range, read_now, splice};

/// A number that tells the calling thread from every other one of the process, ever.
pub(crate) fn thread_token() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static TOKEN: Cell<u64> = const { Cell::new(0) };
    }
    TOKEN.with(|token| {
        if token.get() == 0 {
            token.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        token.get()
    })
}

/// Turns -1 into the thread's `errno`.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Takes a descriptor that a completion has just brought.
///
/// # Safety
///
/// `fd` is open, and nobody else owns it.
pub(crate) unsafe fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: passed on to the caller.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// An eventfd: a kick that is remembered until it is taken.
#[derive(Debug)]
pub(crate) struct EventFd(File);

impl EventFd {
    /// A blocking eventfd with nothing to take.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes numbers and returns a descriptor.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
        // SAFETY: just opened, owned by nobody else.
        Ok(Self(File::from(unsafe { adopt(fd) })))
    }

    /// One whose reads do not wait.
    pub(crate) fn non_blocking() -> io::Result<Self> {
        // SAFETY: takes numbers and returns a descriptor.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: just opened, owned by nobody else.
        Ok(Self(File::from(unsafe { adopt(fd) })))
    }

    /// Another descriptor of the same eventfd.
    pub(crate) fn duplicate(&self) -> io::Result<crate::fd::Fd> {
        self.0.try_clone().map(crate::fd::Fd::from)
    }

    /// Takes the kicks there are, if any, from a non-blocking one.
    pub(crate) fn try_take(&self) -> bool {
        let mut count = [0; 8];
        (&self.0).read(&mut count).is_ok()
    }

    /// Leaves a kick. Any thread; never blocks, since the count never gets near its end.
    pub(crate) fn signal(&self) {
        let written = (&self.0).write(&1u64.to_ne_bytes());
        debug_assert!(written.is_ok(), "writing to our own eventfd: {written:?}");
    }

    /// Takes the kicks that [`poll`] says are there.
    pub(crate) fn take(&self) {
        let mut count = [0; 8];
        let taken = (&self.0).read(&mut count);
        debug_assert!(taken.is_ok(), "reading our own eventfd: {taken:?}");
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Which of `events` hold for `fd` now.
pub(crate) fn poll(fd: BorrowedFd<'_>, events: i16) -> io::Result<i16> {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: `entry` is one pollfd, borrowed for the call.
    check(unsafe { libc::poll(&raw mut entry, 1, 0) })?;
    Ok(entry.revents)
}

/// `ppoll`: notes in each entry which of its events hold, after waiting for the first for at most `timeout_ns`.
pub(crate) fn poll_many(entries: &mut [libc::pollfd], timeout_ns: Option<u64>) -> io::Result<()> {
    let timeout = timeout_ns.map(timespec);
    let timeout = timeout
        .as_ref()
        .map_or(std::ptr::null(), |timeout| &raw const *timeout);
    let count = libc::nfds_t::try_from(entries.len()).expect("descriptors are fewer");
    // SAFETY: `entries` are `count` entries, `timeout` is null or lives in this frame, and no
    // signal mask is given.
    check(unsafe { libc::ppoll(entries.as_mut_ptr(), count, timeout, std::ptr::null()) })?;
    Ok(())
}

/// Nanoseconds as the system wants them.
fn timespec(ns: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(ns / 1_000_000_000).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::try_from(ns % 1_000_000_000).expect("less than a second"),
    }
}

/// Whether anybody has the regular file `file`, itself open for reading only, open for writing.
///
/// Asks for a read lease, which the kernel grants only when nobody has, and gives it back at once.
///
/// # Errors
///
/// The system's: `EACCES` where the caller neither owns the file nor may take leases, `EINVAL` where
/// the file system has none.
pub fn has_writer(file: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: takes numbers only.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) }) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Ok(true),
        Err(error) => return Err(error),
    }
    // SAFETY: as above.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) })?;
    Ok(false)
}

/// A descriptor of our own for what the process was started with as the number `number`, such as a socket of
/// systemd's.
///
/// # Errors
///
/// The system's: `EBADF` where nothing is open by that number.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only; what is open by that number stays as it is.
    let copy = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: the call has just made this descriptor, so nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Fails for what has no readiness, with epoll's own `EPERM`: regular files, directories, some devices.
pub(crate) fn check_pollable(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
    match nix::sys::stat::fstat(fd)?.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFDIR => Err(io::Error::from_raw_os_error(libc::EPERM)),
        libc::S_IFCHR | libc::S_IFBLK => {
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            epoll.add(fd, EpollEvent::new(EpollFlags::empty(), 0))?;
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[cfg(not(loom))]
pub(crate) mod interrupts {
    //! Has waits of this thread be interrupted now and then, as by signals.

    use std::{cell::Cell, io};

    thread_local! {
        static EVERY: Cell<u32> = const { Cell::new(0) };
        static CALLS: Cell<u32> = const { Cell::new(0) };
    }

    /// From now on each `every`th wait of this thread fails with `EINTR`; zero is none.
    pub(crate) fn set(every: u32) {
        EVERY.set(every);
    }

    pub(super) fn take() -> io::Result<()> {
        CALLS.set(CALLS.get().wrapping_add(1));
        match EVERY.get() {
            0 => Ok(()),
            every if CALLS.get().is_multiple_of(every) => Err(io::ErrorKind::Interrupted.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::has_writer;

    #[test]
    fn a_writer_of_a_file_is_noticed_while_it_has_the_file_open() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (path, writer) = (file.path().to_owned(), file.as_file());
        let reader = File::open(&path).unwrap();

        assert!(
            has_writer(reader.as_fd()).unwrap(),
            "{writer:?} is open for writing"
        );
        let path = file.into_temp_path();
        assert!(!has_writer(reader.as_fd()).unwrap());
        path.close().unwrap();
    }
}
