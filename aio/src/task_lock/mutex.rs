//! A lock that one task holds at a time.

use std::sync::atomic::{AtomicU64, Ordering};

use super::permits::Permits;
use crate::sys;

/// How often a task looks again before it waits for a holder on another thread.
///
/// About 3 µs, where being woken takes over 20. With two threads that hold the mutex for some
/// hundred nanoseconds each, one lock in contention takes 0.7 µs instead of 22. Looking for longer
/// wins more for longer sections, but stalls the loop in vain if the holder awaits a disk.
const LOOKS_MAX: u32 = 100;

/// A lock that one task holds at a time, also across `.await`.
///
/// Locking it costs one atomic operation while nobody else holds it, and so does unlocking it while
/// nobody waits. Unlocking hands it over to whoever has waited longest; nobody gets past. A task that
/// finds it held on another thread looks a few more times, for about 3 µs, before it waits in the
/// queue, unless somebody waits there already.
///
/// Every method may be called on any thread.
///
/// ```
/// # aio::run(aio::Config::default(), |cx| async move {
/// let mutex = aio::TaskMutex::new();
/// let guard = mutex.lock().await;
/// assert!(mutex.try_lock().is_none());
/// drop(guard);
/// assert!(mutex.try_lock().is_some());
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct TaskMutex {
    permits: Permits,
    /// The thread that locked it last, as a hint.
    holder: AtomicU64,
}

impl TaskMutex {
    /// A mutex that nobody holds.
    #[must_use]
    pub fn new() -> Self {
        Self {
            permits: Permits::new(1),
            holder: AtomicU64::new(0),
        }
    }

    /// Locks it, when those that came before have had it.
    ///
    /// Dropping the future gives up the place in the queue.
    pub async fn lock(&self) -> TaskMutexGuard<'_> {
        let guard = self.try_lock().or_else(|| self.look_again());
        if let Some(guard) = guard {
            return guard;
        }
        self.permits.take(1).await;
        self.guard()
    }

    /// Locks it if nobody holds it.
    #[must_use]
    pub fn try_lock(&self) -> Option<TaskMutexGuard<'_>> {
        self.permits.try_take(1).then(|| self.guard())
    }

    /// Tries for a while, if the holder runs on another thread.
    fn look_again(&self) -> Option<TaskMutexGuard<'_>> {
        let looks = self.holder.load(Ordering::Relaxed) != sys::thread_token()
            && self.permits.look_and_take(1, LOOKS_MAX);
        looks.then(|| self.guard())
    }

    fn guard(&self) -> TaskMutexGuard<'_> {
        self.holder.store(sys::thread_token(), Ordering::Relaxed);
        TaskMutexGuard { mutex: self }
    }
}

impl Default for TaskMutex {
    fn default() -> Self {
        Self::new()
    }
}

/// Holds a [`TaskMutex`] until it is dropped, which may happen on another thread.
#[derive(Debug)]
#[must_use = "the mutex is unlocked when the guard is dropped"]
pub struct TaskMutexGuard<'a> {
    mutex: &'a TaskMutex,
}

impl<'a> TaskMutexGuard<'a> {
    pub(super) fn mutex(&self) -> &'a TaskMutex {
        self.mutex
    }
}

impl Drop for TaskMutexGuard<'_> {
    fn drop(&mut self) {
        self.mutex.permits.give_back(1);
    }
}
