//! What an owner keeps of final blocks, and how a test waits for it.

use crate::verify_certificate;
use atoll_ledger::{Phase, Standing, State};
use atoll_protocol::{Block, Charter, Height, PeerId};
use commonware_utils::sync::{Mutex, MutexGuard};
use std::{pin::pin, sync::Arc};
use tokio::sync::Notify;

/// One validator's disk. Not a watch channel: that wakes who waits in an order that no seed repeats.
pub(super) struct Disk {
    content: Mutex<Content>,
    changed: Notify,
}

pub(super) struct Content {
    pub(super) state: State,
    pub(super) blocks: Vec<Block>,
    pub(super) certificates: usize,
    /// Every delivery, in order; a crash before the block is written brings it again.
    pub(super) received: Vec<Height>,
    /// Whether it has listened enough to vote again.
    pub(super) heard: bool,
}

impl Disk {
    pub(super) fn empty(charter: &Arc<Charter>) -> Arc<Self> {
        let content = Content {
            state: State::genesis(charter.clone()),
            blocks: Vec::new(),
            certificates: 0,
            received: Vec::new(),
            heard: false,
        };
        Arc::new(Self {
            content: Mutex::new(content),
            changed: Notify::new(),
        })
    }

    pub(super) fn read(&self) -> MutexGuard<'_, Content> {
        self.content.lock()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Content)) {
        change(&mut self.content.lock());
        self.changed.notify_waiters();
    }

    /// Calls `look` now and after every change, until it says that it has seen enough.
    pub(super) async fn watch(&self, mut look: impl FnMut(&Content) -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if look(&self.content.lock()) {
                return;
            }
            changed.await;
        }
    }
}

impl Content {
    /// Writes the next final block, whose certificate must prove it.
    pub(super) fn write(&mut self, block: &Block, certificate: Option<&[u8]>) {
        let next = self.state.height().0 + 1;
        assert_eq!(block.header.height.0, next, "without gaps or repeats");
        let (genesis, validators) = (self.state.core().genesis, self.state.validators());
        if let Some(certificate) = certificate {
            let info = verify_certificate(&genesis, &validators, &block.digest(), certificate).expect("a proof");
            assert!(info.signers.len() * 3 > validators.len() * 2);
            self.certificates += 1;
        }
        self.state = self.state.apply(block).expect("a final block applies").0;
        self.blocks.push(block.clone());
    }

    /// What `peer` has said in final blocks.
    pub(super) fn kinds(&self, peer: PeerId) -> Vec<&'static str> {
        let transactions = self.blocks.iter().flat_map(|block| &block.transactions);
        let own = transactions.filter(|transaction| transaction.signer == peer);
        own.map(|transaction| transaction.body.action.kind()).collect()
    }

    /// Whether every round is over and all of `peers` have left.
    pub(super) fn is_done(&self, peers: &[PeerId]) -> bool {
        let core = self.state.core();
        let gone = |peer| {
            core.peers
                .get(peer)
                .is_some_and(|peer| peer.standing != Standing::Active)
        };
        core.round.phase == Phase::Finished && peers.iter().all(gone)
    }
}
