//! The last answer about data and holes of a file, so that walking a long run costs one look-up.

use std::{
    io,
    os::fd::AsFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aio::{Fd, sys};

use crate::allocation::{AllocationStatus, ByteRange, Extent};

/// Remembers one run. Whoever changes the file says so before and after, because a look-up that ran
/// beside a change may have seen either state and must not be remembered.
#[derive(Debug, Default)]
pub(super) struct HoleCache {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Moves with each begin and each end of a change.
    changes: u64,
    known: Option<Run>,
    /// A change was dropped half-way and may still reach the file at any time: nothing can be remembered any more.
    given_up: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) range: ByteRange,
    pub(super) status: AllocationStatus,
}

/// The run at `start_bytes`, by at most two questions. Blocks.
pub(super) fn find_run(file: &Fd, start_bytes: u64, len_bytes: u64) -> io::Result<Run> {
    let data = sys::seek_data(file.as_fd(), start_bytes)?.unwrap_or(len_bytes);
    let (end, status) = if data > start_bytes {
        (data, AllocationStatus::Zero)
    } else {
        let hole = sys::seek_hole(file.as_fd(), start_bytes)?.unwrap_or(len_bytes);
        (hole, AllocationStatus::Data)
    };
    let range = ByteRange::between(start_bytes, end.min(len_bytes));
    if range.is_empty() {
        // The file changed between the two questions. To call it data is always right.
        return Ok(Run {
            range: ByteRange::between(start_bytes, len_bytes),
            status: AllocationStatus::Data,
        });
    }
    Ok(Run { range, status })
}

/// What a look-up needs to show that nothing changed meanwhile.
#[derive(Debug)]
pub(super) struct LookUp {
    changes: u64,
}

/// A change of the file that is under way.
#[derive(Debug)]
#[must_use = "a change that nobody finishes switches the cache off"]
pub(super) struct Change<'a> {
    cache: &'a HoleCache,
    range: ByteRange,
    finished: bool,
}

impl HoleCache {
    /// The remembered run's part of `range`, when the run covers its start.
    pub(super) fn known(&self, range: ByteRange) -> Option<Extent> {
        let run = self.lock().known?;
        let covers = run.range.start() <= range.start() && range.start() < run.range.end();
        covers.then(|| Extent {
            len_bytes: ByteRange::between(range.start(), run.range.end().min(range.end())).len(),
            status: run.status,
        })
    }

    pub(super) fn start_look_up(&self) -> LookUp {
        LookUp {
            changes: self.lock().changes,
        }
    }

    /// Remembers what the look-up found, unless the file changed beside it.
    pub(super) fn remember(&self, look_up: &LookUp, run: Run) {
        let mut state = self.lock();
        if !state.given_up && state.changes == look_up.changes {
            state.known = Some(run);
        }
    }

    /// Marks the begin of a change; the end is [`Change::finish`].
    pub(super) fn change(&self, range: ByteRange) -> Change<'_> {
        self.lock().forget(range);
        Change {
            cache: self,
            range,
            finished: false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, range: ByteRange) {
        self.changes = self.changes.wrapping_add(1);
        if self.known.is_some_and(|run| run.range.overlaps(range)) {
            self.known = None;
        }
    }
}

impl Change<'_> {
    /// The change is complete: the kernel will not touch the range any more on its behalf.
    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        state.forget(self.range);
        if !self.finished {
            state.given_up = true;
            state.known = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end)
    }

    fn hole(start: u64, end: u64) -> Run {
        Run {
            range: range(start, end),
            status: AllocationStatus::Zero,
        }
    }

    #[test]
    fn a_remembered_run_answers_for_each_of_its_bytes() {
        let cache = HoleCache::default();
        cache.remember(&cache.start_look_up(), hole(100, 200));

        assert_eq!(cache.known(range(150, 300)).unwrap().len_bytes, 50);
        assert_eq!(cache.known(range(100, 120)).unwrap().len_bytes, 20);
        assert!(cache.known(range(200, 300)).is_none());
        assert!(cache.known(range(99, 300)).is_none());
    }

    #[test]
    fn a_change_forgets_what_it_overlaps_only() {
        let cache = HoleCache::default();
        cache.remember(&cache.start_look_up(), hole(100, 200));
        cache.change(range(200, 300)).finish();
        assert!(cache.known(range(100, 200)).is_some());

        cache.change(range(199, 300)).finish();
        assert!(cache.known(range(100, 200)).is_none());
    }

    #[test]
    fn a_look_up_beside_a_change_is_not_remembered() {
        let cache = HoleCache::default();

        let change = cache.change(range(0, 10));
        let look_up = cache.start_look_up();
        change.finish();
        cache.remember(&look_up, hole(0, 100));
        assert!(cache.known(range(0, 10)).is_none(), "ended beside it");

        let look_up = cache.start_look_up();
        let change = cache.change(range(0, 10));
        cache.remember(&look_up, hole(0, 100));
        assert!(cache.known(range(0, 10)).is_none(), "began beside it");
        change.finish();
    }

    #[test]
    fn what_was_remembered_during_a_change_goes_with_its_end() {
        let cache = HoleCache::default();
        let change = cache.change(range(0, 10));
        cache.remember(&cache.start_look_up(), hole(0, 100));
        change.finish();
        assert!(cache.known(range(0, 10)).is_none());
    }

    #[test]
    fn a_dropped_change_ends_all_remembering() {
        let cache = HoleCache::default();
        drop(cache.change(range(0, 10)));
        cache.remember(&cache.start_look_up(), hole(100, 200));
        assert!(cache.known(range(100, 200)).is_none());
    }
}
