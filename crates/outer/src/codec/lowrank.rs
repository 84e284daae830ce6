//! A matrix M of m rows and n columns as P · Qᵀ, with r columns in P and Q. PowerSGD (arXiv:1905.13727),
//! in few bits after DiLoCoX (arXiv:2506.21263). How P and Q are found is said in `factor.rs`; here is
//! how they are written.
//!
//! A matrix goes so if r < min(m, n) and its bytes are fewer than in int4; other matrices, and
//! embeddings, whose rows have little to do with each other, go as int4. The payload of such a matrix is:
//!
//! | What | How |
//! | --- | --- |
//! | Q | column by column, n values each as int4: blocks do not cross columns, which differ in size by orders of magnitude |
//! | P | in bands of up to 64 rows of M, each band row by row, r values a row, as int8: P's columns are all of length 1, so values that stand side by side are of a size |
//!
//! M\[i\]\[j\] is Σ P\[i\]\[k\] · Q\[j\]\[k\], from +0 on, k ascending, each product and each sum rounded to
//! f32. So that this is finite, the scales of P are at most 1, and the largest magnitudes of Q's columns,
//! summed over the columns, are at most 2^127.

use super::{
    Flaw,
    block::{BLOCK, blocks},
    int4, int8,
    panel::{LANES, Lanes, ROWS, four_rows, multiply},
    sink::{Set, Sink},
};
use crate::plan::TILE;

/// The most that the largest magnitudes of Q's columns may sum to: rounding adds far less than as much again.
pub(super) const REACH_MAX: f64 = (1u128 << 127) as f64;

/// Bytes of Q.
pub(crate) fn factor_bytes(columns: usize, rank: usize) -> usize {
    rank * int4::bytes(columns)
}

/// Bytes of a band of P.
pub(crate) fn band_bytes(rows: usize, rank: usize) -> usize {
    int8::bytes(rows * rank)
}

/// Whether a matrix is written as P · Qᵀ.
pub(crate) fn pays(rows: usize, columns: usize, rank: usize) -> bool {
    let bands = rows / TILE * band_bytes(TILE, rank) + band_bytes(rows % TILE, rank);
    rank < rows.min(columns) && factor_bytes(columns, rank) + bands < int4::bytes(rows * columns)
}

/// Checks Q; returns the bytes it takes.
pub(super) fn check_factor(given: &[u8], columns: usize, rank: usize) -> Result<usize, Flaw> {
    let given = given.get(..factor_bytes(columns, rank)).ok_or(Flaw::Short)?;
    let mut reach = 0.0;
    for column in given.chunks(int4::bytes(columns)) {
        int4::check(column, columns)?;
        let scales = blocks(column, columns, int4::CODE_BYTES).map(|(scale, ..)| scale);
        reach += f64::from(scales.fold(0.0, f32::max));
    }
    match reach <= REACH_MAX {
        true => Ok(given.len()),
        false => Err(Flaw::Reach(reach)),
    }
}

/// Checks a band of P; returns the bytes it takes.
pub(super) fn check_band(given: &[u8], rows: usize, rank: usize) -> Result<usize, Flaw> {
    let taken = int8::check(given, rows * rank)?;
    let mut scales = blocks(&given[..taken], rows * rank, BLOCK).map(|(scale, ..)| scale);
    match scales.find(|scale| *scale > 1.0) {
        None => Ok(taken),
        Some(scale) => Err(Flaw::Length(scale)),
    }
}

/// A block of one column of Q on its way into the panels of all columns.
struct Column<'a> {
    panels: &'a mut [Lanes],
    rank: usize,
    k: usize,
}

impl Sink for Column<'_> {
    fn run(&mut self, _: usize, values: &[f32]) {
        let rows = self.panels.iter_mut().skip(self.k).step_by(self.rank);
        for (row, values) in rows.zip(values.chunks(LANES)) {
            row[..values.len()].copy_from_slice(values);
        }
    }
    fn one(&mut self, at: usize, value: f32) {
        self.run(at, &[value]);
    }
}

/// Decodes a band of `len` elements of M from `band`, its rows of P, and `factor`, all of Q.
pub(super) fn read(band: &[u8], factor: &[u8], len: usize, (columns, rank): (usize, usize), sink: &mut impl Sink) {
    let rows = len / columns;
    let mut p = vec![0.0; rows.next_multiple_of(ROWS) * rank];
    int8::read(band, rows * rank, &mut Set(&mut p));
    let mut panels = vec![[0.0; LANES]; BLOCK / LANES * rank];
    for first in (0..columns).step_by(BLOCK) {
        let width = BLOCK.min(columns - first);
        for k in 0..rank {
            let start = k * int4::bytes(columns) + int4::bytes(first);
            let block = factor.get(start..start + int4::bytes(width)).unwrap_or_default();
            let panels = &mut panels;
            int4::read(block, width, &mut Column { panels, rank, k });
        }
        for row in (0..rows).step_by(ROWS) {
            let four = four_rows(&p, rank, row);
            let mut values = [[0.0; BLOCK]; ROWS];
            for (chunk, panel) in panels.chunks_exact(rank).enumerate().take(width.div_ceil(LANES)) {
                for (values, sums) in values.iter_mut().zip(multiply(four, panel)) {
                    values[chunk * LANES..][..LANES].copy_from_slice(&sums);
                }
            }
            for (row, values) in (row..rows).zip(&values) {
                sink.run(row * columns + first, &values[..width]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_matrices_do_not_pay() {
        let table = [
            ((64, 64, 1), true),
            ((64, 64, 64), false),
            ((2, 300, 1), true),
            ((2, 300, 2), false),
            ((4096, 4096, 1024), true),
            ((1024, 1024, 400), false),
            ((1, 1, 1), false),
        ];
        for ((rows, columns, rank), expected) in table {
            assert_eq!(pays(rows, columns, rank), expected, "{rows}×{columns}, rank {rank}");
        }
    }

    #[test]
    fn factors_out_of_range_are_refused() {
        // Two columns of one value each.
        let column = |scale: f32| [&scale.to_le_bytes()[..], &[15]].concat();
        let q = |a, b| check_factor(&[column(a), column(b)].concat(), 1, 2);
        assert_eq!(q(1.0, 2.0), Ok(10));
        let half = 2f32.powi(126);
        assert_eq!(q(half, half), Ok(10));
        let above = half * (1.0 + f32::EPSILON);
        assert_eq!(q(half, above), Err(Flaw::Reach(f64::from(half) + f64::from(above))));
        assert!(matches!(q(f32::MAX, f32::MAX), Err(Flaw::Reach(_))));
        assert_eq!(
            q(f32::NAN, 1.0).map_err(|flaw| flaw.to_string()),
            Err("scale NaN is not 0 or a positive normal number".into())
        );
        assert_eq!(check_factor(&column(1.0), 1, 2), Err(Flaw::Short));
        let band = |scale: f32| [&scale.to_le_bytes()[..], &[127, 1]].concat();
        assert_eq!(check_band(&band(1.0), 1, 2), Ok(6));
        let above = 1.0 + f32::EPSILON;
        assert_eq!(check_band(&band(above), 1, 2), Err(Flaw::Length(above)));
        assert_eq!(check_band(&band(1.0)[..5], 1, 2), Err(Flaw::Short));
    }

    #[test]
    fn bytes_that_changed_after_the_check_do_no_harm() {
        let mut values = vec![1.0; 3 * 200];
        read(&[0; 5], &[1, 2, 3], values.len(), (200, 2), &mut Set(&mut values));
        assert!(values.iter().all(|x| *x == 0.0));
    }
}
