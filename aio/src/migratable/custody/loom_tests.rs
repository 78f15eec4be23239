//! Models of a task that moves while others wake it, with the protocol's known mistakes as mutants.

use std::sync::Arc;

use loom::{
    sync::{
        Mutex, Notify,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
};

use super::{Custody, DUE, OVER, RUNNING};

/// What the shipped protocol and its mutants have in common; contexts are numbers here.
trait Protocol: Send + Sync + 'static {
    fn new(home: usize, work: Work) -> Self;
    fn wake(&self) -> Option<usize>;
    fn begin(&self) -> Work;
    fn put_back(&self, work: Work) -> bool;
    /// Calls `queue` when the task may be queued on `home`.
    fn move_to(&self, home: usize, work: Work, queue: impl FnOnce());
    fn end(&self);
}

impl Protocol for Custody<usize, Work> {
    fn new(home: usize, work: Work) -> Self {
        Custody::new(home, work)
    }
    fn wake(&self) -> Option<usize> {
        Custody::wake(self)
    }
    fn begin(&self) -> Work {
        Custody::begin(self)
    }
    fn put_back(&self, work: Work) -> bool {
        Custody::put_back(self, work)
    }
    fn move_to(&self, home: usize, work: Work, queue: impl FnOnce()) {
        Custody::move_to(self, home, work);
        queue();
    }
    fn end(&self) {
        Custody::end(self);
    }
}

/// What is polled: it moves to another context once, and ends when it has seen what all wakers wrote.
struct Work {
    at: usize,
    has_moved: bool,
}

const CONTEXTS: usize = 2;

struct World<P> {
    custody: P,
    /// The task is in the queue of this context.
    queued: [Mutex<bool>; CONTEXTS],
    bells: [Notify; CONTEXTS],
    is_over: AtomicBool,
    inside: AtomicBool,
    written: [AtomicUsize; 2],
}

impl<P: Protocol> World<P> {
    fn new() -> Self {
        let work = Work {
            at: 0,
            has_moved: false,
        };
        Self {
            custody: P::new(0, work),
            queued: [Mutex::new(true), Mutex::new(false)],
            bells: [(); CONTEXTS].map(|()| Notify::new()),
            is_over: AtomicBool::new(false),
            inside: AtomicBool::new(false),
            written: [(); 2].map(|()| AtomicUsize::new(0)),
        }
    }

    fn queue(&self, at: usize) {
        let was_queued = std::mem::replace(&mut *self.queued[at].lock().unwrap(), true);
        assert!(!was_queued, "it was queued twice");
        self.bells[at].notify();
    }

    fn wake(&self, waker: usize) {
        self.written[waker].store(1, Ordering::Relaxed);
        if let Some(home) = self.custody.wake() {
            self.queue(home);
        }
    }

    /// The loop of one context.
    fn turns(&self, at: usize, wakers: usize) {
        while !self.is_over.load(Ordering::Acquire) {
            if std::mem::take(&mut *self.queued[at].lock().unwrap()) {
                self.poll(at, wakers);
            } else {
                self.bells[at].wait();
            }
        }
    }

    fn poll(&self, at: usize, wakers: usize) {
        let mut work = self.custody.begin();
        let was_inside = self.inside.swap(true, Ordering::Relaxed);
        assert!(!was_inside, "it is polled by two threads");
        assert_eq!(work.at, at, "it is polled where it is not");
        let written = self.written.iter();
        let seen: usize = written.map(|it| it.load(Ordering::Relaxed)).sum();
        self.inside.store(false, Ordering::Relaxed);
        if !work.has_moved {
            let target = CONTEXTS - 1 - at;
            (work.at, work.has_moved) = (target, true);
            self.custody.move_to(target, work, || self.queue(target));
        } else if seen == wakers {
            self.custody.end();
            self.is_over.store(true, Ordering::Release);
            self.bells.iter().for_each(Notify::notify);
        } else if self.custody.put_back(work) {
            self.queue(at);
        }
    }
}

/// Two contexts, and so many threads that each write something and wake the task once.
fn model<P: Protocol>(wakers: usize) {
    // Every known mistake shows itself with two switches at unwelcome moments; with two wakers, a
    // third one would take a minute.
    crate::explore::explore(4 - wakers, move || {
        let world = Arc::new(World::<P>::new());
        let other = {
            let world = world.clone();
            thread::spawn(move || world.turns(1, wakers))
        };
        let threads: Vec<_> = (0..wakers)
            .map(|waker| {
                let world = world.clone();
                thread::spawn(move || world.wake(waker))
            })
            .collect();
        world.turns(0, wakers);
        for thread in threads {
            thread.join().unwrap();
        }
        other.join().unwrap();
    });
}

#[test]
fn loom_a_task_that_moves_is_polled_by_one_thread_and_misses_no_wake_up() {
    model::<Custody<usize, Work>>(1);
    model::<Custody<usize, Work>>(2);
}

/// A context closes, and takes what is idle, while another thread wakes the task: one of them ends it.
#[test]
fn loom_closing_and_waking_leave_the_work_to_one_of_them() {
    crate::explore::explore(3, || {
        let custody = Arc::new(Custody::new((), ()));
        let ended = Arc::new(AtomicUsize::new(0));
        let work = custody.begin();
        assert!(!custody.put_back(work), "idle");
        let end = |custody: &Custody<(), ()>, ended: &AtomicUsize| {
            custody.end();
            ended.fetch_add(1, Ordering::Relaxed);
        };
        let wakers = [(); 2].map(|()| {
            let (custody, ended) = (custody.clone(), ended.clone());
            thread::spawn(move || {
                if custody.wake().is_some() {
                    // What is posted to a closed context is dropped by whoever posts it.
                    custody.begin();
                    end(&custody, &ended);
                }
            })
        });
        if custody.begin_if_idle().is_some() {
            end(&custody, &ended);
        }
        for waker in wakers {
            waker.join().unwrap();
        }
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    });
}

/// No mistake at all.
const FAITHFUL: u8 = 0;
/// A wake-up of a task that runs is dropped.
const DROP_WHEN_RUNNING: u8 = 1;
/// A move queues the task before it has yielded.
const QUEUE_BEFORE_YIELD: u8 = 2;
/// The waker looks where the task is before it knows that it has to queue it.
const LOOK_THEN_WAKE: u8 = 3;
/// A task that yields is idle, whatever came meanwhile.
const IDLE_UNSEEN: u8 = 4;
/// A wake-up publishes nothing if the task is due already.
const LOOK_IF_DUE: u8 = 5;
/// A task that moves is queued without being marked as due.
const MOVE_UNMARKED: u8 = 6;

struct Mutant<const WHICH: u8> {
    state: AtomicU32,
    /// The home, for those who look too early: the mutex would publish what they wrote.
    early: AtomicUsize,
    store: Mutex<(usize, Option<Work>)>,
}

impl<const WHICH: u8> Mutant<WHICH> {
    fn take(&self) -> Work {
        let work = self.store.lock().unwrap().1.take();
        work.expect("it is there unless it runs")
    }
}

impl<const WHICH: u8> Protocol for Mutant<WHICH> {
    fn new(home: usize, work: Work) -> Self {
        Self {
            state: AtomicU32::new(DUE),
            early: AtomicUsize::new(home),
            store: Mutex::new((home, Some(work))),
        }
    }

    fn wake(&self) -> Option<usize> {
        let early = (WHICH == LOOK_THEN_WAKE).then(|| self.early.load(Ordering::Relaxed));
        let seen = self.state.load(Ordering::Relaxed);
        let is_dropped = match WHICH {
            DROP_WHEN_RUNNING => seen & RUNNING != 0,
            LOOK_IF_DUE => seen & DUE != 0,
            _ => false,
        };
        if is_dropped || self.state.fetch_or(DUE, Ordering::AcqRel) != 0 {
            return None;
        }
        early.or_else(|| Some(self.store.lock().unwrap().0))
    }

    fn begin(&self) -> Work {
        let before = self.state.swap(RUNNING, Ordering::AcqRel);
        if WHICH != MOVE_UNMARKED {
            assert_eq!(before, DUE, "what comes out of a queue is due");
        }
        self.take()
    }

    fn put_back(&self, work: Work) -> bool {
        self.store.lock().unwrap().1 = Some(work);
        if WHICH == IDLE_UNSEEN {
            self.state.store(0, Ordering::Release);
            return false;
        }
        self.state.fetch_and(!RUNNING, Ordering::AcqRel) & DUE != 0
    }

    fn move_to(&self, home: usize, work: Work, queue: impl FnOnce()) {
        self.early.store(home, Ordering::Relaxed);
        if WHICH == QUEUE_BEFORE_YIELD {
            queue();
            *self.store.lock().unwrap() = (home, Some(work));
            self.state.swap(DUE, Ordering::AcqRel);
            return;
        }
        *self.store.lock().unwrap() = (home, Some(work));
        let next = if WHICH == MOVE_UNMARKED { 0 } else { DUE };
        self.state.swap(next, Ordering::AcqRel);
        queue();
    }

    fn end(&self) {
        self.state.store(OVER, Ordering::Release);
    }
}

#[test]
fn loom_a_copy_without_a_mistake_passes() {
    model::<Mutant<FAITHFUL>>(1);
}

#[test]
#[should_panic]
fn loom_mutant_wake_up_dropped_when_running_is_found() {
    model::<Mutant<DROP_WHEN_RUNNING>>(1);
}

#[test]
#[should_panic]
fn loom_mutant_queue_before_yield_is_found() {
    model::<Mutant<QUEUE_BEFORE_YIELD>>(1);
}

#[test]
#[should_panic]
fn loom_mutant_look_before_wake_is_found() {
    model::<Mutant<LOOK_THEN_WAKE>>(1);
}

#[test]
#[should_panic]
fn loom_mutant_idle_unseen_is_found() {
    model::<Mutant<IDLE_UNSEEN>>(1);
}

#[test]
#[should_panic]
fn loom_mutant_wake_up_without_a_step_if_due_is_found() {
    model::<Mutant<LOOK_IF_DUE>>(1);
}

#[test]
#[should_panic]
fn loom_mutant_move_unmarked_is_found() {
    model::<Mutant<MOVE_UNMARKED>>(1);
}
