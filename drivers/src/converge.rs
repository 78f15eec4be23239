//! Whether a mirror gains on its guests: how fast they make things different, how fast the copy makes them equal, and
//! what to do if that is not enough. Arithmetic only.
//!
//! Time is cut into ticks. In each the rates are taken in, and with the policy [`SlowGuests`] the *delay* follows,
//! which each change of a guest's waits before it begins. What counts is the gain: bytes made equal less bytes made
//! different, per second. It is to be a good part of the *capacity*, what the copy does when guests hardly do
//! anything: so the first ticks, and one in a while later, have a delay that is long enough to see that. A gain that
//! is too small makes the delay longer by what is missing; one that is large enough lets it shrink slowly. So guests
//! have all that is left, and no more.
//!
//! [`SlowGuests`]: ConvergePolicy::SlowGuests

/// Length of a tick, in nanoseconds.
const TICK_NS: u64 = 100_000_000;
/// After a gap of so many ticks nothing is known of what happened meanwhile.
const GAP_TICKS: u64 = 20;
/// What is told is over about so many ticks, and what is acted on over fewer.
const TOLD_TICKS: u64 = 20;
const FELT_TICKS: u64 = 4;
/// Ticks before anything is said of the time left.
const MEASURING_TICKS: u64 = 10;

/// Ticks between two looks at the capacity, and for how many of them it is looked at.
const LOOK_EVERY_TICKS: u64 = 50;
const LOOK_TICKS: u64 = 2;
/// The gain that is wanted: so many parts of five of the capacity.
const GAIN_PARTS: u64 = 2;
/// What the copy can do in such a part of a second is as good as nothing: it is on its way.
const SETTLED_PARTS_OF_S: u64 = 50;
/// A gain of less than this part of the copy's rate is within the error of measuring.
const NO_GAIN_PARTS: u64 = 50;
/// Shortest delay, in nanoseconds.
const DELAY_MIN_NS: u64 = 50_000;
const NS_PER_S: u64 = 1_000_000_000;

/// What to do about guests that make things different faster than a mirror makes them equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConvergePolicy {
    /// Nothing: guests come first, and the mirror may never be ready.
    #[default]
    GuestsFirst,
    /// Each change of a guest's begins late, by just so much that the mirror gets ready.
    SlowGuests {
        /// Longest delay, in nanoseconds.
        delay_max_ns: u64,
    },
}

/// How a mirror gains on its guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConvergeReport {
    /// Bytes per second that guests make different.
    pub dirtied_bytes_per_s: u64,
    /// Bytes per second that the copy makes equal.
    pub copied_bytes_per_s: u64,
    /// When the two sides will be equal.
    pub estimate: Estimate,
    /// By how much each change of a guest's begins late, in nanoseconds.
    pub guest_delay_ns: u64,
}

/// When two sides will be equal, as far as can be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Estimate {
    /// Not known yet.
    #[default]
    Measuring,
    /// They are, but for what is on its way.
    Equal,
    /// In so many nanoseconds, if it goes on like this.
    InNs(u64),
    /// Never, if it goes on like this: guests make at least as much different as the copy makes equal.
    Outrun,
    /// Nobody knows: nothing is being copied now.
    Standing,
}

/// How far a mirror is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// What differs now.
    pub(crate) differing_bytes: u64,
    /// What guests have made different, ever.
    pub(crate) dirtied_bytes: u64,
    /// What the copy has made equal, ever.
    pub(crate) copied_bytes: u64,
}

/// Follows a mirror, and says how long guests are to wait.
#[derive(Debug)]
pub(crate) struct Converge {
    policy: ConvergePolicy,
    last: Option<(Standing, u64)>,
    ticks: u64,
    told: Rates,
    felt: Rates,
    /// What the copy does when guests hardly do anything, in bytes per second.
    capacity_bytes_per_s: u64,
    differing_bytes: u64,
    delay_ns: u64,
    is_standing: bool,
}

/// Bytes per second, over some ticks.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    dirtied: u64,
    copied: u64,
}

impl Converge {
    pub(crate) fn new(policy: ConvergePolicy) -> Self {
        Self {
            policy,
            last: None,
            ticks: 0,
            told: Rates::default(),
            felt: Rates::default(),
            capacity_bytes_per_s: 0,
            differing_bytes: 0,
            delay_ns: 0,
            is_standing: false,
        }
    }

    /// Nothing is copied from now on, until it is [noted](Self::note) again; guests do not wait meanwhile.
    pub(crate) fn stand(&mut self) {
        self.last = None;
        self.is_standing = true;
        self.delay_ns = 0;
    }

    /// Takes in how far the mirror is; returns by how much each change of a guest's is to begin late.
    pub(crate) fn note(&mut self, now: Standing, now_ns: u64) -> u64 {
        self.is_standing = false;
        self.differing_bytes = now.differing_bytes;
        let Some((before, before_ns)) = self.last else {
            self.last = Some((now, now_ns));
            return self.delay();
        };
        let elapsed_ns = now_ns.saturating_sub(before_ns);
        if elapsed_ns < TICK_NS {
            return self.delay();
        }
        self.last = Some((now, now_ns));
        if elapsed_ns >= GAP_TICKS * TICK_NS {
            // For so long there was nothing to copy.
            self.delay_ns = 0;
        } else {
            let per_s =
                |now: u64, before: u64| scaled(now.saturating_sub(before), NS_PER_S, elapsed_ns);
            let rates = Rates {
                dirtied: per_s(now.dirtied_bytes, before.dirtied_bytes),
                copied: per_s(now.copied_bytes, before.copied_bytes),
            };
            self.tick(rates);
        }
        self.delay()
    }

    /// What can be told.
    pub(crate) fn report(&self) -> ConvergeReport {
        ConvergeReport {
            dirtied_bytes_per_s: self.told.dirtied,
            copied_bytes_per_s: self.told.copied,
            estimate: self.estimate(),
            guest_delay_ns: self.delay_ns,
        }
    }

    fn estimate(&self) -> Estimate {
        let Rates { dirtied, copied } = self.told;
        let gain = copied.saturating_sub(dirtied);
        if self.is_standing {
            Estimate::Standing
        } else if self.differing_bytes == 0 {
            Estimate::Equal
        } else if self.ticks < MEASURING_TICKS {
            Estimate::Measuring
        } else if gain > copied / NO_GAIN_PARTS {
            Estimate::InNs(scaled(self.differing_bytes, NS_PER_S, gain))
        } else if self.is_settled() {
            Estimate::Equal
        } else {
            Estimate::Outrun
        }
    }

    /// Whether hardly more differs than what is on its way.
    fn is_settled(&self) -> bool {
        self.differing_bytes <= self.capacity_bytes_per_s / SETTLED_PARTS_OF_S
    }

    fn tick(&mut self, rates: Rates) {
        let was_looking = self.is_looking();
        self.ticks += 1;
        self.told.follow(rates, self.ticks.min(TOLD_TICKS));
        self.felt.follow(rates, self.ticks.min(FELT_TICKS));
        if was_looking && !self.is_settled() {
            // Not the rate over some ticks: guests were slow in this one only.
            let slowly = self.capacity_bytes_per_s / 8 * 7;
            self.capacity_bytes_per_s = rates.copied.max(slowly);
        } else {
            self.capacity_bytes_per_s = self.capacity_bytes_per_s.max(self.felt.copied);
        }
        let ConvergePolicy::SlowGuests { delay_max_ns } = self.policy else {
            return;
        };
        let wanted = (self.capacity_bytes_per_s / 5 * GAIN_PARTS).max(1);
        let gain = self.felt.copied.saturating_sub(self.felt.dirtied);
        // As if there were twice the gain that is wanted.
        let gain = if self.is_settled() { 2 * wanted } else { gain };
        if gain >= wanted {
            let surplus = (gain - wanted).min(wanted);
            self.delay_ns -= scaled(self.delay_ns, surplus, 4 * wanted);
            if self.delay_ns < DELAY_MIN_NS {
                self.delay_ns = 0;
            }
        } else {
            let more = scaled(self.delay_ns, wanted - gain, wanted);
            let longer_ns = self.delay_ns.saturating_add(more).max(DELAY_MIN_NS);
            self.delay_ns = longer_ns.min(delay_max_ns);
        }
    }

    /// Whether the capacity is looked at now.
    fn is_looking(&self) -> bool {
        matches!(self.policy, ConvergePolicy::SlowGuests { .. })
            && self.ticks % LOOK_EVERY_TICKS < LOOK_TICKS
            && !self.is_settled()
    }

    fn delay(&self) -> u64 {
        match self.policy {
            ConvergePolicy::SlowGuests { delay_max_ns } if self.is_looking() => delay_max_ns,
            ConvergePolicy::SlowGuests { .. } | ConvergePolicy::GuestsFirst => self.delay_ns,
        }
    }
}

impl Rates {
    /// Moves to `now` by one part of `ticks`.
    fn follow(&mut self, now: Self, ticks: u64) {
        let moved = |old: u64, new: u64| {
            let whole = u128::from(old) * u128::from(ticks - 1) + u128::from(new);
            u64::try_from(whole / u128::from(ticks)).unwrap_or(u64::MAX)
        };
        self.dirtied = moved(self.dirtied, now.dirtied);
        self.copied = moved(self.copied, now.copied);
    }
}

/// `value * part / whole`, without overflow on the way.
fn scaled(value: u64, part: u64, whole: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
