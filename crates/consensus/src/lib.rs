//! Consensus in our own words: transactions go in, final blocks with certificates come out.
//!
//! Below is commonware-consensus (simplex with Ed25519 certificates, marshal for catch-up), carried
//! over iroh connections. No other crate sees a commonware type, and iroh's appear only where a
//! [`Transport`] is made. It has *views* and *heights*; *rounds* are the ledger's.
//!
//! Blocks are made on demand: the leader of a view waits for a transaction, the ledger's next
//! deadline or the heartbeat. When nothing comes, the view runs out and the next leader waits. Views
//! are short, so a crashed leader costs one of them; after a few it is known as silent and skipped.
//!
//! Read in this order: [`handle`](start) starts the thread, `engine` wires it, `application` proposes
//! and verifies, `delivery` hands on what is final, `forward` and `mempool` carry transactions, and
//! `transport`, `channel` and `network` carry everything. `damage` and `listen` are for a validator whose storage is
//! lost.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod application;
mod block;
mod certificate;
mod chain;
mod channel;
mod clocks;
mod damage;
mod delivery;
mod engine;
mod forward;
mod handle;
mod keys;
mod ledger;
mod listen;
mod mempool;
mod network;
#[cfg(test)]
mod simulation;
mod transport;

pub use certificate::{CertificateError, CertificateInfo, verify_certificate};
pub use damage::{lost_marker, mark_lost, says_damaged, says_full};
pub use delivery::Finalized;
pub use handle::{Config, Handle, StartError, start};
pub use keys::ValidatorsError;
pub use ledger::SubmitError;
pub use transport::{ALPN, Transport};
