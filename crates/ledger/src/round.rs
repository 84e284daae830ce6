//! What the ledger remembers of peers and of the round under way.

use crate::{Excision, Terms, pace::Delays};
use alloc::{collections::BTreeMap, vec::Vec};
use atoll_protocol::{
    ByteCount, Hash, Millis, PeerId, RefusedReplica, Round, Signature, Tokens,
    transaction::{Judgement, Reveal, SignedTransaction, Unfit, UnfitReplica},
};
use borsh::{BorshDeserialize, BorshSerialize};

/// What a round waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Phase {
    /// For a quorum of the members to join.
    Gathering,
    /// For commitments: peers train.
    Commit,
    /// For the blobs that were committed to.
    Reveal,
    /// For the peers' word on who holds which blob.
    Check,
    /// For a quorum of equal roots.
    Merge,
    /// For nothing: the last round is closed.
    Finished,
}

/// Whether a peer takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Standing {
    /// In the roster of the next round.
    Active,
    /// Missed too many rounds; may join again.
    Dormant,
    /// Left; may join again.
    Left,
    /// Was found guilty; may join again from this round on.
    Suspended(Round),
    /// Signed two different statements about one round, or was found guilty twice. For good.
    Excluded,
}

/// What the ledger remembers of a peer.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Peer {
    /// Whether it takes part.
    pub standing: Standing,
    /// How often it joined.
    pub joins: u32,
    /// Rounds in a row in which it did not commit, or did not reveal what it committed to.
    pub absent: u32,
    /// Rounds into which its contribution was merged.
    pub merged: u32,
    /// Tokens of these contributions.
    pub tokens: Tokens,
    /// Rounds into which its contribution was merged since it was last found guilty.
    pub proven: u32,
    /// How often it was found guilty.
    pub offences: u32,
    /// How often it missed what a jury found, less how often it found something right.
    pub unfounded: u32,
    /// How often in a row it did not serve what it started from.
    pub unserved: u32,
}

impl Peer {
    /// Whether nothing is taken from it at the moment.
    pub fn is_barred(&self) -> bool {
        matches!(self.standing, Standing::Suspended(_) | Standing::Excluded)
    }
}

/// A commitment with its signature.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Committed {
    /// Hash that binds peer, round and blob.
    pub commitment: Hash,
    /// How many had committed before.
    pub order: u32,
    /// Kept as evidence.
    pub signature: Signature,
}

/// A reveal with its signature.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Revealed {
    /// What was revealed.
    pub reveal: Reveal,
    /// Kept as evidence.
    pub signature: Signature,
}

/// One peer's word on the revealed blobs.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Checked {
    /// What it does not hold or finds not well formed, ascending by replica; it accepts all others.
    pub refused: Vec<RefusedReplica>,
    /// How long after commitments closed it held a quorum's, as it says.
    pub held: Option<Millis>,
}

/// A contribution that is to be merged.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Planned {
    /// Whose.
    pub peer: PeerId,
    /// Its blob.
    pub blob: Hash,
    /// The blob's size.
    pub bytes: ByteCount,
    /// Its weight.
    pub tokens: Tokens,
    /// The contributor's place in the roster.
    pub replica: u16,
    /// How many had committed before.
    pub order: u32,
}

/// A contribution that was judged and not merged.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct KeptOut {
    /// The contribution.
    pub planned: Planned,
    /// Why.
    pub reason: Unfit,
}

impl KeptOut {
    /// As the merge named it.
    pub fn entry(&self) -> UnfitReplica {
        UnfitReplica {
            replica: self.planned.replica,
            reason: self.reason,
        }
    }
}

/// What a peer's merge came to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub struct Merged {
    /// Roots of θ and momentum.
    pub roots: Roots,
    /// What was kept out.
    pub judgement: Judgement,
}

/// The roots that a peer computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub struct Roots {
    /// Of θ.
    pub theta: Hash,
    /// Of the outer optimizer's momentum.
    pub momentum: Option<Hash>,
}

/// Two different statements of one peer about one round, both signed: anyone can check them.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Evidence {
    /// The first, as recorded.
    pub first: SignedTransaction,
    /// The second.
    pub second: SignedTransaction,
}

/// The round under way.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RoundState {
    /// Its number.
    pub number: Round,
    /// What it waits for.
    pub phase: Phase,
    /// When the phase began.
    pub since: Millis,
    /// When a quorum had joined or committed.
    pub quorum_at: Option<Millis>,
    /// When the roster was outgrown: so many had joined beside it that they could do without it.
    pub outgrown_at: Option<Millis>,
    /// When contributions could be revealed: since then they travel.
    pub reveal_at: Millis,
    /// Drawn from the block before the round opened; nobody knew it earlier.
    pub beacon: Hash,
    /// How it is trained and encoded.
    pub terms: Terms,
    /// Who takes part, ascending.
    pub roster: Vec<PeerId>,
    /// After which time the statements of each phase came.
    pub delays: Delays,
    /// Who committed.
    pub commits: BTreeMap<PeerId, Committed>,
    /// Who revealed.
    pub reveals: BTreeMap<PeerId, Revealed>,
    /// Who checked.
    pub checks: BTreeMap<PeerId, Checked>,
    /// What is judged and merged, ascending by peer; fixed when the phase Merge begins.
    pub plan: Vec<Planned>,
    /// What is taken out of θ with the merge; fixed with the plan.
    pub excisions: Vec<Excision>,
    /// What a quorum made of the plan, when the round closes.
    pub judgement: Option<Judgement>,
    /// Who merged to what.
    pub roots: BTreeMap<PeerId, Merged>,
}

impl RoundState {
    /// A round that waits for peers.
    pub(crate) fn gathering(number: Round, since: Millis, terms: Terms) -> Self {
        Self {
            number,
            phase: Phase::Gathering,
            since,
            quorum_at: None,
            outgrown_at: None,
            reveal_at: since,
            beacon: Hash::ZERO,
            terms,
            roster: Vec::new(),
            delays: Delays::default(),
            commits: BTreeMap::new(),
            reveals: BTreeMap::new(),
            checks: BTreeMap::new(),
            plan: Vec::new(),
            excisions: Vec::new(),
            judgement: None,
            roots: BTreeMap::new(),
        }
    }

    pub(crate) fn enter(&mut self, phase: Phase, now: Millis) {
        self.phase = phase;
        self.since = now;
        self.quorum_at = None;
        self.outgrown_at = None;
        if phase == Phase::Reveal {
            self.reveal_at = now;
        }
    }

    /// Notes when the statements of the block of `now` came.
    pub(crate) fn note_delays(&mut self, now: Millis) {
        let (since, delays) = (self.since, &mut self.delays);
        let (delays, begun, count) = match self.phase {
            Phase::Gathering | Phase::Check | Phase::Merge | Phase::Finished => return,
            Phase::Commit => (&mut delays.commit, since, self.commits.len()),
            Phase::Reveal => (&mut delays.reveal, since, self.reveals.len()),
        };
        delays.resize(count, Millis(now.0.saturating_sub(begun.0)));
    }

    /// The place of `peer` in the roster.
    pub fn replica(&self, peer: &PeerId) -> Option<usize> {
        self.roster.binary_search(peer).ok()
    }

    /// How many checks refuse each replica's contribution.
    pub(crate) fn refusals(&self) -> Vec<usize> {
        let mut counts = alloc::vec![0; self.roster.len()];
        let entries = self.checks.values().flat_map(|check| &check.refused);
        for entry in entries {
            if let Some(count) = counts.get_mut(usize::from(entry.replica)) {
                *count += 1;
            }
        }
        counts
    }

    fn votes(&self) -> BTreeMap<&Merged, usize> {
        let mut votes: BTreeMap<&Merged, usize> = BTreeMap::new();
        for merged in self.roots.values() {
            *votes.entry(merged).or_default() += 1;
        }
        #[cfg(feature = "planted-root-twice")]
        if let Some(first) = self.roots.values().next() {
            *votes.entry(first).or_default() += 1;
        }
        votes
    }

    /// How many peers merged to what most peers merged to.
    pub(crate) fn most_equal_roots(&self) -> usize {
        self.votes().into_values().max().unwrap_or(0)
    }

    /// Whether `count` peers merged to the same, and to what.
    pub(crate) fn agreed(&self, count: usize) -> Option<Merged> {
        let votes = self.votes();
        votes
            .into_iter()
            .find(|(_, n)| *n >= count)
            .map(|(merged, _)| merged.clone())
    }
}
