//! [`Buckets`]: leaky buckets that say when a request may begin, by times that they are given.

use super::{ThrottleLimit, ThrottleLimits};

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

/// A request as buckets see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) direction: Direction,
    pub(super) bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Bytes,
    Requests,
}

const NS_PER_S: u128 = 1_000_000_000;

/// One bucket: every request pours its units in, and it leaks at a fixed rate.
///
/// Levels are in billionths of a unit, so that a leak of one unit a second is one in each nanosecond.
#[derive(Clone, Debug)]
struct Bucket {
    unit: Unit,
    /// `None`: both.
    direction: Option<Direction>,
    rate_per_s: u64,
    capacity: u128,
    level: u128,
}

impl Bucket {
    fn counts(&self, load: Load) -> bool {
        self.direction.is_none_or(|only| only == load.direction)
    }

    fn units(&self, load: Load, request_bytes: u64) -> u128 {
        match self.unit {
            Unit::Bytes => u128::from(load.bytes) * NS_PER_S,
            Unit::Requests if request_bytes == 0 => NS_PER_S,
            Unit::Requests => {
                let share = u128::from(load.bytes) * NS_PER_S / u128::from(request_bytes);
                share.max(NS_PER_S)
            }
        }
    }

    /// How long until `units` fit. What is larger than the bucket fits when that is empty.
    fn wait_ns(&self, units: u128) -> u64 {
        let over = (self.level + units).saturating_sub(self.capacity.max(units));
        u64::try_from(over.div_ceil(u128::from(self.rate_per_s))).unwrap_or(u64::MAX)
    }
}

/// All buckets of a group.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    buckets: Vec<Bucket>,
    request_bytes: u64,
    leaked_until_ns: u64,
}

impl Buckets {
    /// Empty buckets.
    pub(super) fn new(limits: &ThrottleLimits) -> Self {
        let (read, write) = (Some(Direction::Read), Some(Direction::Write));
        let all = [
            (limits.bytes_total, Unit::Bytes, None),
            (limits.bytes_read, Unit::Bytes, read),
            (limits.bytes_write, Unit::Bytes, write),
            (limits.requests_total, Unit::Requests, None),
            (limits.requests_read, Unit::Requests, read),
            (limits.requests_write, Unit::Requests, write),
        ];
        let mut buckets = Vec::new();
        for (limit, unit, direction) in all {
            for (rate_per_s, capacity) in sizes(limit) {
                buckets.push(Bucket {
                    unit,
                    direction,
                    rate_per_s,
                    capacity,
                    level: 0,
                });
            }
        }
        Self {
            buckets,
            request_bytes: limits.request_bytes,
            leaked_until_ns: 0,
        }
    }

    /// Pours a request in, and says how long it must wait.
    pub(super) fn pour(&mut self, now_ns: u64, load: Load) -> u64 {
        self.leak(now_ns);
        let size = self.request_bytes;
        let mut wait_ns = 0;
        for bucket in self.buckets.iter_mut().filter(|it| it.counts(load)) {
            let units = bucket.units(load, size);
            wait_ns = wait_ns.max(bucket.wait_ns(units));
            bucket.level += units;
        }
        wait_ns
    }

    /// Takes a request out again that will not be made.
    pub(super) fn take_back(&mut self, load: Load) {
        let size = self.request_bytes;
        for bucket in self.buckets.iter_mut().filter(|it| it.counts(load)) {
            bucket.level = bucket.level.saturating_sub(bucket.units(load, size));
        }
    }

    fn leak(&mut self, now_ns: u64) {
        let passed_ns = now_ns.saturating_sub(self.leaked_until_ns);
        self.leaked_until_ns = self.leaked_until_ns.max(now_ns);
        for bucket in &mut self.buckets {
            let leaked = u128::from(passed_ns) * u128::from(bucket.rate_per_s);
            bucket.level = bucket.level.saturating_sub(leaked);
        }
    }
}

/// Rates and capacities of the buckets that hold a limit.
///
/// Without a burst, a tenth of a second's worth may come at once. With one of several seconds, its own
/// rate is held to in the same way.
fn sizes(limit: ThrottleLimit) -> impl Iterator<Item = (u64, u128)> {
    let ThrottleLimit {
        per_s,
        burst_per_s,
        burst_s,
    } = limit;
    let tenth = |rate: u64| u128::from(rate) * NS_PER_S / 10;
    let base = match burst_per_s {
        0 => tenth(per_s),
        _ => u128::from(burst_per_s) * u128::from(burst_s) * NS_PER_S,
    };
    let steady = (per_s > 0).then_some((per_s, base));
    let peak = (per_s > 0 && burst_s > 1).then_some((burst_per_s, tenth(burst_per_s)));
    steady.into_iter().chain(peak)
}
