//! Loss over a text, in windows that `python/check_checkpoint.py` cuts in the same way.
//!
//! The text is encoded whole, without special tokens. Window i covers tokens
//! [i·C, i·C + C], C = context: its first C tokens are inputs, each predicts the next token, so every
//! token but the text's first is predicted exactly once. A last, shorter window counts if it has a
//! target.

use crate::{Batch, LearnError, Learner, data::Tokenizer, data::TokenizerError};
use thiserror::Error;

/// Windows per batch.
const WINDOWS: usize = 8;

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

/// Why a text could not be evaluated.
#[derive(Debug, Error)]
pub enum EvalError {
    /// Nothing to predict.
    #[error("the text has {0} tokens; at least 2 are needed to predict one")]
    TooShort(usize),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model failed.
    #[error(transparent)]
    Learn(#[from] LearnError),
}

/// Loss of `learner` on `text`.
pub fn evaluate_text(learner: &mut dyn Learner, tokenizer: &Tokenizer, text: &str) -> Result<EvalReport, EvalError> {
    let tokens = tokenizer.encode(text)?;
    if tokens.len() < 2 {
        return Err(EvalError::TooShort(tokens.len()));
    }
    let context = learner.context() as usize;
    let full = (tokens.len() - 1) / context;
    let (mut nats, mut count) = (0.0, 0);
    let mut add = |tokens: Vec<u32>, sequence| -> Result<(), EvalError> {
        // An empty rest is no batch.
        let Ok(batch) = Batch::new(tokens, sequence) else {
            return Ok(());
        };
        let (sum, targets) = learner.evaluate(&batch)?;
        nats += sum;
        count += targets;
        Ok(())
    };
    for first in (0..full).step_by(WINDOWS) {
        let windows = first..(first + WINDOWS).min(full);
        let rows = windows.flat_map(|i| &tokens[i * context..=(i + 1) * context]);
        add(rows.copied().collect(), context)?;
    }
    let rest = &tokens[full * context..];
    add(rest.to_vec(), rest.len() - 1)?;
    let nats_per_token = nats / count as f64;
    Ok(EvalReport {
        nats_per_token,
        perplexity: nats_per_token.exp(),
        tokens: count,
    })
}
