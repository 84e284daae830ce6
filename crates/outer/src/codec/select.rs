//! The k largest magnitudes of a tile, without sorting it.
//!
//! One pass counts exponents and the three highest bits of the fraction; the counts say in which bin
//! the k-th magnitude lies; one pass gathers the values in that bin and above; only the bin itself is
//! searched for the k-th.

use crate::real::magnitude_bits;

/// Magnitudes' low bits that do not choose a bin.
const BIN_SHIFT: u32 = 20;
/// Bins of finite magnitudes.
const BINS: usize = 0x7f80_0000 >> BIN_SHIFT;
/// The first bin of normal numbers; those below are never kept.
const NORMAL_BIN: usize = 0x0080_0000 >> BIN_SHIFT;

/// Counts kept of each bin.
const LANES: usize = 4;

/// Room for one selection.
pub(super) struct Scratch {
    /// Four counts of each bin, so that neighbours in one bin do not wait for each other.
    bins: [[u16; LANES]; BINS],
    /// What is in the k-th magnitude's bin and above, in order of index.
    candidates: Vec<u16>,
    /// Of those in the bin itself: magnitude and index, so that no two are equal.
    ties: Vec<u64>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            bins: [[0; LANES]; BINS],
            candidates: Vec::new(),
            ties: Vec::new(),
        }
    }
}

fn bin(x: f32) -> usize {
    (magnitude_bits(x) >> BIN_SHIFT) as usize
}

/// Larger magnitudes first, then smaller indices.
fn rank(x: f32, index: u16) -> u64 {
    u64::from(magnitude_bits(x)) << 16 | u64::from(!index)
}

/// The indices, ascending, of the `k` largest magnitudes of `tile`: of equal ones those with the least
/// index; fewer than `k` where there are fewer normal numbers. `tile` has at most 65535 values, all finite.
pub(super) fn select<'a>(tile: &[f32], k: usize, space: &'a mut Scratch) -> &'a [u16] {
    space.bins.fill([0; LANES]);
    for values in tile.chunks(LANES) {
        for (lane, x) in values.iter().enumerate() {
            // Infinite magnitudes are refused before; the bound saves a check of the index.
            let count = &mut space.bins[bin(*x).min(BINS - 1)][lane];
            *count = count.wrapping_add(1);
        }
    }
    let mut above = 0;
    let mut least = BINS;
    while least > NORMAL_BIN && above < k {
        least -= 1;
        above += space.bins[least].iter().map(|count| usize::from(*count)).sum::<usize>();
    }
    let surplus = above.saturating_sub(k);
    space.candidates.clear();
    let floor = (least << BIN_SHIFT) as u32;
    for (chunk, values) in tile.chunks(16).enumerate() {
        // Most chunks hold none; this test vectorizes.
        if values.iter().fold(0, |largest, x| magnitude_bits(*x).max(largest)) < floor {
            continue;
        }
        let indices = (chunk as u16 * 16..).zip(values);
        space.candidates.extend(
            indices
                .filter(|(_, x)| magnitude_bits(**x) >= floor)
                .map(|(index, _)| index),
        );
    }
    if surplus > 0 {
        drop_least(tile, surplus, least, space);
    }
    &space.candidates
}

/// Drops the `surplus` least candidates; all of them are in the bin `least`.
fn drop_least(tile: &[f32], surplus: usize, least: usize, space: &mut Scratch) {
    let Scratch { candidates, ties, .. } = space;
    ties.clear();
    let in_bin = candidates.iter().filter(|at| bin(tile[usize::from(**at)]) == least);
    ties.extend(in_bin.map(|at| rank(tile[usize::from(*at)], *at)));
    let (_, last_dropped, _) = ties.select_nth_unstable(surplus - 1);
    let last_dropped = *last_dropped;
    candidates.retain(|at| rank(tile[usize::from(*at)], *at) > last_dropped);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_sorting(tile: &[f32], k: usize) -> Vec<u16> {
        let mut order: Vec<u16> = (0..tile.len() as u16)
            .filter(|at| tile[usize::from(*at)].is_normal())
            .collect();
        order.sort_by(|a, b| {
            let magnitude = |at: &u16| tile[usize::from(*at)].abs();
            magnitude(b).total_cmp(&magnitude(a)).then(a.cmp(b))
        });
        order.truncate(k);
        order.sort_unstable();
        order
    }

    #[test]
    fn of_equal_magnitudes_the_first_are_kept() {
        let mut space = Scratch::default();
        assert_eq!(select(&[1.0, -1.0, 1.0, 2.0, -1.0], 3, &mut space), [0, 1, 3]);
        assert_eq!(select(&[0.0, -0.0, 1e-40, f32::MIN_POSITIVE], 3, &mut space), [3]);
        assert_eq!(select(&[f32::MAX, f32::MIN, 1.0], 2, &mut space), [0, 1]);
    }

    proptest! {
        #[test]
        fn selects_what_sorting_selects(
            tile in prop::collection::vec(
                prop_oneof![
                    any::<f32>().prop_filter("finite", |x| x.is_finite()),
                    -1f32..1.0,
                    (-4i32..4).prop_map(|x| x as f32),
                ],
                1..300,
            ),
            k in 1usize..300,
        ) {
            let k = k.min(tile.len());
            let mut space = Scratch::default();
            prop_assert_eq!(select(&tile, k, &mut space), by_sorting(&tile, k));
        }
    }
}
