//! The locks of tasks between two contexts, on each backend.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
};

use crate::{
    AioContext, ByteSemaphore, Config, IoThread, TaskMutex, TaskQueue, TaskRwLock,
    backend::tests_on_each::each_backend,
};

const TASKS: u64 = 8;
const ROUNDS: u64 = 400;

/// Two threads with a context each.
struct Pair([IoThread; 2]);

impl Pair {
    /// A pair for each backend that this machine has.
    fn of_each_backend() -> impl Iterator<Item = Self> {
        each_backend().map(|backend| {
            let config = Config {
                backend: Some(backend),
                ..Config::default()
            };
            Self([(); 2].map(|()| IoThread::start(config.clone()).unwrap()))
        })
    }

    /// Runs [`TASKS`] tasks, the even ones on one thread and the odd ones on the other, to their ends.
    fn run<F>(&self, task: impl Fn(u64, AioContext) -> F + Clone + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        let start = |number: u64| {
            let task = task.clone();
            let thread = &self.0[usize::from(number % 2 == 1)];
            thread.handle().spawn(move |cx| task(number, cx))
        };
        let tasks: Vec<_> = (0..TASKS).map(start).collect();
        tasks.into_iter().for_each(crate::JoinHandle::wait);
    }
}

#[test]
fn tasks_of_two_contexts_do_not_overlap_under_a_mutex() {
    async fn count(mutex: &TaskMutex, counter: &AtomicU64, number: u64, cx: AioContext) {
        for round in 0..ROUNDS {
            let _guard = mutex.lock().await;
            // In two steps, so that an overlap loses some.
            let seen = counter.load(Ordering::Relaxed);
            if (round + number).is_multiple_of(3) {
                cx.yield_now().await;
            }
            counter.store(seen + 1, Ordering::Relaxed);
        }
    }

    for pair in Pair::of_each_backend() {
        let shared: Arc<(TaskMutex, AtomicU64)> = Arc::default();
        let ours = shared.clone();
        pair.run(move |number, cx| {
            let shared = ours.clone();
            async move { count(&shared.0, &shared.1, number, cx).await }
        });
        assert_eq!(shared.1.load(Ordering::Relaxed), TASKS * ROUNDS);
        assert!(shared.0.try_lock().is_some());
    }
}

#[test]
fn readers_of_two_contexts_never_see_half_a_write() {
    #[derive(Default)]
    struct Shared {
        lock: TaskRwLock,
        left: AtomicU64,
        right: AtomicU64,
    }

    async fn read_and_write(shared: Arc<Shared>, number: u64, cx: AioContext) {
        for _ in 0..ROUNDS {
            let mut reading = shared.lock.read().await;
            if number < TASKS / 2 {
                let writing = reading.upgrade().await;
                shared.left.fetch_add(1, Ordering::Relaxed);
                cx.yield_now().await;
                shared.right.fetch_add(1, Ordering::Relaxed);
                reading = writing.downgrade();
            }
            let seen = shared.left.load(Ordering::Relaxed);
            cx.yield_now().await;
            assert_eq!(seen, shared.right.load(Ordering::Relaxed));
            drop(reading);
        }
    }

    for pair in Pair::of_each_backend() {
        let shared = Arc::new(Shared::default());
        let ours = shared.clone();
        pair.run(move |number, cx| read_and_write(ours.clone(), number, cx));
        assert_eq!(shared.left.load(Ordering::Relaxed), TASKS / 2 * ROUNDS);
        assert!(shared.lock.try_write().is_some());
    }
}

#[test]
fn what_some_tasks_put_into_a_queue_others_take_out() {
    const ROOM: usize = 4;

    #[derive(Default)]
    struct Store {
        mutex: TaskMutex,
        not_full: TaskQueue,
        not_empty: TaskQueue,
        stored: AtomicUsize,
    }

    async fn put(store: &Store) {
        let mut guard = store.mutex.lock().await;
        while store.stored.load(Ordering::Relaxed) == ROOM {
            guard = store.not_full.wait(guard).await;
        }
        store.stored.fetch_add(1, Ordering::Relaxed);
        store.not_empty.wake_one();
    }

    async fn take(store: &Store) {
        let mut guard = store.mutex.lock().await;
        while store.stored.load(Ordering::Relaxed) == 0 {
            guard = store.not_empty.wait(guard).await;
        }
        store.stored.fetch_sub(1, Ordering::Relaxed);
        store.not_full.wake_one();
    }

    async fn put_or_take(store: Arc<Store>, number: u64) {
        for _ in 0..ROUNDS {
            if number % 4 < 2 {
                put(&store).await;
            } else {
                take(&store).await;
            }
        }
    }

    for pair in Pair::of_each_backend() {
        let store = Arc::new(Store::default());
        let ours = store.clone();
        pair.run(move |number, _| put_or_take(ours.clone(), number));
        assert_eq!(store.stored.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn waiters_dropped_at_any_time_leave_the_budget_whole() {
    const TOTAL_BYTES: u64 = 64;

    /// Gives up when it has been polled `patience` times.
    async fn try_for_a_while(budget: &ByteSemaphore, bytes: u64, patience: u64, cx: &AioContext) {
        let mut acquire = pin!(budget.acquire(bytes));
        let mut left = patience;
        let acquired = poll_fn(|task| {
            let polled = acquire.as_mut().poll(task).map(Some);
            if polled.is_pending() && left == 0 {
                return Poll::Ready(None);
            }
            left = left.saturating_sub(1);
            task.waker().wake_by_ref();
            polled
        });
        if let Some(guard) = acquired.await {
            cx.yield_now().await;
            assert_eq!(guard.unwrap().bytes(), bytes);
        }
    }

    async fn many_times(budget: ByteSemaphore, number: u64, cx: AioContext) {
        for round in 0..ROUNDS {
            let bytes = 1 + (number * 11 + round * 7) % TOTAL_BYTES;
            try_for_a_while(&budget, bytes, (number + round) % 4, &cx).await;
        }
    }

    for pair in Pair::of_each_backend() {
        let budget = ByteSemaphore::new(TOTAL_BYTES);
        let ours = budget.clone();
        pair.run(move |number, cx| many_times(ours.clone(), number, cx));
        assert_eq!(budget.free_bytes(), TOTAL_BYTES);
        assert!(budget.try_acquire(TOTAL_BYTES).is_some());
    }
}
