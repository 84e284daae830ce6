//! Draws that depend on the seed and on what they are for, not on what was drawn before: to take a node or
//! an event out of a scenario changes nothing for the others.

/// SplitMix64's output function (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
fn mix(state: u64) -> u64 {
    let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A source of draws.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The source for `what` in the run with this seed.
    pub(crate) fn of(seed: u64, what: &[u64]) -> Self {
        let state = what.iter().fold(mix(seed.wrapping_add(STEP)), |state, word| {
            mix(state ^ word.wrapping_mul(STEP)).wrapping_add(STEP)
        });
        Self(state)
    }

    /// 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below `end`; 0 if `end` is 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // The product's upper half; the bias is below 2^-32 for the ranges in use (Lemire 2019).
        ((u128::from(self.bits()) * u128::from(end)) >> 64) as u64
    }

    /// From `low` to `high`, both possible.
    pub(crate) fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// From 0 to below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with this probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// About normal, mean 0 and variance 1: a sum of four draws (Irwin–Hall).
    pub(crate) fn bell(&mut self) -> f32 {
        let bits = self.bits();
        let sum: u64 = (0..4).map(|part| bits >> (16 * part) & 0xffff).sum();
        (sum as f32 - 131_070.0) / 37_837.2
    }

    /// `count` of `0..n`, ascending, each at most once.
    pub(crate) fn some_of(&mut self, n: u32, count: u32) -> Vec<u32> {
        let mut all: Vec<u32> = (0..n).collect();
        let count = count.min(n) as usize;
        for place in 0..count {
            let other = place + self.below((all.len() - place) as u64) as usize;
            all.swap(place, other);
        }
        all.truncate(count);
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_seed_and_purpose_alone() {
        assert_eq!(Random::of(1, &[2, 3]).bits(), Random::of(1, &[2, 3]).bits());
        let other = [
            Random::of(2, &[2, 3]).bits(),
            Random::of(1, &[3, 2]).bits(),
            Random::of(1, &[2]).bits(),
        ];
        assert!(other.iter().all(|bits| *bits != Random::of(1, &[2, 3]).bits()));
    }

    #[test]
    fn ranges_hold_and_are_reached() {
        let mut random = Random::of(7, &[]);
        let draws: Vec<u64> = (0..1_000).map(|_| random.within(3, 6)).collect();
        assert!((3..=6).all(|value| draws.contains(&value)) && draws.iter().all(|value| (3..=6).contains(value)));
        assert_eq!(random.below(0), 0);
        let sum: f64 = (0..10_000).map(|_| f64::from(random.bell())).sum();
        assert!(sum.abs() < 400.0, "{sum}");
        let some = random.some_of(10, 4);
        assert!(some.len() == 4 && some.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(random.some_of(3, 9), [0, 1, 2]);
    }
}
