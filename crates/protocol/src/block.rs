//! Blocks: ordered transactions under a header that binds the state after them.

use crate::{
    DecodeError, Hash, Height, Millis, decode, encode,
    ids::Domain,
    limits::{BLOCK_BYTES_MAX, BLOCK_TRANSACTIONS_MAX},
    transaction::SignedTransaction,
};
use alloc::vec::Vec;
use borsh::{BorshDeserialize, BorshSerialize};

/// What a finality certificate certifies: certificate and header together prove the state.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Header {
    /// Digest of the block before.
    pub parent: Hash,
    /// One more than the parent's; the genesis is 0.
    pub height: Height,
    /// The proposer's clock, later than the parent's.
    pub time: Millis,
    /// Hash of the encoded transactions.
    pub transactions: Hash,
    /// Root of the ledger's state after this block.
    pub state: Hash,
    /// Hash of the validator set that decides the next block.
    pub validators: Hash,
}

impl Header {
    /// The block's digest.
    pub fn digest(&self) -> Hash {
        Hash::of(Domain::Header, &encode(self))
    }
}

/// A header and its transactions.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Block {
    /// The header.
    pub header: Header,
    /// In the order in which they take effect.
    pub transactions: Vec<SignedTransaction>,
}

impl Block {
    /// The block's digest: the hash of its header.
    pub fn digest(&self) -> Hash {
        self.header.digest()
    }

    /// What the header's `transactions` must be.
    pub fn transactions_root(transactions: &[SignedTransaction]) -> Hash {
        Hash::of(Domain::Transactions, &encode(&transactions))
    }

    /// Reads one block, within the limits. Whether its header fits its content is for the ledger.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let block: Self = decode(bytes, BLOCK_BYTES_MAX)?;
        match block.transactions.len() {
            n if n > BLOCK_TRANSACTIONS_MAX => Err(DecodeError::TooLong {
                got: n,
                max: BLOCK_TRANSACTIONS_MAX,
            }),
            _ => Ok(block),
        }
    }
}
