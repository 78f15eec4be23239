//! How much of a copy may be in flight so that the writes of guests keep their latency. Arithmetic only.
//!
//! What the copy adds to a guest write is known only against what the write takes without it. So the
//! window closes now and then for a short while: what guests see then gives the *baseline*, the 99th
//! percentile of their writes without us. Baseline and budget make the *limit*, which one write in a
//! hundred may exceed. Between these looks time is cut into stretches, and after each of them the
//! *share*, the bytes that may be in flight, follows: it shrinks by how many writes were over the limit, and
//! grows by how far most of them stayed below. Where the two are equal, less than one in a hundred is over, however
//! unevenly they come; and near the limit the share grows so slowly that it hardly goes beyond.
//!
//! There is always a *least share*, one small request at first: a copy that starved would serve nobody, and to have
//! it rest between requests would not help, since a hundredth of the guest's writes meet one soon. If the budget is
//! not kept even so for some stretches, it is not what is in flight that guests wait for, or not that alone: the least
//! share becomes a few small requests, so that the copy ends some day, and the budget is told as missed.

use std::collections::VecDeque;

use block::LatencyHistogram;

/// Smallest request while a guest is made way for, in bytes, and the least that the least share may be.
pub(super) const REQUEST_MIN_BYTES: u64 = 64 << 10;
/// The most that it may be.
const LEAST_SHARE_MAX_BYTES: u64 = 4 * REQUEST_MIN_BYTES;
/// Stretches that did not keep the budget with the least share, or that did, before that becomes more, or less.
const LEAST_SHARE_STRETCHES: u32 = 8;
/// Greatest share: what is in flight when nobody is made way for.
const SHARE_MAX_BYTES: u64 = 16 << 20;
/// Share at first: little enough for any guest, and soon more.
const SHARE_START_BYTES: u64 = 512 << 10;

/// Shortest stretch, in nanoseconds: some requests must have seen the share as it is.
const STRETCH_MIN_NS: u64 = 50_000_000;
/// Longest stretch: a guest that writes seldom is judged by few writes.
const STRETCH_MAX_NS: u64 = 500_000_000;
/// Writes that are enough for a 99th percentile, of which one in two such stretches has an outlier.
const STRETCH_WRITES: u64 = 64;
/// Longest time for which the window is closed.
const LOOK_MAX_NS: u64 = 200_000_000;
/// Time between two glances at whether a stretch has had enough writes.
const PEEK_EVERY_NS: u64 = 5_000_000;
/// Time between two looks at the baseline.
const LOOK_EVERY_NS: u64 = 5_000_000_000;
/// The same, if less and less in flight has not helped.
const LOOK_AGAIN_NS: u64 = 1_000_000_000;

/// The 99th percentile, per mille.
const P99: u32 = 990;
/// Looks that the baseline is taken from.
const LOOKS: usize = 16;
/// Stretches that are told about.
const STRETCHES_TOLD: usize = 20;

/// What the share is multiplied by, in millionths.
const MILLION: u64 = 1_000_000;
/// Most that the share grows by after one stretch.
const GROWTH_MAX_PPM: u64 = 50_000;
/// For each millionth of writes over the limit the share shrinks by so many; with eight in a thousand over it, as much
/// as it grows by.
const SHRINK_PER_OVER: u64 = 6;
/// Most that it shrinks by.
const SHRINK_MAX_PPM: u64 = 750_000;

/// Follows the latency of guest writes, and says how much may be in flight.
#[derive(Debug)]
pub(super) struct Budget {
    added_max_ns: u64,
    share_bytes: u64,
    looks: Recent,
    stretches: Recent,
    phase: Phase,
    /// When guests were last looked at alone, and the share then.
    looked: (u64, u64),
    peek_at_ns: u64,
    least: Least,
}

#[derive(Debug)]
enum Phase {
    /// The copy goes on.
    Open(Stretch),
    /// Nothing new is started; something is still in flight.
    Closing,
    /// The writes are still ending that began beside the copy.
    Settling { until_ns: u64 },
    /// Guests are alone.
    Closed(Stretch),
}

/// A piece of time, and what guests had seen when it began.
#[derive(Debug)]
struct Stretch {
    start_ns: u64,
    before: LatencyHistogram,
}

/// What the budget is told of the moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Requests of the copy in flight.
    pub(super) in_flight: u32,
    /// Most bytes that the copy would have in flight by itself.
    pub(super) wanted_bytes: u64,
    pub(super) now_ns: u64,
}

impl Budget {
    /// Nothing is known yet: guests are looked at first.
    pub(super) fn new(added_max_ns: u64) -> Self {
        Self {
            added_max_ns,
            share_bytes: SHARE_START_BYTES,
            looks: Recent::new(LOOKS),
            stretches: Recent::new(STRETCHES_TOLD),
            phase: Phase::Closing,
            looked: (0, SHARE_START_BYTES),
            peek_at_ns: 0,
            least: Least::new(),
        }
    }

    /// Whether nothing is to be started now.
    pub(super) fn is_closed(&self) -> bool {
        !matches!(self.phase, Phase::Open(_))
    }

    /// Bytes that may be in flight.
    pub(super) fn share_bytes(&self) -> u64 {
        self.share_bytes
    }

    /// What the copy has added lately to the 99th percentile of guest writes, in nanoseconds.
    pub(super) fn added_ns(&self) -> Option<u64> {
        let (p99_ns, baseline_ns) = (self.stretches.p99_ns()?, self.looks.p99_ns()?);
        Some(p99_ns.saturating_sub(baseline_ns))
    }

    /// When to look again at the latest, in nanoseconds from `now_ns`, while nothing is in flight.
    pub(super) fn wait_ns(&self, now_ns: u64) -> u64 {
        match &self.phase {
            Phase::Settling { until_ns } => until_ns.saturating_sub(now_ns).max(PEEK_EVERY_NS),
            Phase::Closed(stretch) => {
                let end_ns = stretch.start_ns.saturating_add(STRETCH_MIN_NS);
                end_ns.saturating_sub(now_ns).max(PEEK_EVERY_NS)
            }
            Phase::Open(_) | Phase::Closing => 0,
        }
    }

    /// Looks at what guest writes have taken so far, and decides if it is time to.
    pub(super) fn look(&mut self, moment: Moment, writes: impl FnOnce() -> LatencyHistogram) {
        let now_ns = moment.now_ns;
        let (stretch, longest_ns) = match &self.phase {
            Phase::Closing if moment.in_flight > 0 => return,
            Phase::Closing => {
                let settle_ns = self.stretches.p99_ns().unwrap_or(0).min(LOOK_MAX_NS);
                let until_ns = now_ns.saturating_add(settle_ns);
                self.phase = Phase::Settling { until_ns };
                return;
            }
            Phase::Settling { until_ns } if now_ns < *until_ns => return,
            Phase::Settling { .. } => {
                self.phase = Phase::Closed(Stretch::begin(writes(), now_ns));
                return;
            }
            Phase::Closed(stretch) => (stretch, LOOK_MAX_NS),
            Phase::Open(stretch) => (stretch, STRETCH_MAX_NS),
        };
        let elapsed_ns = now_ns.saturating_sub(stretch.start_ns);
        if now_ns < self.peek_at_ns || elapsed_ns < STRETCH_MIN_NS {
            return;
        }
        self.peek_at_ns = now_ns.saturating_add(PEEK_EVERY_NS);
        let writes = writes();
        let seen = writes.since(&stretch.before);
        let count = seen.count();
        // Who waits for guests that do not write waits in vain.
        let is_enough = count >= STRETCH_WRITES || count == 0 || elapsed_ns >= longest_ns;
        if !is_enough {
            return;
        }
        match self.phase {
            Phase::Closed(_) => {
                self.looks.push(seen);
                self.looked = (now_ns, self.share_bytes);
            }
            Phase::Open(_) | Phase::Closing | Phase::Settling { .. } => {
                self.judge(seen, moment.wanted_bytes);
            }
        }
        let is_to_look = count > 0 && (self.looks.is_empty() || self.is_time_to_look(now_ns));
        self.phase = if is_to_look {
            Phase::Closing
        } else {
            Phase::Open(Stretch::begin(writes, now_ns))
        };
    }

    /// Whether guests are to be looked at alone: after some time, and soon if the copy has become much less without
    /// being little enough. Then it may be that it is not the copy that they wait for.
    fn is_time_to_look(&self, now_ns: u64) -> bool {
        let (looked_ns, share_then_bytes) = self.looked;
        let since_ns = now_ns.saturating_sub(looked_ns);
        let is_much_less = self.share_bytes <= share_then_bytes.max(2 * self.least.bytes) / 2;
        since_ns >= LOOK_EVERY_NS || (is_much_less && since_ns >= LOOK_AGAIN_NS)
    }

    /// Holds a stretch against the limit.
    fn judge(&mut self, seen: LatencyHistogram, wanted_bytes: u64) {
        // More than twice what is wanted would only be in the way when it has to shrink.
        let most = wanted_bytes.saturating_mul(2);
        let most = most.clamp(self.least.bytes, SHARE_MAX_BYTES);
        let p99_ns = seen.quantile_ns(P99);
        self.stretches.push(seen);
        let (grows_ppm, shrinks_ppm) = match (p99_ns, self.looks.p99_ns()) {
            (Some(p99_ns), Some(baseline_ns)) => self.verdict(p99_ns, baseline_ns),
            // Nobody writes, or nobody wrote when we looked.
            _ => (GROWTH_MAX_PPM, 0),
        };
        self.least
            .follow(self.share_bytes, (grows_ppm, shrinks_ppm));
        let share = self.share_bytes * (MILLION + grows_ppm - shrinks_ppm) / MILLION;
        // Rounding must not stop it from growing.
        let rounded = u64::from(grows_ppm > shrinks_ppm);
        self.share_bytes = (share + rounded).min(most).max(self.least.bytes);
    }

    /// By how many millionths the share grows and shrinks after the last stretch.
    fn verdict(&self, p99_ns: u64, baseline_ns: u64) -> (u64, u64) {
        let limit_ns = baseline_ns.saturating_add(self.added_max_ns);
        // All of the growth as long as half of the budget is left.
        let grows_ppm = |p99_ns: u64| {
            let room_ns = limit_ns.saturating_sub(p99_ns).saturating_mul(2);
            let room_ppm = room_ns.saturating_mul(MILLION) / self.added_max_ns.max(1);
            room_ppm.min(MILLION) * GROWTH_MAX_PPM / MILLION
        };
        if self
            .added_ns()
            .is_some_and(|ns| ns <= self.added_max_ns / 2)
        {
            // One bad stretch among many is somebody else's, and ours show in all of them soon.
            return (grows_ppm(p99_ns).max(GROWTH_MAX_PPM / 2), 0);
        }
        // As many as are over it without us are not our doing.
        let usual_ppm = self.looks.over_ppm(limit_ns);
        let over_ppm = self
            .stretches
            .last()
            .map_or(0, |seen| over_ppm(seen, limit_ns));
        let fewer_ppm = usual_ppm.saturating_sub(over_ppm) * SHRINK_PER_OVER;
        let more_ppm = over_ppm.saturating_sub(usual_ppm) * SHRINK_PER_OVER;
        (grows_ppm(p99_ns) + fewer_ppm, more_ppm.min(SHRINK_MAX_PPM))
    }
}

/// What may be in flight whatever guests wait for.
#[derive(Debug)]
struct Least {
    bytes: u64,
    /// How many more of the last stretches did not keep the budget with so little than did, or the other way round.
    missed: u32,
    kept: u32,
}

impl Least {
    fn new() -> Self {
        Self {
            bytes: REQUEST_MIN_BYTES,
            missed: 0,
            kept: 0,
        }
    }

    /// Takes in by how much a share of so many bytes should grow and shrink: if not shrink, it kept the budget.
    fn follow(&mut self, share_bytes: u64, (grows_ppm, shrinks_ppm): (u64, u64)) {
        if grows_ppm >= shrinks_ppm {
            self.kept += 1;
            self.missed = self.missed.saturating_sub(1);
        } else if share_bytes <= self.bytes {
            self.missed += 1;
            self.kept = 0;
        }
        if self.missed == LEAST_SHARE_STRETCHES {
            self.bytes = (self.bytes * 2).min(LEAST_SHARE_MAX_BYTES);
            self.missed = 0;
        }
        if self.kept == LEAST_SHARE_STRETCHES {
            self.bytes = (self.bytes / 2).max(REQUEST_MIN_BYTES);
            self.kept = 0;
        }
    }
}

/// What was seen the last few times.
#[derive(Debug)]
struct Recent {
    seen: VecDeque<LatencyHistogram>,
    times_max: usize,
}

impl Recent {
    fn new(times_max: usize) -> Self {
        let seen = VecDeque::new();
        Self { seen, times_max }
    }

    fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Takes in what was seen, if anything was.
    fn push(&mut self, seen: LatencyHistogram) {
        if seen.count() == 0 {
            return;
        }
        if self.seen.len() == self.times_max {
            self.seen.pop_front();
        }
        self.seen.push_back(seen);
    }

    fn last(&self) -> Option<&LatencyHistogram> {
        self.seen.back()
    }

    fn p99_ns(&self) -> Option<u64> {
        self.all().quantile_ns(P99)
    }

    fn over_ppm(&self, limit_ns: u64) -> u64 {
        over_ppm(&self.all(), limit_ns)
    }

    fn all(&self) -> LatencyHistogram {
        let mut all = LatencyHistogram::default();
        self.seen.iter().for_each(|seen| all.add(seen));
        all
    }
}

/// How many of a million requests took longer.
fn over_ppm(seen: &LatencyHistogram, limit_ns: u64) -> u64 {
    seen.count_above(limit_ns) * MILLION / seen.count().max(1)
}

impl Stretch {
    fn begin(before: LatencyHistogram, start_ns: u64) -> Self {
        Self { start_ns, before }
    }
}
