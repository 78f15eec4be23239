//! How fast a copy goes: requests in flight and their size, by what the device gives back and what guests need.
//!
//! More requests in flight than the device can work on at once make every request wait longer,
//! the guest's included, and copy nothing faster. So the window follows the queue that it builds:
//! with `w` requests in flight that take `t` each, where a request alone takes `t0`, about
//! `w * (1 - t0 / t)` of them only wait. The window grows while that is less than
//! [`QUEUED_BYTES_MIN`] and shrinks when it is more than [`QUEUED_BYTES_MAX`] (Brakmo and Peterson, "TCP
//! Vegas", 1995, with a disk for a network). At first it grows twice as fast, until something waits.
//!
//! What a request takes alone can only be seen alone. So now and then, and early in each copy, the
//! window closes to one until a few requests have gone through by themselves. An estimate that
//! merely aged would drift towards what requests take in the queue, and the window with it.
//!
//! While a guest uses the node, requests are small and their sum is bounded: what the guest waits
//! for is at worst what is in flight already. With a [`Budget`] for the latency of guests, that sum
//! follows what their writes take. What a user bounds is bounded last.

mod budget;
mod report;

use std::num::NonZeroU32;

use block::LatencyHistogram;

use budget::{Budget, Moment, REQUEST_MIN_BYTES};
pub(crate) use report::AppliedRate;
pub use report::{PaceReason, PaceReport};

/// Less than this in the device's queue: send more.
const QUEUED_BYTES_MIN: u64 = 1 << 20;
/// More than this in the device's queue: send less.
const QUEUED_BYTES_MAX: u64 = 2 << 20;

/// Requests in flight at first.
const WINDOW_START: u32 = 4;
/// Most requests in flight, however small, and most of their bytes.
const REQUESTS_MAX: u32 = 16;
const BYTES_MAX: u64 = 16 << 20;
/// Decisions about the window between two looks at what a request takes alone: a few requests in a hundred go alone.
const PROBE_EVERY: u32 = 32;
/// Requests that go alone then.
const PROBE_REQUESTS: u32 = 2;
/// Bytes in a request at first, so that a short copy has several in flight, too.
const CHUNK_START_BYTES: u64 = 1 << 20;
/// Bytes in a request when nobody else uses the node, once the device is known a little: what a buffer of a context's
/// pool holds. What a request costs besides its bytes is paid half as often.
const CHUNK_ALONE_BYTES: u64 = 2 << 20;
/// Bytes in a request while a guest uses the node.
///
/// Of the pairs tried on one virtio disk (1 to 4 in flight of 128 KiB to 1 MiB, two to four noisy runs each), two of
/// 512 KiB gave the shortest copy among those that left the guest about as many writes as the best but the slowest.
const CHUNK_SHARED_BYTES: u64 = 512 << 10;
/// Most requests in flight while a guest uses the node.
const WINDOW_SHARED_MAX: u32 = 2;
/// Most bytes in flight of all copies of a graph together, unless they are so many that each has only one request of
/// [`CROWDED_CHUNK_BYTES`].
const CROWD_BYTES_MAX: u64 = 16 << 20;
/// Bytes in a request of one copy among very many.
const CROWDED_CHUNK_BYTES: u64 = 128 << 10;
/// A guest that has done nothing for so long is not there, in nanoseconds.
const GUEST_GONE_NS: u64 = 100_000_000;
/// Into so many requests a share of the device is divided, if they do not get too small: a disk works on several.
const SHARE_REQUESTS: u64 = 4;

/// Most data of one request under a speed limit, so that it goes evenly: this, or what the limit allows in one part of
/// so many of a second.
const STEP_BYTES: u64 = 1 << 20;
const STEPS_PER_S: u64 = 100;

/// What a user bounds of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PaceLimits {
    /// Most requests in flight.
    pub(crate) workers_max: u32,
    /// Most bytes in a request; a cluster that is larger goes all the same.
    pub(crate) chunk_bytes_max: u64,
    /// Most bytes in flight; one request goes all the same.
    pub(crate) buffer_bytes_max: u64,
    /// Most that the copy may add to the 99th percentile of guest writes, in nanoseconds.
    pub(crate) guest_latency_ns: Option<u64>,
}

impl Default for PaceLimits {
    fn default() -> Self {
        Self {
            workers_max: u32::MAX,
            chunk_bytes_max: u64::MAX,
            buffer_bytes_max: 64 << 20,
            guest_latency_ns: None,
        }
    }
}

/// A change of what a user bounds of a copy under way. What is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Most requests in flight; `Some(None)` for what the devices take.
    pub max_workers: Option<Option<NonZeroU32>>,
    /// Most that the copy may add to the 99th percentile of guest writes, in nanoseconds; `Some(None)` for no such
    /// bound.
    pub guest_latency_ns: Option<Option<u64>>,
}

/// Decides how many requests are in flight, and how large they are.
#[derive(Debug)]
pub(crate) struct Pace {
    limits: PaceLimits,
    window: u32,
    /// Bytes in a request when nobody else uses the node.
    alone_bytes: u64,
    /// Nothing has waited yet.
    is_starting: bool,
    /// Shortest time of a request since the last look, in nanoseconds per chunk.
    base_ns: Option<u64>,
    /// The window to go back to once it is known what a request takes alone.
    probing: Option<u32>,
    /// Decisions until the next look.
    until_probe: u32,
    /// Sum and number of times since the window was last looked at.
    sum_ns: u64,
    samples: u32,
    /// Size of the requests that these are about.
    chunk_bytes: u64,
    guest: Guest,
    budget: Option<Budget>,
    /// What this copy may have in flight of the memory that all copies share.
    share_bytes: u64,
}

#[derive(Debug, Default)]
struct Guest {
    requests: u64,
    seen_ns: Option<u64>,
}

/// What there is to know of guests at a moment.
pub(crate) struct Seen<W> {
    /// Requests they have made, ever.
    pub(crate) requests: u64,
    /// What their writes have taken, if somebody wants to know.
    pub(crate) writes: W,
    /// Requests of the copy in flight.
    pub(crate) in_flight: u32,
}

/// What the copy may do at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Most requests in flight, if they are whole; none while guests are looked at alone.
    pub(crate) window: u32,
    /// Bytes in a whole request.
    pub(crate) chunk_bytes: u64,
    /// Most requests in flight, however small.
    pub(crate) requests_max: u32,
    /// What bounds them.
    pub(crate) reason: PaceReason,
}

impl Pace {
    pub(crate) fn new(limits: PaceLimits) -> Self {
        Self {
            limits,
            window: WINDOW_START,
            alone_bytes: CHUNK_START_BYTES,
            is_starting: true,
            base_ns: None,
            probing: None,
            until_probe: 1,
            sum_ns: 0,
            samples: 0,
            chunk_bytes: 0,
            guest: Guest::default(),
            budget: limits.guest_latency_ns.map(Budget::new),
            share_bytes: CROWD_BYTES_MAX,
        }
    }

    /// Notes how many copies there are that have data on its way, this one included or not, and what others have.
    pub(crate) fn crowd(&mut self, members: u32, others_bytes: u64) {
        let left_bytes = CROWD_BYTES_MAX.saturating_sub(others_bytes);
        self.share_bytes = left_bytes.min(CROWD_BYTES_MAX / u64::from(members.max(1)));
    }

    /// Changes what a user bounds. A budget that changes is learnt anew.
    pub(crate) fn tune(&mut self, tuning: Tuning) {
        if let Some(max_workers) = tuning.max_workers {
            self.limits.workers_max = max_workers.map_or(u32::MAX, NonZeroU32::get);
        }
        if let Some(guest_latency_ns) = tuning.guest_latency_ns
            && guest_latency_ns != self.limits.guest_latency_ns
        {
            self.limits.guest_latency_ns = guest_latency_ns;
            self.budget = guest_latency_ns.map(Budget::new);
        }
    }

    /// Notes what guests have done and seen.
    pub(crate) fn guest(&mut self, seen: Seen<impl FnOnce() -> LatencyHistogram>, now_ns: u64) {
        if seen.requests != self.guest.requests {
            self.guest.requests = seen.requests;
            self.guest.seen_ns = Some(now_ns);
        }
        let wanted_bytes = u64::from(self.window) * self.alone_bytes;
        if let Some(budget) = &mut self.budget {
            let moment = Moment {
                in_flight: seen.in_flight,
                wanted_bytes,
                now_ns,
            };
            budget.look(moment, seen.writes);
        }
        let Plan { chunk_bytes, .. } = self.plan(now_ns);
        if chunk_bytes != self.chunk_bytes {
            // Chunks of another size take another time.
            self.chunk_bytes = chunk_bytes;
            (self.base_ns, self.sum_ns, self.samples) = (None, 0, 0);
        }
    }

    /// What to use now.
    pub(crate) fn plan(&self, now_ns: u64) -> Plan {
        let of_device = Plan {
            window: self.window,
            chunk_bytes: self.alone_bytes,
            requests_max: REQUESTS_MAX,
            reason: PaceReason::Device,
        };
        let guest_is_active = self
            .guest
            .seen_ns
            .is_some_and(|seen_ns| now_ns.saturating_sub(seen_ns) < GUEST_GONE_NS);
        let plan = match &self.budget {
            Some(budget) => of_device.within(budget),
            None if guest_is_active => Plan {
                window: self.window.min(WINDOW_SHARED_MAX),
                chunk_bytes: CHUNK_SHARED_BYTES,
                reason: PaceReason::Guest,
                ..of_device
            },
            None => of_device,
        };
        plan.sharing(self.share_bytes).bounded(&self.limits)
    }

    /// When to ask again while the window is closed and nothing in flight, in nanoseconds from `now_ns`; zero if it is
    /// a request that is waited for.
    pub(crate) fn rest_ns(&self, now_ns: u64) -> u64 {
        let budget = self.budget.as_ref();
        budget.map_or(0, |budget| budget.wait_ns(now_ns))
    }

    /// What the copy has added lately to the 99th percentile of guest writes, in nanoseconds, if that is measured.
    pub(crate) fn guest_added_p99_ns(&self) -> Option<u64> {
        self.budget.as_ref()?.added_ns()
    }

    /// Learns from a request of `len_bytes` that took `took_ns` to read and write.
    pub(crate) fn learn(&mut self, len_bytes: u64, took_ns: u64, now_ns: u64) {
        let Plan {
            window,
            chunk_bytes,
            ..
        } = self.plan(now_ns);
        if len_bytes < chunk_bytes || window == 0 {
            // A short piece at an edge says little about the device.
            return;
        }
        let took_ns = took_ns.max(1);
        self.base_ns = Some(self.base_ns.map_or(took_ns, |base_ns| base_ns.min(took_ns)));
        self.sum_ns = self.sum_ns.saturating_add(took_ns);
        self.samples += 1;
        let wanted = match self.probing {
            // Those that were in flight when the window closed come back first.
            Some(before) => before + PROBE_REQUESTS,
            None => 2 * window,
        };
        if self.samples < wanted {
            return;
        }
        let (mean_ns, base_ns) = (
            self.sum_ns / u64::from(self.samples),
            self.base_ns.unwrap_or(took_ns),
        );
        (self.sum_ns, self.samples) = (0, 0);
        match self.probing.take() {
            Some(before) if self.alone_bytes == CHUNK_START_BYTES => {
                self.alone_bytes = CHUNK_ALONE_BYTES;
                self.window = (before / 2).max(2);
            }
            Some(before) => self.window = before,
            None => self.decide((window, chunk_bytes), mean_ns, base_ns),
        }
    }

    fn decide(&mut self, (window, chunk_bytes): (u32, u64), mean_ns: u64, base_ns: u64) {
        let waits_ns = mean_ns.saturating_sub(base_ns);
        let queued_bytes = report::ratio(u64::from(window) * chunk_bytes, waits_ns, mean_ns);
        let is_short = queued_bytes < QUEUED_BYTES_MIN;
        self.is_starting &= is_short;
        if is_short {
            let more = if self.is_starting { window } else { 1 };
            let most = u32::try_from(BYTES_MAX / self.alone_bytes).unwrap_or(u32::MAX);
            self.window = (window + more).min(most);
        } else if queued_bytes > QUEUED_BYTES_MAX {
            self.window = (window - 1).max(1);
        }
        self.until_probe -= 1;
        if self.until_probe == 0 {
            self.until_probe = PROBE_EVERY;
            self.probing = Some(self.window);
            self.window = 1;
            self.base_ns = None;
        }
    }
}

impl Plan {
    /// Whether one more request may be started beside so many, of so many bytes.
    ///
    /// What is scattered in small pieces goes in more requests, of no more bytes.
    pub(crate) fn has_room(&self, in_flight: u32, in_flight_bytes: u64) -> bool {
        let whole_bytes = u64::from(self.window).saturating_mul(self.chunk_bytes);
        let fits = in_flight_bytes.saturating_add(self.chunk_bytes) <= whole_bytes;
        in_flight < self.window || (fits && in_flight < self.requests_max)
    }

    /// Bytes in a request under a speed limit; zero is none.
    pub(crate) fn limited_bytes(&self, speed_bytes_per_s: u64) -> u64 {
        match speed_bytes_per_s {
            0 => self.chunk_bytes,
            speed => self.chunk_bytes.min(STEP_BYTES.max(speed / STEPS_PER_S)),
        }
    }

    /// The same with no more in flight than a budget allows.
    fn within(self, budget: &Budget) -> Self {
        let share_bytes = budget.share_bytes();
        let wanted_bytes = u64::from(self.window) * self.chunk_bytes;
        if budget.is_closed() || share_bytes < wanted_bytes {
            let part = (share_bytes / SHARE_REQUESTS).max(1);
            let chunk_bytes = (1 << part.ilog2()).clamp(REQUEST_MIN_BYTES, self.chunk_bytes);
            let window = u32::try_from(share_bytes / chunk_bytes).unwrap_or(u32::MAX);
            let window = if budget.is_closed() { 0 } else { window.max(1) };
            return Self {
                window,
                chunk_bytes,
                reason: PaceReason::LatencyBudget,
                ..self
            };
        }
        self
    }

    /// The same with no more memory than this, if that is enough for a small request.
    fn sharing(self, share_bytes: u64) -> Self {
        // Two requests if possible, so that one is read while the other is written.
        let half_bytes = 1 << (share_bytes / 2).max(1).ilog2();
        let chunk_bytes = self.chunk_bytes.min(half_bytes.max(CROWDED_CHUNK_BYTES));
        let most = u32::try_from(share_bytes / chunk_bytes).unwrap_or(u32::MAX);
        if self.chunk_bytes * u64::from(self.window) <= share_bytes {
            return self;
        }
        Self {
            window: self.window.min(most.max(1)),
            chunk_bytes,
            reason: PaceReason::Memory,
            ..self
        }
    }

    /// The same with no more than a user wants.
    fn bounded(mut self, limits: &PaceLimits) -> Self {
        self.chunk_bytes = self.chunk_bytes.min(limits.chunk_bytes_max).max(1);
        self.requests_max = self.requests_max.min(limits.workers_max);
        if self.window > limits.workers_max {
            self.window = limits.workers_max;
            self.reason = PaceReason::MaxWorkers;
        }
        let buffers = u32::try_from(limits.buffer_bytes_max / self.chunk_bytes).unwrap_or(u32::MAX);
        if self.window > buffers.max(1) {
            self.window = buffers.max(1);
            self.reason = PaceReason::Memory;
        }
        self
    }
}

#[cfg(test)]
mod tests;
