//! Which processor a thread runs on: a wake-up costs ten times more from one to another.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The first two processors that the calling thread may use; `None` when there is only one.
#[must_use]
pub fn two_cpus() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(CALLER).ok()?;
    let mut cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu) == Ok(true));
    Some([cpus.next()?, cpus.next()?])
}

/// Keeps the calling thread, and threads it will start, on processor `cpu`.
///
/// Where that fails the thread goes on as it was, and results mean less.
pub fn pin_to(cpu: usize) {
    let mut set = CpuSet::new();
    let pinned = set.set(cpu).and_then(|()| sched_setaffinity(CALLER, &set));
    if let Err(error) = pinned {
        crate::tell::skipped(format_args!("keeping a thread on processor {cpu}: {error}"));
    }
}

/// As long as it lives, the calling thread and those it starts stay on one processor.
#[derive(Debug)]
pub struct Stay {
    /// Where it was allowed to be before.
    before: Option<CpuSet>,
}

impl Stay {
    /// Keeps the calling thread on processor `cpu`; see [`pin_to`].
    #[must_use]
    pub fn on(cpu: usize) -> Self {
        let before = sched_getaffinity(CALLER).ok();
        pin_to(cpu);
        Self { before }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // It was allowed before, so it is now.
            let _ = sched_setaffinity(CALLER, before);
        }
    }
}

/// The system's name for the calling thread.
const CALLER: Pid = Pid::from_raw(0);
