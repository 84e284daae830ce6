//! Finds P and Q for the low-rank codec: one step of power iteration from the Q of the round before.
//! PowerSGD, Algorithm 1 (arXiv:1905.13727).
//!
//! m rows, n columns, r columns of P and Q; P and Q column by column, where not said otherwise.
//!
//! ```text
//! P ← M · Q      m×r, in f32
//! P ← orthonormal columns, by modified Gram–Schmidt in f64
//! Q ← Mᵀ · P     n×r, in f32
//! ```
//!
//! Measured on 24 decaying directions and noise, as in the tests: Q of the P that a reader decodes, with or
//! without each column divided by ‖p̂‖², is no better: the error is the same within 0.1 %, since nearly all
//! that quantization adds comes from the four bits of Q. From pseudo-random columns, two steps leave 0.5 to
//! 0.7 of the error of one; a third leaves 0.93 to 0.98 of that.
//!
//! Threads do not change the result, but nobody relies on it: what a contribution holds is its author's
//! affair.

use super::{
    int4, int8,
    lowrank::REACH_MAX,
    panel::{LANES, Lanes, ROWS, four_rows, multiply},
};
use crate::{plan::TILE, real::magnitude_bits};
use rayon::prelude::*;

/// A column that keeps less than this of its length after projection is rounding error.
const DEGENERATE: f64 = 1e-8;

/// m, n and r.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) rank: usize,
}

/// P and Q as they are written, and what they showed.
pub(super) struct Factored {
    /// Q, then the bands of P: a piece for each part of the plan.
    pub(super) pieces: Vec<Vec<u8>>,
    /// Q, each column of length 1, or of 0 where there was nothing to find.
    pub(super) q: Vec<f32>,
    /// [`effective_rank`] of M.
    pub(super) effective_rank: f64,
}

/// Factors `m` from `q` on, in so many `steps` of power iteration, at least one.
pub(super) fn factor(m: &[f32], shape: Shape, mut q: Vec<f32>, steps: usize) -> Factored {
    let unit = unit(m);
    let mut p = orthonormal(times(m, shape, &q, unit), shape.rows);
    for _ in 1..steps {
        q = transposed_times(m, shape, &p, unit);
        normalize_columns(&mut q, shape.columns);
        p = orthonormal(times(m, shape, &q, unit), shape.rows);
    }
    let mut q = transposed_times(m, shape, &p, unit);
    let mut pieces = vec![written_factor(&q, shape, unit)];
    pieces.extend(written_bands(&by_rows(&p, shape), shape));
    let lengths = normalize_columns(&mut q, shape.columns);
    let more = shape.rows.min(shape.columns).saturating_sub(shape.rank);
    Factored {
        pieces,
        q,
        effective_rank: effective_rank(&lengths, square(m, unit), more),
    }
}

/// A power of two that brings the largest magnitude near 1, so that no product overflows; 0 where all are
/// 0 or subnormal.
fn unit(m: &[f32]) -> f32 {
    let largest = m
        .par_chunks(1 << 16)
        .map(|chunk| chunk.iter().fold(0, |largest, x| magnitude_bits(*x).max(largest)));
    match largest.max().unwrap_or(0) >> 23 {
        0 => 0.0,
        // The largest magnitudes leave 2^-126, the least 2^126.
        exponent => f32::from_bits((254 - exponent).clamp(1, 253) << 23),
    }
}

/// Four rows of `m` from `first` on, where only those up to the last one are taken.
fn band(m: &[f32], columns: usize, index: usize) -> &[f32] {
    let start = index * TILE * columns;
    &m[start..m.len().min(start + TILE * columns)]
}

/// M · Q · unit, row by row.
fn times(m: &[f32], shape: Shape, q: &[f32], unit: f32) -> Vec<f32> {
    let Shape { rows, columns, rank } = shape;
    let panels: Vec<Vec<Lanes>> = q
        .par_chunks(columns * LANES)
        .map(|eight| panel(eight, columns, unit))
        .collect();
    let mut p = vec![0.0; rows * rank];
    p.par_chunks_mut(TILE * rank).enumerate().for_each(|(index, out)| {
        let band = band(m, columns, index);
        for (four, out) in out.chunks_mut(ROWS * rank).enumerate() {
            let rows = padded_rows(band, columns, four * ROWS);
            for (panel, first) in panels.iter().zip((0..rank).step_by(LANES)) {
                let width = LANES.min(rank - first);
                for (out, sums) in out.chunks_mut(rank).zip(multiply(rows, panel)) {
                    out[first..first + width].copy_from_slice(&sums[..width]);
                }
            }
        }
    });
    p
}

/// Four rows; in place of one past the end, the first of them again, whose product nobody takes.
fn padded_rows(matrix: &[f32], columns: usize, first: usize) -> [&[f32]; ROWS] {
    let rows = four_rows(matrix, columns, first);
    rows.map(|row| if row.is_empty() { rows[0] } else { row })
}

/// Up to eight columns of `n` values, side by side.
fn panel(columns: &[f32], n: usize, unit: f32) -> Vec<Lanes> {
    let mut panel = vec![[0.0; LANES]; n];
    for (lane, column) in columns.chunks(n).enumerate() {
        for (row, x) in panel.iter_mut().zip(column) {
            row[lane] = x * unit;
        }
    }
    panel
}

/// Mᵀ · P · unit.
fn transposed_times(m: &[f32], shape: Shape, p: &[f64], unit: f32) -> Vec<f32> {
    let Shape { rows, columns, rank } = shape;
    let p: Vec<f32> = p.iter().map(|x| *x as f32).collect();
    let eights = (0..columns).into_par_iter().step_by(LANES).map(|first| {
        let width = LANES.min(columns - first);
        let panel: Vec<Lanes> = m
            .chunks(columns)
            .map(|row| lanes(&row[first..first + width], unit))
            .collect();
        let fours = (0..rank).step_by(ROWS);
        let sums = fours.flat_map(|k| multiply(padded_rows(&p, rows, k), &panel));
        (first, width, sums.take(rank).collect::<Vec<Lanes>>())
    });
    let mut q = vec![0.0; columns * rank];
    for (first, width, sums) in eights.collect::<Vec<_>>() {
        for (column, sums) in q.chunks_mut(columns).zip(sums) {
            column[first..first + width].copy_from_slice(&sums[..width]);
        }
    }
    q
}

/// Up to eight values times `unit`, then zeros.
fn lanes(values: &[f32], unit: f32) -> Lanes {
    let mut eight = [0.0; LANES];
    eight.iter_mut().zip(values).for_each(|(lane, x)| *lane = x * unit);
    eight
}

/// Σ a · b in f64, in eight lanes.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum()
}

/// `p` comes row by row and goes column by column, each column of length 1 and at right angles to those
/// before it; 0 where they leave nothing of it.
fn orthonormal(p: Vec<f32>, rows: usize) -> Vec<f64> {
    let rank = p.len() / rows;
    let mut columns: Vec<f64> = (0..rank)
        .flat_map(|k| p[k..].iter().step_by(rank).map(|x| f64::from(*x)))
        .collect();
    let lengths: Vec<f64> = columns.chunks(rows).map(|column| dot(column, column).sqrt()).collect();
    for (k, length) in lengths.iter().enumerate() {
        let (done, rest) = columns.split_at_mut((k + 1) * rows);
        let column = &mut done[k * rows..];
        let left = dot(column, column).sqrt();
        let factor = if left > DEGENERATE * length { 1.0 / left } else { 0.0 };
        column.iter_mut().for_each(|x| *x *= factor);
        let column = &*column;
        rest.par_chunks_mut(rows).for_each(|other| {
            let along = dot(column, other);
            other.iter_mut().zip(column).for_each(|(y, x)| *y -= along * x);
        });
    }
    columns
}

/// P row by row in f32, within ±1.
fn by_rows(columns: &[f64], shape: Shape) -> Vec<f32> {
    let mut p = vec![0.0; shape.rows * shape.rank];
    for (k, column) in columns.chunks(shape.rows).enumerate() {
        for (x, y) in p[k..].iter_mut().step_by(shape.rank).zip(column) {
            *x = y.clamp(-1.0, 1.0) as f32;
        }
    }
    p
}

/// The bands of P as bytes.
fn written_bands(p: &[f32], shape: Shape) -> Vec<Vec<u8>> {
    let bands = p.par_chunks(TILE * shape.rank).map(|band| {
        let mut bytes = Vec::new();
        int8::write(band, &mut bytes);
        bytes
    });
    bands.collect()
}

/// Q / unit as bytes, made smaller where P · Qᵀ could leave the range of f32.
fn written_factor(q: &[f32], shape: Shape, unit: f32) -> Vec<u8> {
    let largest = |column: &[f32]| column.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
    let reach: f64 = q.chunks(shape.columns).map(|column| f64::from(largest(column))).sum();
    let unit = if unit > 0.0 { f64::from(unit) } else { 1.0 };
    let factor = match reach / unit <= REACH_MAX {
        true => 1.0 / unit,
        false => REACH_MAX / 2.0 / reach,
    };
    let mut bytes = Vec::new();
    for column in q.chunks(shape.columns) {
        let column: Vec<f32> = column.iter().map(|x| (f64::from(*x) * factor) as f32).collect();
        int4::write(&column, &mut bytes);
    }
    bytes
}

/// Divides each column by its length; returns the lengths.
fn normalize_columns(q: &mut [f32], columns: usize) -> Vec<f64> {
    let lengths = q.chunks_mut(columns).map(|column| {
        let square: f64 = column.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let length = square.sqrt();
        let factor = if length > 0.0 { 1.0 / length } else { 0.0 };
        column.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
        length
    });
    lengths.collect()
}

/// The sum of the squares of M · unit.
fn square(m: &[f32], unit: f32) -> f64 {
    let chunks = m.par_chunks(1 << 16).map(|chunk| {
        let squares = chunk.iter().map(|x| f64::from(x * unit) * f64::from(x * unit));
        squares.sum::<f64>()
    });
    // in order, so that threads change nothing
    chunks.collect::<Vec<_>>().iter().sum()
}

/// exp of the entropy of σ / Σσ (DiLoCoX, arXiv:2506.21263), σ being singular values: the `lengths` of Q's
/// columns, and those that were not found, at most `more`. What those hold of `square`, the sum of all
/// squares, is taken to be in as many as are as large as the least one found: the rank could not grow again if
/// only what it holds were counted. 0 for M = 0.
fn effective_rank(lengths: &[f64], square: f64, more: usize) -> f64 {
    let found: f64 = lengths.iter().map(|length| length * length).sum();
    let least = lengths
        .iter()
        .copied()
        .filter(|length| *length > 0.0)
        .fold(f64::INFINITY, f64::min);
    // less than this is rounding error
    let rest = Some(square - found).filter(|rest| *rest > square * 1e-6).unwrap_or(0.0);
    let (count, each) = match (rest / (least * least)).min(more as f64) {
        count if count > 0.0 => (count, (rest / count).sqrt()),
        _ => (0.0, 0.0),
    };
    let sum = lengths.iter().sum::<f64>() + count * each;
    if sum <= 0.0 {
        return 0.0;
    }
    let part = |length: f64| {
        if length > 0.0 {
            -length / sum * (length / sum).ln()
        } else {
            0.0
        }
    };
    let entropy = lengths.iter().copied().map(part).sum::<f64>() + count * part(each);
    entropy.exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        codec::{lowrank, sink::Set},
        warm::Warm,
    };
    use rayon::ThreadPoolBuilder;

    /// Σ 0.8^k · u_k · v_kᵀ, u and v pseudo-random, and noise of the size `noise`.
    fn matrix(rows: usize, columns: usize, noise: f32, seed: usize) -> Vec<f32> {
        let draw = |tensor, count| Warm::default().start(tensor, count, 1).0;
        let mut m: Vec<f32> = draw(seed, rows * columns).iter().map(|x| x * noise).collect();
        for k in 0..24 {
            let (u, v) = (draw(1000 + k, rows), draw(2000 + k, columns));
            for (row, u) in m.chunks_mut(columns).zip(u) {
                for (x, v) in row.iter_mut().zip(&v) {
                    *x += 0.8f32.powi(k as i32) * u * v;
                }
            }
        }
        m
    }

    fn decoded(found: &Factored, shape: Shape) -> Vec<f32> {
        let Shape { rows, columns, rank } = shape;
        let (q, bands) = found.pieces.split_first().expect("Q");
        assert_eq!(lowrank::check_factor(q, columns, rank), Ok(q.len()));
        let mut m = vec![f32::NAN; rows * columns];
        for (band, out) in bands.iter().zip(m.chunks_mut(TILE * columns)) {
            assert_eq!(lowrank::check_band(band, out.len() / columns, rank), Ok(band.len()));
            lowrank::read(band, q, out.len(), (columns, rank), &mut Set(out));
        }
        m
    }

    fn squares(values: impl Iterator<Item = f32>) -> f64 {
        values.map(|x| f64::from(x).powi(2)).sum()
    }

    fn lost(m: &[f32], decoded: &[f32]) -> f64 {
        squares(m.iter().zip(decoded).map(|(x, y)| x - y)) / squares(m.iter().copied())
    }

    fn cold(m: &[f32], shape: Shape) -> Factored {
        factor(m, shape, Warm::default().start(0, shape.columns, shape.rank).0, 2)
    }

    #[test]
    fn rounds_that_go_on_find_the_largest_directions() {
        // Of the squares of 0.8^k, 0.64^r of the whole stand beyond rank r; int4 of Q adds 0.9 %.
        for (rows, columns, rank, least) in [(200, 256, 8, 0.028), (130, 301, 13, 0.003)] {
            let shape = Shape { rows, columns, rank };
            let m = matrix(rows, columns, 0.0, 0);
            let mut found = cold(&m, shape);
            let first = lost(&m, &decoded(&found, shape));
            for _ in 0..5 {
                found = factor(&m, shape, found.q, 1);
            }
            let last = lost(&m, &decoded(&found, shape));
            assert!(
                last < least + 0.01 && last <= first,
                "{rows}×{columns}, rank {rank}: {first}, then {last}"
            );
        }
    }

    #[test]
    fn the_effective_rank_is_that_of_the_lengths() {
        for (lengths, square, more, rank) in [
            (vec![2.0; 5], 20.0, 9, 5.0),
            (vec![2.0; 5], 32.0, 9, 8.0),
            (vec![2.0; 5], 32.0, 3, 8.0),
            (vec![2.0; 5], 60.0, 0, 5.0),
            (vec![3.0, 0.0], 9.0, 9, 1.0),
            (vec![0.0; 4], 0.0, 9, 0.0),
            (vec![], 0.0, 9, 0.0),
        ] {
            let found = effective_rank(&lengths, square, more);
            assert!((found - rank).abs() < 1e-12, "{lengths:?}, {square}: {found}");
        }
        let shape = Shape {
            rows: 150,
            columns: 140,
            rank: 30,
        };
        // Four directions alike.
        let mut m = vec![0.0; 150 * 140];
        (0..4).for_each(|k| m[k * 30 * 140 + k * 30] = 3e-4);
        let found = cold(&m, shape);
        assert!((found.effective_rank - 4.0).abs() < 1e-3, "{}", found.effective_rank);
        // So it is, nearly, where fewer can be found than there are.
        let narrow = cold(&m, Shape { rank: 2, ..shape });
        assert!((narrow.effective_rank - 4.0).abs() < 1e-3, "{}", narrow.effective_rank);
        assert!(lost(&m, &decoded(&found, shape)) < 0.05);
        // What was not found starts anew.
        let known = Warm::new(30, [(0, found.q)]).start(0, 140, 30).0;
        assert!(known.chunks(140).all(|column| column.iter().any(|x| *x != 0.0)));
    }

    #[test]
    fn threads_change_nothing() {
        let shape = Shape {
            rows: 300,
            columns: 333,
            rank: 11,
        };
        let m = matrix(300, 333, 0.3, 5);
        let on = |threads| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("pool");
            pool.install(|| cold(&m, shape))
        };
        let (one, three) = (on(1), on(3));
        assert_eq!((&one.pieces, &one.q), (&three.pieces, &three.q));
        assert_eq!(one.effective_rank, three.effective_rank);
    }

    #[test]
    fn the_ends_of_the_range_stay_finite() {
        let shape = Shape {
            rows: 70,
            columns: 140,
            rank: 5,
        };
        let plain = matrix(70, 140, 0.3, 1);
        let largest = plain.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        for scale in [f32::MAX / largest, 1e-30, f32::MIN_POSITIVE, 0.0] {
            let m: Vec<f32> = plain.iter().map(|x| x * scale).collect();
            let out = decoded(&cold(&m, shape), shape);
            assert!(out.iter().all(|x| x.is_finite()), "{scale}");
            let share = if scale == 1e-30 { 0.5 } else { 1.1 };
            assert!(scale == 0.0 || lost(&m, &out) < share, "{scale}: {}", lost(&m, &out));
        }
        let constant = vec![f32::MAX; 70 * 140];
        assert!(decoded(&cold(&constant, shape), shape).iter().all(|x| x.is_finite()));
    }
}
