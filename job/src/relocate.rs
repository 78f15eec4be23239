//! Moving a job, and with it its body, to another context.
//!
//! The context of a job changes only while the job stands still, under the lock of the registry. A
//! body that stands at a pause point is then woken where it was, sees where it belongs, and goes
//! there before it does anything else, also if it was cancelled meanwhile.

use std::task::{Poll, Waker};

use crate::{error::JobError, job::Job, record::Key, runtime::Handle, state::State};

impl Job {
    /// The context that the job belongs to: its body runs there as soon as it runs.
    ///
    /// Of a forgotten job nothing runs anywhere any more; then it is the registry's main context.
    pub fn context(&self) -> Handle {
        let context = self.look(|record| record.map(|record| record.context.clone()));
        context.unwrap_or_else(|| self.shared.main.clone())
    }

    /// Moves the job to `context`.
    ///
    /// Holds the job paused, [quietly](Self::hold_paused), until it stands still, has its body go
    /// over, and lets go. When this is ready, nothing of the job is left on the context before, which
    /// may be closed; what the job driver has [spawned](crate::JobContext::spawn) there it has ended
    /// in its `pause` hook. A job that has not started, or whose body has ended, moves at once.
    ///
    /// Any thread, any executor; but the body of the job would wait for itself. Takes as long as the
    /// body takes to its next pause point; one that was cancelled by force may not stop there, and
    /// then it takes as long as the body takes to end. Several moves at once are done one after the
    /// other, and each is ready when the body is where the latest wants it. Dropping the future before
    /// it is ready leaves the job on the one context or the other.
    ///
    /// # Errors
    ///
    /// `Failed` when one of the two contexts was closed meanwhile, and the body with it: the job fails
    /// with the same error.
    pub async fn set_context(&self, context: &Handle) -> Result<(), JobError> {
        let _hold = self.hold_paused();
        let key = self.cell.key;
        std::future::poll_fn(|cx| {
            self.shared
                .update(|state| state.poll_relocate(key, context, cx.waker()))
        })
        .await;
        std::future::poll_fn(|cx| {
            self.shared
                .update(|state| state.poll_settled(key, cx.waker()))
        })
        .await
    }
}

impl State {
    /// Ready once the job stood still and `context` has become its own.
    fn poll_relocate(&mut self, key: Key, context: &Handle, waker: &Waker) -> Poll<()> {
        if self.poll_quiesced(key, waker).is_pending() {
            return Poll::Pending;
        }
        if let Some(record) = self.jobs.get_mut(&key) {
            record.context = context.clone();
            if !record.is_standing() {
                // There is no body that would have to follow.
                record.whereabouts = context.clone();
            }
            self.wake_body(key);
        }
        Poll::Ready(())
    }

    /// Ready once nothing of the job is anywhere but on its context.
    fn poll_settled(&mut self, key: Key, waker: &Waker) -> Poll<Result<(), JobError>> {
        let Some(record) = self.jobs.get_mut(&key) else {
            return Poll::Ready(Ok(()));
        };
        if !record.is_settled() {
            record.watch(waker);
            return Poll::Pending;
        }
        // Settled, and yet away: the body ended on the way.
        Poll::Ready(match record.is_away() {
            true => Err(JobError::context_closed()),
            false => Ok(()),
        })
    }
}
