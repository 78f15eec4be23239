//! [`ProgressMeter`]: done and remaining, in bytes or whatever unit the job driver counts.

use std::sync::Mutex;

/// A consistent pair, as a query or an event shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Work done. Never goes back.
    pub current: u64,
    /// Work done plus what is known to remain. May grow while the job runs.
    pub total: u64,
}

/// How far a job has come. Any thread; has its own small lock, below all others.
#[derive(Debug, Default)]
pub struct ProgressMeter {
    progress: Mutex<Progress>,
}

impl ProgressMeter {
    /// Adds `amount` to the work done. The total stays: count the work as remaining first.
    ///
    /// # Panics
    ///
    /// When a job counts more than 2^64 − 1, which is our own bug.
    pub fn work_done(&self, amount: u64) {
        self.change(|progress| progress.current = sum(progress.current, amount));
    }

    /// Sets the work that remains: the total becomes the work done plus `remaining`.
    ///
    /// # Panics
    ///
    /// As [`Self::work_done`].
    pub fn set_remaining(&self, remaining: u64) {
        self.change(|progress| progress.total = sum(progress.current, remaining));
    }

    /// Adds `amount` to the work that remains.
    ///
    /// # Panics
    ///
    /// As [`Self::work_done`].
    pub fn increase_remaining(&self, amount: u64) {
        self.change(|progress| progress.total = sum(progress.total, amount));
    }

    /// Both numbers as they were at one moment.
    pub fn snapshot(&self) -> Progress {
        self.change(|progress| *progress)
    }

    fn change<R>(&self, change: impl FnOnce(&mut Progress) -> R) -> R {
        let mut progress = self.progress.lock().expect("additions do not panic");
        change(&mut progress)
    }
}

fn sum(a: u64, b: u64) -> u64 {
    a.checked_add(b)
        .expect("no job counts as far as 2^64 units of work")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_is_counted_from_the_work_done() {
        let meter = ProgressMeter::default();
        meter.set_remaining(100);
        meter.work_done(30);
        let started = meter.snapshot();

        meter.increase_remaining(50);
        let grown = meter.snapshot();

        meter.set_remaining(10);
        let shrunk = meter.snapshot();

        let pair = |current, total| Progress { current, total };
        assert_eq!(started, pair(30, 100));
        assert_eq!(grown, pair(30, 150));
        assert_eq!(shrunk, pair(30, 40));
    }

    #[test]
    fn a_snapshot_of_the_progress_is_one_moment() {
        let meter = ProgressMeter::default();
        let work = || {
            for _ in 0..20_000 {
                meter.increase_remaining(2);
                meter.work_done(2);
            }
        };
        std::thread::scope(|scope| {
            let worker = scope.spawn(work);
            let mut before = meter.snapshot();
            while !worker.is_finished() {
                let now = meter.snapshot();
                assert!(now.current >= before.current, "{before:?}, {now:?}");
                // Numbers of two moments would be further apart.
                assert!(matches!(now.total - now.current, 0 | 2), "{now:?}");
                before = now;
            }
        });
        assert_eq!(meter.snapshot().current, 40_000);
    }
}
