//! The replicated state machine: a pure function from state and block to state.
//!
//! ```text
//! Gathering ─quorum joined─▶ Commit ─▶ Reveal ─▶ Check ─▶ Merge ─quorum of equal roots─▶ next round
//!                              ▲                                          │
//!                              └───────────── void: θ stays ◀─────────────┘
//! ```
//! No clock (time is in the block), no I/O, no floats, no randomness. Consensus, transport and tensors
//! are unknown here.
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::float_arithmetic))]

extern crate alloc;

mod appeal;
mod applied;
pub mod assign;
mod audit;
mod event;
mod execute;
mod pace;
mod refusal;
mod round;
mod score;
mod settle;
mod state;
mod terms;

pub use appeal::Appeal;
pub use applied::Applied;
pub use audit::{Assigned, Audits, Case, Closed, Conviction, Excision, OfUse, Work, Worked};
pub use event::{Event, Outcome, RoundRecord};
pub use pace::{Delays, Pace, Spread, Window};
pub use refusal::{BlockError, Refusal};
pub use round::{
    Checked, Committed, Evidence, KeptOut, Merged, Peer, Phase, Planned, Revealed, Roots, RoundState, Standing,
};
pub use score::{Scored, Scores, Scoring, Stage, Tally};
pub use state::{CheckpointState, Core, LastMerge, Limits, State};
pub use terms::{Ended, Observed, Terms};
