//! Blocks of consecutive values with one scale, the largest magnitude among them: what int8 and int4 share.

use super::Flaw;
use crate::real::magnitude_bits;

/// Values in a block.
pub(crate) const BLOCK: usize = 128;
/// Bytes of a scale, an f32.
pub(super) const SCALE_BYTES: usize = 4;

/// The largest magnitude, or 0 where that is subnormal.
pub(super) fn scale_of(block: &[f32]) -> f32 {
    let largest = block.iter().fold(0, |largest, x| magnitude_bits(*x).max(largest));
    match f32::from_bits(largest) {
        normal if normal >= f32::MIN_POSITIVE => normal,
        _ => 0.0,
    }
}

/// Whether the scale is 0; else it must be a positive normal number.
pub(super) fn is_zero(scale: f32) -> Result<bool, Flaw> {
    match scale.to_bits() == 0 {
        true => Ok(true),
        false if scale.is_normal() && scale > 0.0 => Ok(false),
        false => Err(Flaw::Scale(scale)),
    }
}

/// The scale of each block of `len` values, the bytes of its codes, and how many values they hold.
/// `code_bytes` are those of a whole block.
pub(super) fn blocks(bytes: &[u8], len: usize, code_bytes: usize) -> impl Iterator<Item = (f32, &[u8], usize)> {
    let starts = (0..len).step_by(BLOCK);
    bytes
        .chunks(SCALE_BYTES + code_bytes)
        .zip(starts)
        .filter_map(move |(block, start)| {
            let (scale, codes) = block.split_first_chunk()?;
            Some((f32::from_le_bytes(*scale), codes, BLOCK.min(len - start)))
        })
}
