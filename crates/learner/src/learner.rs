//! The trait that the rest of Atoll trains through.

use crate::Batch;
use thiserror::Error;

/// What went wrong while learning, evaluating or generating.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum LearnError {
    /// The model does not fit this machine's address space or the protocol's limit.
    #[error("the model has {parameters} parameters; at most {max} are possible here")]
    TooLarge {
        /// What the sizes give.
        parameters: String,
        /// The limit.
        max: u64,
    },
    /// θ of another model.
    #[error("θ has {got} values; this model has {expected}")]
    ThetaLength {
        /// Values given.
        got: usize,
        /// P.
        expected: usize,
    },
    /// A loss, a gradient or a parameter that is NaN or infinite. Nothing was changed.
    #[error("{what} is {value} at optimizer step {step}; lower the learning rate or go back to the last round")]
    NotFinite {
        /// Which quantity.
        what: &'static str,
        /// Optimizer steps since the last reset.
        step: u64,
        /// What it was.
        value: f64,
    },
    /// A model whose numbers are NaN or infinite where it is only used.
    #[error("the model gives {value} as {what}: its weights are damaged, or too great to calculate with")]
    Broken {
        /// Which quantity.
        what: &'static str,
        /// What it was.
        value: f64,
    },
    /// A token outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocab}; was the data made with another tokenizer?")]
    Token {
        /// The token.
        token: u32,
        /// V.
        vocab: u32,
    },
    /// More tokens than the model can see.
    #[error("{got} tokens in a row; this model's context is {context}, and at least 1 is needed")]
    Length {
        /// Tokens given.
        got: usize,
        /// The most that is possible.
        context: u32,
    },
    /// Bytes that are no saved optimizer state of this model.
    #[error("this is no optimizer state of this model: {reason}")]
    OptimizerState {
        /// What is wrong.
        reason: String,
    },
    /// An option that cannot be.
    #[error("{name} = {value}: {allowed}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The tensor library failed.
    #[error("the tensor library failed while {doing}: {reason}")]
    Tensor {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        reason: String,
    },
}

/// Where tensors live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
}

/// One optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Mean over the batch before the step, nats per token.
    pub loss: f64,
    /// Global norm of the gradient before clipping.
    pub gradient_norm: f64,
}

/// A model with an optimizer. The same calls give the same bits on the same build, machine and
/// number of threads.
pub trait Learner: Send {
    /// P: values in θ.
    fn parameters(&self) -> usize;

    /// V: tokens must be below.
    fn vocab(&self) -> u32;

    /// The longest row of tokens.
    fn context(&self) -> u32;

    /// θ, flat, in layout order.
    fn read(&self) -> Vec<f32>;

    /// Replaces θ. Refused if the length is wrong or a value is not finite. The optimizer's state
    /// stays as it is.
    fn write(&mut self, theta: &[f32]) -> Result<(), LearnError>;

    /// Forward, backward, clip, AdamW or Muon with rate `lr`. On an error θ and the optimizer are unchanged.
    fn train_step(&mut self, batch: &Batch, lr: f32) -> Result<StepReport, LearnError>;

    /// Sum over the batch in nats, and over how many tokens.
    fn evaluate(&mut self, batch: &Batch) -> Result<(f64, u64), LearnError>;

    /// Next-token logits (T, V), row by row, after each of `tokens`.
    fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, LearnError>;

    /// Next-token logits (V) after the last of `tokens`.
    fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, LearnError>;

    /// The optimizer's state as bytes.
    fn save(&self) -> Vec<u8>;

    /// Takes back what [`Self::save`] gave.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), LearnError>;

    /// Zero moments, as a joiner starts.
    fn reset_optimizer(&mut self);
}

#[cfg(test)]
pub(crate) mod tests {
    use atoll_protocol::{
        Hash, Nano,
        charter::{InnerOptimizer, Model},
    };

    /// Small enough for finite differences, with grouped queries.
    pub(crate) fn tiny(tied: bool) -> Model {
        Model {
            vocab: 19,
            width: 16,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_width: 4,
            ffn: 24,
            context: 12,
            rope_theta: 10_000,
            norm_eps: Nano(10_000),
            tied,
            theta: Hash::ZERO,
            tokenizer: Hash::ZERO,
        }
    }

    pub(crate) fn inner() -> InnerOptimizer {
        atoll_protocol::tiny_charter([]).inner
    }
}
