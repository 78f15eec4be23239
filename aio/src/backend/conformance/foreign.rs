//! Contexts driven by somebody else's loop, on each backend.

use std::{
    cell::Cell,
    future::Future,
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Waker},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use super::{on_each, scratch};
use crate::{AioContext, Blocking, EventNotifier, Fd, FdCallbacks, ForeignSource, Interest, IoBuf};

/// A test that waits so long for one thing has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a wait brings, in the end: the work of a ring in the kernel may interrupt any of them.
fn uninterrupted<T>(mut wait: impl FnMut() -> nix::Result<T>) -> T {
    loop {
        match wait() {
            Err(Errno::EINTR) => {}
            waited => return waited.unwrap(),
        }
    }
}

/// The smallest foreign loop there is: poll(2) on one descriptor.
struct ForeignLoop<'a> {
    cx: &'a AioContext,
    fd: OwnedFd,
    sleeps: usize,
}

impl<'a> ForeignLoop<'a> {
    fn new(cx: &'a AioContext) -> Self {
        let fd = cx.foreign_fd().unwrap();
        Self { cx, fd, sleeps: 0 }
    }

    /// Prepares, calls `between`, and sleeps; a wake-up that does not come ends the test.
    fn turn(&mut self, between: impl FnOnce()) {
        let timeout_ns = self.cx.prepare();
        between();
        let timeout = match timeout_ns {
            Some(ns) => Duration::from_nanos(ns) + Duration::from_millis(1),
            None => PATIENCE,
        };
        let timeout = PollTimeout::try_from(timeout.min(PATIENCE)).unwrap();
        if timeout_ns != Some(0) {
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            let ready = uninterrupted(|| poll(&mut fds, timeout));
            assert!(ready > 0 || timeout_ns.is_some(), "a wake-up was lost");
            self.sleeps += 1;
        }
        if self.cx.check() {
            self.cx.dispatch();
        }
    }

    fn turn_until(&mut self, mut done: impl FnMut() -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < give_up, "nothing happens any more");
            self.turn(|| ());
        }
    }
}

#[test]
fn a_foreign_loop_runs_reads_sleeps_and_handlers() {
    on_each(|cx| {
        let mut foreign = ForeignLoop::new(cx);
        let file = Fd::from(scratch(1 << 20));
        let event = EventNotifier::new().unwrap();
        let events = Rc::new(Cell::new(0));
        let (count, to_set) = (events.clone(), event.clone());
        let handler = cx
            .add_event_notifier(&event, "count", move |_| count.set(count.get() + 1))
            .unwrap();
        let context = cx.clone();
        let task = cx.spawn(async move {
            for round in 0..50 {
                let (buf, read) = context
                    .read_exact(&file, round * 4096, IoBuf::heap(4096))
                    .await;
                read.unwrap();
                assert!(buf.iter().all(|&byte| byte == 0));
                context.sleep_ns(1_000_000).await;
                to_set.set();
            }
        });
        foreign.turn_until(|| task.is_finished() && events.get() > 0);

        drop(handler);
        assert!(foreign.sleeps > 0);
    });
}

#[test]
fn posts_of_other_threads_wake_a_foreign_loop() {
    on_each(|cx| {
        let mut foreign = ForeignLoop::new(cx);
        let handle = cx.handle().clone();
        let left = Arc::new(AtomicUsize::new(200));
        let count = left.clone();
        let other = std::thread::spawn(move || {
            for _ in 0..200 {
                let count = count.clone();
                let call = move |_: &AioContext| count.fetch_sub(1, Ordering::Relaxed);
                handle.call(call).wait();
            }
        });
        foreign.turn_until(|| left.load(Ordering::Relaxed) == 0);
        other.join().unwrap();
    });
}

#[test]
fn what_the_home_thread_leaves_between_prepare_and_sleep_is_not_overslept() {
    on_each(|cx| {
        let mut foreign = ForeignLoop::new(cx);
        let ran = Rc::new(Cell::new(0));
        let count = ran.clone();
        let bottom_half = cx.bottom_half("left late", move |_| count.set(count.get() + 1));
        let file = Fd::from(scratch(4096));
        foreign.turn(|| bottom_half.schedule());
        foreign.turn_until(|| ran.get() == 1);

        let task = Rc::new(Cell::new(None));
        let (late, context) = (task.clone(), cx.clone());
        foreign.turn(|| {
            let inner = context.clone();
            let read = async move {
                let read = inner.read_exact(&file, 0, IoBuf::heap(4096)).await.1;
                read.unwrap();
            };
            late.set(Some(context.spawn(read)));
        });
        let task = task.take().unwrap();
        foreign.turn_until(|| task.is_finished());

        let slept = Rc::new(Cell::new(0));
        let late = slept.clone();
        let mut sleep = Some(cx.sleep_ns(1_000_000));
        foreign.turn(|| {
            let sleep = sleep.take().unwrap();
            let task = cx.spawn(async move {
                sleep.await;
                late.set(1);
            });
            drop(task);
        });
        foreign.turn_until(|| slept.get() == 1);
    });
}

#[test]
fn a_request_begun_outside_of_a_turn_is_not_overslept() {
    on_each(|cx| {
        let mut foreign = ForeignLoop::new(cx);
        let file = Fd::from(scratch(4096));
        let mut read = pin!(cx.read_exact(&file, 0, IoBuf::heap(4096)));
        let mut waits = Context::from_waker(Waker::noop());
        // As a task of the other loop's would.
        foreign.turn(|| assert!(read.as_mut().poll(&mut waits).is_pending()));
        foreign.turn_until(|| read.as_mut().poll(&mut waits).is_ready());
    });
}

#[test]
fn waiting_for_an_event_again_and_again_wakes_a_foreign_loop() {
    on_each(|cx| {
        let source = cx.foreign_source().unwrap();
        let event = EventNotifier::new().unwrap();
        let (context, mine) = (cx.clone(), event.clone());
        let (seen, to_see) = mpsc::channel();
        let task = cx.spawn(async move {
            for _ in 0..100 {
                let readable = context.ready(mine.fd(), Interest::Readable).await;
                readable.unwrap();
                assert!(mine.test_and_clear());
                seen.send(()).unwrap();
            }
        });
        let other = std::thread::spawn(move || {
            for _ in 0..100 {
                event.set();
                to_see.recv().unwrap();
            }
        });
        drive(&source, || task.is_finished());
        other.join().unwrap();
    });
}

#[test]
fn handlers_of_before_go_on_when_somebody_else_takes_over() {
    on_each(|cx| {
        let event = EventNotifier::new().unwrap();
        let count = Rc::new(Cell::new(0));
        let more = || {
            let count = count.clone();
            let callback = move |_: &AioContext| count.set(count.get() + 1);
            cx.add_event_notifier(&event, "before", callback).unwrap()
        };
        let before = more();
        event.set();
        while count.get() == 0 {
            cx.poll(Blocking::Yes);
        }
        let source = cx.foreign_source().unwrap();
        for round in 2..10 {
            let set = event.clone();
            let other = std::thread::spawn(move || set.set());
            drive(&source, || count.get() == round);
            other.join().unwrap();
        }
        // Two of one descriptor, and neither after they were dropped.
        let again = more();
        drop(before);
        event.set();
        drive(&source, || count.get() == 10);
        drop(again);
        event.set();
        cx.handle().notify();
        source.turn();
        source.turn();
        assert_eq!(count.get(), 10);
    });
}

#[test]
fn a_prepare_without_a_check_costs_nothing_but_a_wake_up() {
    on_each(|cx| {
        let mut foreign = ForeignLoop::new(cx);
        for _ in 0..3 {
            assert_eq!(cx.prepare(), None);
        }
        cx.handle().notify();
        foreign.turn(|| ());
        assert_eq!(cx.prepare(), None);
    });
}

#[test]
fn a_turn_of_our_own_between_prepare_and_sleep_does_not_lose_later_wake_ups() {
    on_each(|cx| {
        let mut foreign = ForeignLoop::new(cx);
        let handle = cx.handle().clone();
        let ran = Arc::new(AtomicUsize::new(0));
        let count = ran.clone();
        foreign.turn(|| {
            // The one kick that `prepare` has announced a sleep for, taken by a turn of our own.
            drop(cx.spawn(async {}));
            cx.poll(Blocking::No);
            let note = move |_: &AioContext| count.store(1, Ordering::Relaxed);
            let post = move || handle.schedule(note);
            std::thread::spawn(post).join().unwrap();
        });
        foreign.turn_until(|| ran.load(Ordering::Relaxed) == 1);
    });
}

/// Turns the source when its descriptor is readable; a wake-up that does not come ends the test.
fn drive(source: &ForeignSource, mut done: impl FnMut() -> bool) {
    while !done() {
        let mut fds = [PollFd::new(source.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
        assert!(ready > 0, "a wake-up was lost");
        source.turn();
    }
}

#[test]
fn a_source_is_one_descriptor_for_work_posts_and_timers() {
    on_each(|cx| {
        let file = Fd::from(scratch(1 << 20));
        let (context, handle) = (cx.clone(), cx.handle().clone());
        // Left before there is a source: it must not be forgotten.
        let task = cx.spawn(async move {
            for round in 0..50 {
                let buf = IoBuf::heap(4096);
                let read = context.read_exact(&file, round * 4096, buf).await.1;
                read.unwrap();
                context.sleep_ns(10_000).await;
            }
        });
        let source = cx.foreign_source().unwrap();
        drive(&source, || task.is_finished());

        let left = Arc::new(AtomicUsize::new(200));
        let count = left.clone();
        let other = std::thread::spawn(move || {
            for _ in 0..200 {
                let count = count.clone();
                let call = move |_: &AioContext| count.fetch_sub(1, Ordering::Relaxed);
                handle.call(call).wait();
            }
        });
        drive(&source, || left.load(Ordering::Relaxed) == 0);
        other.join().unwrap();
    });
}

#[test]
fn events_that_come_together_with_posts_wake_a_foreign_loop() {
    on_each(|cx| {
        let source = cx.foreign_source().unwrap();
        let event = EventNotifier::new().unwrap();
        let (seen, to_see) = mpsc::channel();
        let handler = cx
            .add_event_notifier(&event, "answer", move |_| seen.send(()).unwrap())
            .unwrap();
        let (handle, done) = (cx.handle().clone(), Arc::new(AtomicUsize::new(0)));
        let is_done = done.clone();
        let other = std::thread::spawn(move || {
            for _ in 0..2000 {
                // The loop is woken by this, and must not take the event's signal for it.
                handle.schedule(|_| ());
                event.set();
                to_see.recv().unwrap();
            }
            handle.schedule(move |_| done.store(1, Ordering::Relaxed));
        });
        drive(&source, || is_done.load(Ordering::Relaxed) == 1);
        other.join().unwrap();
        drop(handler);
    });
}

#[test]
fn a_source_watched_for_edges_misses_nothing() {
    on_each(|cx| {
        let source = cx.foreign_source().unwrap();
        let outside = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let edges = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
        outside.add(&source, edges).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = Fd::from(ours);
        let seen = Rc::new(Cell::new(0));
        let (count, socket) = (seen.clone(), ours.clone());
        // Takes one byte at a time, so that most of them stay behind without an edge of their own.
        let callbacks = FdCallbacks::new("sip").on_readable(move |_| {
            let mut byte = [0];
            if nix::unistd::read(&socket, &mut byte).is_ok() {
                count.set(count.get() + 1);
            }
        });
        let handler = cx.add_fd_handler(&ours, callbacks).unwrap();
        let other = std::thread::spawn(move || {
            for _ in 0..100 {
                theirs.write_all(b"0123456789").unwrap();
            }
            theirs
        });
        let patience = EpollTimeout::try_from(PATIENCE).unwrap();
        while seen.get() < 1000 {
            let mut events = [EpollEvent::empty()];
            let ready = uninterrupted(|| outside.wait(&mut events, patience));
            assert!(ready > 0, "an edge was lost after {} bytes", seen.get());
            source.turn();
        }
        drop(other.join().unwrap());
        drop(handler);
    });
}
