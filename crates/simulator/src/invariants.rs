//! What always holds. Each check looks at what just happened; what takes long is looked at once a second.

use crate::{clock::Micros, order::Order, peer::Fault, rounds::Rounds, scenario::Deed, world::World};
use atoll_ledger::{Applied, Event, Outcome, Phase, RoundRecord, Standing, State};
use atoll_node::Effect;
use atoll_protocol::{Action, Block, CheckReason, Hash, PeerId};
use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

/// Orders that wait for a trainer, at most.
const JOBS_MAX: usize = 16;
/// Timers of one machine, at most.
const TIMERS_MAX: u32 = 16;
/// θs on one disk beyond the retention: the one before, the one beside, the adopted.
const THETAS_MORE: usize = 4;
/// What consensus and lines may add to a round's deadlines.
const SLACK: Micros = Micros::s(20);

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When it was seen.
    pub at: Micros,
    /// Which invariant, in one word.
    pub rule: &'static str,
    /// What was seen.
    pub text: String,
}

/// An independent view of the history: a replay from genesis on a thread of its own, and what the rounds'
/// statements say.
pub(crate) struct Ledger {
    blocks: Option<mpsc::Sender<(Block, Hash)>>,
    replay: Option<JoinHandle<Result<(), String>>>,
    sizes: Vec<usize>,
    rounds: Rounds,
}

fn replay(genesis: &State, blocks: &mpsc::Receiver<(Block, Hash)>) -> Result<(), String> {
    let mut state = genesis.clone();
    for (block, root) in blocks {
        let height = block.header.height;
        let (next, _) = state
            .apply(&block)
            .map_err(|error| format!("replay refuses block {height}: {error}"))?;
        if next.root() != root {
            return Err(format!("replay comes to another state after block {height}"));
        }
        state = next;
    }
    Ok(())
}

impl Ledger {
    pub(crate) fn new(genesis: Arc<State>) -> Self {
        let (blocks, waiting) = mpsc::channel();
        let thread = std::thread::Builder::new().name("replay".into());
        let replay = thread.spawn(move || replay(&genesis, &waiting)).ok();
        Self {
            blocks: Some(blocks),
            replay,
            sizes: Vec::new(),
            rounds: Rounds::default(),
        }
    }

    /// Bytes of a block.
    pub(crate) fn block_bytes(&mut self, order: &Order, height: u64) -> usize {
        for applied in &order.blocks[self.sizes.len()..] {
            self.sizes.push(atoll_protocol::encode(applied.block()).len());
        }
        self.sizes[height as usize - 1]
    }

    /// What the replay came to; nothing if it agrees.
    fn finish(&mut self) -> Option<String> {
        self.blocks = None;
        let thread = self.replay.take()?;
        match thread.join() {
            Ok(result) => result.err(),
            Err(_) => Some("the replay panicked".into()),
        }
    }
}

impl World {
    pub(crate) fn violated(&mut self, rule: &'static str, text: String) {
        let at = self.now;
        self.violations.push(Violation { at, rule, text });
    }

    /// A block is about to become final.
    pub(crate) fn check_block(&mut self, applied: &Applied) {
        if let Some(blocks) = &self.ledger.blocks {
            let header = &applied.block().header;
            let _ = blocks.send((applied.block().clone(), header.state)); // a replay that has ended says why
        }
        let charter = self.charter.clone();
        for (rule, text) in self.ledger.rounds.follow(applied, &charter) {
            self.violated(rule, text);
        }
        self.check_audits(applied);
        for event in applied.events() {
            match event {
                Event::CheckpointRecorded { .. } => self.checkpoints += 1,
                Event::RoundEnded(record) => self.check_refusals(record),
                Event::Excluded(peer, _) => self.check_exclusion(*peer),
                _ => {}
            }
        }
    }

    fn check_exclusion(&mut self, peer: PeerId) {
        let node = self.node_of(&peer);
        let now = self.order.tip().round().number;
        self.excluded.entry(node).or_insert(now);
        let faults = self.peers.get(node as usize).map(|peer| &peer.faults);
        let lied = faults.is_some_and(|faults| faults.iter().any(|fault| fault.deed == Deed::Equivocate));
        if !lied && !self.ever_lied(node) {
            self.violated(
                "honest-excluded",
                format!("node {node} is excluded and never said two things"),
            );
        }
    }

    /// Nobody refuses an honest contribution for anything but not having got it.
    fn check_refusals(&mut self, record: &RoundRecord) {
        for refused in &record.refused {
            let node = self.node_of(&refused.peer);
            // what was malformed in a void round is sent again in the next
            let faults = self.peers.get(node as usize).map(|peer| &peer.faults);
            let until = |fault: &Fault| fault.deed == Deed::Malformed && fault.round <= record.round;
            let faulty = self.ever_lied(node) || faults.is_some_and(|faults| faults.iter().any(until));
            if refused.reason != CheckReason::Missing && !faulty {
                let (round, reason) = (record.round, refused.reason);
                self.violated("honest-refused", format!("round {round} refuses node {node}: {reason}"));
            }
        }
    }

    /// A machine has made a step: it stands where the order does.
    pub(crate) fn check_step(&mut self, node: u32) {
        let Some(life) = self.peers[node as usize].life.as_ref() else {
            return;
        };
        let state = life.node.state();
        let height = state.height().0;
        if height > self.order.height() || state.tip() != self.order.state_at(height).tip() {
            self.violated(
                "history",
                format!("node {node} stands on another block at height {height}"),
            );
        }
    }

    /// No effect is about a round that is not open at this node. Only a merge may be about the last closed
    /// round: a node that missed it computes θ from it.
    pub(crate) fn check_effect(&mut self, node: u32, effect: &Effect) {
        let Some(life) = self.peers[node as usize].life.as_ref() else {
            return;
        };
        let state = life.node.state();
        let (round, phase) = (state.round().number, state.round().phase);
        let last = state.core().last_merge.as_ref().map(|last| last.round);
        let fits = match effect {
            Effect::Train {
                round: of,
                share,
                terms,
                ..
            } => {
                let fixed = state.round();
                *of == round && phase == Phase::Commit && share.beacon == fixed.beacon && *terms == fixed.terms
            }
            Effect::Fetch { reveal, .. } => reveal.round == round && matches!(phase, Phase::Reveal | Phase::Check),
            Effect::Merge { round: of, .. } => (*of == round && phase == Phase::Merge) || last == Some(*of),
            Effect::Submit(Action::Commit { round: of, .. }) => *of == round && phase == Phase::Commit,
            Effect::Submit(Action::Reveal(reveal)) => reveal.round == round && phase == Phase::Reveal,
            Effect::Submit(Action::Check { round: of, .. }) => *of == round && phase == Phase::Check,
            Effect::Submit(Action::MergeRoot { round: of, .. }) => *of == round && phase == Phase::Merge,
            Effect::Restore(of) => *of <= round,
            Effect::Adopt(roots) => *roots == state.core().roots,
            _ => true,
        };
        if !fits {
            self.violated(
                "open-round",
                format!("node {node} in round {round}, {phase:?}: {effect:?}"),
            );
        }
        if let Effect::Submit(Action::Commit { round, commitment }) = effect {
            let before = self.peers[node as usize].commitments.insert(*round, *commitment);
            if before.is_some_and(|before| before != *commitment) {
                self.violated("one-commitment", format!("node {node} commits twice to round {round}"));
            }
        }
    }

    /// Queues and stores stay bounded.
    pub(crate) fn check_stores(&mut self) {
        let retention = self.scenario.rules.retention as usize;
        let nodes = self.scenario.nodes as usize;
        let turn = (self.now.seconds() as u64 % nodes.max(1) as u64) as u32;
        for node in 0..self.scenario.nodes {
            let peer = &self.peers[node as usize];
            let Some(life) = peer.life.as_ref() else { continue };
            let roster = life.node.state().round().roster.len();
            let mut found = vec![
                ("orders wait", life.jobs.len(), JOBS_MAX),
                ("timers run", life.timers as usize, TIMERS_MAX as usize),
                ("contributions are judged", life.node.judged(), roster),
                ("fetches were begun in a round", life.fetches.len(), 4 * nodes + 16),
            ];
            if retention > 0 {
                found.push(("θs are kept", peer.disk.thetas.len(), retention + THETAS_MORE));
                if node == turn {
                    let held = self.blobs.count_held(node, peer.disk.collected);
                    found.push(("blobs are kept", held, (retention + 2) * nodes));
                }
            }
            for (what, count, most) in found {
                if count > most {
                    self.violated("bounded", format!("node {node}: {count} {what}, at most {most} may"));
                }
            }
        }
    }

    /// The longest that a round may take while a quorum works.
    fn patience_for_a_round(&self) -> Micros {
        let rules = &self.scenario.rules;
        let [grace, reveal, check, merge, _] = rules.deadlines_ms;
        let slowest = self.slowest;
        let step = self
            .peers
            .iter()
            .map(|peer| peer.profile.step)
            .max()
            .unwrap_or_default();
        let training = step.times(1.2 * f64::from(rules.inner_steps) * slowest);
        let sum = Micros::ms(grace + reveal + check + merge).after(training).after(SLACK);
        sum.times(self.scenario.hold.deadlines_per_round)
    }

    /// Rounds end while a quorum works and is connected; the run ends in time.
    pub(crate) fn check_progress(&mut self) {
        let n = self.scenario.nodes as usize;
        let needed = self.validators_needed().max(self.charter.quorum(n));
        let works = self.largest_side() >= needed;
        self.quorum_since = match self.quorum_since {
            Some(since) if works => Some(since),
            _ => works.then_some(self.now),
        };
        let limit = self.patience_for_a_round();
        if let Some(since) = self.quorum_since.filter(|_| !self.order.is_finished()) {
            let waited = self.now.since(since.max(self.last_progress));
            if waited > limit {
                let round = self.order.tip().round();
                let text = format!(
                    "round {} has been in phase {:?} and no round has ended for {waited}, although a quorum works; at most {limit} is allowed",
                    round.number, round.phase
                );
                self.violated("stuck", text);
            }
        }
        if self.now > Micros::s(self.scenario.virtual_s_max) {
            self.violated("time", format!("not over after {}", self.now));
        }
    }

    /// What must hold when the run is over.
    pub(crate) fn check_end(&mut self) {
        if self.violations.is_empty() {
            for node in 0..self.scenario.nodes {
                let life = self.peers[node as usize].life.as_ref();
                let values = life.map(|life| life.replica.feedback().values().to_vec());
                if let Some(values) = values {
                    self.check_books(node, &values);
                }
            }
            self.check_hold();
        }
        if let Some(text) = self.ledger.finish() {
            self.violated("replay", text);
        }
    }

    fn check_hold(&mut self) {
        let hold = self.scenario.hold.clone();
        let void = self
            .order
            .records
            .iter()
            .filter(|record| !matches!(record.outcome, Outcome::Closed(_)))
            .count();
        if void > hold.void_max as usize {
            self.violated(
                "hold",
                format!("{void} rounds are void; at most {} may be", hold.void_max),
            );
        }
        let share = self.merged_share();
        if share < hold.merged_share_min {
            self.violated(
                "hold",
                format!(
                    "{share:.3} of all contributions were merged; {} is the least",
                    hold.merged_share_min
                ),
            );
        }
        let (first, last) = self.losses();
        if last > hold.loss_share_max * first || last.is_nan() {
            self.violated(
                "hold",
                format!(
                    "the loss went from {first:.4} to {last:.4}; at most {} of it may be left",
                    hold.loss_share_max
                ),
            );
        }
        let core = self.order.tip().core();
        let excluded = core
            .peers
            .iter()
            .filter(|(_, peer)| peer.standing == Standing::Excluded);
        let excluded = excluded.map(|(id, _)| self.node_of(id));
        let excluded: Vec<u32> = excluded.filter(|node| !self.ever_lied(*node)).collect();
        let convicted: Vec<u32> = self.convicted.keys().copied().collect();
        if hold.convicted.iter().any(|node| !convicted.contains(node)) {
            self.violated(
                "hold",
                format!(
                    "nodes {convicted:?} were found guilty; {:?} should have been",
                    hold.convicted
                ),
            );
        }
        if excluded != hold.excluded {
            self.violated(
                "hold",
                format!("nodes {excluded:?} are excluded; {:?} should be", hold.excluded),
            );
        }
    }

    /// Contributions merged, of those that a round's roster could have made.
    pub(crate) fn merged_share(&self) -> f64 {
        let (merged, possible) = self.order.records.iter().fold((0, 0), |(merged, possible), record| {
            (merged + record.merged.len(), possible + record.roster.len())
        });
        merged as f64 / (possible.max(1)) as f64
    }
}
