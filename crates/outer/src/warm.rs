//! Where power iteration goes on in the next round: Q of every matrix that went as P · Qᵀ. A replica keeps
//! it with its error feedback; without it, it starts from pseudo-random columns.

use crate::{
    feedback::{FeedbackError, wrong},
    theta::{check_finite, read_f32, theta_bytes},
};
use std::collections::BTreeMap;

/// Q, column by column, by the tensor's index in the layout.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Warm {
    rank: usize,
    factors: BTreeMap<usize, Vec<f32>>,
}

/// Bytes of the two counts, and of the two numbers before each factor.
const COUNTS_BYTES: usize = 8;
/// What SplitMix64 counts by.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Warm {
    /// All factors of one round; each has `rank` columns.
    pub(crate) fn new(rank: usize, factors: impl IntoIterator<Item = (usize, Vec<f32>)>) -> Self {
        let factors = factors.into_iter().filter(|(_, q)| !q.is_empty()).collect();
        Self { rank, factors }
    }

    /// Q to start from for `tensor`, `rank` columns of `columns` values, and whether any of it was found in
    /// rounds before. Columns that were not, or that were 0, are pseudo-random, the same everywhere.
    pub(crate) fn start(&self, tensor: usize, columns: usize, rank: usize) -> (Vec<f32>, bool) {
        let known = self.factors.get(&tensor).filter(|q| q.len() == self.rank * columns);
        let mut known = known.map(Vec::as_slice).unwrap_or_default().chunks(columns);
        let mut any = false;
        let mut q = Vec::with_capacity(rank * columns);
        for k in 0..rank {
            match known.next().filter(|column| column.iter().any(|x| *x != 0.0)) {
                Some(column) => {
                    any = true;
                    q.extend_from_slice(column);
                }
                None => q.extend(noise((tensor as u64) << 32 | k as u64, columns)),
            }
        }
        (q, any)
    }

    /// Rank and number of factors (4 bytes each); of each factor, ascending by tensor, the tensor's index and
    /// the number of its columns (4 each) and Q's columns as f32; all little-endian.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&(self.rank as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.factors.len() as u32).to_le_bytes());
        for (tensor, q) in &self.factors {
            bytes.extend_from_slice(&(*tensor as u32).to_le_bytes());
            bytes.extend_from_slice(&((q.len() / self.rank.max(1)) as u32).to_le_bytes());
            bytes.extend_from_slice(&theta_bytes(q));
        }
        bytes
    }

    /// Reads what [`Warm::to_bytes`] wrote. Allocates no more than there are bytes.
    ///
    /// # Errors
    /// The first field that is wrong, from the start on.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, FeedbackError> {
        let (rank, count, mut rest) = two_numbers(bytes)?;
        let mut factors = BTreeMap::new();
        for _ in 0..count {
            let (tensor, columns, values) = two_numbers(rest)?;
            let least = factors.last_key_value().map_or(0, |(last, _)| last + 1);
            if tensor < least {
                return Err(wrong("tensor of a factor", tensor, format!("at least {least}")));
            }
            if rank == 0 || columns == 0 {
                return Err(wrong(
                    "size of a factor",
                    format!("{rank} · {columns}"),
                    "at least 1 · 1",
                ));
            }
            // Two numbers of 32 bits and a factor of 4: no overflow in 128 bits.
            let needed = rank as u128 * columns as u128 * 4;
            let place = usize::try_from(needed).ok();
            let (values, after) = place
                .and_then(|needed| values.split_at_checked(needed))
                .ok_or_else(|| wrong("bytes of a factor", values.len(), needed))?;
            let q: Vec<f32> = read_f32(values).collect();
            check_finite("factor", &q)?;
            factors.insert(tensor, q);
            rest = after;
        }
        match rest.len() {
            0 => Ok(Self { rank, factors }),
            more => Err(wrong("bytes after the last factor", more, 0)),
        }
    }
}

/// Two numbers of four bytes, and the rest.
fn two_numbers(bytes: &[u8]) -> Result<(usize, usize, &[u8]), FeedbackError> {
    let (eight, rest) = bytes
        .split_first_chunk::<COUNTS_BYTES>()
        .ok_or_else(|| wrong("bytes of two counts", bytes.len(), COUNTS_BYTES))?;
    let number = u64::from_le_bytes(*eight);
    Ok(((number & 0xffff_ffff) as usize, (number >> 32) as usize, rest))
}

/// Uniform values in −1 … 1: SplitMix64 (Steele, Lea, Flood 2014).
fn noise(seed: u64, count: usize) -> impl Iterator<Item = f32> {
    let mix = |z: u64| {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let seed = mix(seed.wrapping_add(GOLDEN));
    let counters = (1..=count as u64).map(move |i| seed.wrapping_add(i.wrapping_mul(GOLDEN)));
    counters.map(move |z| ((mix(z) >> 40) as i32 - (1 << 23)) as f32 / (1 << 23) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_are_known_are_taken_and_others_are_noise() {
        let warm = Warm::new(2, [(3, vec![1.0, 2.0, 0.0, 0.0]), (5, vec![])]);
        let (cold, any) = Warm::default().start(3, 2, 3);
        assert!(!any && cold.iter().all(|x| *x != 0.0 && x.abs() <= 1.0));
        let (q, any) = warm.start(3, 2, 3);
        assert!(any);
        assert_eq!(q, [&[1.0, 2.0], &cold[2..]].concat());
        assert_eq!(warm.start(3, 2, 1), (vec![1.0, 2.0], true));
        // Another tensor, or another shape.
        assert!(!warm.start(4, 2, 2).1 && !warm.start(3, 3, 2).1 && !warm.start(5, 2, 2).1);
    }

    #[test]
    fn bytes_round_trip_and_what_is_wrong_is_named() {
        let warm = Warm::new(2, [(3, vec![1.0, 2.0, -0.5, 0.0]), (7, vec![0.25; 2])]);
        let bytes = warm.to_bytes();
        assert_eq!(Warm::from_bytes(&bytes), Ok(warm));
        assert_eq!(Warm::from_bytes(&Warm::default().to_bytes()), Ok(Warm::default()));
        let changed = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            Warm::from_bytes(&bytes).map_err(|error| error.to_string())
        };
        let table = [
            (0, 255, "the error feedback's bytes of a factor is 32; 2040 is needed"),
            (
                0,
                0,
                "the error feedback's size of a factor is 0 · 2; at least 1 · 1 is needed",
            ),
            (
                4,
                1,
                "the error feedback's bytes after the last factor is 16; 0 is needed",
            ),
            (4, 3, "the error feedback's bytes of two counts is 0; 8 is needed"),
            (
                12,
                0,
                "the error feedback's size of a factor is 2 · 0; at least 1 · 1 is needed",
            ),
            (
                15,
                255,
                "the error feedback's bytes of a factor is 32; 34225520656 is needed",
            ),
            (
                32,
                3,
                "the error feedback's tensor of a factor is 3; at least 4 is needed",
            ),
            (19, 0x7f, "factor[0] is inf; only finite values are allowed"),
        ];
        for (at, value, text) in table {
            let error = changed(at, value).expect_err(text);
            assert!(error.starts_with(text), "{error}\n{text}");
        }
        for cut in 0..bytes.len() {
            assert!(Warm::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
