//! Pseudo-gradients, codecs, error feedback, merge and outer step: the arithmetic on which every
//! replica must agree to the bit.
//!
//! Slices of f32 in, bytes and slices out; no I/O, no clock, no tensor library. What replicas must agree on
//! is made of + − × ÷ on f32 and f64 alone, in a fixed order and without fused multiply-add, so every IEEE
//! 754 machine computes the same bits (rounding to nearest, subnormal numbers kept). Threads divide
//! coordinates, never sums: their number changes nothing. What a replica only measures also takes roots and
//! logarithms.
//!
//! In reading order: [`theta`], [`codec`] with [`blob`], [`feedback`], [`robust`], [`merge()`], [`step`]; [`replica`] joins them,
//! and [`again`] does what a replica did once more.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod again;
pub mod attack;
pub mod blob;
pub mod codec;
pub mod feedback;
pub mod merge;
pub mod own_state;
mod plan;
pub mod real;
pub mod replica;
pub mod robust;
pub mod score;
pub mod step;
pub mod theta;
mod warm;

pub use blob::{BlobError, Contribution, blob_bytes_max};
pub use codec::{EncodeError, Flaw, encode};
pub use feedback::{Encoded, ErrorFeedback, FeedbackError};
pub use merge::{MergeError, Weighed, merge, merge_weighed};
pub use own_state::{OwnState, OwnStateError};
pub use real::nano_f32;
pub use replica::{Ahead, Input, Merged, Merging, Pending, Replica, ReplicaError, TakenBack};
pub use score::{ScoreRows, loss_change};
pub use step::{OuterRule, OuterState, StepError};
pub use theta::{VectorError, pseudo_gradient, root, theta_bytes, theta_from_bytes};
