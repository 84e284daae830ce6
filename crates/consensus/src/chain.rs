//! The last final state, and the states after blocks that may become final.

use crate::mempool::id_of;
use atoll_ledger::{BlockError, State};
use atoll_protocol::{Block, Hash, Height};
use std::collections::{BTreeMap, BTreeSet};

/// States after blocks that are not final that are kept; what is missing is computed again.
const SPECULATIVE_MAX: usize = 64;

struct Speculative {
    height: Height,
    parent: Hash,
    state: State,
    transactions: Vec<Hash>,
}

/// Where a block that somebody builds on stands.
pub(crate) enum Place {
    /// Its state is known; the transactions since the last final block are named.
    Known(Box<State>, BTreeSet<Hash>),
    /// At or below the last final block, and not that block: nothing can follow it any more.
    Past,
    /// To be computed from its parent's.
    Unknown,
}

/// States by block.
pub(crate) struct Chain {
    last: State,
    speculative: BTreeMap<Hash, Speculative>,
}

impl Chain {
    pub(crate) fn new(last: State) -> Self {
        Self {
            last,
            speculative: BTreeMap::new(),
        }
    }

    /// The last final state.
    pub(crate) fn last(&self) -> &State {
        &self.last
    }

    pub(crate) fn place(&self, digest: Hash, height: Height) -> Place {
        if digest == self.last.tip() {
            return Place::Known(Box::new(self.last.clone()), BTreeSet::new());
        }
        if height <= self.last.height() {
            return Place::Past;
        }
        match self.speculative.get(&digest) {
            Some(known) => Place::Known(Box::new(known.state.clone()), self.transactions_up_to(digest)),
            None => Place::Unknown,
        }
    }

    fn transactions_up_to(&self, mut digest: Hash) -> BTreeSet<Hash> {
        let mut transactions = BTreeSet::new();
        while let Some(block) = self.speculative.get(&digest) {
            transactions.extend(&block.transactions);
            digest = block.parent;
        }
        transactions
    }

    /// Remembers the state after a block that may become final.
    pub(crate) fn remember(&mut self, block: &Block, state: State) {
        if self.speculative.len() >= SPECULATIVE_MAX {
            let lowest = self.speculative.iter().min_by_key(|(_, known)| known.height);
            if let Some(digest) = lowest.map(|(digest, _)| *digest) {
                self.speculative.remove(&digest);
            }
        }
        let known = Speculative {
            height: state.height(),
            parent: block.header.parent,
            transactions: block.transactions.iter().map(id_of).collect(),
            state,
        };
        self.speculative.insert(known.state.tip(), known);
    }

    /// Moves on to a final block.
    pub(crate) fn finalize(&mut self, digest: Hash, block: &Block) -> Result<(), BlockError> {
        let known = self.speculative.remove(&digest);
        self.last = match known.filter(|known| known.parent == self.last.tip()) {
            Some(known) => known.state,
            None => self.last.apply(block)?.0,
        };
        let height = self.last.height();
        self.speculative.retain(|_, known| known.height > height);
        Ok(())
    }
}
