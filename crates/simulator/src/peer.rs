//! One node: what survives a crash, and what does not.

use crate::{
    again::Replaying, blobs::BlobId, clock::Micros, learner::Learner, lying::Lying, random::Random, scenario::Profile,
    trainer::Job,
};
use atoll_ledger::{Excision, Merged, Planned, Roots, Terms, Work, assign::Share};
use atoll_node::Node;
use atoll_outer::{Ahead, OuterState, Pending, Replica};
use atoll_protocol::{Hash, Keypair, PeerId, Round, charter::Codec};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// A node, working or not.
pub(crate) struct Peer {
    pub(crate) key: Keypair,
    pub(crate) id: PeerId,
    pub(crate) profile: Profile,
    pub(crate) disk: Disk,
    pub(crate) life: Option<Life>,
    pub(crate) lives: u32,
    /// Steps of its machine, over all lives.
    pub(crate) steps: u32,
    /// In order of their steps.
    pub(crate) cuts: VecDeque<Cut>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) slow: Slow,
    /// Nodes reach each other where this is equal.
    pub(crate) side: u32,
    pub(crate) random: Random,
    /// What it committed to, by round: an honest node never commits twice.
    pub(crate) commitments: BTreeMap<Round, Hash>,
    /// How it lies, if it does.
    pub(crate) lying: Option<Lying>,
    /// Whether it ever did.
    pub(crate) ever_lied: bool,
}

/// What survives.
pub(crate) struct Disk {
    /// The last block.
    pub(crate) height: u64,
    pub(crate) saved: Saved,
    /// θ and momentum by roots, each kept until a round before which is collected.
    pub(crate) thetas: BTreeMap<Roots, Stored>,
    /// Contributions to earlier rounds are collected.
    pub(crate) collected: Round,
    /// Blobs below this number that are held are safe.
    pub(crate) synced: BlobId,
    /// Until then it is busy.
    pub(crate) free_at: Micros,
}

/// θ and momentum on disk.
pub(crate) struct Stored {
    pub(crate) state: Arc<OuterState>,
    pub(crate) keep: Round,
    /// When it was written: the momentum is not waited for, and can be lost for a while.
    pub(crate) at: Micros,
}

/// The private state, replaced as a whole.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    pub(crate) feedback: Vec<u8>,
    pub(crate) learner: Vec<u8>,
    pub(crate) pending: Option<Pending>,
    pub(crate) stands_on: (Hash, bool),
    /// The error feedback that the node went back to, if it did since the last time.
    pub(crate) anew: Option<Vec<f32>>,
}

/// What does not survive.
pub(crate) struct Life {
    pub(crate) node: Node,
    pub(crate) replica: Replica,
    pub(crate) learner: Box<dyn Learner>,
    /// Counts the node's lives: what was meant for an earlier one is lost.
    pub(crate) number: u32,
    /// Height of the block that is delivered next.
    pub(crate) next: u64,
    pub(crate) last_delivery: Micros,
    /// Whether blocks come as they become final; else they are asked for.
    pub(crate) following: bool,
    /// The trainer's orders, one at a time.
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) busy: Option<Busy>,
    /// The adoption asked for last.
    pub(crate) adopting: Option<(u64, Roots)>,
    /// The merge asked for last, while its blobs are gathered.
    pub(crate) merging: Option<Gathering>,
    /// Fetches of the round under way.
    pub(crate) fetches: Vec<u64>,
    /// The round under way and the θ that contributions to it are made from.
    pub(crate) round: Round,
    pub(crate) base: Roots,
    pub(crate) timers: u32,
    /// The training that goes on while the last contribution travels.
    pub(crate) ahead: Option<GoneAhead>,
    /// How long contributions travel, to be revealed with the next one.
    pub(crate) kib_micros: u32,
    /// This node's newest work on the ledger, as of the last order to train.
    pub(crate) standing: Option<Box<Work>>,
    /// The state after the last contribution, and whether that went back into error feedback since.
    pub(crate) stands_on: (Hash, bool),
    /// The error feedback that the node went back to, while that is not on disk.
    pub(crate) anew: Option<Vec<f32>>,
    /// Contributions that are being made again.
    pub(crate) replays: Vec<Replaying>,
}

/// Training that goes on while a contribution travels. Its steps are computed when they are needed: how many
/// there were follows from the time that has passed.
pub(crate) struct GoneAhead {
    pub(crate) from: Ahead,
    pub(crate) share: Share,
    /// The first of its steps in the share, and in the run.
    pub(crate) first: u32,
    pub(crate) global: u64,
    pub(crate) since: Micros,
    /// How many were taken, once that is known.
    pub(crate) taken: u32,
}

/// The trainer at work.
pub(crate) struct Busy {
    pub(crate) ticket: u64,
    pub(crate) job: Job,
    pub(crate) stage: Stage,
    pub(crate) since: Micros,
    /// Training is to end at the next inner step.
    pub(crate) stop: bool,
}

/// Where a job stands.
pub(crate) enum Stage {
    /// It computes.
    Computing,
    /// Its blob is being written.
    Blob(Box<Made>),
    /// The private state is being written; a contribution may be in it.
    Private(Box<Saved>, Option<Box<Made>>),
    /// A merged θ is being written.
    Theta(Arc<OuterState>, Box<Merged>),
}

/// A contribution just made.
pub(crate) struct Made {
    pub(crate) blob: BlobId,
    /// δ in full, for the books.
    pub(crate) delta: Vec<f32>,
    pub(crate) codec: Codec,
    /// The next training goes on from here.
    pub(crate) ahead: Option<GoneAhead>,
}

/// A plan whose missing blobs are fetched one after the other.
pub(crate) struct Gathering {
    pub(crate) ticket: u64,
    pub(crate) round: Round,
    pub(crate) plan: Vec<Planned>,
    pub(crate) terms: Terms,
    pub(crate) excisions: Vec<Excision>,
}

/// A crash while the effects of one step are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Steps, over all lives, before the one that is cut short.
    pub(crate) step: u32,
    /// Effects of that step that are still carried out.
    pub(crate) effects: usize,
    /// None: for good.
    pub(crate) away: Option<Micros>,
}

/// How a node misbehaves in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) deed: crate::scenario::Deed,
    pub(crate) round: Round,
    /// How often still.
    pub(crate) left: u32,
}

/// How many times as slow things are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slow {
    pub(crate) training: f64,
    pub(crate) link: f64,
    pub(crate) disk: f64,
}

impl Peer {
    pub(crate) fn lives(&self, number: u32) -> bool {
        self.life.as_ref().is_some_and(|life| life.number == number)
    }

    /// When a write of `bytes` that begins now is safe.
    pub(crate) fn write(&mut self, now: Micros, bytes: usize) -> Micros {
        let micros = bytes as u64 * 1_000_000 / self.profile.write.max(1);
        let took = self.profile.sync.after(Micros(micros)).times(self.slow.disk);
        self.disk.free_at = self.disk.free_at.max(now).after(took);
        self.disk.free_at
    }

    /// Whether a fault is due in `round`; counts it.
    pub(crate) fn fault(&mut self, deed: crate::scenario::Deed, round: Round) -> bool {
        let due = |fault: &&mut Fault| fault.deed == deed && fault.round == round && fault.left > 0;
        match self.faults.iter_mut().find(due) {
            Some(fault) => {
                fault.left -= 1;
                true
            }
            None => false,
        }
    }

    /// Whether a fault is or was planned for `round`.
    pub(crate) fn is_faulty(&self, deed: crate::scenario::Deed, round: Round) -> bool {
        self.faults
            .iter()
            .any(|fault| fault.deed == deed && fault.round == round)
    }
}
