//! Servers that vanish or fall silent: what waits, what is made again, and what fails.

use aio::{Clock, ManualClock, Task};
use std::rc::Rc;

use super::*;
use crate::error::BlockError;

/// Runs a test by a clock that it moves itself, on each backend.
fn with_clock<F: Future<Output = ()>>(test: impl Fn(AioContext, ManualClock) -> F) {
    for backend in [BackendKind::Epoll, BackendKind::IoUring] {
        if backend == BackendKind::IoUring && aio::probe_io_uring().is_err() {
            continue;
        }
        let (clock, hand) = Clock::manual();
        let config = Config {
            backend: Some(backend),
            clock,
            ..Config::default()
        };
        aio::run(config, |cx| test(cx, hand.clone())).unwrap();
    }
}

type Read = Task<Result<Vec<u8>, BlockError>>;

/// A read of 4 KiB that goes on by itself.
fn read_later(cx: &AioContext, edge: &Rc<Child>) -> Read {
    let (home, edge) = (cx.clone(), edge.clone());
    cx.spawn(async move {
        let (buf, result) = edge.read(&home, 0, IoBuf::heap(4096)).await;
        result.map(|_| buf.to_vec())
    })
}

fn write_later(cx: &AioContext, edge: &Rc<Child>) -> Task<Result<Way, BlockError>> {
    let (home, edge) = (cx.clone(), edge.clone());
    cx.spawn(async move {
        let flags = RequestFlags::default();
        edge.write(&home, 0, pattern(64 * KIB), flags).await.1
    })
}

async fn pass(cx: &AioContext, clock: &ManualClock, ns: u64) {
    // In small steps, so that who waits for one moment after the other is served.
    for _ in 0..100 {
        clock.advance_ns(ns / 100);
        for _ in 0..20 {
            cx.yield_now().await;
        }
    }
}

#[test]
fn what_is_in_flight_fails_with_the_server_and_the_next_request_finds_it_again() {
    on_each_backend(|cx| async move {
        let mut server = TestServer::start();
        let edge = Rc::new(opened(&cx, &options(&server)).await);
        server.behave(|_| Act::Ignore);
        let stuck = [read_later(&cx, &edge), read_later(&cx, &edge)];
        until(&cx, || server.seen().len() == 2).await;
        server.kill();
        for stuck in stuck {
            let error = stuck.await.unwrap_err();
            assert_eq!(error.errno(), Some(libc::EIO), "{error}");
        }
        server.behave(|_| Act::Serve);
        server.listen();
        assert_eq!(read(&edge, &cx, 0, 512).await, [0; 512]);
    });
}

#[test]
fn a_server_that_stays_away_fails_requests_soon() {
    on_each_backend(|cx| async move {
        let mut server = TestServer::start();
        let edge = opened(&cx, &options(&server)).await;
        read(&edge, &cx, 0, 512).await;
        server.kill();
        for _ in 0..2 {
            let (_, result) = edge.read(&cx, 0, IoBuf::heap(512)).await;
            assert_eq!(result.unwrap_err().errno(), Some(libc::EIO));
        }
    });
}

#[test]
fn with_a_delay_requests_wait_for_the_server_and_are_made_again() {
    with_clock(|cx, clock| async move {
        let mut server = TestServer::start();
        let patient = NbdOptions {
            reconnect_delay_ns: 60 * SECOND_NS,
            ..options(&server)
        };
        let edge = Rc::new(opened(&cx, &patient).await);
        server.behave(|_| Act::Ignore);
        let (reading, writing) = (read_later(&cx, &edge), write_later(&cx, &edge));
        until(&cx, || server.seen().len() == 2).await;
        server.kill();
        server.behave(|_| Act::Serve);
        pass(&cx, &clock, 30 * SECOND_NS).await;
        let late = read_later(&cx, &edge);
        pass(&cx, &clock, SECOND_NS).await;
        assert!(!reading.is_finished() && !writing.is_finished() && !late.is_finished());

        server.listen();
        let all = async {
            writing.await.unwrap();
            reading.await.unwrap();
            late.await.unwrap();
        };
        let time = async {
            loop {
                pass(&cx, &clock, SECOND_NS / 10).await;
            }
        };
        super::super::links::unless(time, all).await.unwrap();
        assert_eq!(server.disk()[..251], pattern(251)[..]);
    });
}

#[test]
fn when_the_delay_is_over_all_who_waited_fail_and_later_ones_fail_soon() {
    with_clock(|cx, clock| async move {
        let mut server = TestServer::start();
        let patient = NbdOptions {
            reconnect_delay_ns: 60 * SECOND_NS,
            ..options(&server)
        };
        let edge = Rc::new(opened(&cx, &patient).await);
        server.behave(|_| Act::Ignore);
        let stuck = read_later(&cx, &edge);
        until(&cx, || !server.seen().is_empty()).await;
        server.kill();
        pass(&cx, &clock, 50 * SECOND_NS).await;
        assert!(!stuck.is_finished());
        let late = read_later(&cx, &edge);
        pass(&cx, &clock, 12 * SECOND_NS).await;
        for read in [stuck, late] {
            assert!(read.is_finished());
            assert_eq!(read.await.unwrap_err().errno(), Some(libc::EIO));
        }

        let later = read_later(&cx, &edge);
        pass(&cx, &clock, 3 * SECOND_NS).await;
        assert!(later.is_finished());
        later.await.unwrap_err();

        server.behave(|_| Act::Serve);
        server.listen();
        let back = read_later(&cx, &edge);
        until(&cx, || back.is_finished()).await;
        back.await.unwrap();
    });
}

#[test]
fn a_server_that_hangs_up_on_a_request_is_not_asked_without_end() {
    with_clock(|cx, clock| async move {
        let server = TestServer::start();
        let patient = NbdOptions {
            reconnect_delay_ns: 10 * SECOND_NS,
            ..options(&server)
        };
        let edge = Rc::new(opened(&cx, &patient).await);
        server.behave(|_| Act::HangUp);
        let read = read_later(&cx, &edge);
        while !read.is_finished() {
            pass(&cx, &clock, SECOND_NS).await;
        }
        read.await.unwrap_err();
        let asked = server.seen().len();
        assert!((2..=300).contains(&asked), "{asked}");
    });
}

#[test]
fn a_silent_server_is_left_by_a_cancel_and_asked_again_by_the_next_request() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let patient = NbdOptions {
            reconnect_delay_ns: 3600 * SECOND_NS,
            ..options(&server)
        };
        let edge = Rc::new(opened(&cx, &patient).await);
        server.behave(|_| Act::Ignore);
        let (reading, writing) = (read_later(&cx, &edge), write_later(&cx, &edge));
        until(&cx, || server.seen().len() == 2).await;

        edge.node().cancel_in_flight();
        let error = reading.await.unwrap_err();
        assert!(error.to_string().contains("given up"), "{error}");
        writing.await.unwrap_err();

        server.behave(|_| Act::Serve);
        assert_eq!(read(&edge, &cx, 0, 512).await, [0; 512]);
    });
}

#[test]
fn museum_23_a_cancel_ends_what_waits_for_a_lost_server() {
    on_each_backend(|cx| async move {
        let mut server = TestServer::start();
        let patient = NbdOptions {
            reconnect_delay_ns: 3600 * SECOND_NS,
            ..options(&server)
        };
        let edge = Rc::new(opened(&cx, &patient).await);
        server.behave(|_| Act::Ignore);
        let stuck = read_later(&cx, &edge);
        until(&cx, || !server.seen().is_empty()).await;
        server.kill();
        let late = read_later(&cx, &edge);
        for _ in 0..100 {
            cx.yield_now().await;
        }
        assert!(!stuck.is_finished() && !late.is_finished());

        edge.node().cancel_in_flight();
        stuck.await.unwrap_err();
        late.await.unwrap_err();
    });
}

#[test]
fn a_send_that_is_stuck_is_cancelled_with_its_buffer() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let edge = Rc::new(opened(&cx, &options(&server)).await);
        // It takes no more than the first request, so that the others fill the socket.
        let (block, blocked) = std::sync::mpsc::channel::<()>();
        server.behave(move |_| {
            let _ = blocked.recv();
            Act::HangUp
        });
        let writes: Vec<_> = (0..64).map(|_| write_later(&cx, &edge)).collect();
        until(&cx, || server.seen().len() == 1).await;
        edge.node().cancel_in_flight();
        for write in writes {
            write.await.unwrap_err();
        }
        drop(block);
    });
}

#[test]
fn an_export_that_came_back_different_is_not_used() {
    type Change = fn(&mut ::nbd::ExportInfo);
    let changes: [(Change, &str); 4] = [
        (|info| info.size_bytes = 512, "has 512 bytes"),
        (
            |info| info.flags = TransmissionFlags::READ_ONLY,
            "read-only now",
        ),
        (|info| info.block_sizes.minimum_bytes = 512, "block sizes"),
        (|info| info.contexts.clear(), "less than before"),
    ];
    on_each_backend(|cx| async move {
        for (change, why) in changes {
            let server = TestServer::start();
            let edge = opened(&cx, &options(&server)).await;
            read(&edge, &cx, 0, 512).await;
            server.change(change);
            server.hang_up();
            // The first one may still be on the old connection.
            let _ = edge.read(&cx, 0, IoBuf::heap(512)).await;
            let (_, result) = edge.read(&cx, 0, IoBuf::heap(512)).await;
            let error = result.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    });
}

#[test]
fn opening_waits_for_a_server_that_starts_late() {
    with_clock(|cx, clock| async move {
        let mut server = TestServer::start();
        server.kill();
        let patient = NbdOptions {
            open_timeout_ns: 10 * SECOND_NS,
            ..options(&server)
        };
        let home = cx.clone();
        let wanted = patient.clone();
        let opening = cx.spawn(async move { NbdNode::open(&home, &wanted).await });
        pass(&cx, &clock, 5 * SECOND_NS).await;
        assert!(!opening.is_finished());
        server.listen();
        while !opening.is_finished() {
            pass(&cx, &clock, SECOND_NS / 10).await;
        }
        opening.await.unwrap();

        server.kill();
        let home = cx.clone();
        let opening = cx.spawn(async move { NbdNode::open(&home, &patient).await });
        pass(&cx, &clock, 11 * SECOND_NS).await;
        assert!(opening.is_finished());
        opening.await.unwrap_err();
    });
}

#[test]
fn a_server_that_never_greets_is_given_up() {
    with_clock(|cx, clock| async move {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("silent.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = NbdUri {
            address: NbdAddress::Unix(path),
            export: String::new(),
        };
        let home = cx.clone();
        let opening = cx.spawn(async move { NbdNode::open(&home, &NbdOptions::new(server)).await });
        pass(&cx, &clock, 11 * SECOND_NS).await;
        assert!(opening.is_finished());
        let error = opening.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    });
}

#[test]
fn a_dropped_request_leaves_the_connection_usable() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let edge = opened(&cx, &options(&server)).await;
        for len in [512, 512 << 10] {
            let dropped = edge.read(&cx, 0, IoBuf::heap(len));
            let soon = cx.yield_now();
            super::super::links::unless(soon, async { drop(dropped.await) }).await;
            assert_eq!(read(&edge, &cx, 0, 512).await, [0; 512]);
        }
        assert_eq!(server.accepted(), 1);
    });
}
