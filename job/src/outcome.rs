//! [`JobOutcome`]: how a job ended, and [`JobWait`], the way to learn it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::{
    error::JobError,
    record::JobCell,
    runtime::{Condvar, Mutex, MutexGuard},
};

/// How a job ended.
#[derive(Clone, Debug)]
pub enum JobOutcome {
    /// Well. Also a ready job that took a soft cancel as "finish as you are".
    Completed,
    /// By itself, with this error.
    Failed(JobError),
    /// By a cancel, its own or that of another member of its transaction.
    Cancelled(JobError),
}

impl JobOutcome {
    /// The error of a job that did not complete.
    pub fn error(&self) -> Option<&JobError> {
        match self {
            Self::Completed => None,
            Self::Failed(error) | Self::Cancelled(error) => Some(error),
        }
    }

    /// The outcome as a result, for `?`.
    ///
    /// # Errors
    ///
    /// The error of a job that did not complete.
    pub fn into_result(self) -> Result<(), JobError> {
        match self {
            Self::Completed => Ok(()),
            Self::Failed(error) | Self::Cancelled(error) => Err(error),
        }
    }
}

/// Where the outcome of one job is left and waited for.
///
/// Its lock is below that of the registry: nothing is locked, called or awaited under it.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    state: Mutex<EndingState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct EndingState {
    outcome: Option<JobOutcome>,
    wakers: Vec<Waker>,
}

impl Ending {
    /// Leaves the outcome and wakes those who wait for it. Once.
    pub(crate) fn set(&self, outcome: JobOutcome) {
        assert!(self.set_if_open(outcome), "a job ends once");
    }

    /// The same, unless there is an outcome already; returns whether this is the one.
    pub(crate) fn set_if_open(&self, outcome: JobOutcome) -> bool {
        let mut state = self.lock();
        if state.outcome.is_some() {
            return false;
        }
        state.outcome = Some(outcome);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);

        self.changed.notify_all();
        for waker in wakers {
            waker.wake();
        }
        true
    }

    pub(crate) fn get(&self) -> Option<JobOutcome> {
        self.lock().outcome.clone()
    }

    pub(crate) fn wait_blocking(&self) -> JobOutcome {
        let state = self
            .changed
            .wait_while(self.lock(), |state| state.outcome.is_none())
            .expect("nothing panics under the lock of an ending");
        state.outcome.clone().expect("the wait was for an outcome")
    }

    fn poll(&self, waker: &Waker) -> Poll<JobOutcome> {
        let mut state = self.lock();
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone());
        }
        if !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, EndingState> {
        self.state
            .lock()
            .expect("nothing panics under the lock of an ending")
    }
}

/// Ends with the outcome of a job; made by [`Job::wait`](crate::Job::wait).
///
/// May be polled on any thread and by any executor. Dropping it changes nothing for the job.
#[derive(Debug)]
#[must_use = "a wait does nothing until it is awaited"]
pub struct JobWait {
    pub(crate) cell: Arc<JobCell>,
}

impl Future for JobWait {
    type Output = JobOutcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<JobOutcome> {
        self.cell.ending.poll(cx.waker())
    }
}
