//! The real learner in place of the toy: a small Llama on bytes of a text, for small networks.

use crate::learner::{Learner, Stepped, Task};
use atoll_learner::{
    Batch, BurnLearner, DeviceChoice, LearnError, Learner as _,
    data::{self, Corpus, DataError, Dataset, Split, Tokenizer},
    init, learning_rate,
};
use atoll_ledger::assign::{Purpose, Share};
use atoll_outer::attack::Liar;
use atoll_protocol::{
    Charter, Hash, InnerSteps, Nano,
    charter::{InnerOptimizer, Model},
    tiny_charter,
};
use std::{ops::Range, path::Path, sync::Arc};
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
    /// The learner cannot be made.
    #[error(transparent)]
    Learn(#[from] LearnError),
}

/// Held-out rows that a node looks at in each round, and that the run's loss is taken from.
const HELD_OUT: [u64; 2] = [8, 96];

/// The model and its rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Width; heads are 8 wide at least, and at most four.
    pub width: u32,
    /// Layers.
    pub layers: u32,
    /// Width of the feed-forward layers.
    pub ffn: u32,
    /// Rows of a batch.
    pub batch: u32,
    /// Bytes of a row.
    pub sequence: u32,
    /// Peak learning rate.
    pub lr: Nano,
}

impl Shape {
    /// A few thousand parameters.
    pub const SMALL: Self = Self {
        width: 16,
        layers: 2,
        ffn: 32,
        batch: 4,
        sequence: 32,
        lr: Nano(6_000_000),
    };
}

/// A task on a text.
#[derive(Clone)]
pub struct Text {
    dataset: Arc<Dataset>,
    vocab: u32,
    shape: Shape,
    hash: Hash,
}

impl Text {
    /// The task on the text, folder, JSONL or Parquet at `path`.
    ///
    /// # Errors
    /// Where it cannot be read or is too short.
    pub fn read(path: &Path) -> Result<Self, TextError> {
        Self::of(&data::ingest(path)?)
    }

    /// The task on a corpus, with a small model.
    ///
    /// # Errors
    /// Where it is too short.
    pub fn of(corpus: &Corpus) -> Result<Self, TextError> {
        Self::shaped(corpus, Shape::SMALL)
    }

    /// The task on a corpus, with a model of this shape.
    ///
    /// # Errors
    /// Where it is too short.
    pub fn shaped(corpus: &Corpus, shape: Shape) -> Result<Self, TextError> {
        let tokenizer = Tokenizer::bytes()?;
        let built = data::build(corpus, &tokenizer, None)?;
        let fetch = |hash: &_| {
            built
                .shards
                .iter()
                .find(|(of, _)| of == hash)
                .map(|(_, bytes)| bytes.clone())
        };
        let manifest = built.manifest.to_bytes()?;
        let dataset = Dataset::open(&manifest, fetch)?;
        let sequence = shape.sequence;
        let [train, held_out] = [Split::Train, Split::HeldOut].map(|split| dataset.rows(split, sequence));
        if train == 0 || held_out == 0 {
            return Err(TextError::Short {
                train,
                held_out,
                sequence,
            });
        }
        Ok(Self {
            dataset: Arc::new(dataset),
            vocab: tokenizer.vocab(),
            shape,
            hash: Hash::of_blob(&manifest),
        })
    }

    /// With a model of another shape, of rows as long.
    pub fn with(&self, shape: Shape) -> Self {
        Self { shape, ..self.clone() }
    }

    /// Hash of the corpus's manifest.
    pub fn hash(&self) -> Hash {
        self.hash
    }
}

impl Task for Text {
    fn adapt(&self, charter: &mut Charter) {
        let Shape {
            width,
            layers,
            ffn,
            batch,
            sequence,
            lr,
        } = self.shape;
        let heads = (width / 8).clamp(1, 4);
        charter.model = Model {
            vocab: self.vocab,
            width,
            layers,
            heads,
            kv_heads: heads,
            head_width: width / heads,
            ffn,
            context: sequence,
            ..charter.model.clone()
        };
        (charter.round.batch, charter.round.sequence) = (batch, sequence);
        let steps = charter.round.rounds.saturating_mul(charter.round.inner_steps.0);
        charter.inner = InnerOptimizer {
            lr,
            warmup: InnerSteps(steps / 20),
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
            turned: None,
        }))
    }
}

struct Llama {
    charter: Arc<Charter>,
    dataset: Arc<Dataset>,
    learner: BurnLearner,
    /// Who turns its rows around, if anybody does.
    turned: Option<Liar>,
}

impl Llama {
    fn turned(&self, batch: Batch) -> Result<Batch, String> {
        let Some(liar) = self.turned else { return Ok(batch) };
        let mut tokens = batch.tokens().to_vec();
        let rows = tokens.chunks_mut(batch.sequence() + 1);
        rows.for_each(|row| liar.turn(row, self.charter.model.vocab));
        Batch::new(tokens, batch.sequence()).map_err(|error| error.to_string())
    }

    /// The mean over so many rows, spread over all that there are.
    fn held_out(&mut self, wanted: u64) -> Result<f64, String> {
        let sequence = self.charter.round.sequence;
        let all = self.dataset.rows(Split::HeldOut, sequence);
        let apart = (all / wanted).max(1);
        let rows: Vec<u64> = (0..all.min(wanted)).map(|row| row * apart).collect();
        let (mut nats, mut tokens) = (0.0, 0);
        for rows in rows.chunks(HELD_OUT[0] as usize) {
            let batch = self.dataset.batch(Split::HeldOut, rows, sequence);
            let batch = batch.map_err(|error| error.to_string())?;
            let (sum, count) = self.learner.evaluate(&batch).map_err(|error| error.to_string())?;
            nats += sum;
            tokens += count;
        }
        Ok(nats / tokens.max(1) as f64)
    }
}

impl Learner for Llama {
    fn steps(&mut self, weights: &[f32], share: &Share, steps: Range<u32>, global: u64) -> Result<Stepped, String> {
        self.learner.write(weights).map_err(|error| error.to_string())?;
        let charter = self.charter.clone();
        let (rules, rows) = (&charter.round, self.dataset.rows(Split::Train, charter.round.sequence));
        let total = u64::from(rules.rounds) * u64::from(rules.inner_steps.0);
        let mut losses = 0.0;
        for (step, global) in steps.zip(global..) {
            let rows = share.rows(Purpose::Train, step.into(), rules.batch.into(), rows);
            let batch = self
                .dataset
                .batch(Split::Train, &rows, rules.sequence)
                .map_err(|error| error.to_string())?;
            let batch = self.turned(batch)?;
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
        self.held_out(HELD_OUT[0])
    }

    fn loss_on(&mut self, weights: &[f32], share: &Share, step: u32) -> Result<Option<f64>, String> {
        self.learner.write(weights).map_err(|error| error.to_string())?;
        let rules = &self.charter.round;
        let all = self.dataset.rows(Split::Train, rules.sequence);
        let rows = share.rows(Purpose::Train, step.into(), rules.batch.into(), all);
        let batch = self.dataset.batch(Split::Train, &rows, rules.sequence);
        match self.learner.evaluate(&batch.map_err(|error| error.to_string())?) {
            Ok((nats, tokens)) => Ok(Some(nats / tokens.max(1) as f64)),
            Err(LearnError::NotFinite { .. }) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn final_loss(&mut self, theta: &[f32]) -> Result<f64, String> {
        self.learner.write(theta).map_err(|error| error.to_string())?;
        self.held_out(HELD_OUT[1])
    }

    fn save(&self) -> Vec<u8> {
        self.learner.save()
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), String> {
        self.learner.restore(saved).map_err(|error| error.to_string())
    }
    fn moments_apart(&self, saved: &[u8]) -> Result<f64, String> {
        self.learner.moments_apart(saved).map_err(|error| error.to_string())
    }

    fn turn(&mut self, liar: Option<Liar>) {
        self.turned = liar.filter(|liar| liar.turns_rows());
    }
}
