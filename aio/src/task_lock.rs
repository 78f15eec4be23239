//! Locks that tasks wait for without blocking their threads.
//!
//! All of them may be shared by tasks of any number of contexts, and of other executors: whoever
//! waits is woken through its waker, in its own context. All are first come, first served: who
//! gives something back hands it over to the one who has waited longest, and who comes later does
//! not get past those that wait. A guard may be dropped on another thread than it was made on.
//! Dropping a future that waits gives up its place; what had already been handed over to it goes to
//! the next.
//!
//! | Type | For |
//! |---|---|
//! | [`TaskMutex`] | sections of code, with `.await`s in them, that must not overlap |
//! | [`TaskRwLock`] | the same, where many may read while nobody writes |
//! | [`TaskQueue`] | waiting, with a mutex given back meanwhile, until another task says so |
//! | [`ByteSemaphore`] | a budget of bytes that tasks share |
//!
//! The locks hold no data, since what they protect are sections of code rather than values. Data
//! that is only touched in such a section, by several threads, still needs a type that is `Sync`:
//! atomics, or a `std` mutex that is then never contended.
//!
//! Mutex, read-write lock and semaphore are one protocol, in [`permits`]: a mutex has one permit; a
//! reader takes one permit of a great many, and a writer takes them all.

mod byte_semaphore;
mod mutex;
mod permits;
mod queue;
mod rw_lock;
mod waiters;

pub use byte_semaphore::{ByteSemaphore, BytesGuard, OverBudget};
pub use mutex::{TaskMutex, TaskMutexGuard};
pub use queue::TaskQueue;
pub use rw_lock::{TaskReadGuard, TaskRwLock, TaskWriteGuard};

#[cfg(test)]
#[cfg(loom)]
mod loom_tests;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
