//! Chance that can be had again: everything that is drawn in a world comes from its seed.

/// A stream of draws. (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.)
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream of its own, so that more draws in one place do not change those in another.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.draw())
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; zero if that is zero.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.draw().checked_rem(limit).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        let limit = u64::try_from(len).expect("a list in memory");
        usize::try_from(self.below(limit)).expect("below a length")
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    /// From `low` to `high`, each order of magnitude as likely as the next.
    pub(crate) fn scale(&mut self, low: u64, high: u64) -> u64 {
        let doublings = (high / low.max(1)).max(1).ilog2();
        let top = low.max(1) << self.below(u64::from(doublings) + 1);
        self.between(low, (top * 2).min(high))
    }

    /// About log-normal around `median`; two draws of three are within `doublings_x16 / 16` doublings.
    pub(crate) fn log_normal(&mut self, median: u64, doublings_x16: u64) -> u64 {
        // Twelve even draws add up to about a normal one, whose deviation is one twelfth of their range.
        let sum: u64 = (0..12).map(|_| self.below(1 << 16)).sum();
        let most = 6 << 16;
        let (away, is_more) = (sum.abs_diff(most), sum >= most);
        let doublings_x256 = (away * doublings_x16) >> 12;
        let (whole, part) = (doublings_x256 >> 8, doublings_x256 & 255);
        if is_more {
            (median << whole.min(20)).saturating_mul(256 + part) / 256
        } else {
            (median >> whole.min(20)) * 256 / (256 + part)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Chance;

    #[test]
    fn a_seed_gives_the_same_draws_and_another_gives_others() {
        let draws = |seed| {
            let mut chance = Chance::new(seed);
            [chance.draw(), chance.below(1000), chance.fork().draw()]
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn latencies_lie_around_their_median() {
        let mut chance = Chance::new(3);
        let draws: Vec<u64> = (0..10_000).map(|_| chance.log_normal(1000, 16)).collect();
        let below = |limit| draws.iter().filter(|&&it| it < limit).count();
        assert!((4500..5500).contains(&below(1000)), "{}", below(1000));
        let within = below(2000) - below(500);
        assert!((6300..7300).contains(&within), "{within}");
    }

    #[test]
    fn scales_stay_within_their_bounds() {
        let mut chance = Chance::new(4);
        assert!((0..1000).all(|_| (3..=700).contains(&chance.scale(3, 700))));
        assert!((0..1000).any(|_| chance.scale(3, 700) > 600));
    }
}
