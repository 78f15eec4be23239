//! What we have learnt about rings, kept true.

// UNSAFETY: drives a ring by hand.

use std::{
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use io_uring::{IoUring, opcode, types};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::{
    backend::tests_on_each::skipped,
    sys::{self, EventFd},
};

/// Why an outside loop is given an eventfd and not the ring itself.
#[test]
fn a_ring_whose_tasks_are_deferred_does_not_wake_an_outside_epoll_but_its_eventfd_does() {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun();
    let ring: io::Result<IoUring> = builder.build(8);
    let Ok(mut ring) = ring else {
        return skipped("deferred tasks of a ring: needs a kernel that has them");
    };
    let event = EventFd::new().unwrap();
    ring.submitter()
        .register_eventfd(event.as_raw_fd())
        .unwrap();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    // SAFETY: the ring is open for longer than the borrow.
    let itself = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
    epoll
        .add(itself, EpollEvent::new(EpollFlags::EPOLLIN, 1))
        .unwrap();
    epoll
        .add(&event, EpollEvent::new(EpollFlags::EPOLLIN, 2))
        .unwrap();
    let woken_by = |timeout_ns| {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
        let count = sys::epoll_wait(epoll.0.as_fd(), &mut events, Some(timeout_ns)).unwrap();
        events[..count]
            .iter()
            .map(|event| event.u64)
            .collect::<Vec<_>>()
    };

    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let entry = opcode::PollAdd::new(types::Fd(ours.as_raw_fd()), 1).build();
    // SAFETY: the entry points to nothing.
    unsafe { ring.submission().push(&entry) }.unwrap();
    ring.submit().unwrap();
    assert_eq!(woken_by(0), []);
    theirs.write_all(b"x").unwrap();
    assert_eq!(woken_by(10_000_000_000), [2]);
    // However long one waits for the other.
    event.take();
    assert_eq!(woken_by(20_000_000), []);
    ring.submit_and_wait(1).unwrap();
}
