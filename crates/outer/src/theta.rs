//! θ as a vector, as bytes and as a root; and the pseudo-gradient, the way from θ to a replica's weights.
//!
//! All vectors are flat, of P elements, in the order of the layout.

use crate::real::first_non_finite;
use atoll_protocol::Hash;
use rayon::prelude::*;
use thiserror::Error;

/// Bytes of one f32.
const F32_BYTES: usize = 4;
/// Elements turned into bytes at a time while hashing.
const HASH_CHUNK: usize = 1 << 14;

/// A vector that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
pub enum VectorError {
    /// Not the number of elements, or of bytes, that is needed.
    #[error("{what} has {got} {unit}; {needed} are needed")]
    Length {
        /// Which vector.
        what: &'static str,
        /// Elements or bytes.
        unit: &'static str,
        /// How many there are.
        got: usize,
        /// How many there must be.
        needed: usize,
    },
    /// NaN or infinite.
    #[error("{what}[{index}] is {value}; only finite values are allowed")]
    NonFinite {
        /// Which vector.
        what: &'static str,
        /// Which element, the first such.
        index: usize,
        /// Its value.
        value: f32,
    },
}

pub(crate) fn check_len(what: &'static str, got: usize, needed: usize) -> Result<(), VectorError> {
    match got == needed {
        true => Ok(()),
        false => Err(VectorError::Length {
            what,
            unit: "elements",
            got,
            needed,
        }),
    }
}

pub(crate) fn check_finite(what: &'static str, values: &[f32]) -> Result<(), VectorError> {
    match first_non_finite(values) {
        None => Ok(()),
        Some((index, value)) => Err(VectorError::NonFinite { what, index, value }),
    }
}

/// δ = θ − w: points away from improvement, the outer optimizer subtracts it. DiLoCo, Algorithm 1
/// (arXiv:2311.08105).
///
/// # Errors
/// Where the lengths differ, or the first value of θ, w or δ that is not finite.
pub fn pseudo_gradient(theta: &[f32], local: &[f32]) -> Result<Vec<f32>, VectorError> {
    check_len("local weights", local.len(), theta.len())?;
    check_finite("theta", theta)?;
    check_finite("local weights", local)?;
    let delta: Vec<f32> = theta.par_iter().zip(local).map(|(theta, w)| theta - w).collect();
    check_finite("pseudo-gradient", &delta)?;
    Ok(delta)
}

/// `values` as little-endian f32: the content of a θ blob.
pub fn theta_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * F32_BYTES];
    write_f32(values, &mut bytes);
    bytes
}

/// Reads what [`theta_bytes`] wrote.
///
/// # Errors
/// Unless there are exactly 4 · `parameters` bytes and every value is finite.
pub fn theta_from_bytes(bytes: &[u8], parameters: usize) -> Result<Vec<f32>, VectorError> {
    match parameters.checked_mul(F32_BYTES) {
        Some(needed) if needed == bytes.len() => (),
        needed => {
            return Err(VectorError::Length {
                what: "theta",
                unit: "bytes",
                got: bytes.len(),
                needed: needed.unwrap_or(usize::MAX),
            });
        }
    }
    let values: Vec<f32> = read_f32(bytes).collect();
    check_finite("theta", &values)?;
    Ok(values)
}

/// Plain BLAKE3 of [`theta_bytes`], so also the address of that blob. Makes no second copy of θ.
pub fn root(values: &[f32]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; HASH_CHUNK * F32_BYTES];
    for chunk in values.chunks(HASH_CHUNK) {
        let bytes = &mut buffer[..chunk.len() * F32_BYTES];
        write_f32(chunk, bytes);
        hasher.update(bytes);
    }
    Hash(*hasher.finalize().as_bytes())
}

/// Writes `values` to four bytes each.
pub(crate) fn write_f32(values: &[f32], bytes: &mut [u8]) {
    for (four, value) in bytes.chunks_exact_mut(F32_BYTES).zip(values) {
        four.copy_from_slice(&value.to_le_bytes());
    }
}

/// Reads four bytes each.
pub(crate) fn read_f32(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes
        .chunks_exact(F32_BYTES)
        .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pseudo_gradient_points_back() {
        assert_eq!(pseudo_gradient(&[1.0, -2.0], &[0.5, -1.0]), Ok(vec![0.5, -1.0]));
        assert_eq!(pseudo_gradient(&[], &[]), Ok(vec![]));
    }

    #[test]
    fn bad_vectors_are_refused_with_place_and_value() {
        let text = |error: VectorError| error.to_string();
        let table: [(&[f32], &[f32], &str); 4] = [
            (&[1.0], &[], "local weights has 0 elements; 1 are needed"),
            (
                &[f32::INFINITY],
                &[1.0],
                "theta[0] is inf; only finite values are allowed",
            ),
            (
                &[1.0, 1.0],
                &[1.0, f32::NAN],
                "local weights[1] is NaN; only finite values are allowed",
            ),
            (
                &[f32::MAX],
                &[f32::MIN],
                "pseudo-gradient[0] is inf; only finite values are allowed",
            ),
        ];
        for (theta, local, needed) in table {
            assert_eq!(pseudo_gradient(theta, local).map_err(text), Err(needed.to_string()));
        }
    }

    #[test]
    fn bytes_round_trip_and_the_root_is_their_hash() {
        let values: Vec<f32> = (0..3 * HASH_CHUNK + 7).map(|i| i as f32 * -0.37).collect();
        let bytes = theta_bytes(&values);
        assert_eq!(theta_from_bytes(&bytes, values.len()), Ok(values.clone()));
        assert_eq!(root(&values), Hash::of_blob(&bytes));
        assert_eq!(root(&[]), Hash::of_blob(&[]));
        assert_eq!(
            theta_bytes(&[-0.0, f32::MIN_POSITIVE / 2.0]),
            [0, 0, 0, 0x80, 0, 0, 0x40, 0]
        );
    }

    #[test]
    fn bad_bytes_are_refused() {
        assert!(theta_from_bytes(&[0; 7], 2).is_err());
        assert!(theta_from_bytes(&[0; 8], usize::MAX).is_err());
        assert!(theta_from_bytes(&f32::NAN.to_le_bytes(), 1).is_err());
    }
}
