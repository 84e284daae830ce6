//! Why a transaction or a block is refused, with its numbers.

use crate::Phase;
use alloc::string::String;
use atoll_protocol::{Hash, Height, InnerSteps, Millis, PeerId, Round, SignatureError, Tokens};
use thiserror::Error;

/// Why a transaction is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The signature does not fit.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// A statement for another run.
    #[error("it is for the run with genesis {}, this one is {}", got.short(), ours.short())]
    OtherGenesis {
        /// Genesis in the transaction.
        got: Hash,
        /// Genesis of this run.
        ours: Hash,
    },
    /// The signer is not in the charter.
    #[error("peer {} is not a member; members are named in the charter", .0.short())]
    NotAMember(PeerId),
    /// The signer was excluded.
    #[error("peer {} is excluded for good", .0.short())]
    Excluded(PeerId),
    /// The signer was found guilty and is not back yet.
    #[error("peer {} was found guilty and may join again in round {back}", peer.short())]
    Suspended {
        /// Who.
        peer: PeerId,
        /// The first round that it may take part in.
        back: Round,
    },
    /// A verdict that nobody asked for.
    #[error("peer {} is not asked, or not any more, about the contribution of {} to round {round}", speaker.short(), peer.short())]
    NotAsked {
        /// Who speaks.
        speaker: PeerId,
        /// The contribution's round.
        round: Round,
        /// Its author.
        peer: PeerId,
    },
    /// An appeal without a verdict.
    #[error("there is no verdict on peer {} about a contribution to round {round}, or it has objected already", peer.short())]
    NoVerdict {
        /// Who objects.
        peer: PeerId,
        /// The round that it names.
        round: Round,
    },
    /// Words that are too long, or none, or would do things on a terminal.
    #[error("a reason of {got} bytes; 1 to {max} are allowed, without control characters")]
    Reason {
        /// Bytes.
        got: usize,
        /// Allowed.
        max: usize,
    },
    /// States that do not follow on each other.
    #[error("the states that peer {} names do not follow on its last, {}", peer.short(), expected.short())]
    States {
        /// Who.
        peer: PeerId,
        /// Its last closing state.
        expected: Hash,
    },
    /// A join or leave out of turn.
    #[error("sequence {got} of a join or leave; {expected} is next")]
    Sequence {
        /// In the transaction.
        got: u32,
        /// Expected.
        expected: u32,
    },
    /// A join of somebody who takes part, or a leave of somebody who does not.
    #[error("peer {} {}", peer.short(), if *active { "takes part already" } else { "does not take part" })]
    Standing {
        /// Who.
        peer: PeerId,
        /// Whether it takes part now.
        active: bool,
    },
    /// A statement about a round that is not the current one.
    #[error("round {got} is not open; current is {current}")]
    OtherRound {
        /// In the transaction.
        got: Round,
        /// Current.
        current: Round,
    },
    /// A statement that the current phase does not take.
    #[error("a {kind} has no place in the phase {phase:?}")]
    OtherPhase {
        /// Kind of statement.
        kind: &'static str,
        /// Current phase.
        phase: Phase,
    },
    /// The signer is not in this round's roster.
    #[error("peer {} is not in the roster of round {round}", peer.short())]
    NotInRoster {
        /// Who.
        peer: PeerId,
        /// The round.
        round: Round,
    },
    /// The same statement again.
    #[error("peer {} has already made its {kind} for this round", peer.short())]
    Repeated {
        /// Who.
        peer: PeerId,
        /// Kind of statement.
        kind: &'static str,
    },
    /// A contribution for another θ.
    #[error("trained for round {got}; only what was trained for rounds {first} to {last} stands on today's parameters")]
    Trained {
        /// In the reveal.
        got: Round,
        /// The first since θ moved.
        first: Round,
        /// The current one.
        last: Round,
    },
    /// A rank that cannot be.
    #[error("an effective rank of {got} thousandths; at most {max} can be")]
    Rank {
        /// In the reveal.
        got: u32,
        /// Allowed.
        max: u32,
    },
    /// A reveal of something else than was committed to.
    #[error("blob {} is not what peer {} committed to", blob.short(), peer.short())]
    NotCommitted {
        /// Who.
        peer: PeerId,
        /// Blob revealed.
        blob: Hash,
    },
    /// A blob that another peer has sent to a round before, which was void.
    #[error("blob {} is {}'s, who sent it to a round before", blob.short(), author.short())]
    NotItsOwn {
        /// The blob.
        blob: Hash,
        /// Who sent it first.
        author: PeerId,
    },
    /// A contribution's claimed work is impossible.
    #[error("{steps} with {tokens}: 1 to {steps_max} of {tokens_per_step} each are possible")]
    Work {
        /// Claimed.
        steps: InnerSteps,
        /// Claimed.
        tokens: Tokens,
        /// By the charter.
        steps_max: InnerSteps,
        /// By the charter.
        tokens_per_step: Tokens,
    },
    /// A size out of range.
    #[error("a blob of {got} bytes; 1 to {max} are allowed")]
    BlobSize {
        /// Claimed.
        got: u64,
        /// Allowed.
        max: u64,
    },
    /// A list that is not as it must be.
    #[error("the check's {0}")]
    CheckList(&'static str),
    /// What a merge keeps out is not as it must be.
    #[error("what the merge keeps out {0}")]
    Unfit(&'static str),
    /// A root without momentum where the optimizer has it, or the reverse.
    #[error("the merge root {} a momentum root, the charter's outer optimizer {}", if *given { "has" } else { "lacks" }, if *given { "has none" } else { "needs one" })]
    Momentum {
        /// Whether the transaction has one.
        given: bool,
    },
    /// No checkpoint of this round is due.
    #[error("no checkpoint of round {0} is due")]
    NoCheckpointDue(Round),
}

/// Why a block is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BlockError {
    /// It does not follow our last block.
    #[error("its parent is {}, the last block is {}", got.short(), ours.short())]
    Parent {
        /// In the header.
        got: Hash,
        /// Ours.
        ours: Hash,
    },
    /// Its height is not the next.
    #[error("its height is {got}, {expected} is next")]
    Height {
        /// In the header.
        got: Height,
        /// Expected.
        expected: Height,
    },
    /// Its time does not advance.
    #[error("its time {got} is not later than the last block's {last}")]
    Time {
        /// In the header.
        got: Millis,
        /// Of the last block.
        last: Millis,
    },
    /// A header hash that does not fit the content.
    #[error("its {what} hash is {}, its content gives {}", got.short(), computed.short())]
    Root {
        /// Which: transactions, validators or state.
        what: &'static str,
        /// In the header.
        got: Hash,
        /// From the content.
        computed: Hash,
    },
    /// More than a block may hold.
    #[error("{0}")]
    Limit(String),
    /// A transaction is refused.
    #[error("transaction {index} ({kind}) is refused: {refusal}")]
    Transaction {
        /// Its place in the block.
        index: usize,
        /// Its kind.
        kind: &'static str,
        /// Why.
        refusal: Refusal,
    },
}
