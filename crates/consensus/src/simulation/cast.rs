//! Who takes part, under which charter, and what of them outlives every crash: disks and ballots.

use super::{ballots::Ballots, disk::Disk};
use crate::keys::Validators;
use atoll_protocol::{Charter, Keypair, Millis, PeerId, tiny_charter};
use commonware_consensus::simplex::scheme::ed25519::Scheme;
use std::sync::Arc;

/// The validators of a run and everything that is not in a runtime.
pub(super) struct Cast {
    pub(super) charter: Arc<Charter>,
    pub(super) keypairs: Vec<Keypair>,
    pub(super) validators: Validators,
    pub(super) disks: Vec<Arc<Disk>>,
    pub(super) ballots: Ballots,
}

impl Cast {
    /// `n` validators who do a few rounds; a quorum goes on without who is away.
    pub(super) fn new(n: u8, rounds: u32) -> Arc<Self> {
        let mut keypairs: Vec<_> = (1..=n).map(|i| Keypair::from_seed(&[i; 32])).collect();
        keypairs.sort_by_key(Keypair::peer);
        let charter = Arc::new(charter(&keypairs, rounds));
        charter.validate().expect("a charter");
        let peers: Vec<PeerId> = charter.keys().collect();
        Arc::new(Self {
            validators: Validators::new(&peers).expect("validators"),
            disks: keypairs.iter().map(|_| Disk::empty(&charter)).collect(),
            ballots: Ballots::default(),
            charter,
            keypairs,
        })
    }

    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.keypairs.len()).collect()
    }

    pub(super) fn peers(&self, who: &[usize]) -> Vec<PeerId> {
        who.iter().map(|who| self.keypairs[*who].peer()).collect()
    }

    /// Whether somebody still has something to say or to hear.
    pub(super) fn is_under_way(&self) -> bool {
        let peers = self.peers(&self.all());
        self.disks.iter().any(|disk| !disk.read().is_done(&peers))
    }

    /// What signs for a validator.
    pub(super) fn signer(&self, who: usize) -> Scheme {
        let signer = self.validators.signer(&self.charter.genesis(), &self.keypairs[who]);
        signer.expect("a validator")
    }

    pub(super) fn height(&self, who: usize) -> u64 {
        self.disks[who].read().state.height().0
    }

    /// One history on the disks of `honest`, and none of them has ever contradicted itself.
    pub(super) fn assert_one_history(&self, honest: &[usize]) {
        let histories = honest.iter().map(|who| self.disks[*who].read().blocks.clone());
        let longest = histories.max_by_key(Vec::len).expect("somebody is honest");
        for who in honest {
            let (disk, peer) = (self.disks[*who].read(), self.keypairs[*who].peer());
            assert_eq!(disk.blocks[..], longest[..disk.blocks.len()], "validator {who}");
            let root = disk.blocks.last().map(|block| block.header.state);
            assert!(root.is_none_or(|root| root == disk.state.root()), "validator {who}");
            let contradictions = self.ballots.contradictions(&peer);
            assert!(contradictions.is_empty(), "validator {who} in views {contradictions:?}");
        }
    }
}

fn charter(keypairs: &[Keypair], rounds: u32) -> Charter {
    let members = keypairs.iter().enumerate();
    let mut charter = tiny_charter(members.map(|(i, keypair)| (format!("v{i}"), keypair.peer())));
    charter.round.rounds = rounds;
    charter.round.checkpoint_every = 2;
    charter.deadlines.grace = Millis(3_000);
    charter.deadlines.reveal = Millis(4_000);
    charter.deadlines.check = Millis(4_000);
    charter.deadlines.merge = Millis(4_000);
    charter
}
