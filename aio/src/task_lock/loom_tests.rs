//! Models of the locks of tasks: no sleeper with a free lock, nobody gets past those that wait.

mod mutants;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use loom::{
    sync::{
        Notify,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    TaskMutex, TaskMutexGuard, TaskQueue,
    permits::{Permits, Take},
};

/// What the shipped permits and their mutants have in common.
pub(super) trait Protocol: Send + Sync + 'static {
    type Take<'a>: Future<Output = ()> + Unpin;

    fn new(total: u64) -> Self;
    fn try_take(&self, wanted: u64) -> bool;
    fn take(&self, wanted: u64) -> Self::Take<'_>;
    fn give_back(&self, count: u64);
}

impl Protocol for Permits {
    type Take<'a> = Take<'a>;

    fn new(total: u64) -> Self {
        Permits::new(total)
    }
    fn try_take(&self, wanted: u64) -> bool {
        Permits::try_take(self, wanted)
    }
    fn take(&self, wanted: u64) -> Take<'_> {
        Permits::take(self, wanted)
    }
    fn give_back(&self, count: u64) {
        Permits::give_back(self, count);
    }
}

/// A thread that runs one future: it sleeps until its waker is called.
struct Sleeper(Notify);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let sleeper = Arc::new(Sleeper(Notify::new()));
    let waker = Waker::from(sleeper.clone());
    let mut running = Running(Some(Box::pin(future)));
    loop {
        let future = running.0.as_mut().expect("taken by the drop only");
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => sleeper.0.wait(),
        }
    }
}

/// A future that is not dropped when a model has failed: the model's locks cannot be used any more then.
struct Running<F>(Option<Pin<Box<F>>>);

impl<F> Drop for Running<F> {
    #[expect(clippy::disallowed_methods, reason = "the test has failed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget(self.0.take());
        }
    }
}

fn poll_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn check(model: impl Fn() + Send + Sync + 'static) {
    crate::explore::explore(3, model);
}

/// Adds one in two steps, so that an overlap, or a value of before, loses some.
fn add_one(counter: &AtomicUsize) {
    let seen = counter.load(Ordering::Relaxed);
    counter.store(seen + 1, Ordering::Relaxed);
}

/// Three threads take the one permit in turn.
fn turns<P: Protocol>() {
    check(|| {
        let shared = Arc::new((P::new(1), AtomicUsize::new(0)));
        let turn = |shared: &(P, AtomicUsize)| {
            block_on(shared.0.take(1));
            add_one(&shared.1);
            shared.0.give_back(1);
        };
        let threads = [(); 2].map(|()| {
            let shared = shared.clone();
            thread::spawn(move || turn(&shared))
        });
        turn(&shared);
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(shared.0.try_take(1), "all of it was given back");
        assert_eq!(shared.1.load(Ordering::Relaxed), 3);
    });
}

/// One who waits is dropped at any moment, also after it was served; the other must not sleep on.
fn dropped<P: Protocol>() {
    check(|| {
        let permits = Arc::new(P::new(1));
        assert!(permits.try_take(1));
        let patient = {
            let permits = permits.clone();
            thread::spawn(move || {
                block_on(permits.take(1));
                permits.give_back(1);
            })
        };
        let impatient = {
            let permits = permits.clone();
            thread::spawn(move || {
                if poll_once(&mut permits.take(1)).is_ready() {
                    permits.give_back(1);
                }
            })
        };
        permits.give_back(1);
        patient.join().unwrap();
        impatient.join().unwrap();
        assert!(permits.try_take(1));
    });
}

/// Whoever wants all gives up; one who wants little, behind it, must not sleep on.
fn head_gives_up<P: Protocol>() {
    check(|| {
        let permits = Arc::new(P::new(2));
        assert!(permits.try_take(1));
        let mut writer = permits.take(2);
        assert!(poll_once(&mut writer).is_pending());
        let reader = {
            let permits = permits.clone();
            thread::spawn(move || {
                block_on(permits.take(1));
                permits.give_back(1);
            })
        };
        drop(writer);
        reader.join().unwrap();
        permits.give_back(1);
        assert!(permits.try_take(2));
    });
}

/// A writer becomes a reader; both readers that wait must come in while it reads.
fn downgrade<P: Protocol>() {
    check(|| {
        let permits = Arc::new(P::new(3));
        assert!(permits.try_take(3));
        let readers = [(); 2].map(|()| {
            let permits = permits.clone();
            thread::spawn(move || block_on(permits.take(1)))
        });
        permits.give_back(2);
        for reader in readers {
            reader.join().unwrap();
        }
        permits.give_back(3);
        assert!(permits.try_take(3));
    });
}

/// Who waits has the permit as soon as it is given back, whoever else comes.
fn hand_over<P: Protocol>() {
    check(|| {
        let permits = Arc::new(P::new(1));
        assert!(permits.try_take(1));
        let mut first = permits.take(1);
        assert!(poll_once(&mut first).is_pending());
        let late = {
            let permits = permits.clone();
            thread::spawn(move || {
                if permits.try_take(1) {
                    permits.give_back(1);
                }
            })
        };
        permits.give_back(1);
        assert!(poll_once(&mut first).is_ready(), "it has come first");
        permits.give_back(1);
        late.join().unwrap();
    });
}

#[test]
fn loom_permits_are_held_by_one_at_a_time_and_nobody_sleeps_on() {
    turns::<Permits>();
}

#[test]
fn loom_dropped_waiters_hand_on_their_permits() {
    dropped::<Permits>();
}

#[test]
fn loom_a_waiter_that_gives_up_keeps_nobody_waiting() {
    head_gives_up::<Permits>();
}

#[test]
fn loom_a_downgrade_lets_all_waiting_readers_in() {
    downgrade::<Permits>();
}

#[test]
fn loom_permits_are_handed_over() {
    hand_over::<Permits>();
}

/// What the shipped queue and its mutants have in common.
pub(super) trait WaitWake: Send + Sync + 'static {
    fn new() -> Self;
    fn wait<'m>(
        &self,
        guard: TaskMutexGuard<'m>,
    ) -> impl Future<Output = TaskMutexGuard<'m>> + Send;
    fn wake_one(&self) -> bool;
}

impl WaitWake for TaskQueue {
    fn new() -> Self {
        TaskQueue::new()
    }
    fn wait<'m>(
        &self,
        guard: TaskMutexGuard<'m>,
    ) -> impl Future<Output = TaskMutexGuard<'m>> + Send {
        TaskQueue::wait(self, guard)
    }
    fn wake_one(&self) -> bool {
        TaskQueue::wake_one(self)
    }
}

/// A mutex, a queue, and how many things there are to be had.
struct Store<Q> {
    mutex: TaskMutex,
    queue: Q,
    items: AtomicUsize,
}

/// One puts a thing in and wakes one; one waits for it; one waits and is dropped at any moment.
fn producer_and_consumer<Q: WaitWake>() {
    check(|| {
        let store = Arc::new(Store {
            mutex: TaskMutex::new(),
            queue: Q::new(),
            items: AtomicUsize::new(0),
        });
        // It is in front, and may be gone before the wake-up or after it.
        let mut impatient = Box::pin(store.queue.wait(store.mutex.try_lock().unwrap()));
        assert!(poll_once(&mut impatient).is_pending());
        let consumer = {
            let store = store.clone();
            thread::spawn(move || {
                block_on(async {
                    let mut guard = store.mutex.lock().await;
                    while store.items.load(Ordering::Relaxed) == 0 {
                        guard = store.queue.wait(guard).await;
                    }
                });
            })
        };
        let producer = {
            let store = store.clone();
            thread::spawn(move || {
                let guard = block_on(store.mutex.lock());
                store.items.store(1, Ordering::Relaxed);
                drop(guard);
                store.queue.wake_one();
            })
        };
        drop(impatient);
        consumer.join().unwrap();
        producer.join().unwrap();
    });
}

#[test]
fn loom_a_queue_loses_no_wake_up() {
    producer_and_consumer::<TaskQueue>();
}
