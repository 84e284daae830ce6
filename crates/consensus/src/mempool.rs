//! Transactions that wait for a block: bounded per signer, without repeats, own ones sent again.
//!
//! What comes in here was found admissible once. Signers are then members, so a bound per signer is a
//! bound for all.

use atoll_protocol::{
    Block, Hash, Millis, PeerId, encode, limits::BLOCK_TRANSACTIONS_MAX, transaction::SignedTransaction,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Transactions that one signer may have waiting: a round needs six, and one or two for each contribution of others
/// that it is asked to look at.
pub(crate) const SIGNER_TRANSACTIONS_MAX: usize = 256;
/// Their bytes altogether.
const SIGNER_BYTES_MAX: usize = 256 * 1024;
/// Transactions per forwarding peer that were not admissible yet and wait for the next block.
const EARLY_MAX: usize = 32;
/// How soon an own transaction is sent again, doubling each time.
const RESEND_MIN: Millis = Millis(250);
const RESEND_MAX: Millis = Millis(2_000);

/// A transaction with its bytes and their hash.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) id: Hash,
    pub(crate) transaction: SignedTransaction,
    pub(crate) bytes: Bytes,
}

impl Candidate {
    pub(crate) fn new(transaction: SignedTransaction) -> Self {
        let bytes = Bytes::from(encode(&transaction));
        Self {
            id: Hash::of_blob(&bytes),
            transaction,
            bytes,
        }
    }
}

/// Names a transaction, signature included.
pub(crate) fn id_of(transaction: &SignedTransaction) -> Hash {
    Hash::of_blob(&encode(transaction))
}

#[derive(Debug)]
struct Entry {
    candidate: Candidate,
    /// For an own transaction: when it is sent again, and after how long once more.
    resend: Option<(Millis, Millis)>,
}

#[derive(Debug, Default)]
struct Share {
    count: usize,
    bytes: usize,
}

/// The transactions, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Mempool {
    arrivals: u64,
    order: BTreeMap<u64, Entry>,
    places: BTreeMap<Hash, u64>,
    shares: BTreeMap<PeerId, Share>,
    early: BTreeMap<PeerId, Vec<Candidate>>,
}

impl Mempool {
    pub(crate) fn contains(&self, id: &Hash) -> bool {
        self.places.contains_key(id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Keeps a transaction. An own one is due to be sent at `own`, and again until it is removed.
    /// False if the signer has too many waiting already.
    pub(crate) fn insert(&mut self, candidate: Candidate, own: Option<Millis>) -> bool {
        let resend = own.map(|now| (now, RESEND_MIN));
        if let Some(entry) = self
            .places
            .get(&candidate.id)
            .and_then(|place| self.order.get_mut(place))
        {
            entry.resend = entry.resend.or(resend);
            return true;
        }
        let share = self.shares.entry(candidate.transaction.signer).or_default();
        let bytes = share.bytes + candidate.bytes.len();
        if share.count == SIGNER_TRANSACTIONS_MAX || bytes > SIGNER_BYTES_MAX {
            return false;
        }
        share.count += 1;
        share.bytes = bytes;
        self.arrivals += 1;
        self.places.insert(candidate.id, self.arrivals);
        self.order.insert(self.arrivals, Entry { candidate, resend });
        true
    }

    pub(crate) fn remove(&mut self, id: &Hash) {
        let Some(entry) = self.places.remove(id).and_then(|place| self.order.remove(&place)) else {
            return;
        };
        let signer = entry.candidate.transaction.signer;
        if let Some(share) = self.shares.get_mut(&signer) {
            share.count -= 1;
            share.bytes -= entry.candidate.bytes.len();
            if share.count == 0 {
                self.shares.remove(&signer);
            }
        }
    }

    /// Removes what a final block holds.
    pub(crate) fn remove_included(&mut self, block: &Block) {
        for transaction in &block.transactions {
            self.remove(&id_of(transaction));
        }
    }

    /// The oldest transactions that are not in `skip`; as many as a block can hold.
    pub(crate) fn candidates(&self, skip: &BTreeSet<Hash>) -> Vec<SignedTransaction> {
        let waiting = self.order.values().map(|entry| &entry.candidate);
        waiting
            .filter(|candidate| !skip.contains(&candidate.id))
            .take(BLOCK_TRANSACTIONS_MAX)
            .map(|candidate| candidate.transaction.clone())
            .collect()
    }

    /// Everything that waits.
    pub(crate) fn all(&self) -> Vec<Candidate> {
        self.order.values().map(|entry| entry.candidate.clone()).collect()
    }

    /// The bytes of own transactions that are due to be sent at `now`.
    pub(crate) fn take_due(&mut self, now: Millis) -> Vec<Bytes> {
        let mut due = Vec::new();
        for entry in self.order.values_mut() {
            if let Some((at, delay)) = &mut entry.resend
                && *at <= now
            {
                *at = now.after(*delay);
                *delay = RESEND_MAX.min(delay.after(*delay));
                due.push(entry.candidate.bytes.clone());
            }
        }
        due
    }

    /// When the next own transaction is due.
    pub(crate) fn next_due(&self) -> Option<Millis> {
        let own = self.order.values().filter_map(|entry| entry.resend);
        own.map(|(at, _)| at).min()
    }

    /// Sets a transaction aside that `from` sent and that is not admissible yet: the sender may have
    /// seen a block that we have not.
    pub(crate) fn set_aside(&mut self, from: PeerId, candidate: Candidate) {
        let early = self.early.entry(from).or_default();
        if early.len() < EARLY_MAX && early.iter().all(|known| known.id != candidate.id) {
            early.push(candidate);
        }
    }

    /// What was set aside; each transaction gets this one further chance.
    pub(crate) fn take_early(&mut self) -> Vec<Candidate> {
        std::mem::take(&mut self.early).into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_protocol::{Action, Domain, Keypair, Transaction};

    fn candidate(seed: u8, sequence: u32) -> Candidate {
        let body = Transaction {
            genesis: Hash::ZERO,
            action: Action::Join { sequence },
        };
        Candidate::new(Keypair::from_seed(&[seed; 32]).sign(Domain::Transaction, body))
    }

    #[test]
    fn nobody_fills_the_pool_for_others() {
        let mut pool = Mempool::default();
        for sequence in 0..SIGNER_TRANSACTIONS_MAX as u32 {
            assert!(pool.insert(candidate(1, sequence), None));
        }
        assert!(!pool.insert(candidate(1, 1_000), None));
        assert!(pool.insert(candidate(1, 0), None), "a known one is no news");
        assert!(pool.insert(candidate(2, 0), None));
        pool.remove(&candidate(1, 0).id);
        assert!(pool.insert(candidate(1, 1_000), None));
        pool.all().iter().for_each(|candidate| pool.remove(&candidate.id));
        assert!(pool.is_empty() && pool.shares.is_empty() && pool.places.is_empty());
    }

    #[test]
    fn candidates_come_in_order_without_those_to_skip() {
        let mut pool = Mempool::default();
        let all = [candidate(2, 0), candidate(1, 0), candidate(3, 0)];
        for candidate in &all {
            pool.insert(candidate.clone(), None);
        }
        let skip = BTreeSet::from([all[1].id]);
        let expected = vec![all[0].transaction.clone(), all[2].transaction.clone()];
        assert_eq!(pool.candidates(&skip), expected);
    }

    #[test]
    fn own_transactions_are_due_at_once_then_with_backoff() {
        let mut pool = Mempool::default();
        pool.insert(candidate(1, 0), Some(Millis(1_000)));
        pool.insert(candidate(2, 0), None);
        let mut sent = Vec::new();
        for now in 1_000..8_000 {
            if !pool.take_due(Millis(now)).is_empty() {
                sent.push(now);
            }
        }
        assert_eq!(sent, [1_000, 1_250, 1_750, 2_750, 4_750, 6_750]);
        assert_eq!(pool.next_due(), Some(Millis(8_750)));
        pool.remove(&candidate(1, 0).id);
        assert_eq!(pool.next_due(), None);
    }

    #[test]
    fn early_ones_get_one_more_chance_and_are_bounded() {
        let mut pool = Mempool::default();
        let from = Keypair::from_seed(&[9; 32]).peer();
        for sequence in (0..2 * EARLY_MAX as u32).chain(0..3) {
            pool.set_aside(from, candidate(1, sequence));
        }
        assert_eq!(pool.take_early().len(), EARLY_MAX);
        assert!(pool.take_early().is_empty());
    }
}
