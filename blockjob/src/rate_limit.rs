//! [`RateLimit`]: bytes per second, in slices of a tenth of a second.
//!
//! A slice has a quota: what the speed allows in 100 ms. Requests go through without delay until
//! the quota is used up; what goes over it is allowed and paid for by a longer slice, whose end the
//! next request waits for. So the first request is never delayed, however large it is.
//!
//! Over any time `t` from the first request on, no more goes through than `speed × t`, one quota
//! (the burst with which a slice may begin) and one request; where a request is at least a quota,
//! no more than `speed × t` and one request.

use std::{error::Error, fmt};

const SLICE_NS: u64 = 100_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// Limits bytes per second. Arithmetic only: the caller tells the time, waits, and asks again.
///
/// The caller accounts what it dispatches, and waits before the next request for as long as
/// [`delay_ns`](Self::delay_ns) says, asking again whenever it was woken: the speed may have
/// changed.
#[derive(Clone, Debug, Default)]
pub struct RateLimit {
    /// 0 is unlimited.
    speed_bytes_per_s: u64,
    /// Absent before the first request, and while there is no limit.
    slice: Option<Slice>,
}

#[derive(Clone, Copy, Debug)]
struct Slice {
    start_ns: u64,
    dispatched_bytes: u64,
}

impl RateLimit {
    /// A limit of `speed_bytes_per_s`; 0 is unlimited.
    #[must_use]
    pub fn new(speed_bytes_per_s: u64) -> Self {
        let slice = None;
        Self {
            speed_bytes_per_s,
            slice,
        }
    }

    /// The limit; 0 is unlimited.
    #[must_use]
    pub fn speed_bytes_per_s(&self) -> u64 {
        self.speed_bytes_per_s
    }

    /// Changes the limit, which takes effect at once: also on what was dispatched in this slice.
    ///
    /// Returns whether a job that sleeps for its limit is to be woken: it may go on earlier now. A
    /// lower speed lets it sleep, and lengthens the sleep when it asks again.
    #[must_use = "a job that sleeps for its limit may have to be woken"]
    pub fn set_speed(&mut self, speed_bytes_per_s: u64) -> bool {
        let is_faster = speed_bytes_per_s > self.speed_bytes_per_s;
        self.speed_bytes_per_s = speed_bytes_per_s;
        if speed_bytes_per_s == 0 {
            self.slice = None;
        }
        is_faster || speed_bytes_per_s == 0
    }

    /// Counts `len_bytes` that are dispatched at `now_ns`.
    ///
    /// Returns how many nanoseconds the next request has to wait.
    pub fn account(&mut self, len_bytes: u64, now_ns: u64) -> u64 {
        if self.speed_bytes_per_s == 0 {
            return 0;
        }
        let current = self.slice.filter(|slice| self.end_ns(*slice) >= now_ns);
        let slice = current.unwrap_or(Slice {
            start_ns: now_ns,
            dispatched_bytes: 0,
        });
        let dispatched_bytes = slice.dispatched_bytes.saturating_add(len_bytes);
        self.slice = Some(Slice {
            dispatched_bytes,
            ..slice
        });
        self.delay_ns(now_ns)
    }

    /// Takes back `len_bytes` that were counted and turned out to need no moving: zeroes, holes.
    pub fn refund(&mut self, len_bytes: u64) {
        if let Some(slice) = &mut self.slice {
            slice.dispatched_bytes = slice.dispatched_bytes.saturating_sub(len_bytes);
        }
    }

    /// How many nanoseconds after `now_ns` the next request may go; 0 is now.
    #[must_use]
    pub fn delay_ns(&self, now_ns: u64) -> u64 {
        match self.slice {
            Some(slice) if slice.dispatched_bytes >= self.quota_bytes() => {
                self.end_ns(slice).saturating_sub(now_ns)
            }
            _ => 0,
        }
    }

    /// What a slice lets through before it asks for a delay.
    fn quota_bytes(&self) -> u64 {
        // A tenth of the speed; dividing first cannot overflow and loses less than a byte.
        (self.speed_bytes_per_s / (NS_PER_S / SLICE_NS)).max(1)
    }

    /// When a slice ends: after its regular length, or when what it let through is paid for.
    ///
    /// Computed anew each time, so that a change of speed applies to a slice under way.
    fn end_ns(&self, slice: Slice) -> u64 {
        if slice.dispatched_bytes < self.quota_bytes() {
            return slice.start_ns.saturating_add(SLICE_NS);
        }
        let needed_ns = u128::from(slice.dispatched_bytes) * u128::from(NS_PER_S);
        // Rounded up, so that rounding never lets more through; a limit has a speed above zero.
        let length_ns = needed_ns.div_ceil(u128::from(self.speed_bytes_per_s.max(1)));
        let length_ns = u64::try_from(length_ns).unwrap_or(u64::MAX);
        slice.start_ns.saturating_add(length_ns)
    }
}

/// A speed that a client gave is below zero. The text is part of the control protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegativeSpeed;

impl fmt::Display for NegativeSpeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parameter 'speed' expects a non-negative value")
    }
}

impl Error for NegativeSpeed {}

/// A speed in bytes per second as clients give it, who have signed numbers only.
///
/// # Errors
///
/// [`NegativeSpeed`].
pub fn speed_from_client(speed: i64) -> Result<u64, NegativeSpeed> {
    u64::try_from(speed).map_err(|_| NegativeSpeed)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const MIB: u64 = 1 << 20;
    const MS: u64 = 1_000_000;

    #[test]
    fn the_first_request_is_never_delayed() {
        let mut limit = RateLimit::new(1);
        let before = limit.delay_ns(0);
        let after = limit.account(MIB, 0);

        assert_eq!(before, 0);
        assert_eq!(after, MIB * NS_PER_S);
    }

    #[test]
    fn what_is_refunded_delays_nobody() {
        let mut limit = RateLimit::new(20 * MIB);
        limit.account(16 * MIB, 0);
        limit.refund(15 * MIB);

        assert_eq!(limit.delay_ns(0), 0);
        limit.refund(5 * MIB);
        assert_eq!(limit.account(2 * MIB, 0), 100 * MS);
    }

    #[test]
    fn a_quota_goes_through_before_there_is_a_delay() {
        let mut limit = RateLimit::new(20 * MIB);
        let first = limit.account(MIB, 0);
        let second = limit.account(MIB, 0);

        assert_eq!((first, second), (0, 100 * MS));
    }

    #[test]
    fn more_than_a_quota_makes_the_slice_longer() {
        let mut limit = RateLimit::new(20 * MIB);
        let delay = limit.account(16 * MIB, 30 * MS);

        assert_eq!(delay, 800 * MS);
        assert_eq!(limit.delay_ns(130 * MS), 700 * MS);
        assert_eq!(limit.delay_ns(830 * MS), 0);
    }

    #[test]
    fn a_slice_that_was_not_used_up_saves_nothing() {
        let mut limit = RateLimit::new(20 * MIB);
        limit.account(MIB, 0);
        let first = limit.account(MIB, 5000 * MS);
        let second = limit.account(MIB, 5000 * MS);

        assert_eq!((first, second), (0, 100 * MS));
    }

    #[test]
    fn zero_is_unlimited() {
        let mut limit = RateLimit::new(0);

        assert_eq!(limit.account(u64::MAX, 0), 0);
        assert_eq!(limit.account(u64::MAX, 0), 0);
    }

    #[test]
    fn a_higher_speed_shortens_the_wait_at_once_and_wakes() {
        let mut limit = RateLimit::new(MIB);
        limit.account(4 * MIB, 0);
        let slow = limit.delay_ns(1000 * MS);

        assert!(limit.set_speed(2 * MIB));
        let fast = limit.delay_ns(1000 * MS);
        assert!(limit.set_speed(0));

        assert_eq!((slow, fast), (3000 * MS, 1000 * MS));
        assert_eq!(limit.delay_ns(1000 * MS), 0);
    }

    #[test]
    fn a_lower_speed_lengthens_the_wait_and_does_not_wake() {
        let mut limit = RateLimit::new(2 * MIB);
        limit.account(4 * MIB, 0);
        let fast = limit.delay_ns(1000 * MS);

        assert!(!limit.set_speed(MIB));

        assert_eq!((fast, limit.delay_ns(1000 * MS)), (1000 * MS, 3000 * MS));
    }

    #[test]
    fn a_debt_of_a_slow_time_does_not_become_a_credit() {
        let mut limit = RateLimit::new(1);
        limit.account(MIB, 0);
        let _ = limit.set_speed(20 * MIB);
        let first = limit.account(MIB, 1000 * MS);
        let second = limit.account(MIB, 1000 * MS);

        assert_eq!((first, second), (0, 100 * MS));
    }

    #[test]
    fn the_greatest_numbers_do_not_overflow() {
        let mut limit = RateLimit::new(u64::MAX);
        limit.account(u64::MAX, u64::MAX - 1);
        let _ = limit.set_speed(1);

        assert_eq!(limit.delay_ns(0), u64::MAX);
    }

    #[test]
    fn a_negative_speed_is_refused_in_the_words_of_the_protocol() {
        let error = speed_from_client(-1).unwrap_err();

        assert_eq!(
            error.to_string(),
            "Parameter 'speed' expects a non-negative value"
        );
        assert_eq!(speed_from_client(i64::MAX), Ok(u64::MAX / 2));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Requests of any size, each some time after it was allowed.
        #[test]
        fn no_more_goes_through_than_the_speed_allows(
            speed in 1_u64..1 << 34,
            start_ns in 0_u64..1 << 40,
            requests in vec((0_u64..1 << 24, prop_oneof![Just(0), 0_u64..300 * MS]), 1..80),
        ) {
            let mut limit = RateLimit::new(speed);
            let quota = (speed / 10).max(1);
            let (mut now_ns, mut before_bytes, mut late_ns) = (start_ns, 0_u128, 0);
            for (len_bytes, late) in requests {
                now_ns += limit.delay_ns(now_ns) + late;
                late_ns += late;
                let allowed = u128::from(speed) * u128::from(now_ns - start_ns) / u128::from(NS_PER_S);
                prop_assert!(before_bytes < allowed + u128::from(quota) + 1);

                let delay_ns = limit.account(len_bytes, now_ns);
                prop_assert_eq!(delay_ns, limit.delay_ns(now_ns));
                before_bytes += u128::from(len_bytes);
            }
            // Nor is it slower than that: who is never late gets the whole speed.
            let spent = u128::from(now_ns - start_ns - late_ns) * u128::from(speed);
            let slack = 80 * u128::from(speed);
            prop_assert!(spent <= before_bytes * u128::from(NS_PER_S) + slack);
        }

        /// What clients are promised of requests that are no smaller than a quota.
        #[test]
        fn large_requests_never_exceed_the_speed_by_more_than_one(
            quota in 1_u64..1 << 24,
            extra in vec(0_u64..1 << 24, 1..80),
        ) {
            let speed = quota * 10;
            let mut limit = RateLimit::new(speed);
            let (mut now_ns, mut before_bytes) = (0, 0_u128);
            for extra in extra {
                now_ns += limit.delay_ns(now_ns);
                let allowed = u128::from(speed) * u128::from(now_ns);
                prop_assert!(before_bytes * u128::from(NS_PER_S) <= allowed);

                limit.account(quota + extra, now_ns);
                before_bytes += u128::from(quota + extra);
            }
        }
    }
}
