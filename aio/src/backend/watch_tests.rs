//! Watched descriptors and foreign loops: what both backends must do alike.

use std::{
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Events, Wait,
    tests_on_each::{each_backend, on_each},
};
use crate::{
    AioContext, BufferPool, Config, Fd, IoBuf, op::WatchKey, request::Requests, shared::Shared, sys,
};

/// A watched socket and its peer, which is not.
fn watched(cx: &AioContext, events: i16) -> (UnixStream, UnixStream, WatchKey) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let fd = Fd::from(ours.try_clone().unwrap());
    let key = cx.requests().borrow_mut().watch(&fd, events).unwrap();
    (ours, theirs, key)
}

/// What one turn of the backend reports.
fn turn(cx: &AioContext, wait: Wait) -> Vec<(WatchKey, i16)> {
    let mut events = Events::default();
    cx.requests().borrow_mut().wait(wait, &mut events);
    events.ready
}

/// Turns that may sleep for a long time, until one reports something.
fn next_report(cx: &AioContext) -> Vec<(WatchKey, i16)> {
    loop {
        let ready = turn(cx, Wait::Ns(10_000_000_000));
        if !ready.is_empty() {
            return ready;
        }
    }
}

/// Turns that do not sleep, as many as it takes for all that is on its way to arrive.
fn quiet(cx: &AioContext) -> bool {
    (0..5).all(|_| turn(cx, Wait::No).is_empty())
}

#[test]
fn a_watch_reports_each_change() {
    on_each(|cx| {
        let (mut ours, mut theirs, key) = watched(cx, libc::POLLIN);
        assert!(quiet(cx));
        for _ in 0..3 {
            theirs.write_all(b"x").unwrap();
            assert_eq!(next_report(cx), [(key, libc::POLLIN)]);
            assert_eq!(ours.read(&mut [0; 9]).unwrap(), 1);
        }
        drop(theirs);
        let (_, holds) = next_report(cx)[0];
        assert_ne!(holds & libc::POLLHUP, 0);
    });
}

#[test]
fn what_is_left_on_a_descriptor_is_reported_again_after_a_recheck() {
    on_each(|cx| {
        let (mut ours, mut theirs, key) = watched(cx, libc::POLLIN);
        theirs.write_all(b"abc").unwrap();
        for _ in 0..3 {
            assert_eq!(next_report(cx), [(key, libc::POLLIN)]);
            assert_eq!(ours.read(&mut [0; 1]).unwrap(), 1);
            let mut requests = cx.requests().borrow_mut();
            requests.recheck(key);
            requests.recheck(key);
        }
        assert!(quiet(cx), "it is empty now");
    });
}

#[test]
fn many_watches_report_only_those_that_are_ready() {
    on_each(|cx| {
        let mut all: Vec<_> = (0..300).map(|_| watched(cx, libc::POLLIN)).collect();
        assert!(quiet(cx));
        for at in [3, 77, 299] {
            all[at].1.write_all(b"x").unwrap();
        }
        let mut ready = Vec::new();
        while ready.len() < 3 {
            ready.extend(next_report(cx));
        }
        let mut want = [3, 77, 299].map(|at: usize| (all[at].2, libc::POLLIN));
        want.sort_by_key(|(key, _)| key.0.index);
        ready.sort_by_key(|(key, _)| key.0.index);
        ready.dedup();
        assert_eq!(ready, want);
    });
}

#[test]
fn nothing_is_reported_of_a_watch_that_has_ended_and_its_descriptor_is_let_go() {
    on_each(|cx| {
        let (ours, mut theirs, key) = watched(cx, libc::POLLIN);
        assert!(quiet(cx));
        theirs.write_all(b"x").unwrap();
        cx.requests().borrow_mut().unwatch(key);
        cx.requests().borrow_mut().recheck(key);
        assert!(quiet(cx));
        drop(ours);
        let give_up = Instant::now() + Duration::from_secs(10);
        while theirs.write_all(b"y").is_ok() {
            assert!(Instant::now() < give_up, "the backend keeps the descriptor");
            turn(cx, Wait::No);
        }
    });
}

#[test]
fn a_watch_and_requests_share_a_descriptor() {
    on_each(|cx| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let fd = Fd::from(ours);
        let first = cx.requests().borrow_mut().watch(&fd, libc::POLLOUT);
        let second = cx.requests().borrow_mut().watch(&fd, libc::POLLIN).unwrap();
        assert_eq!(next_report(cx), [(first.unwrap(), libc::POLLOUT)]);
        cx.requests().borrow_mut().unwatch(second);
        let receives = {
            let (cx, fd) = (cx.clone(), fd.clone());
            cx.clone().spawn(async move {
                let (buf, result) = cx.recv_exact(&fd, IoBuf::heap(3), 0..3).await;
                result.map(|()| buf[..].to_vec())
            })
        };
        cx.poll(crate::Blocking::No);
        theirs.write_all(b"abc").unwrap();
        assert_eq!(cx.block_on(receives).unwrap(), b"abc");
    });
}

#[test]
fn what_has_no_readiness_cannot_be_watched() {
    on_each(|cx| {
        let file = Fd::from(tempfile::tempfile().unwrap());
        let null = Fd::from(std::fs::File::open("/dev/null").unwrap());
        for fd in [file, null] {
            let refused = cx.requests().borrow_mut().watch(&fd, libc::POLLIN);
            assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
        }
        assert!(quiet(cx));
    });
}

/// Whether an outside epoll that waits on `fd` sees it readable within `timeout_ns`.
fn seen_outside(fd: impl AsFd, timeout_ns: u64) -> bool {
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
    let outside = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
    outside.add(fd, event).unwrap();
    let mut events = [libc::epoll_event { events: 0, u64: 0 }];
    sys::epoll_wait(outside.0.as_fd(), &mut events, Some(timeout_ns)).unwrap() > 0
}

const LONG_NS: u64 = 10_000_000_000;

/// A backend of each kind without a context, its shared part beside it.
fn on_each_bare(test: impl Fn(&Arc<Shared>, &mut Requests)) {
    for backend in each_backend() {
        let shared = Arc::new(Shared::new(&Config::default()).unwrap());
        let pool = BufferPool::new(0);
        let config = Config {
            backend: Some(backend),
            ..Config::default()
        };
        let backend = super::choose(&config, &shared, pool.shared()).unwrap();
        test(&shared, &mut Requests::new(backend));
    }
}

fn bare_turn(requests: &mut Requests, wait: Wait) -> Vec<(WatchKey, i16)> {
    let mut events = Events::default();
    requests.wait(wait, &mut events);
    events.ready
}

#[test]
fn an_outside_loop_sees_readiness_and_kicks_and_a_turn_takes_them_back() {
    on_each_bare(|shared, requests| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let fd = Fd::from(ours.try_clone().unwrap());
        let key = requests.watch(&fd, libc::POLLIN).unwrap();
        assert!(bare_turn(requests, Wait::No).is_empty());
        let outside = requests.foreign_fd().unwrap();
        assert_ne!(
            outside.as_raw_fd(),
            requests.foreign_fd().unwrap().as_raw_fd()
        );
        // The read on the eventfd ends meanwhile.
        while seen_outside(&outside, 0) {
            assert!(bare_turn(requests, Wait::No).is_empty());
        }
        for round in 0..3 {
            theirs.write_all(b"x").unwrap();
            assert!(seen_outside(&outside, LONG_NS), "readiness, {round}");
            assert_eq!(bare_turn(requests, Wait::No), [(key, libc::POLLIN)]);
            assert_eq!((&ours).read(&mut [0; 9]).unwrap(), 1);
            while seen_outside(&outside, 0) {
                assert!(bare_turn(requests, Wait::No).is_empty());
            }
            shared.event().signal();
            assert!(seen_outside(&outside, LONG_NS), "a kick, {round}");
            assert!(bare_turn(requests, Wait::No).is_empty());
            assert!(!seen_outside(&outside, 0), "it was taken, {round}");
        }
    });
}

#[test]
fn a_foreign_driven_backend_that_sleeps_all_the_same_wakes_on_kicks_and_readiness() {
    on_each_bare(|shared, requests| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let fd = Fd::from(ours);
        assert!(bare_turn(requests, Wait::No).is_empty());
        let key = requests.watch(&fd, libc::POLLIN).unwrap();
        let outside = requests.foreign_fd().unwrap();
        while seen_outside(&outside, 0) {
            assert!(bare_turn(requests, Wait::No).is_empty());
        }
        std::thread::scope(|scope| {
            let _kicker = scope.spawn(|| shared.event().signal());
            assert!(bare_turn(requests, Wait::Forever).is_empty());
        });
        std::thread::scope(|scope| {
            let _writer = scope.spawn(|| theirs.write_all(b"x").unwrap());
            let ready = (0..).find_map(|_| {
                let ready = bare_turn(requests, Wait::Forever);
                ready.first().copied()
            });
            assert_eq!(ready, Some((key, libc::POLLIN)));
        });
    });
}
