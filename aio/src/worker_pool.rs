//! Threads for calls that block.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

/// A call that may block.
pub(crate) type Work = Box<dyn FnOnce() + Send>;

/// How long a worker without work waits before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// A pool of worker threads that grows with its queue and shrinks when idle. First in, first out.
#[derive(Debug)]
pub(crate) struct WorkerPool {
    shared: Arc<Shared>,
    threads_max: usize,
}

struct Shared {
    name: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Work>,
    threads: Vec<JoinHandle<()>>,
    /// Threads that run, of those in `threads`.
    alive: usize,
    idle: usize,
    closing: bool,
}

impl WorkerPool {
    /// A pool of at most `threads_max` threads; none is started before there is work.
    pub(crate) fn new(name: &str, threads_max: usize) -> Self {
        let shared = Shared {
            name: format!("{name}-work"),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        Self {
            shared: Arc::new(shared),
            threads_max: threads_max.max(1),
        }
    }

    /// Has a worker run `work`. If no thread can be had at all, it runs here and now.
    pub(crate) fn submit(&self, work: Work) {
        let mut state = self.shared.lock();
        state.queue.push_back(work);
        if state.idle >= state.queue.len() {
            drop(state);
            self.shared.changed.notify_one();
            return;
        }
        if state.alive < self.threads_max {
            let shared = self.shared.clone();
            match thread::Builder::new()
                .name(shared.name.clone())
                .spawn(move || shared.work())
            {
                Ok(thread) => {
                    state.alive += 1;
                    state.threads.retain(|thread| !thread.is_finished());
                    state.threads.push(thread);
                }
                Err(error) => {
                    tracing::warn!(%error, threads = state.alive, "cannot start another worker thread");
                }
            }
        }
        let stranded = if state.alive == 0 {
            state.queue.pop_back()
        } else {
            None
        };
        drop(state);
        self.shared.changed.notify_one();
        if let Some(work) = stranded {
            work();
        }
    }
}

impl Drop for WorkerPool {
    /// Waits for all queued work.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closing = true;
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        self.shared.changed.notify_all();
        for thread in threads {
            // A worker that panicked has told so already.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a worker.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(work) = state.queue.pop_front() {
                drop(state);
                work();
                state = self.lock();
                continue;
            }
            if state.closing {
                break;
            }
            state.idle += 1;
            let (woken, timeout) = self
                .changed
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.alive -= 1;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        let (threads, queued) = (state.alive, state.queue.len());
        f.debug_struct("Shared")
            .field("name", &self.name)
            .field("threads", &threads)
            .field("queued", &queued)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use super::WorkerPool;

    #[test]
    fn all_queued_work_is_done_before_the_pool_is_gone() {
        let done = Arc::new(AtomicUsize::new(0));
        let pool = WorkerPool::new("test", 3);
        for _ in 0..100 {
            let done = done.clone();
            pool.submit(Box::new(move || {
                done.fetch_add(1, Ordering::Relaxed);
            }));
        }
        drop(pool);
        assert_eq!(done.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn the_pool_grows_while_its_workers_are_busy() {
        let together = Arc::new(Barrier::new(4));
        let pool = WorkerPool::new("test", 4);
        for _ in 0..4 {
            let together = together.clone();
            // Nobody passes the barrier unless all four run at once.
            pool.submit(Box::new(move || {
                together.wait();
            }));
        }
    }
}
