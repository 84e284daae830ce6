//! What happened, twice: as a hash by which two runs are compared, and as spans for people.

use crate::{clock::Micros, scenario::Scenario};
use atoll_ledger::Applied;
use atoll_node::{Effect, Input, Notice, Timer};
use atoll_protocol::{Hash, Round};

/// What a node is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    Train,
    Send,
    Fetch,
    Merge,
}

/// One node's round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Row {
    /// Training, from and to.
    pub train: Option<(Micros, Micros)>,
    /// Contributions travel: from when they were revealed until the last one was here.
    pub send: Option<(Micros, Micros)>,
    /// Merging, from and to.
    pub merge: Option<(Micros, Micros)>,
    /// The node learned that the round is over.
    pub ended: Option<Micros>,
}

/// What a machine wanted, by kind.
pub const KINDS: [&str; 18] = [
    "submit",
    "train",
    "abort",
    "fetch",
    "merge",
    "advance",
    "discard",
    "restore",
    "adopt",
    "checkpoint",
    "collect",
    "timer",
    "diverged",
    "broken",
    "merge-failed",
    "replay",
    "score",
    "no-verdict",
];

fn kind_of(effect: &Effect) -> usize {
    match effect {
        Effect::Submit(_) => 0,
        Effect::Train { .. } => 1,
        Effect::Abort => 2,
        Effect::Fetch { .. } => 3,
        Effect::Merge { .. } => 4,
        Effect::Advance(_) => 5,
        Effect::Discard => 6,
        Effect::Restore(_) => 7,
        Effect::Adopt(_) => 8,
        Effect::Checkpoint(_) => 9,
        Effect::Collect(_) => 10,
        Effect::SetTimer { .. } => 11,
        Effect::Notice(Notice::Diverged { .. }) => 12,
        Effect::Notice(Notice::Broken(_)) => 13,
        Effect::Notice(Notice::MergeFailed { .. }) => 14,
        Effect::Replay { .. } => 15,
        Effect::Score(..) => 16,
        Effect::Notice(Notice::NoVerdict(_)) => 17,
    }
}

/// The trace of a run.
pub(crate) struct Trace {
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    /// By node, then by round.
    pub(crate) rows: Vec<Vec<Row>>,
    /// How often each machine wanted what, by node and kind.
    pub(crate) wanted: Vec<[u32; KINDS.len()]>,
    /// Nodes that were off, from and to.
    pub(crate) off: Vec<(u32, Micros, Option<Micros>)>,
    /// Nodes that were cut off from the others, from and to.
    pub(crate) apart: Vec<(u32, Micros, Option<Micros>)>,
}

/// Bytes that are hashed at a time.
const BUFFER: usize = 1 << 16;

impl Trace {
    pub(crate) fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        Self {
            hasher,
            buffer: Vec::with_capacity(2 * BUFFER),
            rows: vec![Vec::new(); scenario.nodes as usize],
            wanted: vec![[0; KINDS.len()]; scenario.nodes as usize],
            off: Vec::new(),
            apart: Vec::new(),
        }
    }

    fn note(&mut self, at: Micros, node: u32, kind: u8, what: &[u8]) {
        self.buffer.extend_from_slice(&at.0.to_le_bytes());
        self.buffer.extend_from_slice(&node.to_le_bytes());
        self.buffer.push(kind);
        self.buffer.extend_from_slice(what);
        if self.buffer.len() >= BUFFER {
            self.hasher.update(&self.buffer);
            self.buffer.clear();
        }
    }

    /// The hash over everything noted so far.
    pub(crate) fn hash(&self) -> Hash {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.buffer);
        Hash(*hasher.finalize().as_bytes())
    }

    pub(crate) fn block(&mut self, at: Micros, applied: &Applied) {
        self.note(at, u32::MAX, 0, applied.state().tip().as_bytes());
    }

    pub(crate) fn deed(&mut self, at: Micros, number: u32) {
        self.note(at, number, 1, &[]);
    }

    /// A node is cut off from the others, or no longer.
    pub(crate) fn side(&mut self, at: Micros, node: u32, apart: bool) {
        let open = self
            .apart
            .iter_mut()
            .rev()
            .find(|(of, _, until)| *of == node && until.is_none());
        match open {
            Some((_, _, until)) => *until = Some(at),
            None if apart => self.apart.push((node, at, None)),
            None => {}
        }
    }

    pub(crate) fn start(&mut self, at: Micros, node: u32, height: u64) {
        self.note(at, node, 2, &height.to_le_bytes());
        let off = self.off.iter_mut().rev().find(|(of, ..)| *of == node);
        match off {
            Some((_, _, until)) => *until = Some(at),
            None if at > Micros(0) => self.off.push((node, Micros(0), Some(at))),
            None => {}
        }
    }

    pub(crate) fn stop(&mut self, at: Micros, node: u32) {
        self.note(at, node, 3, &[]);
        self.off.push((node, at, None));
    }

    pub(crate) fn input(&mut self, at: Micros, node: u32, input: &Input) {
        match input {
            Input::Final(applied) => self.note(at, node, 4, &applied.height().0.to_le_bytes()),
            Input::Trained(reveal) => self.note(at, node, 5, reveal.blob.as_bytes()),
            Input::Fetched { peer, verdict, .. } => {
                let fit = u8::from(verdict.is_ok());
                self.note(at, node, 6 + fit, &peer.as_bytes()[..8]);
            }
            Input::Merged { roots, .. } | Input::Adopted(roots) => self.note(at, node, 8, roots.theta.as_bytes()),
            Input::MergeFailed { round, .. } => self.note(at, node, 9, &round.0.to_le_bytes()),
            Input::Checkpointed { manifest, .. } => self.note(at, node, 10, manifest.as_bytes()),
            Input::Timer(Timer::Resume) => self.note(at, node, 11, &[]),
            Input::Timer(Timer::Check(round)) => self.note(at, node, 12, &round.0.to_le_bytes()),
            Input::Timer(Timer::LastCheck(round)) => self.note(at, node, 14, &round.0.to_le_bytes()),
            Input::Leave => self.note(at, node, 13, &[]),
            Input::Replayed { round, .. } => self.note(at, node, 15, &round.0.to_le_bytes()),
            Input::Scored { round, .. } => self.note(at, node, 16, &round.0.to_le_bytes()),
            Input::Appeal(reason) => self.note(at, node, 17, reason.as_bytes()),
        }
    }

    /// Counts what a machine wants.
    pub(crate) fn effect(&mut self, node: u32, effect: &Effect) {
        self.wanted[node as usize][kind_of(effect)] += 1;
    }

    fn row(&mut self, node: u32, round: Round) -> &mut Row {
        let rows = &mut self.rows[node as usize];
        let index = round.0 as usize;
        if rows.len() <= index {
            rows.resize(index + 1, Row::default());
        }
        &mut rows[index]
    }

    /// Notes what a node was busy with.
    pub(crate) fn span(&mut self, node: u32, round: Round, span: Span, from: Micros, to: Micros) {
        let row = self.row(node, round);
        match span {
            Span::Train => row.train = Some((from, to)),
            Span::Merge => row.merge = Some((from, to)),
            Span::Send => row.send = Some((from, to)),
            Span::Fetch => row.send = Some((row.send.map_or(from, |(from, _)| from), to)),
        }
    }

    pub(crate) fn round_ended(&mut self, node: u32, round: Round, at: Micros) {
        self.row(node, round).ended = Some(at);
    }
}
