//! A lock that many tasks hold for reading, or one for writing.

use super::permits::Permits;

/// What a writer takes; a reader takes one.
const ALL: u64 = 1 << 32;

/// A lock that many tasks hold for reading, or one for writing, also across `.await`.
///
/// First come, first served: a reader that comes after a waiting writer waits behind it, so nobody
/// starves. A task that holds it for reading must therefore not ask for it again: the second
/// request may wait behind a writer that waits for the first.
///
/// Taking it costs one atomic operation while nobody waits, and so does giving it back.
///
/// Every method may be called on any thread.
///
/// ```
/// # aio::run(aio::Config::default(), |cx| async move {
/// let lock = aio::TaskRwLock::new();
/// let (one, other) = (lock.read().await, lock.read().await);
/// assert!(lock.try_write().is_none());
/// drop(other);
/// // Others may have written before this is granted, had they waited.
/// let writing = one.upgrade().await;
/// let reading = writing.downgrade();
/// # drop(reading);
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct TaskRwLock {
    permits: Permits,
}

impl TaskRwLock {
    /// A lock that nobody holds.
    #[must_use]
    pub fn new() -> Self {
        Self {
            permits: Permits::new(ALL),
        }
    }

    /// Takes it for reading.
    ///
    /// Dropping the future gives up the place in the queue.
    pub async fn read(&self) -> TaskReadGuard<'_> {
        self.permits.take(1).await;
        TaskReadGuard(Held::new(&self.permits, 1))
    }

    /// Takes it for writing.
    ///
    /// Dropping the future gives up the place in the queue.
    pub async fn write(&self) -> TaskWriteGuard<'_> {
        self.permits.take(ALL).await;
        TaskWriteGuard(Held::new(&self.permits, ALL))
    }

    /// Takes it for reading if nobody writes or waits.
    #[must_use]
    pub fn try_read(&self) -> Option<TaskReadGuard<'_>> {
        let taken = self.permits.try_take(1);
        taken.then(|| TaskReadGuard(Held::new(&self.permits, 1)))
    }

    /// Takes it for writing if nobody holds it.
    #[must_use]
    pub fn try_write(&self) -> Option<TaskWriteGuard<'_>> {
        let taken = self.permits.try_take(ALL);
        taken.then(|| TaskWriteGuard(Held::new(&self.permits, ALL)))
    }
}

impl Default for TaskRwLock {
    fn default() -> Self {
        Self::new()
    }
}

/// Permits that go back when it is dropped.
#[derive(Debug)]
struct Held<'a> {
    permits: &'a Permits,
    count: u64,
}

impl<'a> Held<'a> {
    fn new(permits: &'a Permits, count: u64) -> Self {
        Self { permits, count }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.permits.give_back(self.count);
    }
}

/// Holds a [`TaskRwLock`] for reading until it is dropped, which may happen on another thread.
#[derive(Debug)]
#[must_use = "the lock is given back when the guard is dropped"]
pub struct TaskReadGuard<'a>(Held<'a>);

impl<'a> TaskReadGuard<'a> {
    /// Exchanges it for the right to write.
    ///
    /// At once if nobody else holds the lock or waits for it. Otherwise it is given back first, and
    /// this waits behind those that wait: they may write in between, so look again at what was
    /// read. Dropping the future leaves the lock altogether.
    pub async fn upgrade(mut self) -> TaskWriteGuard<'a> {
        let permits = self.0.permits;
        if permits.try_take(ALL - 1) {
            self.0.count = ALL;
            return TaskWriteGuard(self.0);
        }
        drop(self);
        permits.take(ALL).await;
        TaskWriteGuard(Held::new(permits, ALL))
    }
}

/// Holds a [`TaskRwLock`] for writing until it is dropped, which may happen on another thread.
#[derive(Debug)]
#[must_use = "the lock is given back when the guard is dropped"]
pub struct TaskWriteGuard<'a>(Held<'a>);

impl<'a> TaskWriteGuard<'a> {
    /// Keeps the right to read only, without letting a writer in between.
    ///
    /// Wakes the readers that wait in front of the first waiting writer.
    pub fn downgrade(mut self) -> TaskReadGuard<'a> {
        self.0.count = 1;
        self.0.permits.give_back(ALL - 1);
        TaskReadGuard(self.0)
    }
}
