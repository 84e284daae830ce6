//! Words of the wire: ids, units, transactions, blocks, the charter, signatures and limits.
//!
//! This floor has no clock, no I/O, no randomness, no floats and no hash maps; it is `no_std`, so
//! none of them can creep in. Every byte that is signed or hashed is made here.
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::float_arithmetic))]

extern crate alloc;

pub mod audit;
pub mod block;
pub mod charter;
pub mod encoding;
pub mod ids;
pub mod layout;
pub mod limits;
pub mod robust;
pub mod score;
pub mod sign;
mod tiny;
pub mod transaction;
pub mod units;

pub use audit::{Audit, Finding};
pub use block::{Block, Header};
pub use charter::Charter;
pub use encoding::{DecodeError, decode, encode};
pub use ids::{Domain, Hash, PeerId};
pub use layout::Layout;
pub use robust::Robust;
pub use score::{LossChange, Score};
pub use sign::{Keypair, Signature, SignatureError, Signed, Verified};
pub use tiny::tiny_charter;
pub use transaction::{Action, CheckReason, Refused, RefusedReplica, Transaction};
pub use units::{ByteCount, Fraction, Height, InnerSteps, MicroNats, Millis, Nano, Round, Tokens};
