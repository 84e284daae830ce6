//! One peer of the toy network: what survives a crash, and what does not.

use atoll_ledger::Roots;
use atoll_node::{Contribution, Node};
use atoll_protocol::{Millis, Round};

/// What survives a crash.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    /// The last block whose effects were all carried out.
    pub(crate) height: usize,
    /// Roots of θ.
    pub(crate) holds: Roots,
    /// The contribution that is neither spent nor restored.
    pub(crate) mine: Option<Contribution>,
}

/// What does not.
pub(crate) struct Life {
    pub(crate) node: Node,
    /// Counts the peer's lives: what was meant for an earlier one is lost.
    pub(crate) number: u32,
    /// Until when the blocks sent so far take.
    pub(crate) last_delivery: Millis,
    /// Training under way.
    pub(crate) training: Option<u64>,
    /// The merge asked for last, unless it is void.
    pub(crate) merging: Option<u64>,
    /// Its result beside θ.
    pub(crate) copy: Option<Roots>,
    /// The adoption asked for last.
    pub(crate) adopting: Option<u64>,
}

/// How long things take a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// One way to or from the orderer or another peer, at most.
    pub(crate) link_ms_max: u64,
    /// A round's inner steps, at most; at least half of it.
    pub(crate) training_ms_max: u64,
    /// A merge, a checkpoint or a transfer of θ, at most.
    pub(crate) merge_ms_max: u64,
}

/// How a peer or its link misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its merge of this round gives another root.
    OtherRoot(Round),
    /// Nobody can fetch its blob of this round.
    Unserved(Round),
    /// Its blob of this round is malformed.
    Malformed(Round),
    /// The first attempts to merge this round fail.
    MergeFails(Round, u32),
}

/// A crash while the effects of one step are carried out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crash {
    /// Steps, over all lives, before the one that is cut short.
    pub(crate) step: u32,
    /// Effects of that step that are still carried out.
    pub(crate) effects: usize,
    /// How long the peer stays away.
    pub(crate) away: Millis,
}

/// A peer.
pub(crate) struct Peer {
    pub(crate) disk: Disk,
    pub(crate) life: Option<Life>,
    pub(crate) lives: u32,
    pub(crate) steps: u32,
    pub(crate) pace: Pace,
    pub(crate) faults: Vec<Fault>,
    /// In order of their steps.
    pub(crate) crashes: Vec<Crash>,
}
