//! The world around a node machine: iroh, blobs, disk, the trainer thread, and the audit.
//!
//! Read in this order: [`run`] is one node's life, `effects` what the machine's effects do to the
//! world, [`trainer`] the thread that holds θ, [`audit`] how anyone checks all of it afterwards.

mod again;
mod aside;
pub mod audit;
pub mod blobs;
pub mod calibrate;
pub mod charter_file;
pub mod checkpoints;
pub mod contents;
pub mod cost;
pub mod disk;
mod effects;
pub mod export;
pub mod fetch;
pub mod folder;
pub mod found;
pub mod identity;
mod inner;
mod keeping;
pub mod liars;
mod log;
mod lookup;
pub mod merging;
pub mod network;
pub mod owner;
pub mod panics;
pub mod place;
mod prepare;
pub mod private;
mod pulse;
pub mod record;
pub mod repair;
pub mod replayer;
pub mod report;
pub mod run;
pub mod seal;
pub mod status;
pub mod trainer;
pub mod waits;
pub mod why;
