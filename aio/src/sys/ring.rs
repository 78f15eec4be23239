//! Entering an `io_uring` that the calling thread has registered.
//!
//! The `io-uring` crate can do so only through a value that borrows the ring for good.

// UNSAFETY: raw system calls. What entries point to is vouched for by who has pushed them.
#![expect(
    unsafe_code,
    reason = "calls the system directly where no safe wrapper exists"
)]

use std::{io, os::fd::RawFd, ptr};

use super::timespec;

/// Instead of a descriptor a place in the thread's table is given.
pub(crate) const ENTER_REGISTERED: u32 = 1 << 4;
const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;

const REGISTER_RING: libc::c_uint = 20;
const UNREGISTER_RING: libc::c_uint = 21;

/// What goes with `ENTER_EXT_ARG`.
#[repr(C)]
struct GetEvents {
    sigmask: u64,
    sigmask_len: u32,
    min_wait_usec: u32,
    timeout: *const libc::timespec,
}

/// What registering a ring takes and brings.
#[repr(C)]
struct Update {
    place: u32,
    reserved: u32,
    data: u64,
}

/// Submits so many entries, and waits for so many completions, for at most `timeout_ns` if there is a limit.
pub(crate) fn enter_ring(
    ring: libc::c_int,
    submit: u32,
    want: u32,
    flags: u32,
    timeout_ns: Option<u64>,
) -> io::Result<()> {
    let timeout = timeout_ns.map(timespec);
    let args = timeout.as_ref().map(|timeout| GetEvents {
        sigmask: 0,
        sigmask_len: 0,
        min_wait_usec: 0,
        timeout,
    });
    let flags = flags | ENTER_GETEVENTS | if args.is_some() { ENTER_EXT_ARG } else { 0 };
    let start = args.as_ref().map_or(ptr::null(), ptr::from_ref);
    let len = if args.is_some() {
        size_of::<GetEvents>()
    } else {
        0
    };
    // SAFETY: the argument and the timeout live in this frame, and the flags say that they are there.
    let entered = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            ring,
            submit,
            want,
            flags,
            start,
            len,
        )
    };
    if entered == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Has the calling thread know the ring by a place in its table, which is returned.
pub(crate) fn register_ring(ring: RawFd) -> Option<u32> {
    let mut update = Update {
        place: u32::MAX,
        reserved: 0,
        data: u64::try_from(ring).ok()?,
    };
    let registered = register(ring, REGISTER_RING, &mut update);
    (registered == 1).then_some(update.place)
}

/// Ends what [`register_ring`] has begun on this thread.
pub(crate) fn unregister_ring(ring: RawFd, place: u32) {
    let mut update = Update {
        place,
        reserved: 0,
        data: 0,
    };
    let ended = register(ring, UNREGISTER_RING, &mut update);
    debug_assert_eq!(ended, 1, "a ring ends on the thread that has registered it");
}

fn register(ring: RawFd, what: libc::c_uint, update: &mut Update) -> libc::c_long {
    let update = ptr::from_mut(update);
    // SAFETY: the update is one, borrowed for the call.
    unsafe { libc::syscall(libc::SYS_io_uring_register, ring, what, update, 1) }
}
