//! Real numbers: from the ledger's billionths, to and from bf16, and whether they are finite.

use atoll_protocol::Nano;
use rayon::prelude::*;

/// Elements one thread looks at before it asks for more.
const CHUNK: usize = 1 << 16;
/// The bits of an f32 without its sign; larger is larger in magnitude.
const MAGNITUDE: u32 = 0x7fff_ffff;
/// The magnitude of infinity; that of a NaN is larger.
const INFINITY: u32 = 0x7f80_0000;
/// The largest finite bf16.
const BF16_MAX: u16 = 0x7f7f;

/// The f32 nearest to the f64 quotient `nano / 1e9`.
pub fn nano_f32(nano: Nano) -> f32 {
    (nano.0 as f64 / 1e9) as f32
}

/// The bits of |x|: they order as the magnitudes do.
pub(crate) fn magnitude_bits(x: f32) -> u32 {
    x.to_bits() & MAGNITUDE
}

/// The first value that is NaN or infinite.
pub(crate) fn first_non_finite(values: &[f32]) -> Option<(usize, f32)> {
    let index = values.par_chunks(CHUNK).enumerate().find_map_first(|(chunk, values)| {
        // The maximum has no early exit, so it vectorizes.
        let largest = values.iter().fold(0, |largest, x| magnitude_bits(*x).max(largest));
        (largest >= INFINITY)
            .then(|| values.iter().position(|x| !x.is_finite()))?
            .map(|at| chunk * CHUNK + at)
    })?;
    Some((index, values[index]))
}

/// ‖x‖² in f64. The order of the sum is fixed: eight lanes in each chunk, then the lanes, then the chunks.
pub(crate) fn square(values: &[f32]) -> f64 {
    let chunks = values.par_chunks(CHUNK).map(|chunk| {
        let mut lanes = [0.0; 8];
        for values in chunk.chunks(lanes.len()) {
            for (lane, x) in lanes.iter_mut().zip(values) {
                *lane += f64::from(*x) * f64::from(*x);
            }
        }
        lanes.iter().sum()
    });
    chunks.collect::<Vec<f64>>().iter().sum()
}

/// The bf16 nearest to the finite `x`, ties to even; never infinite, but ±3.39e38 at the ends.
pub(crate) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & MAGNITUDE;
    let rounded = (magnitude + 0x7fff + (magnitude >> 16 & 1)) >> 16;
    sign | (rounded as u16).min(BF16_MAX)
}

/// The value of a bf16; exact.
pub(crate) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanos_become_the_nearest_f32() {
        for (nano, real) in [
            (0, 0.0),
            (1, 1e-9),
            (700_000_000, 0.7),
            (900_000_000, 0.9),
            (2_000_000_000, 2.0),
        ] {
            assert_eq!(nano_f32(Nano(nano)), real);
        }
    }

    #[test]
    fn bf16_rounds_to_nearest_even_and_stays_finite() {
        let table: [(u32, u16); 10] = [
            (0x0000_0000, 0x0000),
            (0x8000_0000, 0x8000),
            (0x3f80_0000, 0x3f80),
            (0x3f80_8000, 0x3f80),
            (0x3f81_8000, 0x3f82),
            (0x3f80_8001, 0x3f81),
            (0xbf80_8001, 0xbf81),
            (0x0000_0001, 0x0000),
            (0x7f7f_ffff, 0x7f7f),
            (0xff7f_ffff, 0xff7f),
        ];
        for (bits, rounded) in table {
            assert_eq!(to_bf16(f32::from_bits(bits)), rounded, "{bits:08x}");
        }
        for bits in (0..=u16::MAX).filter(|bits| from_bf16(*bits).is_finite()) {
            assert_eq!(to_bf16(from_bf16(bits)), bits, "{bits:04x}");
        }
    }

    #[test]
    fn the_first_bad_value_is_found() {
        let mut values = vec![f32::MAX; 3 * CHUNK + 5];
        assert_eq!(first_non_finite(&values), None);
        values[3 * CHUNK + 1] = f32::NAN;
        values[2 * CHUNK] = f32::NEG_INFINITY;
        assert_eq!(first_non_finite(&values), Some((2 * CHUNK, f32::NEG_INFINITY)));
    }
}
