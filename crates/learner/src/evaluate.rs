//! Loss over a text, in windows that `python/check_checkpoint.py` cuts in the same way.
//!
//! The text is encoded without special tokens. C is the model's context, at most 2048. Window i covers
//! tokens [i·C, i·C + C]: its first C tokens are inputs, each predicts the next token, so every token
//! but the text's first is predicted exactly once. Where a model wants a token before each text, every
//! window begins with it and covers tokens [i·C, i·C + C − 1]: every token is predicted once. A last,
//! shorter window counts if it has a target.
//!
//! Windows are evaluated as soon as their tokens are there: a long text's tokens never stand in memory
//! together.

use crate::{Batch, LearnError, Learner, data::Tokenizer, data::TokenizerError};
use std::ops::ControlFlow;
use thiserror::Error;

/// Windows per batch, at most.
const WINDOWS: usize = 8;
/// Scores that are in memory at once, about.
const LOGITS: usize = 1 << 24;
/// Tokens of a window: memory grows with its square.
const WINDOW_MAX: u32 = 2048;

/// How well a text is predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvalReport {
    /// Mean −ln p per predicted token.
    pub nats_per_token: f64,
    /// e to the power of `nats_per_token`.
    pub perplexity: f64,
    /// Predicted tokens.
    pub tokens: u64,
}

/// Sum of −ln p, and over how many tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EvalSum {
    /// Sum in nats.
    pub nats: f64,
    /// Predicted tokens.
    pub tokens: u64,
}

impl EvalSum {
    /// The mean; NaN over no tokens.
    pub fn report(&self) -> EvalReport {
        let nats_per_token = self.nats / self.tokens as f64;
        EvalReport {
            nats_per_token,
            perplexity: nats_per_token.exp(),
            tokens: self.tokens,
        }
    }
}

/// Why a text could not be evaluated.
#[derive(Debug, Error)]
pub enum EvalError {
    /// Nothing to predict.
    #[error("the text has {0} tokens; at least 2 are needed to predict one")]
    TooShort(usize),
    /// A loss that is NaN or infinite.
    #[error(
        "the model gives {value} as the loss of tokens {from} to {to}: its weights are damaged, or too great to \
         calculate with"
    )]
    Broken {
        /// What it was.
        value: f64,
        /// The first token of the text that was to be predicted, from 0.
        from: u64,
        /// The last.
        to: u64,
    },
    /// Whoever watched said so.
    #[error("stopped")]
    Stopped,
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model failed.
    #[error(transparent)]
    Learn(#[from] LearnError),
}

/// Loss of `learner` on `text`.
pub fn evaluate_text(learner: &mut dyn Learner, tokenizer: &Tokenizer, text: &str) -> Result<EvalReport, EvalError> {
    let sum = evaluate_watched(learner, tokenizer, None, text, &mut |_, _| ControlFlow::Continue(()))?;
    Ok(sum.report())
}

/// Tokens of one window of this model.
pub fn eval_window(learner: &dyn Learner) -> u32 {
    learner.context().min(WINDOW_MAX)
}

/// Loss of `learner` on `text`, every window behind the token `begin` if there is one. `watch` hears
/// how many bytes of the text are encoded and what they cost so far, after each batch, and may end it.
pub fn evaluate_watched(
    learner: &mut dyn Learner,
    tokenizer: &Tokenizer,
    begin: Option<u32>,
    text: &str,
    watch: &mut dyn FnMut(usize, &EvalSum) -> ControlFlow<()>,
) -> Result<EvalSum, EvalError> {
    let mut windows = Windows::new(learner, begin);
    let mut bytes = 0;
    for part in tokenizer.parts(text) {
        let (length, tokens) = part?;
        bytes += length;
        windows.waiting.extend(tokens);
        while windows.waiting.len() >= windows.batch * windows.window + windows.overlap {
            windows.full(windows.batch)?;
            if watch(bytes, &windows.sum).is_break() {
                return Err(EvalError::Stopped);
            }
        }
    }
    windows.finish()
}

/// Tokens that wait for their batch to be full.
struct Windows<'a> {
    learner: &'a mut dyn Learner,
    begin: Option<u32>,
    /// C.
    window: usize,
    /// Windows per batch.
    batch: usize,
    /// Tokens that a window shares with the next.
    overlap: usize,
    waiting: Vec<u32>,
    sum: EvalSum,
}

impl<'a> Windows<'a> {
    fn new(learner: &'a mut dyn Learner, begin: Option<u32>) -> Self {
        let window = eval_window(learner) as usize;
        let batch = LOGITS / (window * learner.vocab() as usize).max(1);
        Self {
            learner,
            begin,
            window,
            batch: batch.clamp(1, WINDOWS),
            overlap: usize::from(begin.is_none()),
            waiting: Vec::new(),
            sum: EvalSum::default(),
        }
    }

    /// Evaluates the first `count` windows of those that wait, which are full.
    fn full(&mut self, count: usize) -> Result<(), EvalError> {
        let rows = (0..count).flat_map(|i| {
            let tokens = &self.waiting[i * self.window..(i + 1) * self.window + self.overlap];
            self.begin.iter().chain(tokens)
        });
        let rows: Vec<u32> = rows.copied().collect();
        self.add(rows, self.window)?;
        self.waiting.drain(..count * self.window);
        Ok(())
    }

    fn finish(mut self) -> Result<EvalSum, EvalError> {
        let full = self.waiting.len().saturating_sub(self.overlap) / self.window;
        if full > 0 {
            self.full(full)?;
        }
        let rest = self.waiting.len().saturating_sub(self.overlap);
        if rest > 0 {
            let row = self.begin.iter().chain(&self.waiting).copied().collect();
            self.add(row, rest)?;
        }
        match self.sum.tokens {
            0 => Err(EvalError::TooShort(self.waiting.len())),
            _ => Ok(self.sum),
        }
    }

    fn add(&mut self, rows: Vec<u32>, sequence: usize) -> Result<(), EvalError> {
        let batch = Batch::new(rows, sequence).map_err(|error| LearnError::Tensor {
            doing: "cutting windows",
            reason: error.to_string(),
        })?;
        let from = self.sum.tokens + self.overlap as u64;
        let (nats, tokens) = self.learner.evaluate(&batch).map_err(|error| match error {
            LearnError::NotFinite { value, .. } => EvalError::Broken {
                value,
                from,
                to: from + batch.targets() - 1,
            },
            error => error.into(),
        })?;
        self.sum.nats += nats;
        self.sum.tokens += tokens;
        Ok(())
    }
}
