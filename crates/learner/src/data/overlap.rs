//! How much of what is held out also stands in what is trained on.

use std::collections::HashSet;

/// Tokens of a window: long enough that only a copy has the same.
const WINDOW: usize = 64;
/// Of the rolling hash: odd, and otherwise of no meaning.
const BASE: u64 = 0x9E37_79B9_7F4A_7C15;

/// Windows of what is held out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overlap {
    /// How many there are.
    pub windows: u64,
    /// How many of them also stand in what is trained on, at any place.
    pub trained: u64,
}

impl Overlap {
    /// Percent of the windows that also stand in what is trained on.
    pub fn percent(&self) -> f64 {
        100.0 * self.trained as f64 / self.windows.max(1) as f64
    }
}

/// Looks for each whole window of `held_out` everywhere in `train`, in one pass over both.
pub(super) fn overlap(train: &[u32], held_out: &[u32]) -> Overlap {
    let windows = held_out.chunks_exact(WINDOW);
    let hashes: Vec<u64> = windows
        .map(|window| window.iter().fold(0, |hash, token| add(hash, *token)))
        .collect();
    let wanted: HashSet<u64> = hashes.iter().copied().collect();
    // most are told apart by a look into a short list
    let mask = (16 * hashes.len()).next_power_of_two() - 1;
    let slot = |hash: u64| (hash >> 20) as usize & mask;
    let mut maybe = vec![false; mask + 1];
    hashes.iter().for_each(|hash| maybe[slot(*hash)] = true);
    let mut met: HashSet<u64> = HashSet::new();
    let oldest = (0..WINDOW - 1).fold(1u64, |power, _| power.wrapping_mul(BASE));
    let mut hash = 0;
    for (at, token) in train.iter().enumerate() {
        if at >= WINDOW {
            hash = u64::wrapping_sub(hash, one(train[at - WINDOW]).wrapping_mul(oldest));
        }
        hash = add(hash, *token);
        if at + 1 >= WINDOW && maybe[slot(hash)] && wanted.contains(&hash) {
            met.insert(hash);
        }
    }
    Overlap {
        windows: hashes.len() as u64,
        trained: hashes.iter().filter(|hash| met.contains(hash)).count() as u64,
    }
}

fn one(token: u32) -> u64 {
    u64::from(token) + 1
}

fn add(hash: u64, token: u32) -> u64 {
    hash.wrapping_mul(BASE).wrapping_add(one(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(seed: u32, count: usize) -> Vec<u32> {
        (0..count as u32)
            .map(|at| at.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 16)
            .collect()
    }

    #[test]
    fn windows_are_found_wherever_they_stand() {
        let held_out = tokens(1, 10 * WINDOW + 5);
        let mut train = tokens(500_000, 1000);
        let of = |train: &[u32]| overlap(train, &held_out).trained;
        assert_eq!(
            overlap(&train, &held_out),
            Overlap {
                windows: 10,
                trained: 0
            }
        );
        train.extend_from_slice(&held_out[3 * WINDOW..5 * WINDOW]);
        assert_eq!(of(&train), 2);
        train.truncate(train.len() - 1);
        assert_eq!(of(&train), 1, "all but a token is no copy");
        assert_eq!(of(&held_out), 10);
        assert_eq!(of(&held_out[1..WINDOW]), 0);
        assert_eq!(overlap(&train, &[]).percent(), 0.0);
        assert_eq!(overlap(&held_out, &held_out).percent(), 100.0);
    }
}
