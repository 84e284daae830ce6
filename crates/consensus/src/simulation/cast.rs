//! Who takes part, under which charter, and what of them outlives every crash: disks and ballots.

use super::ballots::Ballots;
use crate::{keys::Validators, verify_certificate};
use atoll_ledger::{Phase, Standing, State};
use atoll_protocol::{
    Block, Fraction, Hash, Height, InnerSteps, Keypair, Millis, Nano, PeerId,
    charter::{
        CHARTER_VERSION, Charter, Codec, Data, Deadlines, InnerOptimizer, Member, Model, OuterOptimizer, RoundRules,
    },
    transaction::SignedTransaction,
};
use std::sync::Arc;
use tokio::sync::watch;

/// The validators of a run and everything that is not in a runtime.
pub(super) struct Cast {
    pub(super) charter: Arc<Charter>,
    pub(super) keypairs: Vec<Keypair>,
    pub(super) validators: Validators,
    pub(super) disks: Vec<SharedDisk>,
    pub(super) ballots: Ballots,
}

pub(super) type SharedDisk = Arc<watch::Sender<Disk>>;

impl Cast {
    pub(super) fn new(n: u8) -> Arc<Self> {
        let mut keypairs: Vec<_> = (1..=n).map(|i| Keypair::from_seed(&[i; 32])).collect();
        keypairs.sort_by_key(Keypair::peer);
        let charter = Arc::new(charter(&keypairs));
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

    pub(super) fn height(&self, who: usize) -> u64 {
        self.disks[who].borrow().state.height().0
    }

    /// Whether every round is over and all of `honest` have left, as the disk of `who` has it.
    pub(super) fn is_done(disk: &Disk, honest: &[PeerId]) -> bool {
        let core = disk.state.core();
        let gone = |peer| {
            core.peers
                .get(peer)
                .is_some_and(|peer| peer.standing != Standing::Active)
        };
        core.round.phase == Phase::Finished && honest.iter().all(gone)
    }

    /// One history on the disks of `honest`, and none of them has ever contradicted itself.
    pub(super) fn assert_one_history(&self, honest: &[usize]) {
        let longest = honest.iter().max_by_key(|who| self.height(**who));
        let longest = self.disks[*longest.expect("somebody")].borrow();
        for who in honest {
            let (disk, peer) = (self.disks[*who].borrow(), self.keypairs[*who].peer());
            assert_eq!(disk.blocks[..], longest.blocks[..disk.blocks.len()], "validator {who}");
            let root = disk.blocks.last().map(|block| block.header.state);
            assert!(root.is_none_or(|root| root == disk.state.root()), "validator {who}");
            let contradictions = self.ballots.contradictions(&peer);
            assert!(contradictions.is_empty(), "validator {who} in views {contradictions:?}");
        }
    }
}

/// What an owner keeps of final blocks. A watch channel, so that tests can wait for what they expect.
pub(super) struct Disk {
    pub(super) state: State,
    pub(super) blocks: Vec<Block>,
    pub(super) certificates: usize,
    /// Every delivery, in order; a crash before the block is written brings it again.
    pub(super) received: Vec<Height>,
}

impl Disk {
    pub(super) fn empty(charter: &Arc<Charter>) -> SharedDisk {
        Arc::new(watch::Sender::new(Self {
            state: State::genesis(charter.clone()),
            blocks: Vec::new(),
            certificates: 0,
            received: Vec::new(),
        }))
    }

    /// Writes the next final block, whose certificate must prove it.
    pub(super) fn write(&mut self, block: &Block, certificate: Option<&[u8]>) {
        assert_eq!(
            block.header.height.0,
            self.state.height().0 + 1,
            "without gaps or repeats"
        );
        let genesis = self.state.core().genesis;
        if let Some(certificate) = certificate {
            let validators = self.state.validators();
            let info = verify_certificate(&genesis, &validators, &block.digest(), certificate).expect("a proof");
            assert!(info.signers.len() * 3 > validators.len() * 2);
            self.certificates += 1;
        }
        self.state = self.state.apply(block).expect("a final block applies").0;
        self.blocks.push(block.clone());
    }

    /// What `peer` has in final blocks, each kind of statement once a time.
    pub(super) fn kinds(&self, peer: PeerId) -> Vec<&'static str> {
        let transactions = self.blocks.iter().flat_map(|block| &block.transactions);
        let own = transactions.filter(|transaction: &&SignedTransaction| transaction.signer == peer);
        own.map(|transaction| transaction.body.action.kind()).collect()
    }
}

fn charter(keypairs: &[Keypair]) -> Charter {
    let members = keypairs.iter().enumerate().map(|(i, keypair)| Member {
        name: format!("v{i}"),
        key: keypair.peer(),
    });
    Charter {
        version: CHARTER_VERSION,
        name: "simulation".into(),
        seed: 7,
        model: model(),
        data: Data { manifest: Hash::ZERO },
        round: rules(),
        inner: InnerOptimizer {
            lr: Nano(3_000_000),
            lr_min_ratio: Nano(100_000_000),
            warmup: InnerSteps(2),
            weight_decay: Nano(100_000_000),
            beta1: Nano(900_000_000),
            beta2: Nano(950_000_000),
            eps: Nano(10),
            clip: Nano::ONE,
        },
        outer: OuterOptimizer::Sgd { lr: Nano::ONE },
        codec: Codec::Int4 { feedback: Nano::ONE },
        deadlines: Deadlines {
            grace: Millis(3_000),
            reveal: Millis(4_000),
            check: Millis(4_000),
            merge: Millis(4_000),
            heartbeat: Millis(60_000),
        },
        members: members.collect(),
    }
}

/// Two short rounds; a quorum goes on without who is away.
fn rules() -> RoundRules {
    RoundRules {
        rounds: 2,
        inner_steps: InnerSteps(4),
        batch: 2,
        sequence: 16,
        held_out: 2,
        quorum: Fraction {
            numerator: 2,
            denominator: 3,
        },
        retention: 0,
        checkpoint_every: 2,
        absent_max: 2,
    }
}

fn model() -> Model {
    Model {
        vocab: 256,
        width: 32,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_width: 8,
        ffn: 64,
        context: 32,
        rope_theta: 10_000,
        norm_eps: Nano(10_000),
        tied: true,
        theta: Hash::ZERO,
        tokenizer: Hash::ZERO,
    }
}
