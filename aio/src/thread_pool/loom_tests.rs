//! Models of the protocol between home thread and workers, on the queue and the jobs that ship.
//!
//! Only what surrounds them is a stand-in: threads, the list of posts, and the kick. The mutants
//! leave one step out of what workers or the home thread do with the answers they get.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use loom::{
    sync::{
        Mutex, Notify,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{
    crew::{Call, Came, Crew, Limits, Next},
    request::{Cancelled, Job, job},
};
use crate::wake::{NO_DEADLINES, WakeState};

/// Wakes one worker.
#[derive(Clone)]
struct Bell(Arc<Notify>, usize);

impl PartialEq for Bell {
    fn eq(&self, other: &Self) -> bool {
        self.1 == other.1
    }
}

/// As shipped.
const SHIPPED: u8 = 0;
/// A worker tells the home thread of an item before it has done it.
const TELL_TOO_EARLY: u8 = 1;
/// A worker that takes an item calls nobody for the next one.
const NO_CHAIN: u8 = 2;
/// A worker that is the first to finish something tells nobody.
const NO_TELL: u8 = 3;
/// The home thread ends an item as cancelled without taking it from the queue.
const CANCEL_BEHIND_THE_QUEUE: u8 = 4;
/// A worker whose rest is over leaves without asking.
const LEAVE_UNASKED: u8 = 5;

/// A pool, and what stands for the inbox of its context.
struct Model<const WHICH: u8> {
    crew: Crew<Arc<dyn Job>, Arc<dyn Job>, Bell>,
    wake: WakeState,
    posted: AtomicUsize,
    kick: Notify,
    names: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Rests are over at once.
    impatient: bool,
}

impl<const WHICH: u8> Model<WHICH> {
    fn new(max: usize) -> Self {
        Self {
            crew: Crew::new(Limits { min: 0, max }),
            wake: WakeState::new(),
            posted: AtomicUsize::new(0),
            kick: Notify::new(),
            names: AtomicUsize::new(0),
            threads: Mutex::new(Vec::new()),
            impatient: false,
        }
    }

    fn tell(&self) {
        self.posted.fetch_add(1, Ordering::Release);
        if self.wake.must_kick() {
            self.kick.notify();
        }
    }

    fn answer(self: &Arc<Self>, call: Call<Bell>) {
        match call {
            Call::Wake(bell) => bell.0.notify(),
            Call::Start => {
                let this = self.clone();
                let thread = thread::spawn(move || this.work());
                self.threads.lock().unwrap().push(thread);
            }
        }
    }

    /// As `Pool::work`.
    fn work(self: Arc<Self>) {
        let name = self.names.fetch_add(1, Ordering::Relaxed);
        let me = Bell(Arc::new(Notify::new()), name);
        let mut came = Came::Started;
        loop {
            let step = self.crew.next(&me, came);
            if step.tell && WHICH != NO_TELL {
                self.tell();
            }
            if let Some(call) = step.call
                && WHICH != NO_CHAIN
            {
                self.answer(call);
            }
            came = match step.next {
                Next::Work(job) if WHICH == TELL_TOO_EARLY => {
                    if self.crew.finish(job.clone()) {
                        self.tell();
                    }
                    job.run();
                    Came::Woken
                }
                Next::Work(job) => {
                    job.run();
                    Came::Finished(job)
                }
                Next::RestAWhile if self.impatient && WHICH == LEAVE_UNASKED => return,
                Next::RestAWhile if self.impatient => Came::Waited,
                Next::Rest | Next::RestAWhile => {
                    me.0.wait();
                    Came::Woken
                }
                Next::Leave => return,
            };
        }
    }

    fn submit(self: &Arc<Self>, jobs: Vec<Arc<dyn Job>>) -> u64 {
        let (ticket, call) = self.crew.submit(jobs.into_iter());
        if let Some(call) = call {
            self.answer(call);
        }
        ticket
    }

    /// Takes `count` finished jobs, asleep meanwhile.
    fn take(&self, count: usize) {
        let mut taken = 0;
        let mut done = VecDeque::new();
        while taken < count {
            if self.posted.swap(0, Ordering::Acquire) > 0 {
                self.crew.take_done(&mut done);
            }
            for job in done.drain(..) {
                drop(job.end());
                taken += 1;
            }
            if taken == count {
                return;
            }
            self.wake.announce_sleep(NO_DEADLINES);
            if self.posted.load(Ordering::Relaxed) == 0 {
                self.kick.wait();
            }
            self.wake.end_sleep();
        }
    }

    fn close(&self) {
        for bell in self.crew.close() {
            bell.0.notify();
        }
        loop {
            let threads = std::mem::take(&mut *self.threads.lock().unwrap());
            if threads.is_empty() {
                return;
            }
            for thread in threads {
                thread.join().unwrap();
            }
        }
    }
}

fn result<T>(waiter: &super::request::Waiter<T>) -> Poll<Result<T, Cancelled>> {
    waiter.poll(&mut Context::from_waker(Waker::noop()))
}

/// Two jobs submitted together; the first cannot end before the second has run.
fn two_jobs<const WHICH: u8>() {
    crate::explore::explore(3, || {
        let model = Arc::new(Model::<WHICH>::new(2));
        let met = Arc::new(Notify::new());
        let (first_met, second_met) = (met.clone(), met);
        let (first, one) = job(move || {
            first_met.wait();
            1
        });
        let (second, two) = job(move || {
            second_met.notify();
            2
        });
        model.submit(vec![first, second]);
        model.take(2);
        assert_eq!(result(&one), Poll::Ready(Ok(1)));
        assert_eq!(result(&two), Poll::Ready(Ok(2)));
        model.close();
    });
}

/// Jobs come while the only worker is about to leave.
fn leaving<const WHICH: u8>() {
    crate::explore::explore(3, || {
        let model = Arc::new(Model::<WHICH> {
            impatient: true,
            ..Model::new(1)
        });
        for _ in 0..2 {
            let (job, waiter) = job(|| ());
            model.submit(vec![job]);
            model.take(1);
            assert_eq!(result(&waiter), Poll::Ready(Ok(())));
        }
        model.close();
    });
}

/// A job is cancelled while a worker may be about to take it.
fn cancelling<const WHICH: u8>() {
    crate::explore::explore(3, || {
        let model = Arc::new(Model::<WHICH>::new(1));
        let runs = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = runs.clone();
        let (job, waiter) = job(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let ticket = model.submit(vec![job.clone()]);
        let cancelled = if WHICH == CANCEL_BEHIND_THE_QUEUE {
            drop(job.end());
            true
        } else {
            let tell = model.crew.cancel(ticket, |job| job);
            if tell == Some(true) {
                model.tell();
            }
            tell.is_some()
        };
        assert!(!cancelled || result(&waiter).is_pending(), "not at once");
        model.take(1);
        let want = if cancelled { Err(Cancelled) } else { Ok(()) };
        assert_eq!(result(&waiter), Poll::Ready(want));
        model.close();
        let runs = runs.load(Ordering::Relaxed);
        assert_eq!(runs, usize::from(!cancelled));
    });
}

#[test]
fn loom_no_job_waits_behind_another_and_no_result_is_lost() {
    two_jobs::<SHIPPED>();
}

#[test]
fn loom_a_job_that_comes_while_the_last_worker_leaves_is_done() {
    leaving::<SHIPPED>();
}

#[test]
fn loom_a_job_either_runs_or_is_cancelled() {
    cancelling::<SHIPPED>();
}

#[test]
#[should_panic]
fn loom_mutant_telling_before_the_result_is_found() {
    two_jobs::<TELL_TOO_EARLY>();
}

#[test]
#[should_panic]
fn loom_mutant_workers_that_call_nobody_are_found() {
    two_jobs::<NO_CHAIN>();
}

#[test]
#[should_panic]
fn loom_mutant_workers_that_tell_nobody_are_found() {
    two_jobs::<NO_TELL>();
}

#[test]
#[should_panic]
fn loom_mutant_cancelling_behind_the_queue_is_found() {
    cancelling::<CANCEL_BEHIND_THE_QUEUE>();
}

#[test]
#[should_panic]
fn loom_mutant_leaving_unasked_is_found() {
    leaving::<LEAVE_UNASKED>();
}
