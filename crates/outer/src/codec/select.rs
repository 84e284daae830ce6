//! The k largest magnitudes of a tile, without sorting it.
//!
//! Neighbouring tiles are much alike: a little below the k-th magnitude of the tile before there are, most
//! of the time, somewhat more than k values of this one, which one pass gathers. Where there are not, a pass
//! counts exponents and the three highest bits of the fraction, and the counts say from where on to
//! gather. What was gathered is searched for the k-th. The result does not depend on the tile before.

use crate::real::magnitude_bits;

/// Magnitudes' low bits that do not choose a bin.
const BIN_SHIFT: u32 = 20;
/// Bins of finite magnitudes.
const BINS: usize = 0x7f80_0000 >> BIN_SHIFT;
/// The first bin of normal numbers; those below are never kept.
const NORMAL_BIN: usize = 0x0080_0000 >> BIN_SHIFT;

/// The share of the k-th magnitude from which on the next tile is gathered.
const MARGIN: f32 = 0.95;
/// More than so many times k are not worth searching: the guess was far off.
const GATHERED_MAX: usize = 4;

/// Counts kept of each bin.
const LANES: usize = 4;

/// Room for one selection.
pub(super) struct Scratch {
    /// Four counts of each bin, so that neighbours in one bin do not wait for each other.
    bins: [[u16; LANES]; BINS],
    /// What was gathered, in order of index.
    candidates: Vec<u16>,
    /// Its magnitudes and indices, so that no two are equal.
    ranks: Vec<u64>,
    /// From where on the next tile is gathered first; 0 where there is nothing to go by.
    guess: f32,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            bins: [[0; LANES]; BINS],
            candidates: Vec::new(),
            ranks: Vec::new(),
            guess: 0.0,
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
    if space.guess > 0.0 {
        gather(tile, space.guess, &mut space.candidates);
    }
    let gathered = space.candidates.len();
    if space.guess == 0.0 || gathered < k || gathered > GATHERED_MAX * k {
        let floor = floor(tile, k, &mut space.bins);
        gather(tile, floor, &mut space.candidates);
    }
    keep_largest(tile, k, space);
    let kept = space.candidates.iter().map(|at| tile[usize::from(*at)].abs());
    space.guess = match space.candidates.len() == k {
        true => kept.fold(f32::MAX, f32::min) * MARGIN,
        false => 0.0,
    };
    if !space.guess.is_normal() {
        space.guess = 0.0;
    }
    &space.candidates
}

/// A normal number at or above which there are `k` magnitudes, or all that are normal.
fn floor(tile: &[f32], k: usize, bins: &mut [[u16; LANES]; BINS]) -> f32 {
    bins.fill([0; LANES]);
    for values in tile.chunks(LANES) {
        for (lane, x) in values.iter().enumerate() {
            // Infinite magnitudes are refused before; the bound saves a check of the index.
            let count = &mut bins[bin(*x).min(BINS - 1)][lane];
            *count = count.wrapping_add(1);
        }
    }
    let mut above = 0;
    let mut least = BINS;
    while least > NORMAL_BIN && above < k {
        least -= 1;
        above += bins[least].iter().map(|count| usize::from(*count)).sum::<usize>();
    }
    f32::from_bits((least << BIN_SHIFT) as u32)
}

/// The indices of the magnitudes that are `floor` or more.
fn gather(tile: &[f32], floor: f32, indices: &mut Vec<u16>) {
    indices.clear();
    indices.resize(tile.len(), 0);
    let mut count = 0;
    for (index, x) in (0..).zip(tile) {
        // Always written and seldom kept: there is no branch to be guessed wrong.
        indices[count] = index;
        count += usize::from(x.abs() >= floor);
    }
    indices.truncate(count);
}

/// Keeps the `k` largest candidates.
fn keep_largest(tile: &[f32], k: usize, space: &mut Scratch) {
    let Scratch { candidates, ranks, .. } = space;
    let Some(surplus @ 1..) = candidates.len().checked_sub(k) else {
        return;
    };
    ranks.clear();
    ranks.extend(candidates.iter().map(|at| rank(tile[usize::from(*at)], *at)));
    let (_, last_dropped, _) = ranks.select_nth_unstable(surplus - 1);
    let last_dropped = *last_dropped;
    let mut count = 0;
    for from in 0..candidates.len() {
        let at = candidates[from];
        candidates[count] = at;
        count += usize::from(rank(tile[usize::from(at)], at) > last_dropped);
    }
    candidates.truncate(count);
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
            // After a tile of any other size: the guess is right, too low or too high.
            for scale in [1.0, 1.01, 1e-3, 1e3, 0.0, 1.0] {
                let next: Vec<f32> = tile.iter().map(|x| (x * scale).clamp(f32::MIN, f32::MAX)).collect();
                prop_assert_eq!(select(&next, k, &mut space), by_sorting(&next, k));
            }
        }
    }
}
