//! Checkpoint folders that `transformers` opens, and θ out of such folders.
//!
//! [`files`] gives the folder's bytes without touching a disk, so that anyone who holds θ can
//! recompute the hashes of a published checkpoint.
//!
//! What was tried: `transformers` (python/README.md). llama.cpp does not convert a freshly trained
//! vocabulary: its converter knows tokenizers by a hash. vLLM was not tried.

mod export;
mod hugging_face;
mod import;
mod names;
mod partial;

pub use export::{CheckpointError, export, files};
pub use hugging_face::FILES;
pub use import::{Imported, greatest, import, is_complete};
