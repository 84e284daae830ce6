//! Which contributions count, and how much: gates and robust weights from inner products.
//!
//! In reading order: [`Gram`], [`rules`], [`judge`].

mod gram;
pub mod judge;
pub mod rules;

pub use gram::{Gram, Mixed, grams};
