//! Waiting for an epoll instance, to the nanosecond where the kernel can.

// UNSAFETY: raw system calls that write into an array borrowed for the whole call.
#![expect(unsafe_code, reason = "nix waits to the millisecond only")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{check, timespec};

/// `epoll_pwait2` is not to be had here.
static IS_COARSE: AtomicBool = AtomicBool::new(false);

/// Waits for at most `timeout_ns`, for ever without one, and returns how many events it wrote.
///
/// Kernels before 5.11 lack the call for that, as do some sandboxes and valgrind; there it waits to
/// the millisecond, never less than was asked for.
pub(crate) fn epoll_wait(
    epoll: BorrowedFd<'_>,
    events: &mut [libc::epoll_event],
    timeout_ns: Option<u64>,
) -> io::Result<usize> {
    #[cfg(test)]
    #[cfg(not(loom))]
    super::interrupts::take()?;
    if !IS_COARSE.load(Ordering::Relaxed) {
        let waited = wait_finely(epoll, events, timeout_ns);
        let errno = waited.as_ref().err().and_then(io::Error::raw_os_error);
        if !matches!(errno, Some(libc::ENOSYS | libc::EPERM)) {
            return waited;
        }
        IS_COARSE.store(true, Ordering::Relaxed);
    }
    wait_coarsely(epoll, events, timeout_ns)
}

fn wait_finely(
    epoll: BorrowedFd<'_>,
    events: &mut [libc::epoll_event],
    timeout_ns: Option<u64>,
) -> io::Result<usize> {
    let timeout = timeout_ns.map(timespec);
    let timeout = timeout
        .as_ref()
        .map_or(ptr::null(), |timeout| &raw const *timeout);
    let room = room(events);
    // SAFETY: `events` has room for `room` entries, `timeout` is null or lives in this frame, and
    // no signal mask is given.
    let count = check(unsafe {
        libc::epoll_pwait2(
            epoll.as_raw_fd(),
            events.as_mut_ptr(),
            room,
            timeout,
            ptr::null(),
        )
    })?;
    Ok(usize::try_from(count).expect("a count is not negative"))
}

fn wait_coarsely(
    epoll: BorrowedFd<'_>,
    events: &mut [libc::epoll_event],
    timeout_ns: Option<u64>,
) -> io::Result<usize> {
    let timeout_ms = timeout_ns.map_or(-1, millis);
    let room = room(events);
    // SAFETY: `events` has room for `room` entries.
    let count = check(unsafe {
        libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), room, timeout_ms)
    })?;
    Ok(usize::try_from(count).expect("a count is not negative"))
}

fn room(events: &[libc::epoll_event]) -> libc::c_int {
    libc::c_int::try_from(events.len()).expect("the array is small")
}

/// Rounded up: a wait that is too short ends in a loop that spins until the time has come.
fn millis(ns: u64) -> libc::c_int {
    libc::c_int::try_from(ns.div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

    use super::*;
    use crate::sys::EventFd;

    #[test]
    fn coarse_waits_are_never_too_short() {
        let rounded = [0, 1, 1_000_000, 1_000_001, u64::MAX].map(millis);
        assert_eq!(rounded, [0, 1, 1, 2, libc::c_int::MAX]);
    }

    #[test]
    fn both_ways_of_waiting_bring_the_same() {
        let (epoll, event) = (
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap(),
            EventFd::new().unwrap(),
        );
        epoll
            .add(&event, EpollEvent::new(EpollFlags::EPOLLIN, 7))
            .unwrap();
        for wait in [epoll_wait, wait_coarsely] {
            let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
            assert_eq!(wait(epoll.0.as_fd(), &mut events, Some(1)).unwrap(), 0);
            event.signal();
            assert_eq!(wait(epoll.0.as_fd(), &mut events, None).unwrap(), 1);
            assert_eq!({ events[0].u64 }, 7);
            event.take();
        }
    }
}
