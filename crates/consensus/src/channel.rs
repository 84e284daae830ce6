//! The channels between two validators: what each carries and how much of it may wait.

use crate::{block::Block, keys::Validators};
use atoll_protocol::limits::TRANSACTION_BYTES_MAX;
use commonware_consensus::{
    marshal::{self, standard::Standard},
    simplex::{self, scheme::ed25519::Scheme},
};
use commonware_cryptography::blake3::Digest;

/// How many channels there are.
pub(crate) const CHANNELS: usize = 6;

/// A channel is one stream per direction. Its number is the stream's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// Single votes.
    Votes = 0,
    /// Certificates made of them.
    Certificates = 1,
    /// Missing certificates asked for and answered.
    Resolver = 2,
    /// Missing blocks asked for and answered.
    Backfill = 3,
    /// Proposed blocks.
    Blocks = 4,
    /// Transactions on their way to whoever proposes next.
    Transactions = 5,
}

impl Channel {
    pub(crate) const ALL: [Self; CHANNELS] = [
        Self::Votes,
        Self::Certificates,
        Self::Resolver,
        Self::Backfill,
        Self::Blocks,
        Self::Transactions,
    ];

    pub(crate) fn of_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// Bytes of the largest frame that an honest validator sends.
    pub(crate) fn frame_bytes_max(self, validators: &Validators) -> usize {
        let count = validators.count();
        match self {
            Self::Votes | Self::Certificates | Self::Resolver => simplex::max_payload_size::<Scheme, Digest>(count),
            Self::Backfill | Self::Blocks => marshal::max_payload_size::<Standard<Block>, Scheme>(count, &()),
            Self::Transactions => TRANSACTION_BYTES_MAX,
        }
    }

    /// Frames that may wait, inbound altogether and outbound per peer. Frames of up to a mebibyte
    /// wait in small numbers.
    pub(crate) fn frames_waiting_max(self) -> usize {
        match self {
            Self::Votes | Self::Certificates | Self::Transactions => 1024,
            Self::Resolver => 256,
            Self::Backfill | Self::Blocks => 16,
        }
    }
}
