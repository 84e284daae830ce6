//! The node machine: input → effects, no I/O. What a peer does and when.
//!
//! The owner feeds final blocks and the outcomes of earlier effects, and carries out the effects in
//! order against the world (`host`) or a priority queue (`simulator`). The machine knows neither
//! tensors nor sockets: parameters are roots here, contributions are blob hashes.
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::float_arithmetic))]

extern crate alloc;

mod effect;
mod machine;
mod respond;
mod travel;

pub use effect::{Contribution, Effect, Input, Notice, Timer};
pub use machine::{Node, STALE};
