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
        crate::race::skipped(format_args!("keeping a thread on processor {cpu}: {error}"));
    }
}

/// The system's name for the calling thread.
const CALLER: Pid = Pid::from_raw(0);
