//! What proposing, verifying, forwarding and delivering share: the chain's states and the mempool.

use crate::{
    chain::{Chain, Place},
    clocks::Clocks,
    mempool::{Candidate, Mempool},
};
use atoll_ledger::{BlockError, Refusal, State};
use atoll_protocol::{
    Block, Hash, Height, Millis, PeerId, decode, limits::TRANSACTION_BYTES_MAX, transaction::SignedTransaction,
};
use bytes::Bytes;
use commonware_utils::sync::Mutex;
use std::collections::BTreeSet;
use thiserror::Error;
use tokio::sync::Notify;

/// Why a transaction was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// The last final state refuses it; so it would in a block.
    #[error("the ledger refuses it: {0}")]
    Refused(#[from] Refusal),
    /// More than a transaction may have.
    #[error("it has {got} bytes, at most {max} are allowed")]
    TooLong {
        /// Its bytes.
        got: usize,
        /// Allowed.
        max: usize,
    },
    /// Too many of the same signer wait already.
    #[error("peer {} has {max} transactions waiting; try again after the next block", signer.short())]
    Full {
        /// Whose transaction.
        signer: PeerId,
        /// How many may wait.
        max: usize,
    },
}

/// Shared by the tasks of one node's consensus.
pub(crate) struct Ledger {
    chain: Mutex<Chain>,
    mempool: Mutex<Mempool>,
    clocks: Mutex<Clocks>,
    /// A transaction came in: the proposer looks again.
    pub(crate) arrived: Notify,
    /// An own transaction is to be sent, or the mempool is no longer empty.
    pub(crate) changed: Notify,
}

impl Ledger {
    pub(crate) fn new(last: State) -> Self {
        Self {
            chain: Mutex::new(Chain::new(last)),
            mempool: Mutex::default(),
            clocks: Mutex::default(),
            arrived: Notify::new(),
            changed: Notify::new(),
        }
    }

    /// The last final state.
    pub(crate) fn last(&self) -> State {
        self.chain.lock().last().clone()
    }

    pub(crate) fn place(&self, digest: Hash, height: Height) -> Place {
        self.chain.lock().place(digest, height)
    }

    pub(crate) fn remember(&self, block: &Block, state: State) {
        self.chain.lock().remember(block, state);
    }

    /// Notes the time in a block that `leader` proposes, as it arrives.
    pub(crate) fn note_clock(&self, leader: PeerId, block: Millis, now: Millis) {
        self.clocks.lock().note(leader, block, now);
    }

    /// How many milliseconds the clock of each leader that was heard of late is ahead of ours.
    pub(crate) fn clocks_ahead(&self, now: Millis) -> Vec<(PeerId, i64)> {
        self.clocks.lock().ahead(now)
    }

    pub(crate) fn candidates(&self, skip: &BTreeSet<Hash>) -> Vec<SignedTransaction> {
        self.mempool.lock().candidates(skip)
    }

    /// Takes an own transaction.
    pub(crate) fn submit(&self, transaction: SignedTransaction, now: Millis) -> Result<(), SubmitError> {
        let candidate = Candidate::new(transaction);
        let (signer, got) = (candidate.transaction.signer, candidate.bytes.len());
        if got > TRANSACTION_BYTES_MAX {
            let max = TRANSACTION_BYTES_MAX;
            return Err(SubmitError::TooLong { got, max });
        }
        self.last().admissible(&candidate.transaction)?;
        if !self.mempool.lock().insert(candidate, Some(now)) {
            let max = crate::mempool::SIGNER_TRANSACTIONS_MAX;
            return Err(SubmitError::Full { signer, max });
        }
        self.wake();
        Ok(())
    }

    /// Takes a transaction that another validator forwards, if it is one that a block could hold.
    pub(crate) fn forwarded(&self, from: PeerId, bytes: &[u8]) {
        let id = Hash::of_blob(bytes);
        if self.mempool.lock().contains(&id) {
            return;
        }
        let Ok(transaction) = decode::<SignedTransaction>(bytes, TRANSACTION_BYTES_MAX) else {
            return tracing::debug!(from = %from.short(), "a forwarded transaction is malformed");
        };
        self.admit(Candidate::new(transaction), Some(from));
    }

    fn admit(&self, candidate: Candidate, set_aside_for: Option<PeerId>) {
        match (self.last().admissible(&candidate.transaction), set_aside_for) {
            (Ok(()), _) => {
                if self.mempool.lock().insert(candidate, None) {
                    self.wake();
                }
            }
            (Err(_), Some(from)) => self.mempool.lock().set_aside(from, candidate),
            (Err(refusal), None) => tracing::debug!(%refusal, "a forwarded transaction is dropped"),
        }
    }

    /// Own transactions to send at `now`, and when the next are due.
    pub(crate) fn take_due(&self, now: Millis) -> (Vec<Bytes>, Option<Millis>) {
        let mut mempool = self.mempool.lock();
        (mempool.take_due(now), mempool.next_due())
    }

    fn wake(&self) {
        self.arrived.notify_waiters();
        self.changed.notify_one();
    }

    /// Whether any transaction waits.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.mempool.lock().is_empty()
    }

    /// Drops what the last final state refuses.
    pub(crate) fn sweep(&self) {
        let (last, waiting) = (self.last(), self.mempool.lock().all());
        let refused = waiting
            .iter()
            .filter(|candidate| last.admissible(&candidate.transaction).is_err());
        let refused: Vec<Hash> = refused.map(|candidate| candidate.id).collect();
        let mut mempool = self.mempool.lock();
        refused.iter().for_each(|id| mempool.remove(id));
    }

    /// Moves on to a final block: its transactions need not wait any longer, early ones may fit now.
    pub(crate) fn finalize(&self, digest: Hash, block: &Block) -> Result<(), BlockError> {
        self.chain.lock().finalize(digest, block)?;
        let early = {
            let mut mempool = self.mempool.lock();
            mempool.remove_included(block);
            mempool.take_early()
        };
        early.into_iter().for_each(|candidate| self.admit(candidate, None));
        Ok(())
    }
}
