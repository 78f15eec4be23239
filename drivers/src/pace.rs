//! How fast a copy goes: requests in flight and their size, by what the device gives back.
//!
//! More requests in flight than the device can work on at once make every request wait longer,
//! the guest's included, and copy nothing faster. So the window follows the queue that it builds:
//! with `w` requests in flight that take `t` each, where a request alone takes `t0`, about
//! `w * (1 - t0 / t)` of them only wait. The window grows while that is less than
//! [`QUEUED_MIN`] and shrinks when it is more than [`QUEUED_MAX`] (Brakmo and Peterson, "TCP
//! Vegas", 1995, with a disk for a network).
//!
//! What a request takes alone can only be seen alone. So now and then, and early in each copy, the
//! window closes to one until a few requests have gone through by themselves. An estimate that
//! merely aged would drift towards what requests take in the queue, and the window with it.
//!
//! While a guest uses the node, requests are small and their sum is bounded: what the guest waits
//! for is at worst what is in flight already.

/// Fewer requests than this in the device's queue, times 256: send more.
const QUEUED_MIN_X256: u64 = 256;
/// More requests than this in the device's queue, times 256: send fewer.
const QUEUED_MAX_X256: u64 = 2 * 256;

/// Requests in flight at first.
const WINDOW_START: u32 = 4;
/// Most requests in flight, ever.
const WINDOW_MAX: u32 = 16;
/// Decisions about the window between two looks at what a request takes alone: a few requests in a hundred go alone.
const PROBE_EVERY: u32 = 32;
/// Requests that go alone then.
const PROBE_REQUESTS: u32 = 2;
/// Bytes in a request when nobody else uses the node.
const CHUNK_ALONE_BYTES: u64 = 1 << 20;
/// Bytes in a request while a guest uses the node.
///
/// Of the pairs tried on one virtio disk (1 to 4 in flight of 128 KiB to 1 MiB, two to four noisy runs each), two of
/// 512 KiB gave the shortest copy among those that left the guest about as many writes as the best but the slowest.
const CHUNK_SHARED_BYTES: u64 = 512 << 10;
/// Most requests in flight while a guest uses the node.
const WINDOW_SHARED_MAX: u32 = 2;
/// A guest that has done nothing for so long is not there, in nanoseconds.
const GUEST_GONE_NS: u64 = 100_000_000;

/// What a copy uses at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaceReport {
    /// Most requests in flight.
    pub window: u32,
    /// Bytes in a request.
    pub chunk_bytes: u64,
    /// Whether a guest uses the node, and is given way.
    pub guest_is_active: bool,
}

/// Decides how many requests are in flight, and how large they are.
#[derive(Debug)]
pub(crate) struct Pace {
    window: u32,
    /// Shortest time of a request since the last look, in nanoseconds per chunk.
    base_ns: Option<u64>,
    /// The window to go back to once it is known what a request takes alone.
    probing: Option<u32>,
    /// Decisions until the next look.
    until_probe: u32,
    /// Sum and number of times since the window was last looked at.
    sum_ns: u64,
    samples: u32,
    guest_requests: u64,
    guest_seen_ns: Option<u64>,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            window: WINDOW_START,
            base_ns: None,
            probing: None,
            until_probe: 1,
            sum_ns: 0,
            samples: 0,
            guest_requests: 0,
            guest_seen_ns: None,
        }
    }

    /// Notes how many requests the guest has made, ever.
    pub(crate) fn guest(&mut self, requests: u64, now_ns: u64) {
        let was_active = self.guest_is_active(now_ns);
        if requests != self.guest_requests {
            self.guest_requests = requests;
            self.guest_seen_ns = Some(now_ns);
        }
        if self.guest_is_active(now_ns) != was_active {
            // Chunks of another size take another time.
            (self.base_ns, self.sum_ns, self.samples) = (None, 0, 0);
        }
    }

    fn guest_is_active(&self, now_ns: u64) -> bool {
        self.guest_seen_ns
            .is_some_and(|seen_ns| now_ns.saturating_sub(seen_ns) < GUEST_GONE_NS)
    }

    /// What to use now.
    pub(crate) fn report(&self, now_ns: u64) -> PaceReport {
        let guest_is_active = self.guest_is_active(now_ns);
        let (window_max, chunk_bytes) = if guest_is_active {
            (WINDOW_SHARED_MAX, CHUNK_SHARED_BYTES)
        } else {
            (WINDOW_MAX, CHUNK_ALONE_BYTES)
        };
        PaceReport {
            window: self.window.min(window_max),
            chunk_bytes,
            guest_is_active,
        }
    }

    /// Learns from a request of `len_bytes` that took `took_ns` to read and write.
    pub(crate) fn learn(&mut self, len_bytes: u64, took_ns: u64, now_ns: u64) {
        let PaceReport {
            window,
            chunk_bytes,
            ..
        } = self.report(now_ns);
        if len_bytes < chunk_bytes {
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
            Some(before) => self.window = before,
            None => self.decide(window, mean_ns, base_ns),
        }
    }

    fn decide(&mut self, window: u32, mean_ns: u64, base_ns: u64) {
        let queued_x256 =
            u64::from(window) * 256 * mean_ns.saturating_sub(base_ns) / mean_ns.max(1);
        if queued_x256 < QUEUED_MIN_X256 {
            self.window = (window + 1).min(WINDOW_MAX);
        } else if queued_x256 > QUEUED_MAX_X256 {
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

#[cfg(test)]
mod tests {
    use super::{CHUNK_ALONE_BYTES, CHUNK_SHARED_BYTES, Pace, WINDOW_MAX, WINDOW_SHARED_MAX};

    /// Runs a copy against a device that works on `parallel` requests at once, `alone_ns` each.
    fn settle(parallel: u64, alone_ns: u64) -> u32 {
        let mut pace = Pace::new();
        for _ in 0..2000 {
            let window = u64::from(pace.report(0).window);
            pace.learn(
                CHUNK_ALONE_BYTES,
                alone_ns * window.max(parallel) / parallel,
                0,
            );
        }
        pace.probing.unwrap_or(pace.window)
    }

    #[test]
    fn the_window_ends_a_little_above_what_the_device_works_on_at_once() {
        for parallel in [1, 2, 4, 8] {
            let window = u64::from(settle(parallel, 700_000));
            assert!(
                (parallel..=parallel + 3).contains(&window),
                "{window} in flight for {parallel} at once"
            );
        }
    }

    #[test]
    fn a_device_that_becomes_slower_gets_a_new_estimate() {
        let mut pace = Pace::new();
        for alone_ns in [100_000, 5_000_000] {
            for _ in 0..2000 {
                let window = u64::from(pace.report(0).window);
                pace.learn(CHUNK_ALONE_BYTES, alone_ns * window.max(4) / 4, 0);
            }
            let window = pace.probing.unwrap_or(pace.window);
            assert!((4..=7).contains(&window), "{window} at {alone_ns} ns");
        }
    }

    #[test]
    fn the_window_is_bounded_however_parallel_the_device_is() {
        assert_eq!(settle(1000, 50_000), WINDOW_MAX);
    }

    #[test]
    fn a_guest_makes_requests_small_until_it_has_gone() {
        let mut pace = Pace::new();
        pace.guest(0, 1000);
        assert_eq!(pace.report(1000).chunk_bytes, CHUNK_ALONE_BYTES);
        pace.guest(1, 2000);
        let report = pace.report(50_000_000);
        assert!(report.guest_is_active && report.window <= WINDOW_SHARED_MAX);
        assert_eq!(report.chunk_bytes, CHUNK_SHARED_BYTES);
        pace.guest(1, 300_000_000);
        assert_eq!(pace.report(300_000_000).chunk_bytes, CHUNK_ALONE_BYTES);
    }

    #[test]
    fn short_pieces_teach_nothing() {
        let mut pace = Pace::new();
        let before = pace.report(0);
        for _ in 0..100 {
            pace.learn(4096, 1, 0);
        }
        assert_eq!(pace.report(0), before);
    }
}
