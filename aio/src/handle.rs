//! What other threads may hold of a context.

use std::{future::Future, sync::Arc};

use crate::{
    context::AioContext,
    error::AioError,
    join::{JoinHandle, oneshot},
    migratable,
    polling::PollParams,
    shared::Shared,
};

/// The one part of a context that may leave its home thread: posts work and wakes the loop.
///
/// Every method may be called on any thread. Once the context is closed, what is posted is dropped
/// without running.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The context's name, as given in its configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// Whether the calling thread is the context's home.
    #[must_use]
    pub fn is_home(&self) -> bool {
        self.shared.is_home()
    }

    /// Whether both are handles of one context.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Makes the loop turn once more, if it sleeps; costs no system call if it does not. Never blocks.
    pub fn notify(&self) {
        self.shared.notify();
    }

    /// Sets how many worker threads the context's [`ThreadPool`](crate::ThreadPool) keeps when there
    /// is nothing to do, and how many it has at most: zero and 64 unless set.
    ///
    /// A pool in use starts threads that it lacks in its next turn; those that are too many leave
    /// when they have finished what they are at.
    ///
    /// # Errors
    ///
    /// [`AioError::ThreadPoolLimits`], and nothing changes, unless 0 ≤ `min` ≤ `max` and 0 < `max`.
    pub fn set_thread_pool_limits(&self, min: i64, max: i64) -> Result<(), AioError> {
        self.shared.thread_pool.set_limits(min, max)?;
        self.shared.post_worked();
        Ok(())
    }

    /// Sets how many requests go to the kernel at most in one call: see [`AioContext::set_max_batch`].
    pub fn set_max_batch(&self, requests: u32) {
        self.schedule(move |context| context.set_max_batch(requests));
    }

    /// Sets the limits of busy polling while the loop runs; the times it has learned begin anew.
    ///
    /// The loop is woken to take them over; until then it may use the old ones once more.
    pub fn set_poll_params(&self, params: PollParams) {
        self.shared.poll_params().set(params);
        self.shared.notify();
    }

    /// Runs `callback` once on the home thread, in a later turn of the loop: a one-shot bottom half.
    /// Those of one thread run in order; it cannot be taken back. What was written before is visible to it.
    pub fn schedule(&self, callback: impl FnOnce(&AioContext) + Send + 'static) {
        self.shared.post(Box::new(callback));
    }

    /// Runs `call` once on the home thread, in a later turn of the loop, and brings its result.
    ///
    /// To wait for it on the thread of another context, turn that context's loop meanwhile:
    /// `context.block_on(handle.call(..))`.
    pub fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&AioContext) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let (sender, handle) = oneshot();
        self.schedule(move |context| sender.send(call(context)));
        handle
    }

    /// Runs `future` as a task that begins on this context, and that may move to others by
    /// [`reschedule_to`](crate::reschedule_to).
    ///
    /// It is polled only on the home thread of the context that it is on, and waking it queues it
    /// there; tasks of one context are polled in the order of their wake-ups. Closing that context
    /// drops it, which its handle [tells](JoinHandle::join). Since it moves, it cannot hold a context
    /// or its requests across an `.await`: it asks for [the context](AioContext::current) where it
    /// is, and has others' tasks do what belongs to them. Dropping the returned handle detaches the
    /// task.
    pub fn spawn_migratable<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let (sender, handle) = oneshot();
        migratable::spawn(&self.shared, sender.send_result_of(future));
        handle
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Calls `start` on the home thread and runs the future that it returns there, as a task.
    ///
    /// The future need not be `Send`: it never leaves the home thread, where closing the context drops
    /// it if it has not ended. Dropping the returned
    /// handle detaches the task.
    pub fn spawn<F, Fut, T>(&self, start: F) -> JoinHandle<T>
    where
        F: FnOnce(AioContext) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (sender, handle) = oneshot();
        self.schedule(move |context| {
            let future = start(context.clone());
            drop(context.spawn(sender.send_result_of(future)));
        });
        handle
    }
}
