//! Four bits a value: blocks of 128 consecutive values of a tensor (the last may be shorter).
//!
//! A block is its largest magnitude s as f32, then a code a value, two in a byte, the first in the low
//! half; an odd last half is 0. A code c stands for the f32 product LEVELS\[c\] · s. The codes are those
//! of 4-bit NormalFloat (QLoRA, arXiv:2305.14314): quantiles of the normal distribution, with an exact 0.
//! On normal, Laplace and Student-t values the squared error is 0.66, 0.50 and 0.44 of that of the
//! evenly spaced codes −7…7 with the same scale; a Gaussian Lloyd-Max table on the deviation is no
//! better and cuts outliers off (`golden/int4.py`).
//!
//! One block has one encoding: s is 0 and all codes are 7, or s is a normal number and some code is 0
//! or 15, that is ±s. A block whose values are all subnormal is written as zeros.

use super::{
    Flaw,
    block::{BLOCK, SCALE_BYTES, blocks, is_zero, scale_of},
    sink::Sink,
};

/// Bytes of a whole block's codes.
pub(super) const CODE_BYTES: usize = BLOCK / 2;
/// The code of 0.
const ZERO: u8 = 7;
/// The codes of −1 and 1.
const ENDS: [u8; 2] = [0, 15];

/// What the codes stand for, ascending.
#[rustfmt::skip]
const LEVELS: [f32; 16] = [
    -1.0, -0.696_192_8, -0.525_073_05, -0.394_917_5, -0.284_441_38, -0.184_773_43, -0.091_050_036, 0.0,
    0.079_580_3, 0.160_930_2, 0.246_112_3, 0.337_915_24, 0.440_709_83, 0.562_617, 0.722_956_84, 1.0,
];

/// Half-way between neighbouring levels, in f32. A value above `MIDDLES[c]` gets a code above c.
const MIDDLES: [f32; 15] = {
    let mut middles = [0.0; 15];
    let mut c = 0;
    while c < 15 {
        middles[c] = (LEVELS[c] + LEVELS[c + 1]) * 0.5;
        c += 1;
    }
    middles
};

/// Bytes of `len` values.
pub(crate) fn bytes(len: usize) -> usize {
    len.div_ceil(BLOCK) * SCALE_BYTES + len / BLOCK * CODE_BYTES + (len % BLOCK).div_ceil(2)
}

/// Appends `values`.
pub(super) fn write(values: &[f32], out: &mut Vec<u8>) {
    out.reserve(bytes(values.len()));
    for block in values.chunks(BLOCK) {
        let scale = scale_of(block);
        out.extend_from_slice(&scale.to_le_bytes());
        let mut codes = [0; BLOCK];
        encode(block, scale, &mut codes);
        let pairs = codes[..block.len().next_multiple_of(2)].chunks_exact(2);
        out.extend(pairs.map(|pair| pair[0] | pair[1] << 4));
    }
}

/// The codes of the levels nearest to each `x / scale`; half-way goes to the lower one.
fn encode(block: &[f32], scale: f32, codes: &mut [u8; BLOCK]) {
    for (code, x) in codes.iter_mut().zip(block) {
        let y = x / scale;
        // The sum of comparisons has no branch, so it vectorizes; 15 cannot overflow.
        let below = MIDDLES
            .iter()
            .fold(0u32, |below, middle| below.wrapping_add(u32::from(y > *middle)));
        *code = if scale == 0.0 { ZERO } else { below as u8 };
    }
}

pub(super) fn check(given: &[u8], len: usize) -> Result<usize, Flaw> {
    let given = given.get(..bytes(len)).ok_or(Flaw::Short)?;
    for (scale, codes, count) in blocks(given, len, CODE_BYTES) {
        let zero = is_zero(scale)?;
        let (full, last) = codes.split_at(count / 2);
        let halves = || {
            full.iter()
                .flat_map(|byte| [byte & 15, byte >> 4])
                .chain(last.iter().map(|byte| byte & 15))
        };
        let fits = match zero {
            true => halves().all(|code| code == ZERO),
            false => halves().any(|code| ENDS.contains(&code)),
        };
        if !fits {
            return Err(Flaw::Codes(scale));
        }
        if last.iter().any(|byte| byte >> 4 != 0) {
            return Err(Flaw::Padding);
        }
    }
    Ok(given.len())
}

pub(super) fn read(bytes: &[u8], len: usize, sink: &mut impl Sink) {
    let mut at = 0;
    let mut values = [0.0; BLOCK];
    for (scale, codes, count) in blocks(bytes, len, CODE_BYTES) {
        let levels = LEVELS.map(|level| level * scale);
        for (pair, byte) in values.chunks_exact_mut(2).zip(codes) {
            pair[0] = levels[usize::from(byte & 15)];
            pair[1] = levels[usize::from(byte >> 4)];
        }
        sink.run(at, &values[..count]);
        at += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::sink::Set;

    fn round_trip(values: &[f32]) -> Vec<f32> {
        let mut written = Vec::new();
        write(values, &mut written);
        assert_eq!(written.len(), bytes(values.len()));
        assert_eq!(check(&written, values.len()), Ok(written.len()));
        let mut back = vec![f32::NAN; values.len()];
        read(&written, values.len(), &mut Set(&mut back));
        back
    }

    #[test]
    fn levels_times_a_scale_come_back_exactly() {
        for scale in [1.0, 3.7e-5, f32::MIN_POSITIVE, f32::MAX] {
            let values: Vec<f32> = LEVELS
                .iter()
                .cycle()
                .take(BLOCK + 17)
                .map(|level| level * scale)
                .collect();
            // Levels times the least normal number are subnormal, and still themselves.
            assert_eq!(round_trip(&values), values, "{scale}");
        }
    }

    #[test]
    fn the_nearest_level_is_taken() {
        let values: Vec<f32> = (0..=2000).map(|i| (i - 1000) as f32 / 1000.0).collect();
        for block in values.chunks(BLOCK - 1) {
            let mut block = block.to_vec();
            block.push(1.0);
            for (x, y) in block.iter().zip(round_trip(&block)) {
                let best = LEVELS.iter().map(|level| (level - x).abs()).fold(2.0, f32::min);
                assert!((x - y).abs() <= best + 1e-7, "{x} became {y}");
            }
        }
    }

    #[test]
    fn zeros_and_subnormals_become_zeros() {
        for value in [0.0, -0.0, f32::MIN_POSITIVE / 2.0, -f32::from_bits(1)] {
            assert_eq!(round_trip(&[value; 5]), [0.0; 5]);
        }
        assert_eq!(round_trip(&[1.0, f32::from_bits(1), -0.0]), [1.0, 0.0, 0.0]);
    }

    #[test]
    fn a_block_has_one_encoding() {
        let with_scale = |scale: f32, codes: [u8; 2]| [&scale.to_le_bytes()[..], &codes].concat();
        let table = [
            (with_scale(1.0, [0x7f, 0x07]), Ok(6)),
            (with_scale(1.0, [0x77, 0x07]), Err(Flaw::Codes(1.0))),
            (with_scale(0.0, [0x77, 0x07]), Ok(6)),
            (with_scale(0.0, [0x7f, 0x07]), Err(Flaw::Codes(0.0))),
            (with_scale(1.0, [0x7f, 0x17]), Err(Flaw::Padding)),
            (with_scale(-0.0, [0x77, 0x07]), Err(Flaw::Scale(-0.0))),
            (with_scale(-1.0, [0x7f, 0x07]), Err(Flaw::Scale(-1.0))),
            (with_scale(f32::INFINITY, [0x7f, 0x07]), Err(Flaw::Scale(f32::INFINITY))),
            (with_scale(1e-40, [0x7f, 0x07]), Err(Flaw::Scale(1e-40))),
            (vec![0; 5], Err(Flaw::Short)),
        ];
        for (bytes, expected) in table {
            assert_eq!(check(&bytes, 3), expected, "{bytes:?}");
        }
        assert!(matches!(
            check(&with_scale(f32::NAN, [0x7f, 0x07]), 3),
            Err(Flaw::Scale(_))
        ));
    }
}
