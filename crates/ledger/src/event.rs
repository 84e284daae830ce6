//! What a block changed, in order: every view of a run is a fold over these.

use crate::{Conviction, Evidence, Excision, KeptOut, Planned, Roots, Scored, Standing, Terms};
use alloc::{boxed::Box, string::String, vec::Vec};
use atoll_protocol::{Finding, Hash, MicroNats, Millis, PeerId, Refused, Round, transaction::Reveal};
use borsh::{BorshDeserialize, BorshSerialize};

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Outcome {
    /// A quorum posted these roots: θ moved.
    Closed(Roots),
    /// Nobody revealed in time: θ stays.
    NobodyRevealed,
    /// A quorum accepted no contribution: θ stays.
    NothingAccepted,
    /// No root found a quorum: θ stays.
    RootsSplit,
    /// The roster fell silent while a quorum of the members waited outside it: θ stays.
    Outgrown,
}

/// A round that is over.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RoundRecord {
    /// Its number.
    pub round: Round,
    /// How it ended.
    pub outcome: Outcome,
    /// When.
    pub closed_at: Millis,
    /// How it was trained and encoded.
    pub terms: Terms,
    /// Who could take part.
    pub roster: Vec<PeerId>,
    /// Who did not commit.
    pub absent: Vec<PeerId>,
    /// Who committed and did not reveal.
    pub withheld: Vec<PeerId>,
    /// Who was refused, with the reason most peers gave.
    pub refused: Vec<Refused>,
    /// What was merged.
    pub merged: Vec<Planned>,
    /// What was judged and not merged.
    pub kept_out: Vec<KeptOut>,
    /// What was taken out of θ with the merge.
    pub excisions: Vec<Excision>,
    /// Address of the inner products and weights; [`Hash::ZERO`] where there are none.
    pub matrix: Hash,
    /// Median length of the others, in millionths; 0 where nobody looked.
    pub norm_micro: u64,
    /// Training loss as those merged state it: the mean without the extremes.
    pub train_loss: MicroNats,
    /// Held-out loss of θ before the round, so too.
    pub held_out: MicroNats,
}

impl RoundRecord {
    /// Everything that was judged, ascending by peer: what was merged and what was kept out.
    pub fn plan(&self) -> Vec<Planned> {
        let kept_out = self.kept_out.iter().map(|out| &out.planned);
        let mut plan: Vec<Planned> = self.merged.iter().chain(kept_out).cloned().collect();
        plan.sort_by_key(|planned| planned.peer);
        plan
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A peer takes part from the next round on.
    Joined(PeerId),
    /// A peer left.
    Left(PeerId),
    /// A peer missed too many rounds.
    Dormant(PeerId),
    /// A peer signed two different statements.
    Excluded(PeerId, Box<Evidence>),
    /// A merged contribution is to be done again.
    AuditDrawn {
        /// Its round.
        round: Round,
        /// Its author.
        peer: PeerId,
        /// Who looks first.
        verifier: PeerId,
    },
    /// The verifier said what it found.
    Verified {
        /// The contribution's round.
        round: Round,
        /// Its author.
        peer: PeerId,
        /// Who looked.
        verifier: PeerId,
        /// What it found.
        finding: Finding,
    },
    /// What a verifier found speaks against a contribution; these decide.
    JuryDrawn {
        /// The contribution's round.
        round: Round,
        /// Its author.
        peer: PeerId,
        /// Who decides, ascending.
        jury: Vec<PeerId>,
    },
    /// A jury did not find what the accuser found.
    Acquitted {
        /// The contribution's round.
        round: Round,
        /// Its author.
        peer: PeerId,
    },
    /// A jury found somebody guilty: the author of a contribution, or its accuser.
    Convicted {
        /// Who.
        peer: PeerId,
        /// What it is now.
        standing: Standing,
        /// Of what.
        conviction: Box<Conviction>,
    },
    /// Nobody who was asked answered in time.
    AuditLapsed {
        /// The contribution's round.
        round: Round,
        /// Its author.
        peer: PeerId,
        /// Who was to look first.
        verifier: PeerId,
    },
    /// These are to measure what a merged contribution does to the loss.
    ScoreDrawn {
        /// Its round.
        round: Round,
        /// Its author.
        peer: PeerId,
        /// Who measures, ascending.
        scorers: Vec<PeerId>,
    },
    /// What a contribution does to the loss was measured.
    Scored(Scored),
    /// From now on, or no longer, all that a peer sends is looked at, for what its contributions did to the loss.
    Watched {
        /// Who.
        peer: PeerId,
        /// From now on.
        on: bool,
    },
    /// A peer objects to a verdict.
    Appealed {
        /// Who.
        peer: PeerId,
        /// The round of the contribution that was judged.
        round: Round,
        /// Why, in its words.
        reason: String,
    },
    /// A round began.
    RoundOpened {
        /// Its number.
        round: Round,
        /// Its beacon.
        beacon: Hash,
        /// How it is trained and encoded.
        terms: Terms,
        /// Who takes part.
        roster: Vec<PeerId>,
    },
    /// A peer committed.
    Committed(Round, PeerId),
    /// Commitments are closed: reveal.
    RevealOpened(Round),
    /// A peer revealed.
    Revealed(PeerId, Reveal),
    /// Reveals are closed: fetch and check.
    CheckOpened(Round),
    /// A peer said what it holds.
    Checked(Round, PeerId),
    /// What is merged is fixed.
    MergeOpened {
        /// The round.
        round: Round,
        /// Contributions, ascending by peer.
        plan: Vec<Planned>,
        /// Refused contributions.
        refused: Vec<Refused>,
    },
    /// A peer posted its root.
    RootPosted(Round, PeerId, Roots),
    /// A round is over.
    RoundEnded(Box<RoundRecord>),
    /// A checkpoint of the closed round is due.
    CheckpointDue(Round, Roots),
    /// A quorum stated the same checkpoint.
    CheckpointRecorded {
        /// Last round in it.
        round: Round,
        /// Hash of its file list.
        manifest: Hash,
        /// Mean of what the peers measured.
        held_out: MicroNats,
    },
    /// The last round is closed.
    Finished,
}
