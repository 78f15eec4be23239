//! What becomes of jobs whose main context is closed before they have ended.
//!
//! Nobody can commit, abort or clean them any more, so they stay where they are. Those who wait for
//! them are told, since they would wait for ever.

use std::{
    fmt,
    sync::{OnceLock, Weak},
};

use crate::{
    error::JobError,
    outcome::JobOutcome,
    runtime::{Handle, Join},
    state::Shared,
};

/// Watches the main context of a registry until it is dropped.
#[derive(Default)]
pub(crate) struct MainWatch(OnceLock<Join<()>>);

impl MainWatch {
    /// Has `shared` told when the context behind `main` is closed; at once if it is already. Once.
    pub(crate) fn begin(&self, main: &Handle, shared: Weak<Shared>) {
        let end = MainEnd(shared);
        let task = main.spawn(move |_main| async move {
            let _end = end;
            std::future::pending::<()>().await;
        });
        drop(self.0.set(task.join()));
    }
}

impl Drop for MainWatch {
    fn drop(&mut self) {
        if let Some(task) = self.0.get() {
            task.abort();
        }
    }
}

impl fmt::Debug for MainWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MainWatch")
    }
}

/// Lives on the main context as long as that is open.
struct MainEnd(Weak<Shared>);

impl Drop for MainEnd {
    fn drop(&mut self) {
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        let left = shared.update(|state| {
            state.is_main_closed = true;
            let cells = state.jobs.values().map(|record| record.cell.clone());
            cells.collect::<Vec<_>>()
        });
        for cell in left {
            let outcome = JobOutcome::Failed(JobError::main_context_closed());
            cell.ending.set_if_open(outcome);
        }
    }
}
