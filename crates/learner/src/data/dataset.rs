//! Shards to rows: every byte is checked when it is opened, and only rows go on.

use super::{DataError, Manifest, SHARD_BYTES_MAX, Shard};
use crate::Batch;
use atoll_protocol::Hash;

/// Which part of the corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// To learn from.
    Train,
    /// To evaluate on; nobody trains on it.
    HeldOut,
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::HeldOut => "held_out",
        }
    }
}

/// A corpus as tokens. Row i of T tokens is tokens [i·T, i·T + T]: T inputs, and their next tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    vocab: u32,
    tokenizer: Hash,
    train: Vec<u32>,
    held_out: Vec<u32>,
}

impl Dataset {
    /// Opens what the manifest names; `fetch` gives a shard's bytes. Hashes, lengths and tokens are
    /// checked.
    pub fn open(manifest: &[u8], mut fetch: impl FnMut(&Hash) -> Option<Vec<u8>>) -> Result<Self, DataError> {
        let manifest = Manifest::from_bytes(manifest)?;
        let mut load = |shards: &[Shard]| -> Result<Vec<u32>, DataError> {
            let mut tokens = Vec::new();
            for shard in shards {
                let bytes = fetch(&shard.blake3).ok_or(DataError::Missing(shard.blake3))?;
                append(&manifest, shard, &bytes, &mut tokens)?;
            }
            Ok(tokens)
        };
        let (train, held_out) = (load(&manifest.train)?, load(&manifest.held_out)?);
        let smallest = train.len().min(held_out.len());
        if smallest < 2 {
            return Err(DataError::Manifest {
                reason: format!("train has {}, held_out {} tokens", train.len(), held_out.len()),
            });
        }
        Ok(Self {
            vocab: manifest.vocab,
            tokenizer: manifest.tokenizer,
            train,
            held_out,
        })
    }

    /// V.
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// BLAKE3 of the `tokenizer.json` that made the tokens.
    pub fn tokenizer(&self) -> Hash {
        self.tokenizer
    }

    /// Tokens of a split.
    pub fn tokens(&self, split: Split) -> &[u32] {
        match split {
            Split::Train => &self.train,
            Split::HeldOut => &self.held_out,
        }
    }

    /// Rows of `sequence` tokens in a split; they share no target.
    pub fn rows(&self, split: Split, sequence: u32) -> u64 {
        let targets = self.tokens(split).len().saturating_sub(1) as u64;
        targets.checked_div(u64::from(sequence)).unwrap_or(0)
    }

    /// The `sequence` + 1 tokens of a row.
    pub fn row(&self, split: Split, row: u64, sequence: u32) -> Result<&[u32], DataError> {
        let rows = self.rows(split, sequence);
        let start = row.checked_mul(u64::from(sequence)).filter(|_| row < rows);
        let start = start.and_then(|start| usize::try_from(start).ok());
        let found = start.and_then(|start| self.tokens(split).get(start..=start + sequence as usize));
        found.ok_or(DataError::Row {
            row,
            split: split.name(),
            rows,
            sequence,
        })
    }

    /// The rows `rows`, in that order.
    pub fn batch(&self, split: Split, rows: &[u64], sequence: u32) -> Result<Batch, DataError> {
        let mut tokens = Vec::new();
        for row in rows {
            tokens.extend_from_slice(self.row(split, *row, sequence)?);
        }
        Ok(Batch::new(tokens, sequence as usize)?)
    }
}

/// Checks one shard and appends its tokens.
fn append(manifest: &Manifest, shard: &Shard, bytes: &[u8], tokens: &mut Vec<u32>) -> Result<(), DataError> {
    let hash = shard.blake3;
    let refuse = |reason: String| Err(DataError::Shard { hash, reason });
    if bytes.len() > SHARD_BYTES_MAX {
        return refuse(format!("{} bytes; at most {SHARD_BYTES_MAX} are possible", bytes.len()));
    }
    let found = Hash::of_blob(bytes);
    if found != hash {
        return refuse(format!("its bytes have the hash {found}; fetch it again"));
    }
    let expected = shard.tokens.checked_mul(u64::from(manifest.token_bytes));
    if expected != Some(bytes.len() as u64) || bytes.is_empty() {
        return refuse(format!("{} bytes are not {} tokens", bytes.len(), shard.tokens));
    }
    let start = tokens.len();
    let words = bytes.chunks_exact(manifest.token_bytes as usize);
    tokens.extend(words.map(|word| {
        word.iter()
            .rev()
            .fold(0u32, |token, byte| token << 8 | u32::from(*byte))
    }));
    match tokens[start..].iter().find(|token| **token >= manifest.vocab) {
        None => Ok(()),
        Some(token) => refuse(format!("token {token} is outside the vocabulary of {}", manifest.vocab)),
    }
}
