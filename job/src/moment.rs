//! [`JobMoment`]: a point in the life of one job that code of ours can wait for, internal jobs included.

use std::{fmt, sync::Arc};

use crate::{
    job::Job,
    record::{JobCell, Key},
    state::{Shared, State, Word},
};

/// A point in the life of one job: what [`Job::notify_on`] tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobMoment {
    /// The job ended because it was cancelled. Never of a job that was not started.
    FinalizeCancelled,
    /// The job ended by itself, well or with an error. Never of a job that was not started.
    FinalizeCompleted,
    /// The job waits for its `finalize`.
    Pending,
    /// The body has converged.
    Ready,
    /// The body ceased to be busy: it stands at a pause point, sleeps, parks, or has ended. Several
    /// that follow each other closely may be told as one.
    Idle,
}

type Callback = Arc<dyn Fn(&Job) + Send + Sync>;

/// One who wants to be told of a moment. Guarded by the registry's lock.
pub(crate) struct Notifier {
    cell: Arc<JobCell>,
    moment: JobMoment,
    callback: Callback,
    /// An idle moment is on its way and stands for any that follow before it arrives.
    is_idle_queued: bool,
}

/// Names a notifier: that of its job, and its own.
pub(crate) type NotifierKey = (Key, Key);

impl Job {
    /// Calls `callback` each time the job comes to `moment` from now on, on the main context.
    ///
    /// It is called in order with the events, after the event that tells of the same: ready, pending,
    /// completed, cancelled. The job may have moved on by then, and be forgotten. No lock is held,
    /// so the callback may use all verbs, also dismiss the job, and drop its own guard; what it does
    /// is told after it. It must leave alone what waits synchronously, such as
    /// [`cancel_sync`](Self::cancel_sync), since it may run within a task. It is given the job and
    /// had better not keep it, which would keep both.
    ///
    /// Dropping the guard ends it; dropped on the main context, at once. It ends with the job, too.
    pub fn notify_on(
        &self,
        moment: JobMoment,
        callback: impl Fn(&Self) + Send + Sync + 'static,
    ) -> MomentGuard {
        let notifier = Notifier {
            cell: self.cell.clone(),
            moment,
            callback: Arc::new(callback),
            is_idle_queued: false,
        };
        let job = self.cell.key;
        let (key, too_late) = self.shared.update(|state| {
            let key = (job, state.next_key());
            if !state.jobs.contains_key(&job) {
                return (key, Some(notifier));
            }
            state.notifiers.insert(key, notifier);
            (key, None)
        });
        drop(too_late);
        let shared = self.shared.clone();
        MomentGuard { shared, key }
    }
}

/// Keeps what [`Job::notify_on`] has registered; dropping it ends that.
#[derive(Debug)]
#[must_use = "nothing is told once this is dropped"]
pub struct MomentGuard {
    shared: Arc<Shared>,
    key: NotifierKey,
}

impl Drop for MomentGuard {
    fn drop(&mut self) {
        let notifier = self
            .shared
            .update(|state| state.notifiers.remove(&self.key));
        // Outside of the lock, since what a callback holds may be a job.
        drop(notifier);
    }
}

impl State {
    /// Queues a moment of a job for those who want to be told, after the events so far.
    pub(crate) fn note_moment(&mut self, job: Key, moment: JobMoment) {
        for (&key, notifier) in self.notifiers.range_mut((job, 0)..=(job, Key::MAX)) {
            if notifier.moment != moment || notifier.is_idle_queued {
                continue;
            }
            notifier.is_idle_queued = moment == JobMoment::Idle;
            self.words.push_back(Word::Moment(key));
        }
    }

    /// Sees to it that the notifiers of a job which is being forgotten go after its last words.
    pub(crate) fn end_moments(&mut self, job: Key) {
        let mut notifiers = self.notifiers.range((job, 0)..=(job, Key::MAX));
        if notifiers.next().is_some() {
            self.words.push_back(Word::Forgotten(job));
        }
    }

    /// Whom to call for a moment that was queued; nobody if the guard was dropped meanwhile.
    pub(crate) fn take_moment(&mut self, key: NotifierKey) -> Option<(Arc<JobCell>, Callback)> {
        let notifier = self.notifiers.get_mut(&key)?;
        notifier.is_idle_queued = false;
        Some((notifier.cell.clone(), notifier.callback.clone()))
    }

    /// Takes out the notifiers of a job that nothing more will be told of.
    pub(crate) fn take_notifiers(&mut self, job: Key) -> Vec<Notifier> {
        let all = (job, 0)..=(job, Key::MAX);
        self.notifiers
            .extract_if(all, |_, _| true)
            .map(|(_, notifier)| notifier)
            .collect()
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier")
            .field("cell", &self.cell)
            .field("moment", &self.moment)
            .finish_non_exhaustive()
    }
}
