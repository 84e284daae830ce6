//! The state after a block, and how a block is made, checked and applied.

use crate::{
    Appeal, Applied, Audits, BlockError, Event, Evidence, Excision, Pace, Peer, Phase, Planned, Refusal, Roots,
    RoundState, Scores, Standing, Terms,
};
use alloc::{collections::BTreeMap, format, sync::Arc, vec::Vec};
use atoll_protocol::{
    Block, Charter, Domain, Hash, Header, Height, MicroNats, Millis, PeerId, Round, encode,
    limits::{BLOCK_BYTES_MAX, BLOCK_TRANSACTIONS_MAX, DEADLINE_MS_MIN, HEADER_BYTES_MAX, TRANSACTION_BYTES_MAX},
    transaction::SignedTransaction,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// The newest checkpoint and who stated what of it.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct CheckpointState {
    /// Last round merged into it.
    pub round: Round,
    /// Its parameters.
    pub theta: Hash,
    /// Who stated which file list, and the held-out loss it measured.
    pub statements: BTreeMap<PeerId, (Hash, MicroNats)>,
    /// The file list that a quorum stated.
    pub recorded: Option<Hash>,
}

/// A merge that moved θ, kept so that who still holds the θ before it can make the one after it, even
/// when nobody serves that one.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct LastMerge {
    /// Its round.
    pub round: Round,
    /// Roots before it.
    pub base: Roots,
    /// How its contributions were encoded, and how long they trained.
    pub terms: Terms,
    /// What was merged, ascending by peer.
    pub plan: Vec<Planned>,
    /// What was taken out of θ with it.
    pub excisions: Vec<Excision>,
}

/// When a phase ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// If it has by then what it needs.
    pub usual: Millis,
    /// In any case, once it has a quorum.
    pub last: Millis,
}

/// Everything that the state root covers.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Core {
    /// The run.
    pub genesis: Hash,
    /// Height of the last block.
    pub height: Height,
    /// Time of the last block.
    pub time: Millis,
    /// Roots of the global parameters. A momentum of [`Hash::ZERO`] is the all-zero one before the
    /// first outer step.
    pub roots: Roots,
    /// How they came about; none before the first closed round.
    pub last_merge: Option<LastMerge>,
    /// Everyone who ever joined.
    pub peers: BTreeMap<PeerId, Peer>,
    /// The round under way.
    pub round: RoundState,
    /// How long peers needed for the phases of the last rounds.
    pub pace: Pace,
    /// Running hash over all ended rounds.
    pub history: Hash,
    /// Who sent what to the void rounds since θ moved: their authors may send it again, and nobody else.
    pub sent: BTreeMap<Hash, PeerId>,
    /// The newest checkpoint that is or was due.
    pub checkpoint: Option<CheckpointState>,
    /// What is done again, and what that needs.
    pub audits: Audits,
    /// What contributions do to the loss.
    pub scores: Scores,
    /// What the guilty said against the last verdict on them.
    pub appeals: BTreeMap<PeerId, Appeal>,
    /// One proof per peer that signed two different statements.
    pub evidence: BTreeMap<PeerId, Evidence>,
}

/// The ledger's state after some block. The same blocks give the same state everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    charter: Arc<Charter>,
    tip: Hash,
    core: Core,
}

impl State {
    /// The state after the genesis block. `charter` must have passed [`Charter::validate`].
    pub fn genesis(charter: Arc<Charter>) -> Self {
        let core = Self::genesis_core(&charter);
        let tip = Self::genesis_block(&charter).digest();
        Self { charter, tip, core }
    }

    fn genesis_core(charter: &Charter) -> Core {
        let momentum = match charter.outer {
            atoll_protocol::charter::OuterOptimizer::Sgd { .. } => None,
            atoll_protocol::charter::OuterOptimizer::Nesterov { .. } => Some(Hash::ZERO),
        };
        Core {
            genesis: charter.genesis(),
            height: Height(0),
            time: Millis(0),
            roots: Roots {
                theta: charter.model.theta,
                momentum,
            },
            last_merge: None,
            peers: BTreeMap::new(),
            round: RoundState::gathering(Round(0), Millis(0), Terms::first(charter)),
            pace: Pace::default(),
            history: Hash::ZERO,
            sent: BTreeMap::new(),
            checkpoint: None,
            audits: Audits::default(),
            scores: Scores::default(),
            appeals: BTreeMap::new(),
            evidence: BTreeMap::new(),
        }
    }

    /// Block 0: nobody signs it, everyone derives it.
    pub fn genesis_block(charter: &Charter) -> Block {
        let core = Self::genesis_core(charter);
        let header = Header {
            parent: core.genesis,
            height: core.height,
            time: core.time,
            transactions: Block::transactions_root(&[]),
            state: state_root(&core),
            validators: validators_root(charter),
        };
        Block {
            header,
            transactions: Vec::new(),
        }
    }

    /// The run's rules.
    pub fn charter(&self) -> &Arc<Charter> {
        &self.charter
    }

    /// Everything the root covers, to read.
    pub fn core(&self) -> &Core {
        &self.core
    }

    pub(crate) fn core_mut(&mut self) -> &mut Core {
        &mut self.core
    }

    /// The round under way.
    pub fn round(&self) -> &RoundState {
        &self.core.round
    }

    /// Height of the last block.
    pub fn height(&self) -> Height {
        self.core.height
    }

    /// Digest of the last block.
    pub fn tip(&self) -> Hash {
        self.tip
    }

    /// Time of the last block.
    pub fn time(&self) -> Millis {
        self.core.time
    }

    /// The state root.
    pub fn root(&self) -> Hash {
        state_root(&self.core)
    }

    /// Who decides the next block, ascending: the charter's members.
    pub fn validators(&self) -> Vec<PeerId> {
        self.charter.keys().collect()
    }

    /// Who takes part in the next round, ascending.
    pub fn active(&self) -> Vec<PeerId> {
        let active = |(_, peer): &(&PeerId, &Peer)| peer.standing == Standing::Active;
        self.core.peers.iter().filter(active).map(|(id, _)| *id).collect()
    }

    /// The block time at which something happens without any transaction.
    pub fn next_deadline(&self) -> Option<Millis> {
        let (round, deadlines) = (&self.core.round, &self.charter.deadlines);
        let quorum = self.charter.quorum(round.roster.len());
        match round.phase {
            Phase::Gathering => round.quorum_at.map(|at| at.after(deadlines.grace)),
            Phase::Commit if round.commits.len() >= quorum => self.phase_ends(),
            Phase::Commit => round.outgrown_at.map(|at| at.after(deadlines.grace)),
            Phase::Reveal => self.phase_ends(),
            Phase::Check if round.checks.len() >= quorum => self.phase_ends(),
            Phase::Merge if round.roots.len() >= quorum => self.phase_ends(),
            Phase::Check | Phase::Merge => round.outgrown_at.map(|at| at.after(deadlines.grace)),
            Phase::Finished => None,
        }
    }

    /// When the phase is over for those who have a quorum and wait for the rest.
    pub fn phase_ends(&self) -> Option<Millis> {
        let ends = self.limits()?;
        let quorum = self.charter.quorum(self.core.round.roster.len());
        let enough = match self.core.round.phase {
            Phase::Reveal => self.core.round.reveals.len() >= quorum,
            Phase::Check => self.plan(quorum).len() >= quorum,
            _ => true,
        };
        Some(if enough { ends.usual } else { ends.last })
    }

    /// When the phase under way ends if all is well, as [`Pace`] has it, and when it ends at the latest.
    /// Nothing where there is no limit, as for commitments without a quorum; after it the rest have the grace
    /// window.
    pub fn limits(&self) -> Option<Limits> {
        let (round, longest, pace) = (&self.core.round, &self.charter.deadlines, &self.core.pace);
        let (usual, last) = match round.phase {
            Phase::Gathering | Phase::Finished => return None,
            Phase::Commit => {
                let end = round.quorum_at?.after(longest.grace);
                (end, end)
            }
            Phase::Reveal => (
                round.since.after(pace.reveal_limit(longest.deviations, longest.reveal)),
                round.since.after(longest.reveal),
            ),
            Phase::Check => {
                let usual = round
                    .reveal_at
                    .after(pace.check_limit(longest.deviations, Millis(u64::MAX)));
                let least = round.since.after(Millis(DEADLINE_MS_MIN));
                (usual.max(least), round.since.after(longest.check))
            }
            Phase::Merge => (round.since.after(longest.merge), round.since.after(longest.merge)),
        };
        Some(Limits {
            usual: usual.min(last),
            last,
        })
    }

    /// Whether the next block could hold `transaction`.
    pub fn admissible(&self, transaction: &SignedTransaction) -> Result<(), Refusal> {
        let verified = self.verify(transaction)?;
        self.clone().execute(&verified, &mut Vec::new())
    }

    /// A block of those `candidates` that are admissible in their order.
    pub fn draft(&self, time: Millis, candidates: impl IntoIterator<Item = SignedTransaction>) -> Applied {
        let (mut next, mut events) = (self.clone(), Vec::new());
        let (mut transactions, mut bytes) = (Vec::new(), HEADER_BYTES_MAX);
        for candidate in candidates {
            let length = encode(&candidate).len();
            let full = transactions.len() == BLOCK_TRANSACTIONS_MAX || bytes + length > BLOCK_BYTES_MAX;
            if full {
                break;
            }
            if length > TRANSACTION_BYTES_MAX {
                continue;
            }
            let executed = next
                .verify(&candidate)
                .and_then(|verified| next.execute(&verified, &mut events));
            if executed.is_ok() {
                bytes += length;
                transactions.push(candidate);
            }
        }
        let time = time.max(self.core.time.after(Millis(1)));
        next.finish(time, self.tip, &mut events);
        let header = Header {
            parent: self.tip,
            height: next.core.height,
            time,
            transactions: Block::transactions_root(&transactions),
            state: next.root(),
            validators: validators_root(&self.charter),
        };
        next.tip = header.digest();
        Applied::new(Block { header, transactions }, next, events)
    }

    /// Checks and applies the next block, as [`State::apply`] does, and keeps the proof.
    pub fn advance(&self, block: Block) -> Result<Applied, BlockError> {
        let (state, events) = self.apply(&block)?;
        Ok(Applied::new(block, state, events))
    }

    /// The state after `block` and what it changed. Every hash, signature and rule is checked.
    pub fn apply(&self, block: &Block) -> Result<(Self, Vec<Event>), BlockError> {
        self.check_header(block)?;
        let (mut next, mut events) = (self.clone(), Vec::new());
        for (index, transaction) in block.transactions.iter().enumerate() {
            next.verify(transaction)
                .and_then(|verified| next.execute(&verified, &mut events))
                .map_err(|refusal| BlockError::Transaction {
                    index,
                    kind: transaction.body.action.kind(),
                    refusal,
                })?;
        }
        next.finish(block.header.time, self.tip, &mut events);
        same("state", block.header.state, next.root())?;
        next.tip = block.digest();
        Ok((next, events))
    }

    fn check_header(&self, block: &Block) -> Result<(), BlockError> {
        let header = &block.header;
        if header.parent != self.tip {
            return Err(BlockError::Parent {
                got: header.parent,
                ours: self.tip,
            });
        }
        let expected = Height(self.core.height.0.saturating_add(1));
        if header.height != expected {
            return Err(BlockError::Height {
                got: header.height,
                expected,
            });
        }
        if header.time <= self.core.time {
            return Err(BlockError::Time {
                got: header.time,
                last: self.core.time,
            });
        }
        if block.transactions.len() > BLOCK_TRANSACTIONS_MAX {
            let (got, max) = (block.transactions.len(), BLOCK_TRANSACTIONS_MAX);
            return Err(BlockError::Limit(format!(
                "{got} transactions; at most {max} are allowed"
            )));
        }
        same(
            "transactions",
            header.transactions,
            Block::transactions_root(&block.transactions),
        )?;
        same("validators", header.validators, validators_root(&self.charter))
    }

    fn finish(&mut self, time: Millis, parent: Hash, events: &mut Vec<Event>) {
        self.core.height = Height(self.core.height.0.saturating_add(1));
        self.core.time = time;
        self.settle(time, parent, events);
    }
}

fn same(what: &'static str, got: Hash, computed: Hash) -> Result<(), BlockError> {
    match got == computed {
        true => Ok(()),
        false => Err(BlockError::Root { what, got, computed }),
    }
}

fn state_root(core: &Core) -> Hash {
    Hash::of(Domain::State, &encode(core))
}

fn validators_root(charter: &Charter) -> Hash {
    Hash::of(Domain::Validators, &encode(&charter.keys().collect::<Vec<_>>()))
}
