//! Who may touch the work of a migratable task, and on which context.
//!
//! One word says whether the task is due and whether it runs:
//!
//! ```text
//!              wake: the waker queues it                begin
//!   IDLE (0) ------------------------------> DUE ------------------> RUNNING
//!      ^                                    ^   ^                    |  | |
//!      |        put back                    |   '-- move: the runner-'  | | wake
//!      '------------------------------------+---------------------------' v
//!                                           '--------------------- RUNNING | DUE
//!                                  put back: the runner queues it again
//! ```
//!
//! Whoever turns IDLE into DUE, or leaves RUNNING with DUE set, has the right and the duty to queue
//! the task, once, on the context that is its home by then. Only whoever runs it changes its home, and
//! does so before it leaves RUNNING; so the task is queued elsewhere only when nobody polls it any
//! more. The work lies behind a mutex that is never contended: each step that takes it comes after
//! the one that let go of it, in the order of the word's changes.

use std::mem;

use crate::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, Ordering},
};

/// It is queued, or will be when it is put back.
const DUE: u32 = 1;
/// Somebody has taken the work out.
const RUNNING: u32 = 2;
/// The work is gone for good.
const OVER: u32 = 4;

/// Guards work `W` that moves between contexts `C`.
pub(super) struct Custody<C, W> {
    state: AtomicU32,
    store: Mutex<Store<C, W>>,
}

struct Store<C, W> {
    home: C,
    /// Absent while it runs.
    work: Option<W>,
}

impl<C: Clone, W> Custody<C, W> {
    /// Work that is due: the caller queues it on `home`.
    pub(super) fn new(home: C, work: W) -> Self {
        let work = Some(work);
        Self {
            state: AtomicU32::new(DUE),
            store: Mutex::new(Store { home, work }),
        }
    }

    /// Has it polled once more; returns the context that the caller must queue it on, if any. Any thread.
    ///
    /// What was written before is visible to the work when it runs next.
    pub(super) fn wake(&self) -> Option<C> {
        let before = self.state.fetch_or(DUE, Ordering::AcqRel);
        // Not to be asked before: whoever ran it could have changed it.
        (before == 0).then(|| self.store().home.clone())
    }

    /// Takes the work out to be polled. Only for whoever has it from a queue.
    pub(super) fn begin(&self) -> W {
        let before = self.state.swap(RUNNING, Ordering::AcqRel);
        assert_eq!(before, DUE, "what comes out of a queue is due");
        self.take()
    }

    /// Takes the work out if it is neither running nor due. Any thread.
    pub(super) fn begin_if_idle(&self) -> Option<W> {
        let begun = self
            .state
            .compare_exchange(0, RUNNING, Ordering::AcqRel, Ordering::Relaxed);
        begun.is_ok().then(|| self.take())
    }

    /// Puts work that runs back; returns whether the caller must queue it again where it is.
    pub(super) fn put_back(&self, work: W) -> bool {
        self.store().work = Some(work);
        let before = self.state.fetch_and(!RUNNING, Ordering::AcqRel);
        before & DUE != 0
    }

    /// Puts work that runs back, for another context: the caller must queue it there.
    pub(super) fn move_to(&self, home: C, work: W) {
        let mut store = self.store();
        let old = mem::replace(&mut store.home, home);
        store.work = Some(work);
        drop(store);
        self.state.swap(DUE, Ordering::AcqRel);
        drop(old);
    }

    /// Says that the work, which runs, is never put back.
    pub(super) fn end(&self) {
        self.state.store(OVER, Ordering::Release);
    }

    fn take(&self) -> W {
        let work = self.store().work.take();
        work.expect("it is there unless it runs")
    }

    fn store(&self) -> MutexGuard<'_, Store<C, W>> {
        self.store
            .try_lock()
            .expect("the word says whose turn it is")
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests;
