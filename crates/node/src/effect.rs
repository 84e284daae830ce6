//! What goes in and what comes out.

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use atoll_ledger::{Applied, Case, Excision, Planned, Roots, Scoring, Terms, Work, assign::Share};
use atoll_protocol::{
    Action, CheckReason, Finding, Hash, LossChange, MicroNats, Millis, PeerId, Round,
    charter::Codec,
    transaction::{Judgement, Reveal},
};

/// A finished round's work: encoded, stored on disk, and noted so that a crash cannot make another.
pub type Contribution = Reveal;

/// What a machine is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The next final block. The owner folds over its events too, for people and for what it keeps.
    Final(Arc<Applied>),
    /// Inner steps are done and the contribution is on disk.
    Trained(Contribution),
    /// A revealed blob was fetched and found well formed, or not.
    Fetched {
        /// Round of the reveal.
        round: Round,
        /// Whose.
        peer: PeerId,
        /// Whether it may be merged.
        verdict: Result<(), CheckReason>,
    },
    /// Merge and outer step are done; the owner holds the result beside θ.
    Merged {
        /// The round.
        round: Round,
        /// Roots of the result.
        roots: Roots,
        /// What was kept out of it.
        judgement: Judgement,
    },
    /// The plan could not be merged here.
    MergeFailed {
        /// The round.
        round: Round,
        /// Why, for people.
        reason: String,
    },
    /// θ is now that of these roots.
    Adopted(Roots),
    /// A checkpoint is written.
    Checkpointed {
        /// Last round in it.
        round: Round,
        /// Hash of its file list.
        manifest: Hash,
        /// Held-out loss measured.
        held_out: MicroNats,
    },
    /// A merged contribution was made again.
    Replayed {
        /// Its round.
        round: Round,
        /// Its author.
        peer: PeerId,
        /// What came out.
        finding: Finding,
    },
    /// What a merged contribution does to the loss was measured, or could not be.
    Scored {
        /// Its round.
        round: Round,
        /// Its author.
        peer: PeerId,
        /// What drew the rows.
        beacon: Hash,
        /// What it does, if it could be measured.
        change: Option<LossChange>,
    },
    /// A timer fired.
    Timer(Timer),
    /// An operator wants out: say so on the ledger.
    Leave,
    /// An operator objects to the last verdict on this peer, with these words. They are said once the ledger is
    /// followed; where there is no verdict then, they are dropped with a notice.
    Appeal(String),
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Look at the ledger and do what is due; set at start and while old blocks stream in.
    Resume,
    /// Judge what has not arrived as missing, if a quorum's contributions have.
    Check(Round),
    /// Judge what has not arrived as missing.
    LastCheck(Round),
}

/// What a machine wants done. The owner keeps the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Sign and submit.
    Submit(Action),
    /// Train from θ on this share and report [`Input::Trained`]. Replaces training under way. An open
    /// contribution that was made from the same θ is reported again, as one to this round, in place of
    /// training; one from another θ goes back into error feedback first.
    Train {
        /// The round.
        round: Round,
        /// What to read.
        share: Share,
        /// How long to train, and how to encode.
        terms: Terms,
        /// How long contributions travel, to be revealed: see [`atoll_protocol::transaction::Measured`].
        kib_micros: u32,
        /// This peer's newest work on the ledger, where contributions are made again: training goes on from the
        /// state after it. What was trained since and never revealed is dropped, since nobody could follow it.
        standing: Option<Box<Work>>,
    },
    /// Training under way is of no use any more: stop it.
    Abort,
    /// Fetch a revealed blob from its peer or anyone, check it, report [`Input::Fetched`].
    Fetch {
        /// Whose and what.
        peer: PeerId,
        /// As revealed.
        reveal: Reveal,
        /// How it must be encoded.
        codec: Codec,
    },
    /// Merge these into a copy of θ and report [`Input::Merged`] or [`Input::MergeFailed`]. Fetch what
    /// is not held: a peer that was away while the round was checked merges too.
    Merge {
        /// The round.
        round: Round,
        /// In this order.
        plan: Vec<Planned>,
        /// How they are encoded, and how long they trained.
        terms: Terms,
        /// What is taken out of θ after the step.
        excisions: Vec<Excision>,
    },
    /// Make this peer's merged contribution again, beside everything else, and report [`Input::Replayed`].
    Replay {
        /// Whose.
        author: PeerId,
        /// As the ledger has it.
        case: Box<Case>,
        /// How long contributions travel, as in [`Effect::Train`]: what takes much longer than that is not served.
        kib_micros: u32,
    },
    /// Measure what this peer's merged contribution does to the loss, beside everything else, and report
    /// [`Input::Scored`].
    Score(PeerId, Box<Scoring>),
    /// The merged copy is θ from now on.
    Advance(Roots),
    /// The merge asked for last is void: drop the copy, or the work on it.
    Discard,
    /// θ moved without one's own contribution: add it back to the error feedback, then forget it. (One
    /// that the round's record names as merged is forgotten as it is; one to a void round is kept.)
    Restore(Round),
    /// Fetch θ with these roots from anyone who holds it, drop a merged copy of another θ, report
    /// [`Input::Adopted`]. Error feedback and optimizer moments stay. Replaces an adoption under way;
    /// nothing is fetched where this θ is held.
    Adopt(Roots),
    /// Write the checkpoint of θ and report [`Input::Checkpointed`].
    Checkpoint(Round),
    /// Blobs of rounds before this one may go.
    Collect(Round),
    /// Call back.
    SetTimer {
        /// At this time, by the clock that is passed to `step`.
        at: Millis,
        /// With this.
        timer: Timer,
    },
    /// For people and logs.
    Notice(Notice),
}

/// Something that people may want to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Our θ is not the one that a quorum agreed on.
    Diverged {
        /// The round.
        round: Round,
        /// Computed here.
        ours: Roots,
        /// Agreed.
        agreed: Roots,
    },
    /// A final block does not follow the one before: this build or this disk is wrong.
    Broken(String),
    /// A plan could not be merged here.
    MergeFailed {
        /// The round.
        round: Round,
        /// Why.
        reason: String,
    },
    /// There is no verdict on this peer to which these words could be an objection.
    NoVerdict(String),
}
