//! How a context is made, and what it counts.

use crate::{
    backend::BackendKind,
    clock::{Clock, ManualClock},
    polling::PollParams,
};

/// How a context is made. Fields that are left out are as in `Config::default()`.
///
/// ```
/// let config = aio::Config {
///     name: "disks".to_owned(),
///     buffer_bytes_max: 16 << 20,
///     ..aio::Config::default()
/// };
/// # aio::run(config, |_| async {}).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// Name for threads and messages, "aio" by default. Of a thread's name the system keeps 15 bytes.
    pub name: String,
    /// The backend to use; by default what `LONGSHORE_AIO` says, else the best there is.
    pub backend: Option<BackendKind>,
    /// Most bytes that the context's buffers may take, rounded up to whole slabs of 2 MiB; 64 MiB by default.
    pub buffer_bytes_max: usize,
    /// A ring for tests, instead of the one there would be.
    #[cfg(test)]
    #[cfg(not(loom))]
    pub(crate) test_ring: Option<crate::backend::test_ring::TestRing>,
    /// Entries of the ring's submission queue, where there is a ring: rounded up to a power of two, 256 by default.
    ///
    /// It bounds how many requests are submitted by one system call. Sixteen times as many on storage may
    /// be in the kernel, half of that beside many peers; more wait in memory. Requests that wait for a
    /// peer are not bounded, and keep nothing else waiting.
    pub ring_entries: u32,
    /// Most worker threads for calls that block, at least one; 64 by default. It can be changed later:
    /// [`Handle::set_thread_pool_limits`](crate::Handle::set_thread_pool_limits).
    pub workers_max: usize,
    /// Longest time to look for work in memory before sleeping, in nanoseconds; zero, the default, is
    /// not at all. It can be changed later: [`Handle::set_poll_params`](crate::Handle::set_poll_params).
    ///
    /// The time actually spent adapts itself: it grows while waits are shorter than this, and
    /// shrinks when they are longer.
    pub poll_max_ns: u64,
    /// By what that time grows; zero stands for two.
    pub poll_grow: u64,
    /// By what that time is divided when it shrinks; zero stands for falling to nothing at once.
    pub poll_shrink: u64,
    /// The loop's clock: that of sleeps, and of the timers that ask for it.
    pub clock: Clock,
    /// The wall clock, for timers that ask for it.
    pub wall_clock: Clock,
    /// A clock for timers that ask for it; it stands at zero until it is moved.
    pub virtual_clock: ManualClock,
    /// For tests that are to find what depends on the order of tasks: which of the tasks that are due
    /// runs next, and how many of them in one turn, is drawn from this seed. None, the default, is
    /// first come, first served.
    pub task_order_seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "aio".to_owned(),
            backend: None,
            buffer_bytes_max: 64 << 20,
            #[cfg(test)]
            #[cfg(not(loom))]
            test_ring: None,
            ring_entries: 256,
            workers_max: 64,
            poll_max_ns: 0,
            poll_grow: 0,
            poll_shrink: 0,
            clock: Clock::Monotonic,
            wall_clock: Clock::Wall,
            virtual_clock: ManualClock::default(),
            task_order_seed: None,
        }
    }
}

impl Config {
    /// What suits an [`IoThread`](crate::IoThread): the defaults, the name, and busy polling of up to 32,768 ns.
    #[must_use]
    pub fn for_io_thread(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            poll_max_ns: 32_768,
            ..Self::default()
        }
    }

    pub(crate) fn poll_params(&self) -> PollParams {
        PollParams {
            max_ns: self.poll_max_ns,
            grow: self.poll_grow,
            shrink: self.poll_shrink,
        }
    }
}

/// Counters of a context, since it was made, or as of now where that is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextStats {
    /// Turns of the loop.
    pub turns: u64,
    /// Times the loop had to be woken by a system call: by another thread, or by code of its own
    /// thread while [somebody else's loop](crate::ForeignSource) slept.
    pub kicks: u64,
    /// Requests in flight now.
    pub requests_in_flight: usize,
    /// Requests whose future was dropped before they completed.
    pub requests_orphaned: u64,
    /// Tasks that have not ended now.
    pub tasks: usize,
    /// System calls that submitted requests or waited.
    pub enters: u64,
    /// Times the ring's completion queue was too small. Nothing is lost by that but time.
    pub cq_overflows: u64,
    /// Completions of what had been given up before.
    pub stale_completions: u64,
}
