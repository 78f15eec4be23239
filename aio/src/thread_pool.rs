//! Threads for calls that block: one pool for each context.
//!
//! The home thread gives the pool its work, and takes what is finished in a turn of the loop. The
//! operations on storage that a turn starts go to the pool together, just before the loop waits.
//! [`crew`] has the protocol between the home thread and the workers, [`request`] that of one
//! piece of work.

mod crew;
mod request;

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    thread::{self, JoinHandle, Thread},
    time::Duration,
};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use crate::{
    clock::Clock,
    context::AioContext,
    error::AioError,
    op::{Completion, Key, Op},
    shared::Shared,
    workers,
};

use crew::{Call, Came, Crew, Limits, Next};
use request::Job;
pub use request::{Cancelled, PoolRequest};

/// How long a worker that need not stay waits for work before it leaves.
const REST_NS: u64 = 10_000_000_000;

/// What a worker is to do.
enum Item {
    Job(Arc<dyn Job>),
    Op(Key, Op),
}

/// What a worker has done.
enum Done {
    /// It ran, or was cancelled.
    Job(Arc<dyn Job>),
    Op(Completion),
}

impl Item {
    fn run(self) -> Done {
        match self {
            Self::Job(job) => {
                job.run();
                Done::Job(job)
            }
            Self::Op(key, mut op) => {
                let result = workers::run(&mut op);
                Done::Op(Completion { key, op, result })
            }
        }
    }
}

impl Done {
    /// What a cancelled item ends as. Operations are never cancelled here.
    fn of(item: Item) -> Self {
        match item {
            Item::Job(job) => Self::Job(job),
            Item::Op(key, op) => Self::Op(Completion {
                key,
                op,
                result: Err(libc::ECANCELED),
            }),
        }
    }
}

/// A worker, as those see it who wake it.
#[derive(Clone, Debug)]
struct Worker(Thread);

impl PartialEq for Worker {
    fn eq(&self, other: &Self) -> bool {
        self.0.id() == other.0.id()
    }
}

/// The part of a thread pool that its workers and other threads share with the home thread.
pub(crate) struct Pool {
    crew: Crew<Item, Done, Worker>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// A pool without workers, of at most `max`.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            crew: Crew::new(Limits {
                min: 0,
                max: max.max(1),
            }),
            threads: Mutex::default(),
        }
    }

    /// Sets how many workers there are at least and at most. Any thread.
    pub(crate) fn set_limits(&self, min: i64, max: i64) -> Result<(), AioError> {
        let (Ok(min), Ok(max)) = (usize::try_from(min), usize::try_from(max)) else {
            return Err(AioError::ThreadPoolLimits);
        };
        if max == 0 || min > max {
            return Err(AioError::ThreadPoolLimits);
        }
        wake(self.crew.set_limits(Limits { min, max }));
        Ok(())
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what a call asks for; returns whether it could be done.
    ///
    /// If no thread can be had and there is none yet, the work is done here.
    fn answer(&self, call: Call<Worker>, context: &Arc<Shared>) -> bool {
        let error = match call {
            Call::Wake(worker) => {
                worker.0.unpark();
                return true;
            }
            Call::Start => match self.start(context) {
                Ok(()) => return true,
                Err(error) => error,
            },
        };
        tracing::warn!(%error, context = context.name(), "cannot start another worker thread");
        self.crew.start_failed();
        while let Some(item) = self.crew.take_stranded() {
            if self.crew.finish(item.run()) {
                context.post_worked();
            }
        }
        false
    }

    fn start(&self, context: &Arc<Shared>) -> std::io::Result<()> {
        let name = format!("{}-work", context.name());
        let context = context.clone();
        // A new thread takes the signal mask of its maker.
        let before = signals_of_others().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let started = thread::Builder::new()
            .name(name)
            .spawn(move || context.thread_pool.work(&context));
        before.thread_set_mask()?;
        let mut threads = self.threads();
        // Forgotten, the memory of those that have left is given back.
        threads.retain(|thread| !thread.is_finished());
        threads.push(started?);
        Ok(())
    }

    /// The life of a worker.
    fn work(&self, context: &Arc<Shared>) {
        let me = Worker(thread::current());
        let mut came = Came::Started;
        loop {
            let step = self.crew.next(&me, came);
            if step.tell {
                context.post_worked();
            }
            if let Some(call) = step.call {
                self.answer(call, context);
            }
            came = match step.next {
                Next::Work(item) => Came::Finished(item.run()),
                Next::Rest => {
                    thread::park();
                    Came::Woken
                }
                Next::RestAWhile => rest_a_while(),
                Next::Leave => return,
            };
        }
    }

    /// Waits until all work is done and all workers have left. Home thread only.
    fn close(&self) {
        wake(self.crew.close());
        loop {
            // Those that start meanwhile are in the list before their maker, another one, ends.
            let threads = mem::take(&mut *self.threads());
            if threads.is_empty() {
                return;
            }
            for thread in threads {
                // A worker that panicked has told so already.
                drop(thread.join());
            }
        }
    }
}

/// The signals that are for the program's own threads: all but those that tell of a fault here.
fn signals_of_others() -> SigSet {
    let mut signals = SigSet::all();
    for fault in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGTRAP,
        Signal::SIGSYS,
        Signal::SIGABRT,
    ] {
        signals.remove(fault);
    }
    signals
}

fn rest_a_while() -> Came<Done> {
    let until_ns = Clock::Monotonic.now_ns() + REST_NS;
    thread::park_timeout(Duration::from_nanos(REST_NS));
    if Clock::Monotonic.now_ns() < until_ns {
        Came::Woken
    } else {
        Came::Waited
    }
}

fn wake(workers: Vec<Worker>) {
    for worker in workers {
        worker.0.unpark();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (workers, queued) = self.crew.count();
        f.debug_struct("Pool")
            .field("workers", &workers)
            .field("queued", &queued)
            .finish_non_exhaustive()
    }
}

/// The part of a thread pool that only the home thread touches.
#[derive(Default)]
pub(crate) struct Desk {
    /// Operations for the workers, until the loop waits.
    fresh: RefCell<Vec<Item>>,
    /// Finished work on its way to who waits; a nested turn goes on with it.
    finished: RefCell<VecDeque<Done>>,
}

impl Desk {
    /// Whether there is something here that must not wait.
    pub(crate) fn has_work(&self) -> bool {
        !self.finished.borrow().is_empty()
    }

    /// Has a worker run an operation; [`Self::flush`] gives it to the pool.
    pub(crate) fn push(&self, key: Key, op: Op) {
        self.fresh.borrow_mut().push(Item::Op(key, op));
    }

    /// Gives the pool what was pushed.
    pub(crate) fn flush(&self, context: &Arc<Shared>) {
        if !self.fresh.borrow().is_empty() {
            self.submit(context, None);
        }
    }

    fn submit(&self, context: &Arc<Shared>, job: Option<Arc<dyn Job>>) -> u64 {
        let pool = &context.thread_pool;
        let mut fresh = self.fresh.borrow_mut();
        let items = fresh.drain(..).chain(job.map(Item::Job));
        let (ticket, call) = pool.crew.submit(items);
        drop(fresh);
        if let Some(call) = call {
            pool.answer(call, context);
        }
        ticket
    }

    /// Takes what the workers have finished, for [`Self::settle`], and starts those that the limits want.
    pub(crate) fn tend(&self, context: &Arc<Shared>) {
        let pool = &context.thread_pool;
        while pool
            .crew
            .grow()
            .is_some_and(|call| pool.answer(call, context))
        {}
        pool.crew.take_done(&mut self.finished.borrow_mut());
    }

    /// Gives what came of operations to `complete`, and wakes those who wait for other work.
    ///
    /// Whoever is woken may run a nested turn, which goes on here.
    pub(crate) fn settle(&self, mut complete: impl FnMut(Completion)) {
        loop {
            let Some(done) = self.finished.borrow_mut().pop_front() else {
                return;
            };
            match done {
                Done::Op(completion) => complete(completion),
                Done::Job(job) => job.end().into_iter().for_each(Waker::wake),
            }
        }
    }

    /// Waits until all work is done and all workers have left; drops what nobody has taken.
    pub(crate) fn close(&self, context: &Arc<Shared>) {
        self.flush(context);
        let pool = &context.thread_pool;
        pool.close();
        pool.crew.take_done(&mut self.finished.borrow_mut());
        let finished = mem::take(&mut *self.finished.borrow_mut());
        drop(finished);
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk")
            .field("fresh", &self.fresh.borrow().len())
            .finish_non_exhaustive()
    }
}

/// A context's threads for calls that block, as its home thread uses them.
///
/// Threads come with the work: one more when there is work and none is idle, up to a limit (64, or
/// what [`Handle::set_thread_pool_limits`](crate::Handle::set_thread_pool_limits) says). One that
/// is idle for ten seconds leaves, unless it is of the least number that is to stay. Signals are
/// blocked in them, all but those that tell of a fault of the thread itself.
///
/// For the home thread; clones are one pool, which ends with its context.
///
/// ```
/// # aio::run(aio::Config::default(), |cx| async move {
/// let pool = cx.thread_pool();
/// let names = pool.submit(|| std::fs::read_dir(".").map(|entries| entries.count()));
/// let never = pool.submit(|| 1);
/// if never.cancel() {
///     assert_eq!(never.await, Err(aio::Cancelled));
/// }
/// assert!(names.await.unwrap().unwrap() > 0);
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct ThreadPool {
    context: AioContext,
}

impl ThreadPool {
    pub(crate) fn of(context: AioContext) -> Self {
        Self { context }
    }

    /// Has a worker run `work`, which may block. Work is begun in the order of its submission.
    ///
    /// The result arrives in a turn of the context. Work that is submitted is done, unless it is
    /// [cancelled](PoolRequest::cancel) before it is begun: closing the context waits for it. If
    /// no thread can be had at all, it is done at once, on the calling thread.
    ///
    /// # Panics
    ///
    /// When called on another thread than the context's home thread.
    pub fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> PoolRequest<T> {
        let (context, desk) = self.context.thread_pool_parts();
        assert!(
            context.is_home(),
            "a thread pool gets its work from the home thread only"
        );
        let (job, waiter) = request::job(work);
        let ticket = desk.submit(context, Some(job));
        PoolRequest {
            waiter,
            ticket,
            context: context.clone(),
        }
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
