//! Model, data, evaluation and checkpoints: the only crate that knows a tensor library, a tokenizer
//! library or a file format of somebody else.
//!
//! θ is one flat `Vec<f32>` in [`atoll_protocol::Layout`] order. It starts as [`init`], moves by
//! [`Learner::train_step`], and leaves as a checkpoint folder ([`checkpoint`]). Nothing here knows
//! of rounds, peers or the network.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod checkpoint;
pub mod data;

mod adamw;
mod batch;
mod burn_learner;
mod evaluate;
mod forward;
mod generate;
mod gradients;
mod init;
mod learner;
mod muon;
mod optimizer;
mod schedule;

pub use batch::{Batch, BatchError};
pub use burn_learner::BurnLearner;
pub use evaluate::{EvalError, EvalReport, EvalSum, eval_window, evaluate_text, evaluate_watched};
pub use generate::{GenerateOptions, generate};
pub use init::{init, theta_bytes, theta_hash};
pub use learner::{DeviceChoice, LearnError, Learner, StepReport};
pub use schedule::learning_rate;
