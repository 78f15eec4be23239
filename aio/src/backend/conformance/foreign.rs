//! Contexts driven by somebody else's loop, on each backend.

use std::{
    cell::Cell,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{on_each, scratch};
use crate::{AioContext, EventNotifier, Fd, IoBuf};

/// A test that waits so long for one thing has failed.
const PATIENCE: Duration = Duration::from_secs(60);

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
            let ready = poll(&mut fds, timeout).unwrap();
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
