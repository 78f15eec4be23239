//! Waiting until another task says so, with a mutex given back meanwhile.

use std::{
    future::poll_fn,
    sync::PoisonError,
    task::{Context, Poll, Waker},
};

use super::{
    mutex::TaskMutexGuard,
    waiters::{Served, Waiters},
};
use crate::sync::{Mutex, MutexGuard};

/// Tasks that wait until another one wakes them: a condition variable for tasks.
///
/// What is waited for is protected by a [`TaskMutex`](crate::TaskMutex): a task locks it, looks, and
/// waits; another locks it, changes something, and wakes. Since a waiter is in the queue before the
/// mutex is unlocked, it misses nothing that happens under the mutex.
///
/// Every method may be called on any thread.
///
/// ```
/// use std::{cell::Cell, rc::Rc};
///
/// # aio::run(aio::Config::default(), |cx| async move {
/// let room = Rc::new((aio::TaskMutex::new(), aio::TaskQueue::new(), Cell::new(0)));
/// let theirs = room.clone();
/// let waiter = cx.spawn(async move {
///     let (mutex, queue, left) = &*theirs;
///     let mut guard = mutex.lock().await;
///     while left.get() == 0 {
///         guard = queue.wait(guard).await;
///     }
///     left.set(left.get() - 1);
/// });
/// let (mutex, queue, left) = &*room;
/// let guard = mutex.lock().await;
/// left.set(1);
/// queue.wake_one();
/// drop(guard);
/// waiter.await;
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct TaskQueue {
    places: Mutex<Places>,
}

#[derive(Debug)]
struct Places {
    waiters: Waiters<()>,
    /// All tickets below this one were woken together.
    all_woken_below: u64,
}

impl TaskQueue {
    /// A queue in which nobody waits.
    #[must_use]
    pub fn new() -> Self {
        let places = Places {
            waiters: Waiters::new(),
            all_woken_below: 0,
        };
        Self {
            places: Mutex::new(places),
        }
    }

    /// Unlocks the mutex, waits to be woken, and locks it again.
    ///
    /// Others may have had the mutex in between: look again at what is waited for. Dropping the
    /// future leaves the queue; a [`wake_one`](Self::wake_one) that had reached it already then
    /// wakes the next.
    pub async fn wait<'m>(&self, guard: TaskMutexGuard<'m>) -> TaskMutexGuard<'m> {
        let mutex = guard.mutex();
        let mut place = Place::enter(self);
        drop(guard);
        poll_fn(|cx| place.poll(cx)).await;
        let guard = mutex.lock().await;
        place.ticket = None;
        guard
    }

    /// Wakes the task that has waited longest; returns whether there was one.
    pub fn wake_one(&self) -> bool {
        let served = self.lock().waiters.serve_if(|()| true);
        let is_some = served.is_some();
        if let Some(((), waker)) = served {
            waker.wake();
        }
        is_some
    }

    /// Wakes all tasks that wait now, in the order of their arrival.
    pub fn wake_all(&self) {
        let mut served = Served::default();
        let mut places = self.lock();
        places.all_woken_below = places.waiters.next_ticket();
        while let Some(((), waker)) = places.waiters.serve_if(|()| true) {
            served.push(waker);
        }
        drop(places);
        served.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for TaskQueue {
    fn default() -> Self {
        Self::new()
    }
}

/// A place in the queue, until the wait is over.
struct Place<'a> {
    queue: &'a TaskQueue,
    ticket: Option<u64>,
}

impl<'a> Place<'a> {
    fn enter(queue: &'a TaskQueue) -> Self {
        // The first poll, which follows at once, puts in the real one.
        let waker = Waker::noop().clone();
        let ticket = Some(queue.lock().waiters.enter((), waker));
        Self { queue, ticket }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ticket = self.ticket.expect("polled while it waits");
        // The old waker is dropped unlocked, since the last one of a task drops what the task holds.
        let old = self.queue.lock().waiters.renew(ticket, cx.waker());
        match old {
            Some(_) => Poll::Pending,
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut places = self.queue.lock();
        let left = places.waiters.leave(ticket);
        let was_woken_alone = left.is_none() && ticket >= places.all_woken_below;
        drop(places);
        drop(left);
        if was_woken_alone {
            self.queue.wake_one();
        }
    }
}
