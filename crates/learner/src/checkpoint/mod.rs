//! Checkpoint folders that `transformers`, vLLM and llama.cpp open, and θ out of such folders.
//!
//! [`files`] gives the folder's bytes without touching a disk, so that anyone who holds θ can
//! recompute the hashes of a published checkpoint.

mod export;
mod hugging_face;
mod import;

pub use export::{CheckpointError, export, files};
pub use hugging_face::FILES;
pub use import::{Imported, import};
