//! A small generator of numbers for simulations: splitmix64.
//!
//! The one hard constraint: the same seed gives the same numbers on every machine and in every
//! version, because a failing seed is a bug report. Not for anything secret.

/// One stream of numbers.
#[derive(Clone, Debug)]
pub struct Rng(u64);

/// Spreads a number over all 64 bits: the finaliser of splitmix64. A pure function, for choices
/// that must not depend on how often anybody asked before.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Rng {
    /// A stream from a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(mix(seed ^ 0x706f_7274_6f6c_616e))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number from 0 to `bound` less one; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.number()) * u128::from(bound)) >> 64) as u64
    }

    /// An index below `count`, which must not be 0.
    pub fn index(&mut self, count: usize) -> usize {
        assert!(count > 0, "there is something to choose from");
        self.below(count as u64) as usize
    }

    /// True `per_mille` times out of 1,000.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1_000) < u64::from(per_mille)
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }

    /// Random bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number() as u8).collect()
    }

    /// A stream of its own for a part of the world, so that one part's use does not move another.
    pub fn fork(&mut self) -> Rng {
        Rng::new(self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_for_ever() {
        let mut rng = Rng::new(1);
        let numbers: Vec<u64> = (0..3).map(|_| rng.below(1_000_000)).collect();
        let mut again = Rng::new(1);
        assert_eq!(numbers, (0..3).map(|_| again.below(1_000_000)).collect::<Vec<_>>());
        assert_ne!(Rng::new(1).number(), Rng::new(2).number());
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_both_ends() {
        let mut rng = Rng::new(7);
        let mut seen = [0; 5];
        for _ in 0..1_000 {
            seen[rng.index(5)] += 1;
        }
        assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
        assert_eq!(rng.below(0), 0);
        assert!(!rng.chance(0) && rng.chance(1_000));
    }
}
