//! What a peer can say on the ledger.

use crate::{
    ByteCount, Finding, Hash, InnerSteps, LossChange, MicroNats, Millis, PeerId, Round, Signed, Tokens, encode,
    ids::Domain, limits::APPEAL_BYTES_MAX,
};
use alloc::{string::String, vec::Vec};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;

/// A statement bound to one run; signed by the peer whose statement it is.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Transaction {
    /// The genesis hash of the run, so that no statement can be replayed in another.
    pub genesis: Hash,
    /// What is stated.
    pub action: Action,
}

/// A signed statement.
pub type SignedTransaction = Signed<Transaction>;

/// The kinds of statement.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Action {
    /// Take part from the next round on.
    Join {
        /// How often this peer has joined before: makes every join a statement of its own.
        sequence: u32,
    },
    /// Take part no longer.
    Leave {
        /// How often this peer has joined.
        sequence: u32,
    },
    /// Bind oneself to a contribution before anyone can see it.
    Commit {
        /// The round contributed to.
        round: Round,
        /// [`commitment`] of the blob.
        commitment: Hash,
    },
    /// Name the contribution committed to.
    Reveal(Reveal),
    /// Say that one holds every revealed contribution and finds it well formed, but for these. What is
    /// revealed is fixed before the first check, so the list says all.
    Check {
        /// The round judged.
        round: Round,
        /// How long after commitments closed it held well-formed contributions of a quorum, by its own clock;
        /// nothing where it did not, or was not there from the beginning. What comes later may be one slow peer's.
        held: Option<Millis>,
        /// Not held or not well formed, ascending by replica.
        refused: Vec<RefusedReplica>,
    },
    /// State the root of the parameters after the outer step.
    MergeRoot {
        /// The round merged.
        round: Round,
        /// BLAKE3 of θ^{t+1} as little-endian f32: also the address of that blob.
        theta: Hash,
        /// The same of the outer optimizer's momentum, if it has one.
        momentum: Option<Hash>,
        /// What was kept out, and why.
        judgement: Judgement,
    },
    /// Say what came out when a merged contribution was made again.
    Verdict {
        /// The round it was contributed to.
        round: Round,
        /// Whose.
        peer: PeerId,
        /// What came out.
        finding: Finding,
    },
    /// Say what a merged contribution does to the loss.
    Score {
        /// The round it was contributed to.
        round: Round,
        /// Whose.
        peer: PeerId,
        /// What drew the rows: says which of several measurements this is.
        beacon: Hash,
        /// As measured here.
        change: LossChange,
    },
    /// Object to a verdict, for people to decide: the only word that is taken of who is out. Once per verdict.
    Appeal {
        /// The round that the contribution was sent to.
        round: Round,
        /// Why, in the objector's words.
        reason: String,
    },
    /// State what a checkpoint of a closed round consists of.
    Checkpoint {
        /// The last round merged into it.
        round: Round,
        /// Hash of the checkpoint's file list, each file with its own hash.
        manifest: Hash,
        /// Held-out loss of the checkpoint as this peer measured it.
        held_out: MicroNats,
    },
}

/// What a peer contributed to a round, and what it measured on the way.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Reveal {
    /// The round contributed to.
    pub round: Round,
    /// The round for which it was trained: an earlier one where those since were void, and what was sent to
    /// them is sent again.
    pub trained: Round,
    /// Address of the encoded pseudo-gradient.
    pub blob: Hash,
    /// Its size.
    pub bytes: ByteCount,
    /// Inner steps taken.
    pub steps: InnerSteps,
    /// Those of them that were taken while the contribution before travelled, if any.
    pub ahead: Option<Ahead>,
    /// Tokens trained on: the contribution's weight.
    pub tokens: Tokens,
    /// Mean training loss over the round's inner steps.
    pub train_loss: MicroNats,
    /// Loss of θ^t on the slice of held-out rows that this peer evaluates in this round.
    pub held_out: MicroNats,
    /// What encoding it showed: from this the ledger chooses the codecs of later rounds.
    pub measured: Measured,
    /// From what it was made, and what its author goes on from.
    pub states: States,
}

/// A replica's own state, as addresses: error feedback, the inner optimizer's moments and, where steps are taken
/// ahead, weights. Both [`Hash::ZERO`] where the charter has nothing done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct States {
    /// Before: that after its last contribution, or [`Hash::ZERO`] for a fresh start.
    pub opening: Hash,
    /// After.
    pub closing: Hash,
}

impl States {
    /// Where nothing is done again.
    pub const NONE: Self = Self {
        opening: Hash::ZERO,
        closing: Hash::ZERO,
    };
}

/// Inner steps taken before their round opened; see [`crate::charter::Overlap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Ahead {
    /// Where they began.
    pub from: AheadFrom,
    /// How many; at most the contribution's.
    pub steps: InnerSteps,
}

/// Weights from which a peer trains on while its contribution travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum AheadFrom {
    /// Its own, as when it sent.
    Own,
    /// The θ^{t+1} to expect of its own contribution and of earlier rounds.
    Eager,
    /// θ^t.
    Theta,
}

/// What a peer measured while it trained and encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Measured {
    /// ‖e‖ / ‖δ‖ in thousandths, e being what the codec left.
    pub residual_milli: u32,
    /// Mean effective rank of the matrices in thousandths; 0 where the codec is not of low rank.
    pub rank_milli: u32,
    /// Length of an inner step in microseconds; 0 where it is not known.
    pub step_micros: u32,
    /// What it took to fetch a KiB of the others' contributions to the last round, in microseconds, while
    /// at least one was on its way; 0 where it is not known.
    pub kib_micros: u32,
}

/// What a merge made of the contributions: the same for everyone who merges.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub struct Judgement {
    /// Address of the inner products and weights, as `atoll_outer::robust` writes them; [`Hash::ZERO`] where the
    /// charter asks for none.
    pub matrix: Hash,
    /// Median length of the contributions that were merged, in millionths; 0 where it was not asked for.
    pub norm_micro: u64,
    /// What was kept out, ascending by replica.
    pub unfit: Vec<UnfitReplica>,
}

impl Judgement {
    /// Of a merge that keeps nothing out and looks at nothing.
    pub const NONE: Self = Self {
        matrix: Hash::ZERO,
        norm_micro: 0,
        unfit: Vec::new(),
    };
}

/// A contribution that is well formed and was kept out of the merge: seven bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub struct UnfitReplica {
    /// The contributor's place in the round's roster.
    pub replica: u16,
    /// Why.
    pub reason: Unfit,
}

/// Why a well-formed contribution is not merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub enum Unfit {
    /// All its values are 0.
    Zero,
    /// It is longer than the charter allows.
    Long {
        /// Its length in thousandths of the median of late.
        times_milli: u32,
    },
    /// It is more alike to an earlier one than the charter allows.
    Alike {
        /// The earlier one's place in the roster.
        other: u16,
        /// Their cosine in ten-thousandths.
        cosine_myriad: u16,
    },
    /// The charter's rule gives it no weight beside the others.
    Weightless,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("all its values are 0"),
            Self::Weightless => f.write_str("the rule gives it no weight beside the others"),
            Self::Long { times_milli } => {
                let (whole, part) = (times_milli / 1000, times_milli % 1000);
                write!(f, "it is {whole}.{part:03} times as long as the median of late")
            }
            Self::Alike { other, cosine_myriad } => {
                let (whole, part) = (cosine_myriad / 10_000, cosine_myriad % 10_000);
                write!(
                    f,
                    "its cosine with the contribution of replica {other} is {whole}.{part:04}"
                )
            }
        }
    }
}

/// One refused contribution.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Refused {
    /// Whose contribution.
    pub peer: PeerId,
    /// Why.
    pub reason: CheckReason,
}

/// One refused contribution in a check: three bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RefusedReplica {
    /// The contributor's place in the round's roster.
    pub replica: u16,
    /// Why.
    pub reason: CheckReason,
}

/// Why a peer refuses a contribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub enum CheckReason {
    /// No peer served the blob in time.
    Missing,
    /// The blob is larger or smaller than the reveal said.
    WrongSize,
    /// The blob is not a contribution in the charter's codec for the charter's model.
    Malformed,
    /// The blob was made from other parameters: another round, or a fork.
    OtherBase,
    /// A value is not finite or out of range.
    BadValue,
}

impl fmt::Display for CheckReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "no peer served its blob in time",
            Self::WrongSize => "its blob has not the size it revealed",
            Self::Malformed => "its blob is not a contribution in the charter's codec",
            Self::OtherBase => "its blob was made from other parameters",
            Self::BadValue => "its blob holds a value that is not finite or out of range",
        })
    }
}

/// The commitment of `peer` in `round` to a blob: the peer is inside, so a copied commitment opens to
/// nothing that the copier could reveal.
pub fn commitment(genesis: &Hash, peer: &PeerId, round: Round, blob: &Hash) -> Hash {
    Hash::of(Domain::Commitment, &encode(&(genesis, peer, round, blob)))
}

/// Whether these words may stand on the ledger: not too many, and nothing that does something on a terminal.
pub fn may_be_said(reason: &str) -> bool {
    (1..=APPEAL_BYTES_MAX).contains(&reason.len()) && !reason.chars().any(char::is_control)
}

impl Action {
    /// The statement's kind in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Join { .. } => "join",
            Self::Leave { .. } => "leave",
            Self::Commit { .. } => "commit",
            Self::Reveal(_) => "reveal",
            Self::Check { .. } => "check",
            Self::MergeRoot { .. } => "merge root",
            Self::Verdict { .. } => "verdict",
            Self::Score { .. } => "score",
            Self::Appeal { .. } => "appeal",
            Self::Checkpoint { .. } => "checkpoint",
        }
    }
}
