//! A lock that one task holds at a time.

use super::permits::Permits;

/// A lock that one task holds at a time, also across `.await`.
///
/// Locking it costs one atomic operation while nobody else holds it, and so does unlocking it while
/// nobody waits. Unlocking hands it over to whoever has waited longest; nobody gets past.
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
}

impl TaskMutex {
    /// A mutex that nobody holds.
    #[must_use]
    pub fn new() -> Self {
        Self {
            permits: Permits::new(1),
        }
    }

    /// Locks it, when those that came before have had it.
    ///
    /// Dropping the future gives up the place in the queue.
    pub async fn lock(&self) -> TaskMutexGuard<'_> {
        self.permits.take(1).await;
        TaskMutexGuard { mutex: self }
    }

    /// Locks it if nobody holds it.
    #[must_use]
    pub fn try_lock(&self) -> Option<TaskMutexGuard<'_>> {
        self.permits
            .try_take(1)
            .then(|| TaskMutexGuard { mutex: self })
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
