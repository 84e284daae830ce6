//! Error feedback: what a codec could not carry stays here and goes into the next contribution.
//!
//! Everything in f32. It belongs to a replica alone and is never sent; losing it costs quality, not
//! agreement. With it stands what the low-rank codec goes on from.

use crate::{
    blob::{BlobError, Contribution, format::number},
    codec::{EncodeError, Made, encode_from},
    real::{nano_f32, square},
    theta::{VectorError, check_finite, check_len, theta_bytes, theta_from_bytes},
    warm::Warm,
};
use atoll_protocol::{Hash, Layout, charter::Codec, transaction::Measured};
use rayon::prelude::*;
use thiserror::Error;

const MAGIC: [u8; 4] = *b"ATEF";
const VERSION: u32 = 2;
/// Magic, version, elements, BLAKE3 of the rest.
const HEADER_BYTES: usize = 48;
const HASH_AT: usize = 16;

/// Why error feedback was not changed, or not read.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum FeedbackError {
    /// A vector of another length, or one with a value that is not finite.
    #[error(transparent)]
    Vector(#[from] VectorError),
    /// A value that cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A contribution that its own reader refuses.
    #[error("the encoded contribution cannot be read back: {0}")]
    ReadBack(#[from] BlobError),
    /// Not the file that this crate wrote.
    #[error("the error feedback's {field} is {got}; {needed} is needed: start again from zero error feedback")]
    File {
        /// What of it.
        field: &'static str,
        /// What it says.
        got: String,
        /// What it must say.
        needed: String,
    },
}

pub(crate) fn wrong(field: &'static str, got: impl ToString, needed: impl ToString) -> FeedbackError {
    FeedbackError::File {
        field,
        got: got.to_string(),
        needed: needed.to_string(),
    }
}

/// A contribution as it travels, and what making it showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The blob.
    pub blob: Vec<u8>,
    /// What the codec left, and the effective rank it found.
    pub measured: Measured,
}

/// 1000 · ‖e‖ / ‖δ‖, rounded, from the squares of both norms; without δ it is 0 or the largest.
fn residual_milli(e: f64, delta: f64) -> u32 {
    match (e == 0.0, delta == 0.0) {
        (true, _) => 0,
        (false, true) => u32::MAX,
        // A cast saturates.
        (false, false) => (1000.0 * (e.sqrt() / delta.sqrt())).round() as u32,
    }
}

/// e, of P elements.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorFeedback {
    e: Vec<f32>,
    warm: Warm,
}

impl ErrorFeedback {
    /// e = 0, as a peer that joins starts.
    pub fn new(parameters: usize) -> Self {
        Self {
            e: vec![0.0; parameters],
            warm: Warm::default(),
        }
    }

    /// e, for measuring ‖e‖ / ‖δ‖.
    pub fn values(&self) -> &[f32] {
        &self.e
    }

    /// e ← β·e + δ; blob = C(e); e ← e − D(blob). β is the codec's feedback. Takes δ,
    /// because its memory becomes e. What a codec does not keep stays in e to the bit.
    ///
    /// Where D(blob) would be longer than `longest`, C(s·e) is sent instead, s being what makes it as long: what
    /// was not merged for some rounds comes back in e, and all of it at once would be kept out as too long, and
    /// come back, longer still.
    ///
    /// # Errors
    /// Where δ has not P elements or a sum is not finite; e is unchanged then.
    pub fn contribute(
        &mut self,
        mut delta: Vec<f32>,
        codec: &Codec,
        (layout, base): (&Layout, &Hash),
        longest: Option<f64>,
    ) -> Result<Encoded, FeedbackError> {
        check_len("pseudo-gradient", delta.len(), self.e.len())?;
        let given = square(&delta);
        let beta = nano_f32(codec.feedback());
        delta.par_iter_mut().zip(&self.e).for_each(|(sum, e)| *sum += beta * e);
        let encode = |values: &[f32]| -> Result<(Contribution, Warm, u32), FeedbackError> {
            let Made { blob, warm, rank_milli } = encode_from(&self.warm, values, codec, layout, base)?;
            Ok((Contribution::read(blob, layout, codec, base)?, warm, rank_milli))
        };
        let (mut contribution, mut warm, mut rank_milli) = encode(&delta)?;
        let longest = longest.unwrap_or(f64::INFINITY);
        let length = contribution.length();
        if length > longest {
            let part = (longest / length) as f32;
            let shorter: Vec<f32> = delta.par_iter().map(|sum| part * sum).collect();
            (contribution, warm, rank_milli) = encode(&shorter)?;
        }
        contribution.shift(-1.0, &mut delta)?;
        check_finite("error feedback", &delta)?;
        (self.e, self.warm) = (delta, warm);
        Ok(Encoded {
            blob: contribution.bytes().to_vec(),
            measured: Measured {
                step_micros: 0, // this and the next are not known here
                kib_micros: 0,
                residual_milli: residual_milli(square(&self.e), given),
                rank_milli,
            },
        })
    }

    /// The same with e = 0: what encoding starts from beside its sum.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self {
            e: vec![0.0; self.e.len()],
            warm: self.warm.clone(),
        }
    }

    /// e ← e + D(blob), for one's own contribution that was not merged.
    ///
    /// # Errors
    /// Where the contribution has not P elements or a sum is not finite; e is unchanged then.
    pub fn restore(&mut self, contribution: &Contribution) -> Result<(), FeedbackError> {
        let mut e = self.e.clone();
        contribution.shift(1.0, &mut e)?;
        check_finite("error feedback", &e)?;
        self.e = e;
        Ok(())
    }

    /// e ← e + `values`: what nobody honest does.
    ///
    /// # Errors
    /// As of [`Self::restore`].
    pub fn forge(&mut self, values: &[f32]) -> Result<(), FeedbackError> {
        check_len("error feedback", values.len(), self.e.len())?;
        let e: Vec<f32> = self.e.par_iter().zip(values).map(|(e, more)| e + more).collect();
        check_finite("error feedback", &e)?;
        self.e = e;
        Ok(())
    }

    /// To keep across restarts: `ATEF`, version 2 (4 bytes), P (8), BLAKE3 of all that follows (32), the
    /// values as f32; then of the low-rank codec's last round the rank and the number of matrices (4 each),
    /// and of each its tensor's index and columns (4 each) and rank · columns values as f32. All
    /// little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (values, warm) = (theta_bytes(&self.e), self.warm.to_bytes());
        let mut bytes = Vec::with_capacity(HEADER_BYTES + values.len() + warm.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(self.e.len() as u64).to_le_bytes());
        bytes.extend_from_slice(Hash::ZERO.as_bytes());
        bytes.extend_from_slice(&values);
        drop(values);
        bytes.extend_from_slice(&warm);
        let hash = Hash::of_blob(&bytes[HEADER_BYTES..]);
        bytes[HASH_AT..HEADER_BYTES].copy_from_slice(hash.as_bytes());
        bytes
    }

    /// Reads what [`ErrorFeedback::to_bytes`] wrote for `parameters` elements.
    ///
    /// # Errors
    /// Where a field is wrong, the hash does not fit or a value is not finite.
    pub fn from_bytes(bytes: &[u8], parameters: usize) -> Result<Self, FeedbackError> {
        let (header, rest) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or_else(|| wrong("number of bytes", bytes.len(), format!("at least {HEADER_BYTES}")))?;
        let fields = [
            ("magic", 0..4, u64::from(u32::from_le_bytes(MAGIC))),
            ("version", 4..8, u64::from(VERSION)),
            ("number of elements", 8..HASH_AT, parameters as u64),
        ];
        for (field, place, needed) in fields {
            let got = number(&header[place]);
            if got != needed {
                return Err(wrong(field, got, needed));
            }
        }
        let (mut got, needed) = (Hash::ZERO, Hash::of_blob(rest));
        got.0.copy_from_slice(&header[HASH_AT..]);
        if got != needed {
            return Err(wrong("hash", got, needed));
        }
        let needed = parameters.saturating_mul(size_of::<f32>());
        let (values, warm) = rest.split_at_checked(needed).ok_or_else(|| {
            wrong(
                "number of bytes after the header",
                rest.len(),
                format!("at least {needed}"),
            )
        })?;
        Ok(Self {
            e: theta_from_bytes(values, parameters)?,
            warm: Warm::from_bytes(warm)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_residual_is_a_ratio_of_norms_in_thousandths() {
        let huge = f64::from(f32::MAX).powi(2);
        let table = [
            (0.0, 0.0, 0),
            (0.0, 4.0, 0),
            (4.0, 0.0, u32::MAX),
            (4.0, 4.0, 1000),
            (1.0, 16.0, 250),
            (0.000_000_25, 1.0, 1),
            (0.000_000_24, 1.0, 0),
            (huge, f64::from(f32::from_bits(1)).powi(2), u32::MAX),
        ];
        for (e, delta, milli) in table {
            assert_eq!(residual_milli(e, delta), milli, "{e} / {delta}");
        }
    }

    #[test]
    fn bytes_round_trip_and_damage_is_seen() {
        let feedback = ErrorFeedback {
            e: vec![1.5, -0.0, f32::MIN_POSITIVE / 4.0],
            warm: Warm::new(2, [(1, vec![0.5; 4])]),
        };
        let bytes = feedback.to_bytes();
        let read = ErrorFeedback::from_bytes(&bytes, 3).expect("own bytes");
        assert_eq!(read.to_bytes(), bytes);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(ErrorFeedback::from_bytes(&damaged, 3).is_err(), "byte {at}");
            assert!(ErrorFeedback::from_bytes(&bytes[..at], 3).is_err(), "cut at {at}");
        }
        let other_size = ErrorFeedback::from_bytes(&bytes, 4);
        assert_eq!(other_size, Err(wrong("number of elements", 3, 4)));
        let nan = ErrorFeedback {
            e: vec![f32::NAN],
            warm: Warm::default(),
        };
        let nan = nan.to_bytes();
        assert!(matches!(
            ErrorFeedback::from_bytes(&nan, 1),
            Err(FeedbackError::Vector(_))
        ));
    }
}
