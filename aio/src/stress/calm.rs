//! A calm: each context sleeps until the one thing happens that it is asked for.
//!
//! In a storm the next post makes up for a wake-up that was lost. Here nothing does: a context is
//! asked for one thing at a time, often just when it is about to fall asleep, and nobody else
//! touches it meanwhile.

use std::{
    cell::RefCell, future::poll_fn, hint, io::Write, os::unix::net::UnixStream, rc::Rc, sync::mpsc,
    task::Poll, thread, time::Duration,
};

use super::{
    config,
    random::Random,
    watch::{THREAD_PREFIX, Worker},
    world::{PLACES, World},
};
use crate::{
    AioContext, BottomHalf, EventNotifier, Fd, FdHandler, Handle, IoBuf, IoThread, Timer,
    TimerClock, clock::Clock, reschedule_to,
};

/// How long contexts live.
const LIFE_NS: u64 = 300_000_000;

/// Runs a calm: a thread for each pair of contexts.
pub(super) fn run(world: &World, until_ns: u64) {
    thread::scope(|scope| {
        for first in (0..PLACES).step_by(2) {
            let asks = move || ask_until(world, first, until_ns);
            let thread = thread::Builder::new().name(format!("{THREAD_PREFIX}asker"));
            thread.spawn_scoped(scope, asks).unwrap();
        }
    });
}

/// Makes contexts for two places again and again, and asks them for one thing after the other.
fn ask_until(world: &World, first: usize, until_ns: u64) {
    let listed = world
        .workers
        .enter(format!("asker of {first} and the next"));
    let mut random = Random::new(world.seed, (PLACES + first) as u64);
    while Clock::Monotonic.now_ns() < until_ns {
        let threads = [first, first + 1].map(|place| {
            let config = config(world, place, &mut random, 1);
            *super::lock(&world.places[place].config) = format!("{place}: {config:?}");
            IoThread::start(config).expect("a context can be had")
        });
        let interrupts = [0, 2, 5][random.size(3)];
        for thread in &threads {
            let set = thread
                .handle()
                .call(move |_| crate::sys::interrupts::set(interrupts));
            set.wait();
        }
        let targets = threads.each_ref().map(|it| Target::new(it.handle()));
        let end_ns = Clock::Monotonic.now_ns() + LIFE_NS;
        while Clock::Monotonic.now_ns() < end_ns.min(until_ns) {
            ask(&targets, &mut random, &listed.1);
        }
    }
}

/// A context, and what of it tells when it was called.
struct Target {
    handle: Handle,
    bottom_half: BottomHalf,
    timer: Timer,
    event: EventNotifier,
    handler: Option<FdHandler>,
    called: mpsc::Receiver<()>,
}

impl Target {
    fn new(handle: &Handle) -> Self {
        let event = EventNotifier::new().unwrap();
        let notifier = event.clone();
        let (call, called) = mpsc::channel();
        let parts = move |cx: &AioContext| {
            let tell = || {
                let call = call.clone();
                move |_: &AioContext| call.send(()).unwrap()
            };
            (
                cx.bottom_half("tells", tell()),
                cx.timer("tells", TimerClock::Loop, tell()),
                cx.add_event_notifier(&notifier, "tells", tell()).unwrap(),
            )
        };
        let (bottom_half, timer, handler) = handle.call(parts).wait();
        Self {
            handle: handle.clone(),
            bottom_half,
            timer,
            event,
            handler: Some(handler),
            called,
        }
    }
}

/// Waits until the contexts have perhaps fallen asleep, asks one for one thing, and waits for that.
fn ask(targets: &[Target; 2], random: &mut Random, worker: &Worker) {
    match random.below(4) {
        0 => {}
        // Just when it is about to fall asleep.
        1 | 2 => (0..random.below(2000)).for_each(|_| hint::spin_loop()),
        _ => thread::park_timeout(Duration::from_micros(random.below(200))),
    }
    let at = random.size(2);
    let (target, other) = (&targets[at], &targets[1 - at]);
    match random.below(9) {
        0 => {
            worker.begin("calls");
            target.handle.call(|_| ()).wait();
        }
        1 => {
            worker.begin("schedules a bottom half");
            target.bottom_half.schedule();
            target.called.recv().unwrap();
        }
        2 => {
            worker.begin("arms a timer");
            let deadline_ns = Clock::Monotonic.now_ns() + random.below(50_000);
            target.timer.arm_at_ns(deadline_ns);
            target.called.recv().unwrap();
        }
        3 => {
            worker.begin("sets an event");
            target.event.set();
            target.called.recv().unwrap();
        }
        4 => {
            worker.begin("has a worker work");
            let work = |cx: AioContext| async move { cx.blocking(|| ()).await };
            target.handle.spawn(work).wait();
        }
        5 => {
            worker.begin("has one context call the other");
            let other = other.handle.clone();
            let call = |_: AioContext| async move { other.call(|_| ()).await };
            target.handle.spawn(call).wait();
        }
        6 => {
            worker.begin("has a task move there and back");
            let (one, two) = (target.handle.clone(), other.handle.clone());
            let moves = async move {
                reschedule_to(&two).await;
                reschedule_to(&one).await;
            };
            target.handle.spawn_migratable(moves).wait();
        }
        7 => sends_a_byte(&target.handle, worker),
        _ => wakes_a_task(&target.handle, worker),
    }
    worker.end();
}

fn sends_a_byte(handle: &Handle, worker: &Worker) {
    worker.begin("sends a byte");
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let receive = handle.spawn(|cx| async move {
        let ours = Fd::from(ours);
        cx.recv(&ours, IoBuf::heap(1), 0..1).await.1.unwrap()
    });
    theirs.write_all(b"x").unwrap();
    assert_eq!(receive.wait(), 1);
}

/// Wakes a task by its waker alone.
fn wakes_a_task(handle: &Handle, worker: &Worker) {
    worker.begin("wakes a task");
    let (give, given) = mpsc::channel();
    let task = handle.spawn(move |_| {
        let give = Rc::new(RefCell::new(Some(give)));
        poll_fn(move |cx| match give.borrow_mut().take() {
            Some(give) => {
                give.send(cx.waker().clone()).unwrap();
                Poll::Pending
            }
            None => Poll::Ready(()),
        })
    });
    given.recv().unwrap().wake();
    task.wait();
}

impl Drop for Target {
    fn drop(&mut self) {
        // At home, so that nothing of it is left when this returns.
        let handler = self.handler.take();
        self.handle.call(move |_| drop(handler)).wait();
    }
}
