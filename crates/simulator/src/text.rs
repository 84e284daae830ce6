//! The real learner in place of the toy: a small Llama on bytes of a text, for small networks.

use crate::learner::{Learner, Stepped, Task};
use atoll_learner::{
    BurnLearner, DeviceChoice, LearnError, Learner as _,
    data::{self, Corpus, DataError, Dataset, Split, Tokenizer},
    init, learning_rate,
};
use atoll_ledger::assign::{Purpose, Share};
use atoll_protocol::{
    Charter, Nano,
    charter::{InnerOptimizer, Model},
    tiny_charter,
};
use std::{ops::Range, path::Path, rc::Rc, sync::Arc};
use thiserror::Error;

/// Why the real learner cannot be used.
#[derive(Debug, Error)]
pub enum TextError {
    /// The text cannot be read.
    #[error(transparent)]
    Ingest(#[from] data::IngestError),
    /// No corpus can be made of it.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No tokenizer can be made.
    #[error(transparent)]
    Tokenizer(#[from] data::TokenizerError),
    /// Too little text.
    #[error(
        "the text gives {train} training rows and {held_out} held-out rows of {SEQUENCE} bytes; at least 1 of each is needed"
    )]
    Short {
        /// Training rows.
        train: u64,
        /// Held-out rows.
        held_out: u64,
    },
    /// The learner cannot be made.
    #[error(transparent)]
    Learn(#[from] LearnError),
}

/// Bytes of a row.
const SEQUENCE: u32 = 32;
/// Rows of a batch.
const BATCH: u32 = 4;

/// A task on a text.
pub struct Text {
    dataset: Rc<Dataset>,
    vocab: u32,
}

impl Text {
    /// The task on the text, folder, JSONL or Parquet at `path`.
    ///
    /// # Errors
    /// Where it cannot be read or is too short.
    pub fn read(path: &Path) -> Result<Self, TextError> {
        Self::of(&data::ingest(path)?)
    }

    /// The task on a corpus.
    ///
    /// # Errors
    /// Where it is too short.
    pub fn of(corpus: &Corpus) -> Result<Self, TextError> {
        let tokenizer = Tokenizer::bytes()?;
        let built = data::build(corpus, &tokenizer, None)?;
        let fetch = |hash: &_| {
            built
                .shards
                .iter()
                .find(|(of, _)| of == hash)
                .map(|(_, bytes)| bytes.clone())
        };
        let dataset = Dataset::open(&built.manifest.to_bytes()?, fetch)?;
        let [train, held_out] = [Split::Train, Split::HeldOut].map(|split| dataset.rows(split, SEQUENCE));
        if train == 0 || held_out == 0 {
            return Err(TextError::Short { train, held_out });
        }
        Ok(Self {
            dataset: Rc::new(dataset),
            vocab: tokenizer.vocab(),
        })
    }
}

impl Task for Text {
    fn adapt(&self, charter: &mut Charter) {
        charter.model = Model {
            vocab: self.vocab,
            width: 16,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_width: 8,
            ffn: 32,
            context: SEQUENCE,
            ..charter.model.clone()
        };
        charter.round.batch = BATCH;
        charter.round.sequence = SEQUENCE;
        charter.inner = InnerOptimizer {
            lr: Nano(6_000_000),
            ..tiny_charter([]).inner
        };
    }

    fn start(&self, model: &Model, seed: u64) -> Vec<f32> {
        init(model, seed)
    }

    fn learner(&self, charter: &Arc<Charter>) -> Result<Box<dyn Learner>, String> {
        let learner = BurnLearner::new(&charter.model, &charter.inner, DeviceChoice::default());
        Ok(Box::new(Llama {
            charter: charter.clone(),
            dataset: self.dataset.clone(),
            learner: learner.map_err(|error| error.to_string())?,
        }))
    }
}

struct Llama {
    charter: Arc<Charter>,
    dataset: Rc<Dataset>,
    learner: BurnLearner,
}

impl Llama {
    fn held_out(&mut self) -> Result<f64, String> {
        let rows = self.dataset.rows(Split::HeldOut, SEQUENCE).min(8);
        let rows: Vec<u64> = (0..rows).collect();
        let batch = self
            .dataset
            .batch(Split::HeldOut, &rows, SEQUENCE)
            .map_err(|error| error.to_string())?;
        let (nats, tokens) = self.learner.evaluate(&batch).map_err(|error| error.to_string())?;
        Ok(nats / tokens.max(1) as f64)
    }
}

impl Learner for Llama {
    fn steps(&mut self, weights: &[f32], share: &Share, steps: Range<u32>, global: u64) -> Result<Stepped, String> {
        self.learner.write(weights).map_err(|error| error.to_string())?;
        let charter = self.charter.clone();
        let (rules, rows) = (&charter.round, self.dataset.rows(Split::Train, SEQUENCE));
        let total = u64::from(rules.rounds) * u64::from(rules.inner_steps.0);
        let mut losses = 0.0;
        for (step, global) in steps.zip(global..) {
            let rows = share.rows(Purpose::Train, step.into(), BATCH.into(), rows);
            let batch = self
                .dataset
                .batch(Split::Train, &rows, SEQUENCE)
                .map_err(|error| error.to_string())?;
            let rate = learning_rate(&charter.inner, global, total);
            let done = self
                .learner
                .train_step(&batch, rate)
                .map_err(|error| error.to_string())?;
            losses += done.loss;
        }
        Ok(Stepped {
            weights: self.learner.read(),
            losses,
        })
    }

    fn loss(&mut self, theta: &[f32]) -> Result<f64, String> {
        self.learner.write(theta).map_err(|error| error.to_string())?;
        self.held_out()
    }

    fn save(&self) -> Vec<u8> {
        self.learner.save()
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), String> {
        self.learner.restore(saved).map_err(|error| error.to_string())
    }
}
