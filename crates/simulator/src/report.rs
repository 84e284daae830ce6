//! What a run came to.

use crate::{
    clock::Micros,
    invariants::Violation,
    learner::Toy,
    scenario::{Deed, Scenario},
    trace::{KINDS, Row},
    world::World,
};
use atoll_ledger::{Outcome, Peer, RoundRecord};
use atoll_outer::attack::Liar;
use atoll_protocol::{CheckReason, Hash, LossChange, PeerId, Round, transaction::Unfit};
use std::collections::BTreeMap;

/// What a contribution was found to do to the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scored {
    /// Whose.
    pub node: u32,
    /// To which round.
    pub round: Round,
    /// What it does.
    pub change: LossChange,
    /// Whether a jury found harm.
    pub harmful: bool,
}

/// A run that is over.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was run, with everything drawn that it left to chance.
    pub scenario: Scenario,
    /// The seed.
    pub seed: u64,
    /// Equal for equal runs, and only for them.
    pub trace_hash: Hash,
    /// How long it took in the world's time.
    pub virtual_time: Micros,
    /// Rounds that ended.
    pub records: Vec<RoundRecord>,
    /// Steps of all machines.
    pub steps: u64,
    /// Final blocks.
    pub blocks: u64,
    /// Checkpoints on which a quorum agreed.
    pub checkpoints: u32,
    /// How often each machine wanted what, by node and [`KINDS`].
    pub wanted: Vec<[u32; KINDS.len()]>,
    /// Every node's key.
    pub peers: Vec<PeerId>,
    /// Of everyone found guilty: while which round was under way, and why.
    pub convicted: BTreeMap<u32, (Round, String)>,
    /// Of everyone that did not serve what it started from: while which round was under way, and for which.
    pub unserved: BTreeMap<u32, (Round, String)>,
    /// What contributions were found to do to the loss, in the order in which that was known.
    pub scores: Vec<Scored>,
    /// Who signed two statements, and in which round that was known.
    pub excluded: BTreeMap<u32, Round>,
    /// What the ledger remembers of each node that ever joined, at the end.
    pub standings: BTreeMap<u32, Peer>,
    /// Views without a block.
    pub views_lost: u64,
    /// The most transfers that were on their way at a time.
    pub transfers_most: usize,
    /// Share of the possible contributions that were merged.
    pub merged_share: f64,
    /// θ's loss at the beginning and at the end.
    pub losses: (f64, f64),
    /// What must not be: empty if all is well.
    pub violations: Vec<Violation>,
    /// What each node was busy with, by node and round.
    pub rows: Vec<Vec<Row>>,
    /// Nodes that were off, from and to.
    pub off: Vec<(u32, Micros, Option<Micros>)>,
    /// Nodes that were cut off from the others, from and to.
    pub apart: Vec<(u32, Micros, Option<Micros>)>,
}

impl Report {
    /// Rounds that moved θ.
    pub fn closed(&self) -> usize {
        let closed = |record: &&RoundRecord| matches!(record.outcome, Outcome::Closed(_));
        self.records.iter().filter(closed).count()
    }

    /// For each liar that was caught, the first time. What a rule merely gave no weight, and what did not arrive in
    /// time, is not caught: that happens to the honest too.
    pub fn caught(&self) -> Vec<Caught> {
        let lies = self
            .scenario
            .events
            .iter()
            .filter_map(|event| Some((event, event.liar?)));
        let nodes = lies.flat_map(|(event, liar)| event.who.iter().map(move |node| (*node, liar, event.at())));
        let caught = nodes.filter_map(|(node, liar, since)| {
            let (round, reason) = self.first_fault((node, liar), since)?;
            Some(Caught {
                node,
                liar,
                round,
                reason,
            })
        });
        caught.collect()
    }

    fn first_fault(&self, (node, liar): (u32, Liar), since: Micros) -> Option<(Round, String)> {
        let me = self.peers.get(node as usize)?;
        let lying = |record: &&RoundRecord| Micros::when(record.closed_at, 0) > since;
        let at = self.records.iter().filter(lying).find_map(|record| {
            let refused = record.refused.iter().find(|refused| refused.peer == *me);
            // what arrives too late may be honest
            let refused = refused.filter(|refused| refused.reason != CheckReason::Missing || liar == Liar::Withhold);
            let refused = refused.map(|refused| refused.reason.to_string());
            let out = record.kept_out.iter().find(|out| out.planned.peer == *me);
            let out = out
                .filter(|out| out.reason != Unfit::Weightless)
                .map(|out| out.reason.to_string());
            Some((record.round, refused.or(out)?))
        });
        let convicted = self.convicted.get(&node).cloned();
        let excluded = self
            .excluded
            .get(&node)
            .map(|at| (*at, "it signed two statements about one round".into()));
        let unserved = self.unserved.get(&node).filter(|_| liar == Liar::Hide).cloned();
        [at, convicted, unserved, excluded].into_iter().flatten().min()
    }

    /// Nodes that never lied and are kept out for a while or for good: there should be none.
    pub fn barred_honest(&self) -> Vec<u32> {
        let barred = self.standings.iter().filter(|(_, peer)| peer.is_barred());
        let lied = |node: &u32| {
            let deeds = self.scenario.events.iter().filter(|event| event.who.contains(node));
            deeds
                .into_iter()
                .any(|event| matches!(event.deed, Deed::Lie | Deed::Equivocate))
        };
        barred.map(|(node, _)| *node).filter(|node| !lied(node)).collect()
    }

    /// How often `node`'s machine wanted something of this kind, one of [`KINDS`].
    pub fn wanted(&self, node: u32, kind: &str) -> u32 {
        let kind = KINDS.iter().position(|known| *known == kind);
        let of_node = self.wanted.get(node as usize);
        kind.zip(of_node).map_or(0, |(kind, of_node)| of_node[kind])
    }
}

/// A liar that was caught.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caught {
    /// The node.
    pub node: u32,
    /// How it lies.
    pub liar: Liar,
    /// The round in which it was known.
    pub round: Round,
    /// How.
    pub reason: String,
}

/// How a run differs from the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Planted {
    /// A bug put in on purpose: what was not merged is not added back to the error feedback.
    pub skip_restore: bool,
}

/// Runs a scenario that was checked, with the toy.
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    run_planted(scenario, seed, Planted::default())
}

/// The same with a bug.
pub fn run_planted(scenario: &Scenario, seed: u64, planted: Planted) -> Report {
    let noise = scenario.learner.noise;
    match World::new(scenario, seed, Box::new(Toy { noise })) {
        Ok(world) => finish(world, planted, |_| {}),
        Err(never) => unreachable!("the toy trains everything: {never}"),
    }
}

/// Runs a world to its end. `watch` is called whenever a round has ended, with how many have.
pub fn finish(mut world: World, planted: Planted, mut watch: impl FnMut(usize)) -> Report {
    world.planted_skip_restore = planted.skip_restore;
    let mut ended = 0;
    while world.advance() {
        if world.order.records.len() > ended {
            ended = world.order.records.len();
            watch(ended);
        }
    }
    world.report()
}

impl World {
    /// Ends the run.
    pub fn report(mut self) -> Report {
        self.check_end();
        let (merged_share, losses) = (self.merged_share(), self.losses());
        Report {
            trace_hash: self.trace.hash(),
            virtual_time: self.now,
            steps: self.steps,
            blocks: self.order.height(),
            checkpoints: self.checkpoints,
            standings: self
                .order
                .tip()
                .core()
                .peers
                .iter()
                .map(|(id, peer)| (self.node_of(id), peer.clone()))
                .collect(),
            peers: self.peers.iter().map(|peer| peer.id).collect(),
            convicted: self.convicted,
            unserved: self.unserved,
            scores: self.scores,
            excluded: self.excluded,
            wanted: self.trace.wanted,
            views_lost: self.order.views_lost,
            transfers_most: self.transfers.most,
            merged_share,
            losses,
            records: self.order.records,
            violations: self.violations,
            rows: self.trace.rows,
            off: self.trace.off,
            apart: self.trace.apart,
            scenario: self.scenario,
            seed: self.seed,
        }
    }
}
