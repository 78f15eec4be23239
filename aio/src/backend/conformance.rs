//! What every backend must do alike: one suite, run on each.

#![expect(
    clippy::excessive_nesting,
    reason = "the harness nests each test twice before it begins"
)]

mod foreign;
mod handlers;
mod interface;

use std::{
    cell::{Cell, RefCell},
    fs::File,
    future::{Future, poll_fn},
    io::{Read, Seek, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::FileExt,
            net::{UnixListener, UnixStream},
        },
    },
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

pub(crate) use super::tests_on_each::{each_backend, on_each, on_each_with};
use crate::{
    AioContext, Blocking, Clock, Config, FallocateMode, Fd, Interest, IoBuf, IoThread, SendPart,
};

fn scratch(len: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    file
}

fn filled(len: usize, byte: u8) -> IoBuf {
    let mut buf = IoBuf::heap(len);
    buf.fill(byte);
    buf
}

/// Polls `future` once and drops it.
async fn poll_once(future: impl Future) {
    let mut future = pin!(future);
    poll_fn(|cx| {
        assert!(
            future.as_mut().poll(cx).is_pending(),
            "this request cannot be ready yet"
        );
        Poll::Ready(())
    })
    .await;
}

#[test]
fn what_is_written_is_read_back() {
    on_each(|cx| {
        let file = Fd::from(scratch(0));
        cx.block_on(async {
            let mut buf = cx.buffers().acquire(10_000).await;
            for (byte, value) in buf.iter_mut().zip((0u8..=255).cycle()) {
                *byte = value;
            }
            let (buf, written) = cx.write_all(&file, 77, buf).await;
            written.unwrap();
            cx.fdatasync(&file).await.unwrap();
            cx.fsync(&file).await.unwrap();
            let (back, read) = cx.read_exact(&file, 77, IoBuf::heap(10_000)).await;
            read.unwrap();
            assert_eq!(&back[..], &buf[..]);
        });
    });
}

#[test]
fn a_read_at_the_end_of_a_file_is_short_and_one_beyond_it_is_empty() {
    on_each(|cx| {
        let file = Fd::from(scratch(100));
        cx.block_on(async {
            let (buf, count) = cx.read(&file, 60, IoBuf::heap(100)).await;
            assert_eq!(count.unwrap(), 40);
            let (buf, count) = cx.read(&file, 1000, buf).await;
            assert_eq!(count.unwrap(), 0);
            let (_, result) = cx.read_exact(&file, 60, buf).await;
            assert_eq!(
                result.unwrap_err().kind(),
                std::io::ErrorKind::UnexpectedEof
            );
        });
    });
}

#[test]
fn an_error_brings_the_errno_and_the_buffer() {
    on_each(|cx| {
        let file = Fd::from(File::open("/dev/null").unwrap());
        cx.block_on(async {
            let (buf, result) = cx.write(&file, 0, filled(5000, 3)).await;
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EBADF));
            assert!(buf.len() == 5000 && buf.iter().all(|&byte| byte == 3));
        });
    });
}

#[test]
fn a_thousand_requests_at_once_all_complete_with_their_own_data() {
    on_each(|cx| {
        let file = scratch(0);
        for block in 0..1000u64 {
            file.write_all_at(&block.to_le_bytes().repeat(64), block * 512)
                .unwrap();
        }
        let file = Fd::from(file);
        let seen = Rc::new(Cell::new(0));
        let tasks: Vec<_> = (0..1000u64)
            .map(|block| {
                let (cx, file, seen) = (cx.clone(), file.clone(), seen.clone());
                cx.clone().spawn(async move {
                    let buf = cx.buffers().acquire(512).await;
                    let (buf, result) = cx.read_exact(&file, block * 512, buf).await;
                    result.unwrap();
                    assert_eq!(buf[..8], block.to_le_bytes());
                    seen.set(seen.get() + 1);
                })
            })
            .collect();
        cx.block_on(async {
            for task in tasks {
                task.await;
            }
        });
        assert_eq!(seen.get(), 1000);
        assert_eq!(cx.buffers().bytes_in_use(), 0);
    });
}

#[test]
fn fallocate_punches_zeroes_and_allocates_without_changing_the_length() {
    on_each(|cx| {
        let file = scratch(0);
        file.write_all_at(&[1; 65536], 0).unwrap();
        let fd = Fd::from(file.try_clone().unwrap());
        cx.block_on(async {
            cx.fallocate(&fd, FallocateMode::PunchHole, 0, 4096)
                .await
                .unwrap();
            cx.fallocate(&fd, FallocateMode::Allocate, 65536, 4096)
                .await
                .unwrap();
            match cx
                .fallocate(&fd, FallocateMode::ZeroRange, 8192, 4096)
                .await
            {
                Ok(()) => {}
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP)),
            }
        });
        let mut byte = [9];
        file.read_exact_at(&mut byte, 4095).unwrap();
        assert_eq!((byte, file.metadata().unwrap().len()), ([0], 65536));
    });
}

#[test]
fn sockets_carry_messages_of_many_parts_however_large() {
    on_each(|cx| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (ours, theirs) = (Fd::from(ours), Fd::from(theirs));
        let reader = {
            let cx = cx.clone();
            cx.clone().spawn(async move {
                let (buf, result) = cx
                    .recv_exact(&theirs, IoBuf::heap(2_000_009), 0..2_000_009)
                    .await;
                result.unwrap();
                buf
            })
        };
        let received = cx.block_on(async {
            let parts = vec![
                SendPart::header(b"head"),
                SendPart::whole(filled(1_000_000, 1)),
                SendPart::header(b"inner"),
                SendPart::whole(filled(1_000_000, 2)),
            ];
            let (parts, sent) = cx.send(&ours, parts).await;
            sent.unwrap();
            assert_eq!(parts.len(), 4);
            reader.await
        });
        assert_eq!(&received[..4], b"head");
        assert!(received[4..1_000_004].iter().all(|&byte| byte == 1));
        assert_eq!(&received[1_000_004..1_000_009], b"inner");
        assert!(received[1_000_009..].iter().all(|&byte| byte == 2));
    });
}

#[test]
fn a_listener_accepts_and_a_closed_peer_reads_as_empty() {
    on_each(|cx| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Fd::from(UnixListener::bind(&path).unwrap());
        cx.block_on(async {
            poll_once(cx.accept(&listener)).await;
            // Until the dropped accept has ended it would take the connection, and close it.
            while cx.stats().requests_in_flight > 0 {
                cx.yield_now().await;
            }
            let peer = UnixStream::connect(&path).unwrap();
            let socket = cx.accept(&listener).await.unwrap();
            drop(peer);
            let (_, count) = cx.recv(&socket, IoBuf::heap(10), 0..10).await;
            assert_eq!(count.unwrap(), 0);
            let (_, sent) = cx
                .send(&socket, vec![SendPart::whole(filled(100, 1))])
                .await;
            assert_eq!(sent.unwrap_err().raw_os_error(), Some(libc::EPIPE));
        });
    });
}

#[test]
fn readiness_is_level_triggered() {
    on_each(|cx| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let ours = Fd::from(ours);
        cx.block_on(async {
            cx.ready(&ours, Interest::Writable).await.unwrap();
            poll_once(cx.ready(&ours, Interest::Readable)).await;
            theirs.write_all(b"x").unwrap();
            for _ in 0..3 {
                cx.ready(&ours, Interest::Readable).await.unwrap();
            }
            let file = Fd::from(scratch(1));
            let result = cx.ready(&file, Interest::Readable).await;
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM));
        });
    });
}

/// The kernel must never write into memory that was given back, nor work on a descriptor's next owner.
#[test]
fn dropping_a_request_keeps_its_buffer_and_descriptor_until_the_kernel_is_done() {
    on_each(|cx| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let number = ours.as_raw_fd();
        let ours = Fd::from(ours);
        cx.block_on(async {
            let buf = cx.buffers().acquire(4096).await;
            poll_once(cx.recv(&ours, buf, 0..4096)).await;
            drop(ours);
            // Until the orphan has ended, its buffer is in use and its descriptor number is not free.
            assert_eq!(cx.stats().requests_orphaned, 1);
            if cx.stats().requests_in_flight > 0 {
                assert_eq!(cx.buffers().bytes_in_use(), 4096);
                assert_ne!(scratch(0).as_raw_fd(), number);
            }
            while cx.stats().requests_in_flight > 0 {
                cx.yield_now().await;
            }
            assert_eq!(cx.buffers().bytes_in_use(), 0);
            assert!(
                theirs.write_all(b"nobody").is_err(),
                "the last clone of our side is closed"
            );
        });
    });
}

#[test]
fn dropping_reads_and_writes_in_flight_loses_no_buffer_and_changes_nothing_else() {
    on_each(|cx| {
        let file = Fd::from(scratch(1 << 20));
        cx.block_on(async {
            for round in 0..64u64 {
                let buf = cx.buffers().acquire(16384).await;
                if round % 2 == 0 {
                    poll_once(cx.read(&file, round * 16384, buf)).await;
                } else {
                    poll_once(cx.write(&file, round * 16384, buf)).await;
                }
            }
            while cx.stats().requests_in_flight > 0 {
                cx.sleep_ns(1_000_000).await;
            }
            assert_eq!(cx.buffers().bytes_in_use(), 0);
        });
    });
}

#[test]
fn closing_a_context_waits_for_the_requests_in_flight() {
    for backend in each_backend() {
        let Ok(cx) = AioContext::new(Config {
            backend: Some(backend),
            ..Config::default()
        }) else {
            continue;
        };
        let pool = cx.buffers().clone();
        let file = Fd::from(scratch(0));
        let (silent, _peer) = UnixStream::pair().unwrap();
        let silent = Fd::from(silent);
        let task = cx.clone();
        drop(cx.spawn(async move {
            let (wait, buf) = (
                task.buffers().acquire(4096).await,
                task.buffers().acquire(1 << 20).await,
            );
            let waits = pin!(task.recv(&silent, wait, 0..4096));
            let mut writes = pin!(task.write_all(&file, 0, buf));
            poll_fn(|cx| writes.as_mut().poll(cx).map(drop)).await;
            waits.await.1.unwrap();
        }));
        cx.poll(Blocking::No);
        cx.close();
        assert_eq!(pool.bytes_in_use(), 0);
    }
}

#[test]
fn sleeps_end_in_the_order_of_their_deadlines() {
    let (clock, manual) = Clock::manual();
    on_each_with(
        Config {
            clock,
            ..Config::default()
        },
        |cx| {
            let order = Rc::new(RefCell::new(Vec::new()));
            let start = cx.now_ns();
            let tasks: Vec<_> = [30u64, 10, 20, 10]
                .into_iter()
                .enumerate()
                .map(|(name, ns)| {
                    let (cx, order) = (cx.clone(), order.clone());
                    cx.clone().spawn(async move {
                        cx.sleep_until_ns(start + ns).await;
                        order.borrow_mut().push((ns, name));
                    })
                })
                .collect();
            for _ in 0..4 {
                cx.poll(Blocking::No);
            }
            assert!(order.borrow().is_empty(), "the clock stands still");
            for _ in 0..3 {
                manual.advance_ns(10);
                cx.poll(Blocking::Yes);
                cx.poll(Blocking::No);
            }
            cx.block_on(async {
                for task in tasks {
                    task.await;
                }
            });
            assert_eq!(*order.borrow(), [(10, 1), (10, 3), (20, 2), (30, 0)]);
        },
    );
}

#[test]
fn a_real_sleep_is_never_too_short_and_a_dropped_one_leaves_no_timer() {
    on_each(|cx| {
        cx.block_on(async {
            poll_once(cx.sleep_ns(3_600_000_000_000)).await;
            let before = cx.now_ns();
            cx.sleep_ns(2_000_000).await;
            assert!(cx.now_ns() - before >= 2_000_000);
        });
        assert!(cx.timers().with(|timers| timers.is_empty()));
    });
}

#[test]
fn a_bottom_half_scheduled_twice_runs_once_and_again_from_its_own_callback() {
    on_each(|cx| {
        let runs = Rc::new(Cell::new(0));
        let own: Rc<RefCell<Option<crate::BottomHalf>>> = Rc::default();
        let bottom_half = {
            let (runs, own) = (runs.clone(), own.clone());
            cx.bottom_half("counts", move |_| {
                runs.set(runs.get() + 1);
                if runs.get() == 1 {
                    own.borrow().as_ref().unwrap().schedule();
                }
            })
        };
        bottom_half.schedule();
        bottom_half.schedule();
        *own.borrow_mut() = Some(bottom_half);
        assert!(cx.poll(Blocking::No));
        assert_eq!(
            runs.get(),
            1,
            "a run scheduled meanwhile waits for the next turn"
        );
        assert!(cx.poll(Blocking::No));
        assert!(!cx.poll(Blocking::No));
        assert_eq!(runs.get(), 2);
        own.borrow_mut().take();
    });
}

#[test]
fn a_cancelled_or_deleted_bottom_half_does_not_run() {
    on_each(|cx| {
        let runs = Rc::new(Cell::new(0));
        let make = |name| {
            let runs = runs.clone();
            cx.bottom_half(name, move |_| runs.set(runs.get() + 1))
        };
        let (cancelled, deleted) = (make("cancelled"), make("deleted"));
        cancelled.schedule();
        cancelled.cancel();
        deleted.schedule();
        drop(deleted);
        cx.poll(Blocking::No);
        assert_eq!(runs.get(), 0);
        cancelled.schedule();
        cx.poll(Blocking::No);
        assert_eq!(runs.get(), 1);
    });
}

#[test]
fn a_nested_turn_goes_on_with_the_slice_and_runs_each_callback_once() {
    on_each(|cx| {
        let order = Rc::new(RefCell::new(Vec::new()));
        let (first, second) = (order.clone(), order.clone());
        let outer = cx.bottom_half("outer", move |cx| {
            first.borrow_mut().push("outer begins");
            cx.poll(Blocking::No);
            first.borrow_mut().push("outer ends");
        });
        let inner = cx.bottom_half("inner", move |_| second.borrow_mut().push("inner"));
        outer.schedule();
        inner.schedule();
        cx.poll(Blocking::No);
        cx.poll(Blocking::No);
        assert_eq!(*order.borrow(), ["outer begins", "inner", "outer ends"]);
    });
}

#[test]
fn a_nested_turn_inside_a_callback_loses_no_schedule_of_that_callback() {
    on_each(|cx| {
        let runs = Rc::new(Cell::new(0));
        let own: Rc<RefCell<Option<crate::BottomHalf>>> = Rc::default();
        let (counter, this) = (runs.clone(), own.clone());
        let bottom_half = cx.bottom_half("nests", move |cx| {
            counter.set(counter.get() + 1);
            if counter.get() == 1 {
                this.borrow().as_ref().unwrap().schedule();
                cx.poll(Blocking::No);
            }
        });
        bottom_half.schedule();
        *own.borrow_mut() = Some(bottom_half);
        cx.poll(Blocking::No);
        cx.poll(Blocking::No);
        assert_eq!(runs.get(), 2);
        own.borrow_mut().take();
    });
}

#[test]
fn many_threads_post_to_a_sleeping_context_and_nothing_is_lost() {
    for backend in each_backend() {
        let config = Config {
            backend: Some(backend),
            ..Config::default()
        };
        let Ok(thread) = IoThread::start(config) else {
            continue;
        };
        let runs = Arc::new(AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for poster in 0..4 {
                let (handle, runs) = (thread.handle().clone(), runs.clone());
                scope.spawn(move || {
                    for round in 0..2000 {
                        let counter = runs.clone();
                        handle.schedule(move |_| {
                            counter.fetch_add(1, Ordering::Relaxed);
                        });
                        if (round + poster) % 100 == 0 {
                            // Lets the context fall asleep now and then.
                            std::thread::park_timeout(Duration::from_micros(200));
                        }
                    }
                });
            }
        });
        thread.handle().spawn(|_| async {}).wait();
        drop(thread);
        assert_eq!(runs.load(Ordering::Relaxed), 8000);
    }
}

#[test]
fn a_future_spawned_from_another_thread_runs_at_home_and_brings_its_result() {
    for backend in each_backend() {
        let config = Config {
            backend: Some(backend),
            poll_max_ns: 32_000,
            ..Config::default()
        };
        let Ok(thread) = IoThread::start(config) else {
            continue;
        };
        let handle = thread.handle().clone();
        assert!(!handle.is_home());
        let at_home = handle.spawn(move |cx| async move {
            cx.sleep_ns(1_000_000).await;
            let worker = cx.blocking(|| std::thread::current().id()).await;
            cx.handle().is_home() && worker != std::thread::current().id()
        });
        assert!(at_home.wait());
    }
}

#[test]
fn an_idle_context_does_not_turn() {
    for backend in each_backend() {
        let config = Config {
            backend: Some(backend),
            poll_max_ns: 32_000,
            ..Config::default()
        };
        let Ok(thread) = IoThread::start(config) else {
            continue;
        };
        let turns = |_: ()| {
            thread
                .handle()
                .spawn(|cx| async move { cx.stats().turns })
                .wait()
        };
        let before = turns(());
        std::thread::park_timeout(Duration::from_millis(100));
        assert!(turns(()) - before < 10);
    }
}

#[test]
fn tasks_that_wake_each_other_for_ever_do_not_starve_io() {
    on_each(|cx| {
        let file = Fd::from(scratch(4096));
        for _ in 0..4 {
            let busy = cx.clone();
            drop(cx.spawn(async move {
                loop {
                    busy.yield_now().await;
                }
            }));
        }
        cx.block_on(async {
            for _ in 0..10 {
                let (_, result) = cx.read_exact(&file, 0, IoBuf::heap(4096)).await;
                result.unwrap();
                cx.sleep_ns(1000).await;
            }
        });
    });
}

#[test]
fn a_post_to_a_closed_context_is_dropped() {
    on_each(|cx| {
        let handle = cx.handle().clone();
        let witness = Arc::new(());
        let kept = witness.clone();
        let other = AioContext::new(Config {
            backend: Some(cx.backend()),
            ..Config::default()
        })
        .unwrap();
        let closed = other.handle().clone();
        other.close();
        closed.schedule(move |_| drop(kept));
        assert_eq!(Arc::strong_count(&witness), 1);
        handle.notify();
        assert!(!cx.poll(Blocking::Yes), "a bare notify is no progress");
    });
}

#[test]
fn a_task_of_a_closed_context_is_dropped() {
    on_each(|cx| {
        let other = AioContext::new(Config {
            backend: Some(cx.backend()),
            ..Config::default()
        })
        .unwrap();
        let witness = Rc::new(());
        let kept = (witness.clone(), other.clone());
        other.clone().close();
        let task = other.spawn(async move { drop(kept) });
        assert_eq!(Rc::strong_count(&witness), 1);
        assert!(!task.is_finished());
    });
}

#[test]
fn a_file_opened_non_blocking_reads_all_the_same() {
    use std::os::unix::fs::OpenOptionsExt;
    on_each(|cx| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[5; 8192]).unwrap();
        file.rewind().unwrap();
        let reopened = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(file.path())
            .unwrap();
        let fd = Fd::from(reopened);
        let buf = cx.block_on(async {
            let (buf, result) = cx.read_exact(&fd, 0, IoBuf::heap(8192)).await;
            result.unwrap();
            buf
        });
        let mut want = Vec::new();
        file.read_to_end(&mut want).unwrap();
        assert_eq!(&buf[..], want);
    });
}
