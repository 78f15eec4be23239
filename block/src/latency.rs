//! How long requests take: histograms that cost little to keep, on the nodes where somebody asked for them.

use std::{
    array,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use aio::AioContext;

/// Everything below 2 to this power nanoseconds, about a microsecond, is one bucket.
const FIRST_EXPONENT: u32 = 10;
/// Everything from 2 to this power nanoseconds on, about a minute, is one bucket.
const LAST_EXPONENT: u32 = 36;
/// Buckets for each power of two, as a power of two: a quantile is wrong by a quarter at most.
const PARTS_SHIFT: u32 = 2;
const PARTS: usize = 1 << PARTS_SHIFT;
const BUCKETS: usize = 2 + (LAST_EXPONENT - FIRST_EXPONENT) as usize * PARTS;

/// How many requests took how long. A value of its own: it does not change with what it was taken of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyHistogram {
    counts: [u64; BUCKETS],
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self {
            counts: [0; BUCKETS],
        }
    }
}

impl LatencyHistogram {
    /// Takes in a request that took `ns` nanoseconds.
    pub fn note(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
    }

    /// Number of requests.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What has come since `earlier`, an older histogram of the same requests.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let counts = |at: usize| self.counts[at].saturating_sub(earlier.counts[at]);
        Self {
            counts: array::from_fn(counts),
        }
    }

    /// Takes in all requests of another histogram.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// Number of requests that took longer than `ns` nanoseconds, as exactly as buckets tell.
    #[must_use]
    pub fn count_above(&self, ns: u64) -> u64 {
        let at = bucket(ns);
        let above: u64 = self.counts[at + 1..].iter().sum();
        if at == BUCKETS - 1 {
            return above + self.counts[at];
        }
        let (start, end) = (start_ns(at), start_ns(at + 1));
        let part = u128::from(self.counts[at]) * u128::from(end - ns) / u128::from(end - start);
        above + u64::try_from(part).unwrap_or(u64::MAX)
    }

    /// The time in nanoseconds that `per_mille` of a thousand requests do not exceed: 990 gives the 99th percentile.
    ///
    /// Wrong by a quarter at most, where there are enough requests to tell. `None` without requests.
    #[must_use]
    pub fn quantile_ns(&self, per_mille: u32) -> Option<u64> {
        let count = u128::from(self.count());
        let rank = (count * u128::from(per_mille.min(1000))).div_ceil(1000);
        let rank = u64::try_from(rank).unwrap_or(u64::MAX).max(1);
        let mut below = 0;
        for (at, &here) in self.counts.iter().enumerate() {
            if below + here >= rank {
                return Some(within(at, rank - below, here));
            }
            below += here;
        }
        None
    }
}

/// Where a time of `ns` nanoseconds is counted.
fn bucket(ns: u64) -> usize {
    let exponent = ns.checked_ilog2().unwrap_or(0);
    if exponent < FIRST_EXPONENT {
        return 0;
    }
    if exponent >= LAST_EXPONENT {
        return BUCKETS - 1;
    }
    let octave = index(u64::from(exponent - FIRST_EXPONENT));
    let part = index(ns >> (exponent - PARTS_SHIFT)) & (PARTS - 1);
    1 + octave * PARTS + part
}

/// The smallest time of a bucket, in nanoseconds.
fn start_ns(at: usize) -> u64 {
    let Some(at) = at.checked_sub(1) else {
        return 0;
    };
    let octave = u32::try_from(at / PARTS).expect("there are few buckets");
    let parts = u64::try_from(PARTS + at % PARTS).expect("there are few parts");
    parts << (FIRST_EXPONENT + octave - PARTS_SHIFT)
}

/// The time of the request number `nth`, from one, of the `count` in a bucket, as if they were spread evenly.
fn within(at: usize, nth: u64, count: u64) -> u64 {
    let start = start_ns(at);
    if at == BUCKETS - 1 {
        return start;
    }
    let width = u128::from(start_ns(at + 1) - start);
    let part = width * u128::from(nth) / u128::from(count.max(1));
    start + u64::try_from(part).expect("less than the width")
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("it was bounded before")
}

/// Takes in requests from any thread.
#[derive(Debug)]
pub(crate) struct LatencyRecorder {
    counts: [AtomicU64; BUCKETS],
}

impl Default for LatencyRecorder {
    fn default() -> Self {
        Self {
            counts: array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl LatencyRecorder {
    fn note(&self, ns: u64) {
        self.counts[bucket(ns)].fetch_add(1, Relaxed);
    }

    fn read(&self) -> LatencyHistogram {
        LatencyHistogram {
            counts: array::from_fn(|at| self.counts[at].load(Relaxed)),
        }
    }
}

/// How long the requests of a node have taken since somebody began to
/// [measure them](crate::Node::measure_latency), from the time they were let in until they ended, well or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLatency {
    /// Reads.
    pub reads: LatencyHistogram,
    /// Writes and writes of zeroes.
    pub writes: LatencyHistogram,
    /// Flushes.
    pub flushes: LatencyHistogram,
}

/// The latencies of one node. While nobody has asked for them, a request pays one load.
#[derive(Debug, Default)]
pub(crate) struct Latencies(OnceLock<Box<Recorders>>);

#[derive(Debug, Default)]
struct Recorders {
    reads: LatencyRecorder,
    writes: LatencyRecorder,
    flushes: LatencyRecorder,
}

/// What is timed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timed {
    Read,
    Write,
    Flush,
}

impl Latencies {
    pub(crate) fn measure(&self) {
        self.0.get_or_init(Box::default);
    }

    pub(crate) fn read(&self) -> Option<NodeLatency> {
        self.0.get().map(|recorders| NodeLatency {
            reads: recorders.reads.read(),
            writes: recorders.writes.read(),
            flushes: recorders.flushes.read(),
        })
    }

    /// Measures a request until this is dropped, if anybody wants to know.
    pub(crate) fn time<'a>(&'a self, cx: &'a AioContext, timed: Timed) -> Option<Stopwatch<'a>> {
        let recorders = self.0.get()?;
        let recorder = match timed {
            Timed::Read => &recorders.reads,
            Timed::Write => &recorders.writes,
            Timed::Flush => &recorders.flushes,
        };
        let started_ns = cx.now_ns();
        Some(Stopwatch {
            recorder,
            cx,
            started_ns,
        })
    }
}

/// A request that is being measured.
#[derive(Debug)]
pub(crate) struct Stopwatch<'a> {
    recorder: &'a LatencyRecorder,
    cx: &'a AioContext,
    started_ns: u64,
}

impl Drop for Stopwatch<'_> {
    fn drop(&mut self) {
        let took_ns = self.cx.now_ns().saturating_sub(self.started_ns);
        self.recorder.note(took_ns);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_requests_there_is_no_quantile() {
        assert_eq!(LatencyHistogram::default().quantile_ns(990), None);
    }

    #[test]
    fn a_time_lies_in_its_bucket_and_buckets_leave_nothing_out() {
        for at in 0..BUCKETS {
            assert_eq!(bucket(start_ns(at)), at);
            assert_eq!(bucket(start_ns(at).saturating_sub(1)), at.saturating_sub(1));
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn what_came_since_an_earlier_look_is_counted_alone() {
        let mut histogram = LatencyHistogram::default();
        (0..100).for_each(|_| histogram.note(10_000_000));
        let earlier = histogram.clone();
        (0..50).for_each(|_| histogram.note(100_000));
        let since = histogram.since(&earlier);
        assert_eq!(since.count(), 50);
        assert!(since.quantile_ns(1000).unwrap() < 120_000);
        assert!(histogram.quantile_ns(990).unwrap() > 8_000_000);
    }

    #[test]
    fn histograms_add_up_and_say_how_many_took_longer() {
        let (mut fast, mut slow) = (LatencyHistogram::default(), LatencyHistogram::default());
        (0..90).for_each(|_| fast.note(100_000));
        (0..10).for_each(|_| slow.note(10_000_000));
        fast.add(&slow);
        assert_eq!(fast.count(), 100);
        assert_eq!(
            [0, 1_000_000, 1 << 40].map(|ns| fast.count_above(ns)),
            [100, 10, 0]
        );
        slow.note(u64::MAX);
        assert_eq!(slow.count_above(1 << 40), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_quantile_is_wrong_by_a_quarter_at_most(
            mut times in prop::collection::vec(2048_u64..1 << 35, 1..300),
            per_mille in 1_u32..=1000,
        ) {
            let mut histogram = LatencyHistogram::default();
            times.iter().for_each(|&ns| histogram.note(ns));
            times.sort_unstable();
            let rank = (times.len() * per_mille as usize).div_ceil(1000);
            let exact = times[rank - 1];
            let told = histogram.quantile_ns(per_mille).unwrap();
            prop_assert!(told.abs_diff(exact) <= exact / 4, "{told} for {exact}");
        }
    }
}
