//! What a replica goes on from, and must show to whoever makes its contribution again: error feedback, the inner
//! optimizer's moments and, where steps are taken ahead, its weights when it sent.

use crate::theta::{VectorError, theta_bytes, theta_from_bytes};
use atoll_protocol::{Charter, DecodeError, Layout, Round, charter::Overlap, decode, encode};
use borsh::{BorshDeserialize, BorshSerialize};
use thiserror::Error;

const VERSION: u32 = 2;
/// Beside the values: frames, headers, the optimizer's step.
const FRAME_BYTES_MAX: u64 = 64 * 1024;

/// A replica's own state, as its blob has it.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct OwnState {
    version: u32,
    /// The round whose contribution it follows on: two rounds never leave the same state.
    trained: Round,
    /// As [`crate::ErrorFeedback`] writes it.
    pub feedback: Vec<u8>,
    /// As the learner writes them.
    pub moments: Vec<u8>,
    /// w as little-endian f32; nothing where no steps are taken ahead from it.
    local: Option<Vec<u8>>,
}

/// Why bytes are no replica's state.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum OwnStateError {
    /// They cannot be read.
    #[error("these bytes are no replica's state: {0}")]
    Malformed(#[from] DecodeError),
    /// Of another version.
    #[error("a replica's state of version {0}; this program reads {VERSION}")]
    Version(u32),
}

impl OwnState {
    /// That after the contribution that was trained for `trained`, of a replica whose weights are `local` then, with
    /// its error feedback and moments.
    pub fn new(charter: &Charter, trained: Round, (feedback, moments): (Vec<u8>, Vec<u8>), local: &[f32]) -> Self {
        let wanted = matches!(charter.round.overlap, Overlap::Steps | Overlap::Auto);
        Self {
            version: VERSION,
            trained,
            feedback,
            moments,
            local: wanted.then(|| theta_bytes(local)),
        }
    }

    /// The most bytes that one of a model can have: a sum, two moments, weights, and what the low-rank codec goes on
    /// from, which is less than the model.
    pub fn bytes_max(layout: &Layout) -> u64 {
        FRAME_BYTES_MAX + 5 * 4 * layout.parameters as u64
    }

    /// Its blob.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads it.
    ///
    /// # Errors
    /// Where the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OwnStateError> {
        let state: Self = decode(bytes, bytes.len())?;
        match state.version {
            VERSION => Ok(state),
            other => Err(OwnStateError::Version(other)),
        }
    }

    /// w, where it is there.
    ///
    /// # Errors
    /// Where its values are not those of a model of this layout.
    pub fn local(&self, layout: &Layout) -> Result<Option<Vec<f32>>, VectorError> {
        let local = self.local.as_deref();
        local
            .map(|bytes| theta_from_bytes(bytes, layout.parameters))
            .transpose()
    }
}
