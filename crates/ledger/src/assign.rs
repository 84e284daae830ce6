//! Which rows of the corpus each replica reads: a permutation keyed by the round's beacon.
//!
//! Within a round no two replicas read the same row, as long as there are rows enough. The beacon
//! exists only when the round opens, so nobody can prepare for the rows it will get.

use alloc::vec::Vec;
use atoll_protocol::{Domain, Hash, encode};
use borsh::{BorshDeserialize, BorshSerialize};

/// What rows are read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Training.
    Train,
    /// Measuring held-out loss.
    HeldOut,
}

/// One replica's share of one round.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Share {
    /// The round's beacon.
    pub beacon: Hash,
    /// This replica's place in the roster.
    pub replica: u64,
    /// How many are in the roster.
    pub replicas: u64,
}

impl Share {
    /// Rows of the `batch` sequences of `step`, each below `rows`. Empty where the corpus is.
    pub fn rows(&self, purpose: Purpose, step: u64, batch: u64, rows: u64) -> Vec<u64> {
        if rows == 0 {
            return Vec::new();
        }
        let tag = match purpose {
            Purpose::Train => 0u8,
            Purpose::HeldOut => 1u8,
        };
        let key = Hash::of(Domain::Assignment, &encode(&(self.beacon, tag)));
        let first = step
            .wrapping_mul(self.replicas)
            .wrapping_add(self.replica)
            .wrapping_mul(batch);
        (0..batch)
            .map(|i| permute(&key, first.wrapping_add(i) % rows, rows))
            .collect()
    }
}

/// A keyed permutation of `0..n`: a four-round Feistel network over the next even power of two,
/// walked until it lands below `n` (Black and Rogaway, "Ciphers with Arbitrary Finite Domains").
fn permute(key: &Hash, index: u64, n: u64) -> u64 {
    let bits = u64::BITS - (n - 1).leading_zeros();
    let half = bits.div_ceil(2).max(1);
    let mut x = index;
    loop {
        x = feistel(key, x, half);
        if x < n {
            return x;
        }
    }
}

fn feistel(key: &Hash, x: u64, half: u32) -> u64 {
    let mask = (1u64 << half) - 1;
    let (mut left, mut right) = (x >> half & mask, x & mask);
    for round in 0..4u8 {
        let mixed = Hash::of(Domain::Assignment, &encode(&(key, round, right)));
        let word = mixed
            .0
            .iter()
            .take(8)
            .fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        (left, right) = (right, left ^ word & mask);
    }
    left << half | right
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    #[test]
    fn replicas_of_a_round_share_no_row() {
        let share = |replica| Share {
            beacon: Hash([3; 32]),
            replica,
            replicas: 4,
        };
        let mut seen = BTreeSet::new();
        for replica in 0..4 {
            for step in 0..5 {
                for row in share(replica).rows(Purpose::Train, step, 8, 1000) {
                    assert!(row < 1000 && seen.insert(row));
                }
            }
        }
        assert_eq!(seen.len(), 160);
        let rows = share(0).rows(Purpose::Train, 0, 8, 1000);
        assert_ne!(rows, share(0).rows(Purpose::HeldOut, 0, 8, 1000));
        assert_ne!(
            rows,
            Share {
                beacon: Hash([4; 32]),
                ..share(0)
            }
            .rows(Purpose::Train, 0, 8, 1000)
        );
    }

    proptest! {
        #[test]
        fn it_is_a_permutation(seed: [u8; 32], n in 1u64..200) {
            let image: BTreeSet<u64> = (0..n).map(|i| permute(&Hash(seed), i, n)).collect();
            prop_assert_eq!(image.len() as u64, n);
            prop_assert!(image.iter().all(|row| *row < n));
        }
    }

    #[test]
    fn an_empty_corpus_gives_no_rows() {
        let share = Share {
            beacon: Hash::ZERO,
            replica: 0,
            replicas: 1,
        };
        assert!(share.rows(Purpose::Train, 0, 8, 0).is_empty());
        assert_eq!(share.rows(Purpose::Train, u64::MAX, 2, 1), [0, 0]);
    }
}
