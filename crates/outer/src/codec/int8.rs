//! Eight bits a value: blocks of 128 consecutive values of a tensor (the last may be shorter).
//!
//! A block is its largest magnitude s as f32, then a code from −127 to 127 a value, in two's complement.
//! Encoding: c = x / s · 127, quotient and product in f32, rounded to the nearest integer, half to even.
//! Decoding: (c · u) · s, products in f32, where u is the f32 nearest to 1 / 127; so ±127 is ±s to the bit.
//!
//! One block has one encoding: s and all codes are 0, or s is a normal number and some code is ±127. A
//! block whose values are all subnormal is written as zeros.

use super::{
    Flaw,
    block::{BLOCK, SCALE_BYTES, blocks, is_zero, scale_of},
    sink::Sink,
};

/// The largest code.
const LARGEST: i8 = 127;
/// u: what a code counts.
const UNIT: f32 = 1.0 / LARGEST as f32;
/// 1.5 · 2^23: added to a number below 2^22 it leaves the nearest integer, half to even, in the low bits.
const ROUND: f32 = 12_582_912.0;

const _: () = assert!(LARGEST as f32 * UNIT == 1.0);

/// Bytes of `len` values.
pub(crate) fn bytes(len: usize) -> usize {
    len.div_ceil(BLOCK) * SCALE_BYTES + len
}

/// Appends `values`.
pub(super) fn write(values: &[f32], out: &mut Vec<u8>) {
    out.reserve(bytes(values.len()));
    for block in values.chunks(BLOCK) {
        let scale = scale_of(block);
        out.extend_from_slice(&scale.to_le_bytes());
        match scale == 0.0 {
            true => out.extend(block.iter().map(|_| 0)),
            false => out.extend(block.iter().map(|x| code(*x, scale))),
        }
    }
}

fn code(x: f32, scale: f32) -> u8 {
    (x / scale * f32::from(LARGEST) + ROUND).to_bits() as u8
}

pub(super) fn check(given: &[u8], len: usize) -> Result<usize, Flaw> {
    let given = given.get(..bytes(len)).ok_or(Flaw::Short)?;
    for (scale, codes, _) in blocks(given, len, BLOCK) {
        let largest = codes
            .iter()
            .fold(0, |largest, c| c.cast_signed().unsigned_abs().max(largest));
        let needed = if is_zero(scale)? { 0 } else { LARGEST.unsigned_abs() };
        if largest > LARGEST.unsigned_abs() {
            return Err(Flaw::Code(i8::MIN));
        }
        if largest != needed {
            return Err(Flaw::Codes(scale));
        }
    }
    Ok(given.len())
}

pub(super) fn read(bytes: &[u8], len: usize, sink: &mut impl Sink) {
    let mut at = 0;
    let mut values = [0.0; BLOCK];
    for (scale, codes, count) in blocks(bytes, len, BLOCK) {
        for (value, c) in values.iter_mut().zip(codes) {
            *value = f32::from(c.cast_signed()) * UNIT * scale;
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
    fn all_codes_come_back_exactly() {
        for scale in [1.0, 3.7e-5, f32::MAX] {
            let values: Vec<f32> = (-127..=127i8).map(|c| f32::from(c) * UNIT * scale).collect();
            let mut with_ends = values.clone();
            // Every block holds its scale.
            with_ends.insert(BLOCK - 1, scale);
            assert_eq!(round_trip(&with_ends), with_ends, "{scale}");
        }
    }

    #[test]
    fn codes_are_the_nearest_integers_half_to_even() {
        let table = [
            (0.5, 0),
            (1.5, 2),
            (2.5, 2),
            (-0.5, 0),
            (-1.5, -2),
            (126.5, 126),
            (1.51, 2),
            (-126.7, -127),
        ];
        for (x, expected) in table {
            // 127 as scale: the quotient times 127 is x again, but for its last bit.
            assert_eq!(code(x * 2.0, 254.0).cast_signed(), expected, "{x}");
        }
        let values: Vec<f32> = (0..=2000).map(|i| (i - 1000) as f32 / 1000.0).collect();
        for block in values.chunks(BLOCK - 1) {
            let block = [block, &[1.0]].concat();
            for (x, y) in block.iter().zip(round_trip(&block)) {
                assert!((x - y).abs() <= 0.5 / 127.0 + 1e-6, "{x} became {y}");
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
        let with_scale =
            |scale: f32, codes: [i8; 2]| [&scale.to_le_bytes()[..], &codes.map(i8::cast_unsigned)].concat();
        let table = [
            (with_scale(1.0, [127, 5]), Ok(6)),
            (with_scale(1.0, [-5, -127]), Ok(6)),
            (with_scale(1.0, [126, 5]), Err(Flaw::Codes(1.0))),
            (with_scale(1.0, [-128, 127]), Err(Flaw::Code(-128))),
            (with_scale(0.0, [0, 0]), Ok(6)),
            (with_scale(0.0, [0, 1]), Err(Flaw::Codes(0.0))),
            (with_scale(-0.0, [0, 0]), Err(Flaw::Scale(-0.0))),
            (with_scale(-1.0, [127, 0]), Err(Flaw::Scale(-1.0))),
            (with_scale(f32::INFINITY, [127, 0]), Err(Flaw::Scale(f32::INFINITY))),
            (with_scale(1e-40, [127, 0]), Err(Flaw::Scale(1e-40))),
            (vec![0; 5], Err(Flaw::Short)),
        ];
        for (bytes, expected) in table {
            assert_eq!(check(&bytes, 2), expected, "{bytes:?}");
        }
        assert!(matches!(check(&with_scale(f32::NAN, [127, 0]), 2), Err(Flaw::Scale(_))));
    }
}
