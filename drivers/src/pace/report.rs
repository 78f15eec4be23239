//! What a copy tells of its pace.

use std::fmt;

/// What bounds a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PaceReason {
    /// What the devices work on at once.
    #[default]
    Device,
    /// A guest, which is made way for.
    Guest,
    /// The budget for the latency of guests.
    LatencyBudget,
    /// The speed limit.
    SpeedLimit,
    /// The most requests that are allowed.
    MaxWorkers,
    /// The most memory that is allowed.
    Memory,
    /// The job is paused, or has not begun.
    Paused,
    /// There is nothing to copy that is not being copied.
    Idle,
}

impl PaceReason {
    /// The reason as records have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Guest => "guest",
            Self::LatencyBudget => "latency-budget",
            Self::SpeedLimit => "speed-limit",
            Self::MaxWorkers => "max-workers",
            Self::Memory => "memory",
            Self::Paused => "paused",
            Self::Idle => "idle",
        }
    }

    /// Whether the copy is slower than it could be for the sake of somebody else.
    #[must_use]
    pub fn is_throttle(self) -> bool {
        !matches!(self, Self::Device | Self::Idle)
    }
}

impl fmt::Display for PaceReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How fast a copy goes at a moment, and why not faster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaceReport {
    /// Most requests in flight, if they are whole; of small ones there may be more, of as many bytes.
    pub window: u32,
    /// Bytes in a whole request.
    pub chunk_bytes: u64,
    /// Bytes per second that were copied lately, about the last second.
    pub applied_bytes_per_s: u64,
    /// What bounds that.
    pub reason: PaceReason,
    /// What the copy has added lately to the 99th percentile of guest writes, in nanoseconds; `None` without a
    /// budget for that, or until a guest has written.
    pub guest_added_p99_ns: Option<u64>,
}

/// Bytes per second over about the last second.
#[derive(Debug, Default)]
pub(crate) struct AppliedRate {
    bytes_per_s: u64,
    bytes: u64,
    since_ns: Option<u64>,
}

/// How long bytes are gathered before the rate is computed anew, in nanoseconds.
const GATHER_NS: u64 = 100_000_000;
const NS_PER_S: u64 = 1_000_000_000;

impl AppliedRate {
    /// Takes in `bytes` that have been copied by `now_ns`; returns bytes per second.
    pub(crate) fn add(&mut self, bytes: u64, now_ns: u64) -> u64 {
        let since_ns = *self.since_ns.get_or_insert(now_ns);
        self.bytes = self.bytes.saturating_add(bytes);
        let elapsed_ns = now_ns.saturating_sub(since_ns);
        if elapsed_ns >= GATHER_NS {
            let now = ratio(self.bytes, NS_PER_S, elapsed_ns);
            let weight_ns = elapsed_ns.min(NS_PER_S);
            let old = ratio(self.bytes_per_s, NS_PER_S - weight_ns, NS_PER_S);
            self.bytes_per_s = old.saturating_add(ratio(now, weight_ns, NS_PER_S));
            (self.bytes, self.since_ns) = (0, Some(now_ns));
        }
        self.bytes_per_s
    }

    /// Nothing is copied until the next time.
    pub(crate) fn stop(&mut self) {
        *self = Self::default();
    }
}

/// `value * part / whole`, without overflow on the way.
pub(super) fn ratio(value: u64, part: u64, whole: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{AppliedRate, GATHER_NS, NS_PER_S};

    #[test]
    fn the_applied_rate_follows_within_seconds_and_stops_at_once() {
        let mut rate = AppliedRate::default();
        let mut now_ns = 5;
        let mut told = rate.add(0, now_ns);
        for _ in 0..50 {
            now_ns += GATHER_NS;
            told = rate.add(10 << 20, now_ns);
        }
        let expected = (10 << 20) * (NS_PER_S / GATHER_NS);
        assert!(told.abs_diff(expected) < expected / 50, "{told}");
        rate.stop();
        assert_eq!(rate.add(0, now_ns), 0);
    }
}
