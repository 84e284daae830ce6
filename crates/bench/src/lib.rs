//! Benchmarks: what a method of distributed training costs in loss and bytes, and how fast codecs are,
//! without a network; and per-step all-reduce over a real one ([`all_reduce`]), which has no other use.
//!
//! [`convergence`] runs the real outer loop (`outer`, `ledger`'s choice of codecs, `learner`) for N replicas
//! in turn, and the methods that it is compared with, on the same rows in the same order. [`attacks`] runs whole
//! networks with liars in the simulator. The only clock that a result depends on is a virtual one.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod all_reduce;
pub mod attacks;
pub mod book;
pub mod codec;
pub mod convergence;
pub mod ring;
pub mod weigh;
