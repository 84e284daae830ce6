//! The manifest: what a run learns from, as JSON in one canonical form. Its BLAKE3 stands in the
//! charter.

use super::{TokenizerError, hex};
use crate::BatchError;
use atoll_protocol::Hash;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of a manifest.
pub const MANIFEST_BYTES_MAX: usize = 64 << 20;
/// The only version there is.
const VERSION: u32 = 1;

/// Data that cannot be used.
#[derive(Debug, Error)]
pub enum DataError {
    /// Not enough to train on and to hold out.
    #[error("the corpus has {tokens} tokens; at least {min} are needed: add text or lower the vocabulary")]
    TooSmall {
        /// What there is.
        tokens: u64,
        /// What is needed.
        min: u64,
    },
    /// Not a manifest.
    #[error("this is no manifest: {reason}")]
    Manifest {
        /// What is wrong.
        reason: String,
    },
    /// A shard that is not there.
    #[error("shard {0} is missing")]
    Missing(Hash),
    /// A shard that is not what the manifest names.
    #[error("shard {hash}: {reason}")]
    Shard {
        /// Its name in the manifest.
        hash: Hash,
        /// What is wrong.
        reason: String,
    },
    /// A row that does not exist.
    #[error("row {row} does not exist: {split} has {rows} rows of {sequence} tokens")]
    Row {
        /// What was asked for.
        row: u64,
        /// Of which split.
        split: &'static str,
        /// How many there are.
        rows: u64,
        /// T.
        sequence: u32,
    },
    /// A batch without rows.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// One file of the corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceEntry {
    /// Relative path.
    pub path: String,
    /// Licence, if known, such as `CC-BY-4.0`.
    pub licence: Option<String>,
    /// Size of the file.
    pub bytes: u64,
    /// BLAKE3 of the file.
    #[serde(with = "hex")]
    pub blake3: Hash,
}

/// One run of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// BLAKE3 of its bytes.
    #[serde(with = "hex")]
    pub blake3: Hash,
    /// Its length in tokens.
    pub tokens: u64,
}

/// What a run learns from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// 1.
    pub version: u32,
    /// Where the text came from.
    pub sources: Vec<SourceEntry>,
    /// BLAKE3 of `tokenizer.json`.
    #[serde(with = "hex")]
    pub tokenizer: Hash,
    /// V: every token is below.
    pub vocab: u32,
    /// Bytes of a token, little-endian: 2 or 4.
    pub token_bytes: u32,
    /// Shards to train on, in order.
    pub train: Vec<Shard>,
    /// Shards to evaluate on, in order.
    pub held_out: Vec<Shard>,
}

/// Two bytes where every token fits, else four.
pub(super) fn token_bytes(vocab: u32) -> u32 {
    if vocab <= 1 << 16 { 2 } else { 4 }
}

impl Manifest {
    pub(super) const VERSION: u32 = VERSION;

    /// The one way to write it.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DataError> {
        let refuse = |error: serde_json::Error| DataError::Manifest {
            reason: error.to_string(),
        };
        let mut bytes = serde_json::to_vec_pretty(self).map_err(refuse)?;
        bytes.push(b'\n');
        match bytes.len() > MANIFEST_BYTES_MAX {
            false => Ok(bytes),
            true => Err(DataError::Manifest {
                reason: format!(
                    "it names {} files in {} bytes, and at most {MANIFEST_BYTES_MAX} are read: pack the texts into fewer files",
                    self.sources.len(),
                    bytes.len()
                ),
            }),
        }
    }

    /// Reads a manifest, and refuses any other way to write the same.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DataError> {
        let refuse = |reason: String| Err(DataError::Manifest { reason });
        if bytes.len() > MANIFEST_BYTES_MAX {
            return refuse(format!("{} bytes; at most {MANIFEST_BYTES_MAX} are read", bytes.len()));
        }
        let manifest: Self = match serde_json::from_slice(bytes) {
            Ok(manifest) => manifest,
            Err(error) => return refuse(error.to_string()),
        };
        if manifest.version != VERSION {
            return refuse(format!("version = {}: only {VERSION} is known", manifest.version));
        }
        if manifest.vocab < 2 || manifest.token_bytes != token_bytes(manifest.vocab) {
            return refuse(format!(
                "token_bytes = {} does not belong to vocab = {}",
                manifest.token_bytes, manifest.vocab
            ));
        }
        if manifest.to_bytes()? != bytes {
            return refuse("it is not in canonical form: write it with `Manifest::to_bytes`".into());
        }
        Ok(manifest)
    }

    /// Every shard, those to train on first.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.train.iter().chain(&self.held_out)
    }
}
