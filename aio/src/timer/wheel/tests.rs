//! The wheel against a sorted map, and what the loop relies on.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{CROWDED, Wheel, WheelKey};

/// What the wheel must do, done plainly.
#[derive(Default)]
struct Model {
    /// By deadline, then by the order of arming.
    armed: BTreeMap<(u64, usize), WheelKey>,
    count: usize,
    /// There have been more than a few timers since the wheel was empty last.
    crowded: bool,
}

impl Model {
    fn arm(&mut self, wheel: &mut Wheel<usize>, deadline_ns: u64) {
        self.count += 1;
        let key = wheel.insert(deadline_ns, self.count);
        self.armed.insert((deadline_ns, self.count), key);
        self.crowded |= self.armed.len() > CROWDED;
    }

    fn remove(&mut self, wheel: &mut Wheel<usize>, nth: usize) {
        if self.armed.is_empty() {
            return;
        }
        let nth = nth % self.armed.len();
        let (&timer, &key) = self.armed.iter().nth(nth).unwrap();
        self.armed.remove(&timer);
        assert_eq!(wheel.get_mut(key).copied(), Some(timer.1));
        assert_eq!(wheel.remove(key), Some(timer.1));
        assert_eq!(wheel.remove(key), None, "removed twice");
    }

    /// A whole pass, in the order of the map.
    fn pass(&mut self, wheel: &mut Wheel<usize>, now_ns: u64) -> usize {
        wheel.collect(now_ns);
        let mut expired = 0;
        while let Some(timer) = wheel.pop_due() {
            let ((deadline_ns, expected), key) = self.armed.pop_first().unwrap();
            assert_eq!(timer, expected, "due at {deadline_ns}, now {now_ns}");
            assert!(wheel.get_mut(key).is_none(), "an expired timer has no key");
            expired += 1;
        }
        self.check_next(wheel);
        if let Some(next_ns) = wheel.next_ns() {
            assert!(next_ns > now_ns, "{next_ns} is no wait at {now_ns}");
        }
        expired
    }

    fn check_next(&mut self, wheel: &mut Wheel<usize>) {
        let earliest = self.armed.first_key_value().map(|(&(ns, _), _)| ns);
        let next = wheel.next_ns();
        assert_eq!(wheel.is_empty(), self.armed.is_empty());
        assert_eq!(next.is_some(), earliest.is_some());
        assert!(next <= earliest, "{next:?} is later than {earliest:?}");
        self.crowded &= !self.armed.is_empty();
        if !self.crowded {
            assert_eq!(next, earliest, "nothing is in the way of being exact");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Arm { ahead_ns: u64 },
    ArmAt { deadline_ns: u64 },
    ArmManyAt { ahead_ns: u64, count: usize },
    Remove { nth: usize },
    Pass { later_ns: u64 },
    PassAtNext,
    ClockBack { by_ns: u64 },
}

/// Distances of every size, with those about the size of a slot of some level more often.
fn distance_ns() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..3_u64,
        0..200_000_u64,
        (0..64_u32, any::<u64>()).prop_map(|(bits, ns)| ns >> bits),
        (0..64_u32, 0..3_u64).prop_map(|(bit, more)| (1_u64 << bit).saturating_add(more) - 1),
        Just(u64::MAX),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => distance_ns().prop_map(|ahead_ns| Step::Arm { ahead_ns }),
        2 => distance_ns().prop_map(|deadline_ns| Step::ArmAt { deadline_ns }),
        1 => (distance_ns(), 1..200_usize)
            .prop_map(|(ahead_ns, count)| Step::ArmManyAt { ahead_ns, count }),
        4 => any::<usize>().prop_map(|nth| Step::Remove { nth }),
        3 => distance_ns().prop_map(|later_ns| Step::Pass { later_ns }),
        4 => Just(Step::PassAtNext),
        1 => distance_ns().prop_map(|by_ns| Step::ClockBack { by_ns }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn the_wheel_agrees_with_a_sorted_map(steps in prop::collection::vec(step(), 1..120)) {
        let (mut wheel, mut model, mut now_ns) = (Wheel::new(), Model::default(), 0_u64);
        for step in steps {
            match step {
                Step::Arm { ahead_ns } => model.arm(&mut wheel, now_ns.saturating_add(ahead_ns)),
                Step::ArmAt { deadline_ns } => model.arm(&mut wheel, deadline_ns),
                Step::ArmManyAt { ahead_ns, count } => {
                    for nth in 0..count {
                        let spread_ns = u64::try_from(nth * 7 % 13).unwrap();
                        model.arm(&mut wheel, now_ns.saturating_add(ahead_ns).saturating_add(spread_ns));
                    }
                }
                Step::Remove { nth } => model.remove(&mut wheel, nth),
                Step::Pass { later_ns } => {
                    now_ns = now_ns.saturating_add(later_ns);
                    // The end of time is no time to wait from.
                    now_ns = now_ns.min(u64::MAX - 1);
                    model.pass(&mut wheel, now_ns);
                }
                Step::PassAtNext => {
                    let next_ns = wheel.next_ns().unwrap_or(0);
                    now_ns = now_ns.max(next_ns).min(u64::MAX - 1);
                    model.pass(&mut wheel, now_ns);
                }
                Step::ClockBack { by_ns } => {
                    now_ns = now_ns.saturating_sub(by_ns);
                    model.pass(&mut wheel, now_ns);
                }
            }
            model.check_next(&mut wheel);
        }
        wheel.collect(u64::MAX);
        let rest: Vec<_> = std::iter::from_fn(|| wheel.pop_due()).collect();
        let expected: Vec<_> = model.armed.into_keys().map(|(_, timer)| timer).collect();
        prop_assert_eq!(rest, expected);
        prop_assert!(wheel.is_empty());
    }
}

#[test]
fn few_timers_cause_no_look_without_an_expiry() {
    let (mut wheel, mut model) = (Wheel::new(), Model::default());
    for nth in 0..CROWDED {
        let nth = u32::try_from(nth).unwrap();
        model.arm(&mut wheel, 3_u64.pow(nth.min(40)) + u64::from(nth));
    }
    while let Some(next_ns) = wheel.next_ns() {
        assert!(model.pass(&mut wheel, next_ns) > 0, "early at {next_ns}");
    }
}

#[test]
fn a_crowd_causes_few_looks_without_an_expiry() {
    let (mut wheel, mut model) = (Wheel::new(), Model::default());
    let (count, mut early) = (20_000, 0_usize);
    for nth in 0..count {
        // From a second to an hour, and many of them at nearly the same time.
        let ns = 1_000_000_000 + (nth % 64) * 56_000_000_000 + nth * 1000 / 7;
        model.arm(&mut wheel, ns);
    }
    while let Some(next_ns) = wheel.next_ns() {
        if model.pass(&mut wheel, next_ns) == 0 {
            early += 1;
        }
    }
    assert!(early * CROWDED <= 7 * 20_000, "{early} looks in vain");
}

#[test]
fn removing_the_earliest_of_a_crowd_again_and_again_causes_one_look_in_vain() {
    let mut wheel = Wheel::new();
    let keys: Vec<_> = (1000..3000).map(|ns| (ns, wheel.insert(ns, ns))).collect();
    let mut now_ns = 0;
    let mut early = 0;
    for (ns, key) in keys {
        assert!(wheel.next_ns().unwrap() > now_ns, "a wait");
        assert_eq!(wheel.remove(key), Some(ns));
        if ns % 500 == 0 {
            now_ns = wheel.next_ns().unwrap();
            wheel.collect(now_ns);
            early += 1;
        }
    }
    assert!(early <= 4 && wheel.is_empty());
}

#[test]
fn a_timer_before_a_crowd_that_has_lost_its_earliest_is_not_overlooked() {
    for base_ns in [0, 7_000_000_000] {
        let mut wheel = Wheel::new();
        let keys: Vec<_> = (1000..1200)
            .map(|ns| wheel.insert(base_ns + ns, ns))
            .collect();
        wheel.next_ns();
        wheel.remove(keys[0]);
        wheel.insert(base_ns + 10, 0);
        assert!(wheel.next_ns() <= Some(base_ns + 10));
    }
}

#[test]
fn what_is_armed_during_a_pass_waits_for_the_next_one() {
    let mut wheel = Wheel::new();
    wheel.insert(10, 1_u32);
    wheel.insert(10, 2);
    wheel.collect(10);
    assert_eq!(wheel.pop_due(), Some(1));
    let again = wheel.insert(5, 3);
    assert_eq!(wheel.next_ns(), Some(0), "the pass is not over");
    assert_eq!(wheel.pop_due(), Some(2));
    assert_eq!(wheel.pop_due(), None);
    assert_eq!(wheel.get_mut(again), Some(&mut 3));
    assert_eq!(wheel.next_ns(), Some(5));
    wheel.collect(10);
    assert_eq!(wheel.pop_due(), Some(3));
}

#[test]
fn a_timer_that_is_due_can_still_be_removed() {
    let mut wheel = Wheel::new();
    let keys = [1_u32, 2, 3].map(|id| wheel.insert(u64::from(id), id));
    wheel.collect(3);
    assert_eq!(wheel.remove(keys[1]), Some(2));
    assert_eq!(wheel.pop_due(), Some(1));
    assert_eq!(wheel.remove(keys[2]), Some(3));
    assert_eq!(wheel.pop_due(), None);
    assert!(wheel.is_empty());
}

#[test]
fn millions_of_ticks_one_by_one_lose_nothing() {
    let mut wheel = Wheel::new();
    let (ticks, every) = (2_000_000_u64, 4099);
    for nth in 1..=ticks / every {
        wheel.insert((nth * every) << super::TICK_SHIFT, nth);
    }
    let mut expected = 1..=ticks / every;
    for tick in 0..=ticks {
        wheel.collect(tick << super::TICK_SHIFT);
        while let Some(nth) = wheel.pop_due() {
            assert_eq!(Some(nth), expected.next());
            assert_eq!(nth * every, tick);
        }
    }
    assert_eq!(expected.next(), None);
}

#[test]
fn a_place_without_generations_left_is_not_used_again() {
    let mut wheel = Wheel::new();
    let first = wheel.insert(1, 1_u32);
    wheel.remove(first);
    wheel.nodes[0].generation = u32::MAX;
    let last = wheel.insert(1, 2);
    assert_eq!((last.index, wheel.remove(last)), (0, Some(2)));
    assert_eq!(wheel.remove(last), None);
    assert!(wheel.get_mut(last).is_none());
    assert_eq!(wheel.insert(1, 3).index, 1);
}
