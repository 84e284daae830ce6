//! What is learned: the next byte of a text. All runs of a seed read the same rows in the same order.

use atoll_learner::{
    Batch, BurnLearner, LearnError, Learner as _,
    data::{self, Corpus, DataError, Dataset, Split, Tokenizer},
};
use atoll_ledger::assign::{Purpose, Share};
use atoll_protocol::Hash;
use thiserror::Error;

/// Held-out rows: the same on the way and at the end, so that a time to a loss compares like with like.
const HELD_OUT_ROWS: u64 = 96;
/// Rows evaluated at a time.
const ROWS_AT_A_TIME: usize = 8;

/// Why a corpus cannot be used.
#[derive(Debug, Error)]
pub enum TaskError {
    /// No corpus can be made of it.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No tokenizer can be made.
    #[error(transparent)]
    Tokenizer(#[from] data::TokenizerError),
    /// Too little text.
    #[error(
        "the text gives {train} training rows and {held_out} held-out rows of {sequence} bytes; at least 1 of each is needed"
    )]
    Short {
        /// Training rows.
        train: u64,
        /// Held-out rows.
        held_out: u64,
        /// Bytes of a row.
        sequence: u32,
    },
}

/// A text as bytes.
pub struct Task {
    dataset: Dataset,
    vocab: u32,
    hash: Hash,
}

/// Which rows a step reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub(super) seed: u64,
    pub(super) step: u64,
    pub(super) replica: u32,
    pub(super) replicas: u32,
    pub(super) batch: u32,
    pub(super) sequence: u32,
}

impl Task {
    /// The task on a corpus.
    ///
    /// # Errors
    /// Where it cannot be cut into rows.
    pub fn of(corpus: &Corpus) -> Result<Self, TaskError> {
        let tokenizer = Tokenizer::bytes()?;
        let built = data::build(corpus, &tokenizer, None)?;
        let fetch = |hash: &Hash| {
            let found = built.shards.iter().find(|(of, _)| of == hash);
            found.map(|(_, bytes)| bytes.clone())
        };
        let manifest = built.manifest.to_bytes()?;
        Ok(Self {
            dataset: Dataset::open(&manifest, fetch)?,
            vocab: tokenizer.vocab(),
            hash: Hash::of_blob(&manifest),
        })
    }

    /// V.
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// Hash of the corpus's manifest: results of another corpus are other results.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Training tokens.
    pub fn tokens(&self) -> usize {
        self.dataset.tokens(Split::Train).len()
    }

    pub(super) fn check(&self, sequence: u32) -> Result<(), TaskError> {
        let [train, held_out] = [Split::Train, Split::HeldOut].map(|split| self.dataset.rows(split, sequence));
        match train > 0 && held_out > 0 {
            true => Ok(()),
            false => Err(TaskError::Short {
                train,
                held_out,
                sequence,
            }),
        }
    }

    /// Rows of a replica's step. All replicas together read the same rows in a step, however many they are, as
    /// long as replicas × batch is the same.
    pub(super) fn batch(&self, rows: Rows) -> Result<Batch, TaskError> {
        let mut beacon = Hash::ZERO;
        beacon.0[..8].copy_from_slice(&rows.seed.to_be_bytes());
        let share = Share {
            beacon,
            replica: rows.replica.into(),
            replicas: rows.replicas.into(),
        };
        let all = self.dataset.rows(Split::Train, rows.sequence);
        let chosen = share.rows(Purpose::Train, rows.step, rows.batch.into(), all);
        Ok(self.dataset.batch(Split::Train, &chosen, rows.sequence)?)
    }

    /// Held-out loss of the learner's parameters on the same rows for every run, nats per token.
    pub(super) fn held_out(&self, learner: &mut BurnLearner, sequence: u32) -> Result<f64, LearnError> {
        let all = self.dataset.rows(Split::HeldOut, sequence);
        let step = (all / HELD_OUT_ROWS).max(1);
        let rows: Vec<u64> = (0..all.min(HELD_OUT_ROWS)).map(|row| row * step).collect();
        let (mut nats, mut tokens) = (0.0, 0);
        for rows in rows.chunks(ROWS_AT_A_TIME) {
            let batch = self.dataset.batch(Split::HeldOut, rows, sequence);
            let batch = batch.map_err(|error| LearnError::Tensor {
                doing: "reading held-out rows",
                reason: error.to_string(),
            })?;
            let (sum, count) = learner.evaluate(&batch)?;
            nats += sum;
            tokens += count;
        }
        Ok(nats / tokens.max(1) as f64)
    }
}
