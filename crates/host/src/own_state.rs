//! What a replica goes on from, and must show to whoever makes its contribution again: error feedback, the inner
//! optimizer's moments and, where steps are taken ahead, its weights when it sent.

use anyhow::{Context as _, bail};
use atoll_outer::{theta_bytes, theta_from_bytes};
use atoll_protocol::{Charter, Layout, charter::Overlap, decode, encode};
use borsh::{BorshDeserialize, BorshSerialize};

const VERSION: u32 = 1;
/// Beside the values: frames, headers, the optimizer's step.
const FRAME_BYTES_MAX: u64 = 64 * 1024;

/// A replica's own state, as its blob has it.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct OwnState {
    version: u32,
    /// As `outer` writes it.
    pub(crate) feedback: Vec<u8>,
    /// As `learner` writes them.
    pub(crate) moments: Vec<u8>,
    /// w as little-endian f32; nothing where no steps are taken ahead from it.
    pub(crate) local: Option<Vec<u8>>,
}

impl OwnState {
    /// That after a contribution, of a replica whose weights are `local` then.
    pub(crate) fn new(charter: &Charter, feedback: Vec<u8>, moments: Vec<u8>, local: &[f32]) -> Self {
        let wanted = matches!(charter.round.overlap, Overlap::Steps | Overlap::Auto);
        Self {
            version: VERSION,
            feedback,
            moments,
            local: wanted.then(|| theta_bytes(local)),
        }
    }

    /// The most bytes that one of a model can have: a sum, two moments, weights, and what the low-rank codec goes on
    /// from, which is less than the model.
    pub(crate) fn bytes_max(layout: &Layout) -> u64 {
        FRAME_BYTES_MAX + 5 * 4 * layout.parameters as u64
    }

    /// Its blob.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads it.
    pub(crate) fn from_bytes(bytes: &[u8]) -> anyhow::Result<Self> {
        let state: Self = decode(bytes, bytes.len()).context("these bytes are no replica's state")?;
        if state.version != VERSION {
            bail!(
                "a replica's state of version {}; this program reads {VERSION}",
                state.version
            );
        }
        Ok(state)
    }

    /// w, where it is there.
    pub(crate) fn local(&self, layout: &Layout) -> anyhow::Result<Option<Vec<f32>>> {
        let local = self.local.as_deref();
        Ok(local
            .map(|bytes| theta_from_bytes(bytes, layout.parameters))
            .transpose()?)
    }
}
