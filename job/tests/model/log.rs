//! What happened: events, moments and hooks, in the order in which they came.

use std::sync::{Arc, Mutex};

use job::JobStatus;

/// One thing that a job did, or that was done to its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Something that is told on the main context, of the job in a place.
    Told(usize, Told),
    /// A call of a hook of the driver of the job in a place, on the thread that makes it.
    Hook(usize, &'static str),
}

/// What the outside hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Status(JobStatus),
    Ready,
    Pending,
    Completed(Option<String>),
    Cancelled,
    Error(&'static str, &'static str),
    /// Not an event but a moment, which internal jobs have too.
    Moment(&'static str),
}

/// More than this is not done between two looks.
const ENTRIES_MAX: usize = 10_000;

/// Where everything is noted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Entry>>>);

impl Log {
    pub(crate) fn add(&self, entry: Entry) {
        let mut entries = self.0.lock().expect("nobody panics with it");
        // A body that goes round and round must end the test, not fill the machine.
        assert!(entries.len() < ENTRIES_MAX, "this has no end: {entry:?}");
        entries.push(entry);
    }

    /// What was noted since the last look.
    pub(crate) fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut *self.0.lock().expect("nobody panics with it"))
    }
}
