//! What the locks of tasks promise: order, hand-over, and futures dropped in every state.

mod threads;

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    thread,
};

use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{
    ByteSemaphore, OverBudget, TaskMutex, TaskQueue, TaskRwLock,
    permits::{Permits, Take},
};

/// Writes its number down when it is woken.
struct Noted {
    number: usize,
    log: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Noted {
    fn wake(self: Arc<Self>) {
        self.log.lock().unwrap().push(self.number);
    }
}

/// A future polled by hand, and the log of wake-ups that it shares with others.
struct Hand<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + 'a>>,
    waker: Waker,
}

impl<T> Hand<'_, T> {
    fn poll(&mut self) -> Poll<T> {
        let mut cx = Context::from_waker(&self.waker);
        self.future.as_mut().poll(&mut cx)
    }

    #[track_caller]
    fn ready(&mut self) -> T {
        match self.poll() {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("not ready"),
        }
    }

    #[track_caller]
    fn pending(mut self) -> Self {
        assert!(self.poll().is_pending());
        self
    }
}

/// Makes futures that are polled by hand.
#[derive(Clone, Default)]
struct Hands {
    log: Arc<Mutex<Vec<usize>>>,
}

impl Hands {
    fn take<'a, T>(&self, number: usize, future: impl Future<Output = T> + 'a) -> Hand<'a, T> {
        let log = self.log.clone();
        Hand {
            future: Box::pin(future),
            waker: Waker::from(Arc::new(Noted { number, log })),
        }
    }

    /// Who was woken since this was last asked.
    fn woken(&self) -> Vec<usize> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

#[test]
fn waiters_get_the_mutex_in_the_order_they_came() {
    let (hands, mutex) = (Hands::default(), TaskMutex::new());
    let first = hands.take(0, mutex.lock()).ready();
    let mut second = hands.take(1, mutex.lock()).pending();
    let mut third = hands.take(2, mutex.lock()).pending();
    drop(first);
    assert_eq!(hands.woken(), [1]);
    assert!(
        third.poll().is_pending(),
        "a poll without a wake-up gets nothing"
    );
    let guard = second.ready();
    assert!(third.poll().is_pending());
    drop(guard);
    assert_eq!(hands.woken(), [2]);
    drop(third.ready());
    assert!(mutex.try_lock().is_some());
}

#[test]
fn nobody_gets_past_a_waiter_to_whom_the_mutex_was_handed() {
    let (hands, mutex) = (Hands::default(), TaskMutex::new());
    let guard = mutex.try_lock().unwrap();
    let mut waiter = hands.take(0, mutex.lock()).pending();
    drop(guard);
    assert!(mutex.try_lock().is_none(), "it belongs to the waiter");
    let mut late = hands.take(1, mutex.lock()).pending();
    drop(waiter.ready());
    drop(late.ready());
}

#[test]
fn a_dropped_waiter_gives_up_its_place() {
    let (hands, mutex) = (Hands::default(), TaskMutex::new());
    let guard = mutex.try_lock().unwrap();
    let second = hands.take(1, mutex.lock()).pending();
    let mut third = hands.take(2, mutex.lock()).pending();
    drop(second);
    drop(guard);
    assert_eq!(hands.woken(), [2]);
    drop(third.ready());

    let guard = mutex.try_lock().unwrap();
    drop(hands.take(3, mutex.lock()).pending());
    drop(guard);
    assert_eq!(hands.woken(), []);
    assert!(mutex.try_lock().is_some(), "nobody waits any more");
}

#[test]
fn a_dropped_waiter_hands_on_what_had_reached_it() {
    let (hands, mutex) = (Hands::default(), TaskMutex::new());
    let guard = mutex.try_lock().unwrap();
    let second = hands.take(1, mutex.lock()).pending();
    let mut third = hands.take(2, mutex.lock()).pending();
    drop(guard);
    drop(second);
    assert_eq!(hands.woken(), [1, 2]);
    let guard = third.ready();
    let fourth = hands.take(4, mutex.lock()).pending();
    drop(guard);
    drop(fourth);
    assert!(mutex.try_lock().is_some());
}

#[test]
fn futures_that_never_ran_or_have_ended_leave_nothing_behind() {
    let (hands, mutex) = (Hands::default(), TaskMutex::new());
    drop(mutex.lock());
    let mut locked = hands.take(0, mutex.lock());
    let guard = locked.ready();
    drop(locked);
    assert!(mutex.try_lock().is_none(), "the guard holds it");
    drop(guard);
    assert!(mutex.try_lock().is_some());
}

#[test]
fn the_last_waker_of_a_waiter_is_the_one_that_is_called() {
    let (hands, mutex) = (Hands::default(), TaskMutex::new());
    let guard = mutex.try_lock().unwrap();
    let mut waiter = hands.take(1, mutex.lock()).pending();
    waiter.waker = hands.take(2, async {}).waker;
    assert!(waiter.poll().is_pending());
    drop(guard);
    assert_eq!(hands.woken(), [2]);
}

#[test]
fn a_guard_may_be_dropped_on_another_thread() {
    let mutex = TaskMutex::new();
    let guard = mutex.try_lock().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || drop(guard));
    });
    assert!(mutex.try_lock().is_some());
}

#[test]
fn readers_share_and_writers_do_not() {
    let lock = TaskRwLock::new();
    let one = lock.try_read().unwrap();
    let two = lock.try_read().unwrap();
    assert!(lock.try_write().is_none());
    drop(one);
    assert!(lock.try_write().is_none());
    drop(two);
    let write = lock.try_write().unwrap();
    assert!(lock.try_read().is_none());
    assert!(lock.try_write().is_none());
    drop(write);
    assert!(lock.try_read().is_some());
}

#[test]
fn readers_do_not_get_past_a_waiting_writer() {
    let (hands, lock) = (Hands::default(), TaskRwLock::new());
    let reading = lock.try_read().unwrap();
    let mut writer = hands.take(1, lock.write()).pending();
    assert!(lock.try_read().is_none());
    let mut two = hands.take(2, lock.read()).pending();
    let mut three = hands.take(3, lock.read()).pending();
    let mut last = hands.take(4, lock.write()).pending();
    drop(reading);
    assert_eq!(hands.woken(), [1]);
    drop(writer.ready());
    assert_eq!(hands.woken(), [2, 3]);
    let (two, three) = (two.ready(), three.ready());
    drop(three);
    assert!(last.poll().is_pending());
    drop(two);
    assert_eq!(hands.woken(), [4]);
    drop(last.ready());
}

#[test]
fn a_writer_that_gives_up_lets_the_readers_behind_it_in() {
    let (hands, lock) = (Hands::default(), TaskRwLock::new());
    let reading = lock.try_read().unwrap();
    let writer = hands.take(1, lock.write()).pending();
    let mut two = hands.take(2, lock.read()).pending();
    let mut three = hands.take(3, lock.read()).pending();
    drop(writer);
    assert_eq!(hands.woken(), [2, 3]);
    let guards = (two.ready(), three.ready());
    assert!(
        lock.try_read().is_some(),
        "nobody waits, so readers come in"
    );
    drop((guards, reading));
    assert!(lock.try_write().is_some());
}

#[test]
fn downgrading_lets_in_all_readers_up_to_the_next_writer() {
    let (hands, lock) = (Hands::default(), TaskRwLock::new());
    let writing = lock.try_write().unwrap();
    let mut one = hands.take(1, lock.read()).pending();
    let mut two = hands.take(2, lock.read()).pending();
    let mut writer = hands.take(3, lock.write()).pending();
    let mut late = hands.take(4, lock.read()).pending();
    let reading = writing.downgrade();
    assert_eq!(hands.woken(), [1, 2]);
    let guards = (one.ready(), two.ready());
    assert!(writer.poll().is_pending());
    assert!(late.poll().is_pending());
    drop((reading, guards));
    assert_eq!(hands.woken(), [3]);
    drop(writer.ready());
    drop(late.ready());
    assert!(lock.try_write().is_some());
}

#[test]
fn the_only_reader_upgrades_at_once() {
    let (hands, lock) = (Hands::default(), TaskRwLock::new());
    let reading = lock.try_read().unwrap();
    let writing = hands.take(0, reading.upgrade()).ready();
    assert!(lock.try_read().is_none());
    drop(writing);
    assert!(lock.try_write().is_some());
}

#[test]
fn an_upgrade_lets_others_in_between_and_two_of_them_do_not_deadlock() {
    let (hands, lock) = (Hands::default(), TaskRwLock::new());
    let (one, two) = (lock.try_read().unwrap(), lock.try_read().unwrap());
    let mut writer = hands.take(3, lock.write()).pending();
    let mut one = hands.take(1, one.upgrade()).pending();
    let mut two = hands.take(2, two.upgrade()).pending();
    assert_eq!(
        hands.woken(),
        [3],
        "the writer came before they gave up reading"
    );
    drop(writer.ready());
    drop(one.ready());
    drop(two.ready());
    assert_eq!(hands.woken(), [1, 2]);
    assert!(lock.try_write().is_some());
}

#[test]
fn a_dropped_upgrade_leaves_the_lock() {
    let (hands, lock) = (Hands::default(), TaskRwLock::new());
    let (one, two) = (lock.try_read().unwrap(), lock.try_read().unwrap());
    let upgrade = hands.take(1, one.upgrade()).pending();
    drop(upgrade);
    drop(two);
    assert!(lock.try_write().is_some());
    drop(lock.try_read().unwrap().upgrade());
    assert!(lock.try_write().is_some());
}

#[test]
fn a_budget_is_served_in_order_and_refuses_what_it_can_never_give() {
    let (hands, budget) = (Hands::default(), ByteSemaphore::new(100));
    let total_bytes = 100;
    let refused = hands.take(0, budget.acquire(101)).ready().unwrap_err();
    assert_eq!(
        refused,
        OverBudget {
            bytes: 101,
            total_bytes
        }
    );
    let held = budget.try_acquire(60).unwrap();
    assert_eq!((held.bytes(), budget.free_bytes()), (60, 40));
    let mut large = hands.take(1, budget.acquire(100)).pending();
    let mut small = hands.take(2, budget.acquire(10)).pending();
    assert!(
        budget.try_acquire(10).is_none(),
        "nobody gets past the large one"
    );
    drop(held);
    assert_eq!(hands.woken(), [1]);
    drop(large.ready());
    assert_eq!(small.ready().unwrap().bytes(), 10);
    assert_eq!((budget.free_bytes(), budget.total_bytes()), (100, 100));
}

#[test]
fn a_large_request_that_gives_up_lets_small_ones_through() {
    let (hands, budget) = (Hands::default(), ByteSemaphore::new(100));
    let _held = budget.try_acquire(60).unwrap();
    let large = hands.take(1, budget.acquire(100)).pending();
    let mut two = hands.take(2, budget.acquire(30)).pending();
    let mut three = hands.take(3, budget.acquire(30)).pending();
    drop(large);
    assert_eq!(hands.woken(), [2]);
    let two = two.ready().unwrap();
    assert!(three.poll().is_pending());
    drop(two);
    drop(three.ready().unwrap());
    assert_eq!(budget.free_bytes(), 40);
}

#[test]
fn waiting_in_a_queue_unlocks_the_mutex_and_locks_it_again() {
    let (hands, mutex, queue) = (Hands::default(), TaskMutex::new(), TaskQueue::new());
    assert!(!queue.wake_one(), "nobody waits");
    let guard = mutex.try_lock().unwrap();
    let mut waiter = hands.take(1, queue.wait(guard));
    assert!(mutex.try_lock().is_none(), "it has not begun to wait");
    assert!(waiter.poll().is_pending());
    let guard = mutex.try_lock().unwrap();
    assert!(queue.wake_one());
    assert!(!queue.wake_one(), "it was woken already");
    assert_eq!(hands.woken(), [1]);
    assert!(waiter.poll().is_pending(), "the mutex is held");
    drop(guard);
    assert_eq!(hands.woken(), [1]);
    let guard = waiter.ready();
    assert!(mutex.try_lock().is_none());
    drop(guard);
}

#[test]
fn a_queue_wakes_in_the_order_of_arrival() {
    let (hands, mutex, queue) = (Hands::default(), TaskMutex::new(), TaskQueue::new());
    let mut waiting: Vec<_> = (0..4)
        .map(|number| {
            hands
                .take(number, queue.wait(mutex.try_lock().unwrap()))
                .pending()
        })
        .collect();
    assert!(queue.wake_one());
    assert_eq!(hands.woken(), [0]);
    queue.wake_all();
    assert_eq!(hands.woken(), [1, 2, 3]);
    for waiter in &mut waiting {
        drop(waiter.ready());
    }
}

#[test]
fn a_wake_up_that_reached_a_dropped_waiter_goes_to_the_next() {
    let (hands, mutex, queue) = (Hands::default(), TaskMutex::new(), TaskQueue::new());
    let wait = |number| {
        hands
            .take(number, queue.wait(mutex.try_lock().unwrap()))
            .pending()
    };
    let (one, mut two, mut three) = (wait(1), wait(2), wait(3));
    assert!(queue.wake_one());
    drop(one);
    assert_eq!(hands.woken(), [1, 2]);
    // Also while it waits for the mutex.
    let guard = mutex.try_lock().unwrap();
    assert!(two.poll().is_pending());
    drop(two);
    assert_eq!(hands.woken(), [3]);
    drop(guard);
    drop(three.ready());

    let (four, five) = (wait(4), wait(5));
    drop(four);
    queue.wake_all();
    let six = wait(6);
    drop(five);
    assert_eq!(
        hands.woken(),
        [5],
        "all were woken, so nobody is owed a wake-up"
    );
    drop(six);
    assert!(!queue.wake_one());
}

/// One step of a random history of permits.
#[derive(Clone, Copy, Debug)]
enum Step {
    Ask(u64),
    /// The n-th future that is alive is polled.
    Poll(usize),
    /// The n-th future or set of permits that is alive is dropped.
    Drop(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..=8_u64).prop_map(Step::Ask),
        (0..8_usize).prop_map(Step::Poll),
        (0..8_usize).prop_map(Step::Drop),
    ];
    proptest::collection::vec(step, 0..80)
}

/// Permits as one would write them down: who came, what they want, and who has it.
#[derive(Default)]
struct Naive {
    waiting: Vec<(usize, u64)>,
    held: Vec<(usize, u64)>,
}

impl Naive {
    const TOTAL: u64 = 8;

    fn free(&self) -> u64 {
        Self::TOTAL - self.held.iter().map(|(_, wanted)| wanted).sum::<u64>()
    }

    fn settle(&mut self) {
        while let Some(&(id, wanted)) = self.waiting.first()
            && wanted <= self.free()
        {
            self.waiting.remove(0);
            self.held.push((id, wanted));
        }
    }

    fn ask(&mut self, id: usize, wanted: u64) {
        self.waiting.push((id, wanted));
        self.settle();
    }

    fn forget(&mut self, id: usize) {
        self.waiting.retain(|(other, _)| *other != id);
        self.held.retain(|(other, _)| *other != id);
        self.settle();
    }

    fn has(&self, id: usize) -> bool {
        self.held.iter().any(|(other, _)| *other == id)
    }
}

/// A request that is alive: its future, until it has its permits.
struct Asked<'a> {
    id: usize,
    wanted: u64,
    future: Option<Pin<Box<Take<'a>>>>,
}

proptest! {
    #[test]
    fn permits_do_what_a_naive_list_does(steps in steps()) {
        let permits = Permits::new(Naive::TOTAL);
        let (mut naive, mut alive) = (Naive::default(), Vec::<Asked<'_>>::new());
        let mut cx = Context::from_waker(Waker::noop());
        for (id, step) in steps.into_iter().enumerate() {
            match step {
                Step::Ask(wanted) => {
                    naive.ask(id, wanted);
                    let mut future = Box::pin(permits.take(wanted));
                    let is_ready = future.as_mut().poll(&mut cx).is_ready();
                    prop_assert_eq!(is_ready, naive.has(id));
                    let future = (!is_ready).then_some(future);
                    alive.push(Asked { id, wanted, future });
                }
                Step::Poll(at) => {
                    let Some(asked) = alive.get_mut(at) else { continue };
                    let Some(future) = &mut asked.future else { continue };
                    let is_ready = future.as_mut().poll(&mut cx).is_ready();
                    prop_assert_eq!(is_ready, naive.has(asked.id));
                    if is_ready {
                        asked.future = None;
                    }
                }
                Step::Drop(at) if at < alive.len() => {
                    let asked = alive.remove(at);
                    naive.forget(asked.id);
                    if asked.future.is_none() {
                        permits.give_back(asked.wanted);
                    }
                }
                Step::Drop(_) => {}
            }
            prop_assert_eq!(permits.free(), naive.free());
            if naive.waiting.is_empty() {
                prop_assert!(permits.try_take(0));
            } else {
                prop_assert!(!permits.try_take(0));
            }
        }
    }
}
