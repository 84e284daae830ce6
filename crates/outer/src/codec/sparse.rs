//! The largest values of every tile, in two bits each, and where they stand. After SparseLoCo
//! (arXiv:2508.15706): chunks of 4096, top-k by magnitude, two bits with bin means as levels.
//!
//! A part is a band of up to 64 rows, cut into tiles of up to 64 columns, left to right. A tile of n
//! values keeps at most max(1, ⌊k · n / 4096⌋) of them, the largest magnitudes; of equal ones the
//! first, row by row. Zeros and subnormals are never kept. For c kept values the tile's bytes are:
//!
//! | Bytes | What |
//! | --- | --- |
//! | 2 | c; nothing follows where it is 0 |
//! | 8 | four levels as bf16: small positive, large positive, small negative, large negative |
//! | ⌈c / 4⌉ | the levels' numbers, two bits each, in the order of the indices, lowest bits first |
//! | the rest | the gaps between the ascending indices, Rice-coded with b = ⌊log2 ⌊n / c⌋⌋ |
//!
//! An index is row · columns + column within the tile; the first gap is the first index, each other
//! gap is the difference to the index before, less 1. Rice codes take fewer than b + 3 bits a value, so
//! fixed indices of 12 bits would be shorter only where less than one value in 1023 is kept; there is
//! no other form.
//!
//! The values of one sign are divided in small and large so that the squared error is least, and a
//! level is the mean of its values. One tile has one encoding: a level that no value uses is 0, large is used only beside small and is
//! larger, and padding is 0.

use super::{
    Flaw,
    bits::{BitReader, BitWriter},
};
use crate::{
    codec::select::select,
    plan::TILE,
    real::{from_bf16, magnitude_bits, to_bf16},
};

/// Values in a full tile.
const TILE_LEN: usize = TILE * TILE;
/// Bytes of c.
const COUNT_BYTES: usize = 2;
/// Bytes of the levels.
const LEVEL_BYTES: usize = 8;
/// Added to a level's number where it is negative.
const NEGATIVE: usize = 2;

const _: () = assert!(TILE_LEN < 1 << (8 * COUNT_BYTES));

/// Where a thread keeps what a tile needs, to use it again for the next tile.
#[derive(Default)]
pub(crate) struct Scratch {
    tile: Vec<f32>,
    pub(super) select: super::select::Scratch,
    magnitudes: Vec<u32>,
}

/// The tiles of a band: first column and columns of each.
fn tiles(columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..columns)
        .step_by(TILE)
        .map(move |first| (first, TILE.min(columns - first)))
}

/// How many of a tile's `n` values are kept.
fn keep(k: u32, n: usize) -> usize {
    (k as usize * n / TILE_LEN).clamp(1, n)
}

/// Rice's parameter for `count` indices among `n`; 0 < count ≤ n.
fn rice_parameter(count: usize, n: usize) -> u32 {
    (n / count).ilog2()
}

/// The most bytes that a band of `len` values can take.
pub(super) fn bytes_max(len: usize, columns: usize, k: u32) -> u64 {
    let rows = len / columns;
    tiles(columns)
        .map(|(_, width)| {
            let n = rows * width;
            let count = keep(k, n);
            // The quotients sum to n / 2^b at most. The bound grows with the count, so `count` is the worst.
            let b = rice_parameter(count, n);
            let gap_bits = count * (b as usize + 1) + n.div_ceil(1 << b);
            (COUNT_BYTES + LEVEL_BYTES + count.div_ceil(4) + gap_bits.div_ceil(8)) as u64
        })
        .sum()
}

pub(super) fn write(values: &[f32], columns: usize, k: u32, scratch: &mut Scratch) -> Vec<u8> {
    let mut out = Vec::new();
    for (first, width) in tiles(columns) {
        scratch.tile.clear();
        for row in values.chunks_exact(columns) {
            scratch.tile.extend_from_slice(&row[first..first + width]);
        }
        write_tile(k, scratch, &mut out);
    }
    out
}

fn write_tile(k: u32, scratch: &mut Scratch, out: &mut Vec<u8>) {
    let Scratch {
        tile,
        select: space,
        magnitudes,
    } = scratch;
    let kept = select(tile, keep(k, tile.len()), space);
    out.extend_from_slice(&(kept.len() as u16).to_le_bytes());
    if kept.is_empty() {
        return;
    }
    let sides = [false, true].map(|negative| {
        let side = kept
            .iter()
            .map(|at| tile[usize::from(*at)])
            .filter(|x| (*x < 0.0) == negative);
        magnitudes.clear();
        magnitudes.extend(side.map(magnitude_bits));
        codebook(magnitudes)
    });
    for (side, sign) in sides.iter().zip([0, 0x8000]) {
        for level in [side.small, side.large] {
            let signed = if level == 0 { 0 } else { level | sign };
            out.extend_from_slice(&signed.to_le_bytes());
        }
    }
    let mut codes = BitWriter::new(out);
    for at in kept {
        let x = tile[usize::from(*at)];
        let negative = x < 0.0;
        let large = magnitude_bits(x) >= sides[usize::from(negative)].large_from;
        codes.push(u32::from(large) | u32::from(negative) << 1, 2);
    }
    codes.finish();
    let b = rice_parameter(kept.len(), tile.len());
    let mut gaps = BitWriter::new(out);
    let mut next = 0;
    for at in kept {
        gaps.push_rice(u32::from(*at) - next, b);
        next = u32::from(*at) + 1;
    }
    gaps.finish();
}

/// The two levels of one sign.
#[derive(Debug, PartialEq)]
struct Side {
    /// Magnitudes as bf16; 0 where unused.
    small: u16,
    large: u16,
    /// The bits of the least large magnitude.
    large_from: u32,
}

/// Divides the magnitudes, given as bits, in two so that the squared error to the two means is least;
/// of equally good divisions takes the one with most large values. Sums run in f64 over ascending
/// magnitudes; a mean is rounded to f32, then to bf16. Where that makes both levels equal, all are small.
fn codebook(magnitudes: &mut [u32]) -> Side {
    magnitudes.sort_unstable();
    let count = magnitudes.len();
    let sum: f64 = magnitudes.iter().map(|bits| f64::from(f32::from_bits(*bits))).sum();
    let level = |sum: f64, count: usize| to_bf16((sum / count as f64) as f32);
    let one = Side {
        small: if count == 0 { 0 } else { level(sum, count) },
        large: 0,
        large_from: u32::MAX,
    };
    // Least squared error is largest Σ² / count, summed over both.
    let mut best: Option<(f64, usize, f64)> = None;
    let mut below = 0.0;
    for split in 1..count {
        below += f64::from(f32::from_bits(magnitudes[split - 1]));
        if magnitudes[split - 1] == magnitudes[split] {
            continue;
        }
        let above = sum - below;
        let score = below * below / split as f64 + above * above / (count - split) as f64;
        if best.is_none_or(|(least, ..)| score > least) {
            best = Some((score, split, below));
        }
    }
    let Some((_, split, below)) = best else { return one };
    let (small, large) = (level(below, split), level(sum - below, count - split));
    match small < large {
        true => Side {
            small,
            large,
            large_from: magnitudes[split],
        },
        false => one,
    }
}

/// Reads the band that starts `bytes`, calls `visit` with the place in the band and the value of all
/// that was kept, and returns how many bytes the band takes.
pub(super) fn read(
    bytes: &[u8],
    len: usize,
    columns: usize,
    k: u32,
    mut visit: impl FnMut(usize, f32),
) -> Result<usize, Flaw> {
    let rows = len / columns;
    let mut taken = 0;
    for (first, width) in tiles(columns) {
        let rest = bytes.get(taken..).ok_or(Flaw::Short)?;
        let place = |index| first + index / width * columns + index % width;
        taken += read_tile(rest, rows * width, k, |index, value| visit(place(index), value))?;
    }
    Ok(taken)
}

fn read_tile(bytes: &[u8], n: usize, k: u32, mut visit: impl FnMut(usize, f32)) -> Result<usize, Flaw> {
    let (count, rest) = bytes.split_first_chunk().ok_or(Flaw::Short)?;
    let (count, max) = (usize::from(u16::from_le_bytes(*count)), keep(k, n));
    if count > max {
        return Err(Flaw::Count { got: count, max });
    }
    if count == 0 {
        return Ok(COUNT_BYTES);
    }
    let (levels, rest) = rest.split_first_chunk::<LEVEL_BYTES>().ok_or(Flaw::Short)?;
    let level = |at: usize| from_bf16(u16::from_le_bytes([levels[2 * at], levels[2 * at + 1]]));
    let levels = [level(0), level(1), level(2), level(3)];
    let (codes, rest) = rest.split_at_checked(count.div_ceil(4)).ok_or(Flaw::Short)?;
    let mut gaps = BitReader::new(rest);
    let b = rice_parameter(count, n);
    let mut used = [false; 4];
    let mut next = 0;
    for at in 0..count {
        let index = next + gaps.rice(b, n).ok_or(Flaw::Index(n))?;
        if index >= n {
            return Err(Flaw::Index(n));
        }
        let code = usize::from(codes[at / 4] >> (at % 4 * 2) & 3);
        used[code] = true;
        visit(index, levels[code]);
        next = index + 1;
    }
    check_levels(levels, used)?;
    let padding = codes.last().map_or(0, |last| last >> ((count - 1) % 4 * 2) >> 2);
    let (gap_bytes, gaps_padded) = gaps.finish().ok_or(Flaw::Short)?;
    match padding == 0 && gaps_padded {
        true => Ok(COUNT_BYTES + LEVEL_BYTES + codes.len() + gap_bytes),
        false => Err(Flaw::Padding),
    }
}

/// Whether the codebook is the one way to write these levels.
fn check_levels(levels: [f32; 4], used: [bool; 4]) -> Result<(), Flaw> {
    for number in 0..levels.len() {
        let level = levels[number];
        let fits = match used[number] {
            true => level.is_normal() && level.is_sign_negative() == (number >= NEGATIVE),
            false => level.to_bits() == 0,
        };
        if !fits {
            return Err(if level.is_finite() {
                Flaw::Level(level)
            } else {
                Flaw::NonFinite(level)
            });
        }
    }
    for small in [0, NEGATIVE] {
        let large = levels[small + 1];
        if used[small + 1] && !(used[small] && large.abs() > levels[small].abs()) {
            return Err(Flaw::Level(large));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(values: &[f32]) -> (f32, f32) {
        let mut bits: Vec<u32> = values.iter().map(|x| x.to_bits()).collect();
        let side = codebook(&mut bits);
        (from_bf16(side.small), from_bf16(side.large))
    }

    #[test]
    fn a_sign_is_divided_where_the_error_is_least() {
        let table: [(&[f32], (f32, f32)); 8] = [
            (&[], (0.0, 0.0)),
            (&[3.0], (3.0, 0.0)),
            (&[3.0, 3.0], (3.0, 0.0)),
            (&[8.0, 3.0], (3.0, 8.0)),
            (&[10.0, 1.0, 2.0, 12.0, 3.0], (2.0, 11.0)),
            (&[1.0, 2.0, 3.0], (1.0, 2.5)),
            // Both means round to the same bf16.
            (&[1.0, 1.0 + f32::EPSILON], (1.0, 0.0)),
            (&[f32::MAX, f32::MIN_POSITIVE], (f32::MIN_POSITIVE, from_bf16(0x7f7f))),
        ];
        for (values, levels) in table {
            assert_eq!(side(values), levels, "{values:?}");
        }
    }

    #[test]
    fn bands_are_read_back_with_their_edges() {
        let (rows, columns) = (3, 2 * TILE + 5);
        let mut values = vec![0.0; rows * columns];
        for (place, value) in [
            (0, 1.0),
            (columns - 1, -2.0),
            (columns + TILE, 4.0),
            (rows * columns - 1, -2.0),
        ] {
            values[place] = value;
        }
        let bytes = write(&values, columns, 4096, &mut Scratch::default());
        assert!(bytes.len() as u64 <= bytes_max(values.len(), columns, 4096));
        let mut read_back = vec![0.0; values.len()];
        let taken = read(&bytes, values.len(), columns, 4096, |at, value| read_back[at] = value);
        assert_eq!((taken, read_back), (Ok(bytes.len()), values));
    }

    #[test]
    fn a_tile_has_one_encoding() {
        // Eight values, of which 3 and 5 are kept: 1.0 and 2.0, b = 2, gaps 3 and 1.
        let tile = |levels: [u16; 4], codes: u8, gaps: u8| {
            let mut bytes = vec![2, 0];
            levels
                .iter()
                .for_each(|level| bytes.extend_from_slice(&level.to_le_bytes()));
            bytes.extend_from_slice(&[codes, gaps]);
            bytes
        };
        let (one, two, minus_one) = (0x3f80, 0x4000, 0xbf80);
        let good = [one, two, 0, 0];
        let gaps = 0b0010_0110;
        let table = [
            (tile(good, 0b0100, gaps), Ok(12)),
            (tile(good, 0b0100, gaps | 0x80), Err(Flaw::Padding)),
            (tile(good, 0b1_0100, gaps), Err(Flaw::Padding)),
            (tile(good, 0b0100, 0xff), Err(Flaw::Index(8))),
            (tile(good, 0b0000, gaps), Err(Flaw::Level(2.0))),
            (tile([two, one, 0, 0], 0b0100, gaps), Err(Flaw::Level(1.0))),
            (tile([one, one, 0, 0], 0b0100, gaps), Err(Flaw::Level(1.0))),
            (tile([0, two, 0, 0], 0b0101, gaps), Err(Flaw::Level(2.0))),
            (tile([minus_one, 0, 0, 0], 0b0000, gaps), Err(Flaw::Level(-1.0))),
            (tile([0, 0, minus_one, 0], 0b1010, gaps), Ok(12)),
            (tile([0, 0, 0x8000, 0], 0b1010, gaps), Err(Flaw::Level(-0.0))),
            (tile([1, 0, 0, 0], 0b0000, gaps), Err(Flaw::Level(from_bf16(1)))),
            (
                tile([0x7f80, 0, 0, 0], 0b0000, gaps),
                Err(Flaw::NonFinite(f32::INFINITY)),
            ),
            (tile(good, 0b0100, gaps)[..11].to_vec(), Err(Flaw::Short)),
            (vec![9, 0], Err(Flaw::Count { got: 9, max: 8 })),
            (vec![0, 0], Ok(2)),
            (vec![0], Err(Flaw::Short)),
        ];
        for (bytes, expected) in table {
            assert_eq!(read_tile(&bytes, 8, 4096, |_, _| ()), expected, "{bytes:x?}");
        }
    }
}
