//! A whole network in virtual time: machines, an orderer, a toy blob world, one queue, one seed.

use crate::{
    chain::Chain,
    charter::{charter, keys},
    peer::{Crash, Disk, Fault, Life, Pace, Peer},
    rules,
};
use atoll_ledger::Roots;
use atoll_node::{Contribution, Effect, Input, Node};
use atoll_protocol::{Hash, Keypair, Millis, PeerId, Round, transaction::SignedTransaction};
use std::collections::{BTreeMap, BTreeSet};

/// The orderer gathers statements for this long.
const BLOCK_MS: u64 = 100;
/// Blocks that a peer missed follow each other at this distance.
const CATCH_UP_MS: u64 = 40;
/// No run may take longer.
const TIME_MAX: Millis = Millis(24 * 60 * 60 * 1000);

/// What became of a contribution that was written to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Pending,
    Spent,
    Restored,
}

/// Something that happens at a time; `life` says which life of the peer it is meant for.
pub(crate) enum Happening {
    Input {
        who: usize,
        life: u32,
        input: Input,
    },
    Statement(SignedTransaction),
    Propose,
    TrainingEnds {
        who: usize,
        life: u32,
        ticket: u64,
        round: Round,
    },
    MergeEnds {
        who: usize,
        life: u32,
        ticket: u64,
        merge: Merging,
    },
    AdoptionTried {
        who: usize,
        life: u32,
        ticket: u64,
        roots: Roots,
    },
    FetchTried {
        who: usize,
        life: u32,
        fetch: Fetching,
    },
    Leave(usize),
    Start(usize),
}

pub(crate) struct Merging {
    pub(crate) round: Round,
    pub(crate) base: Roots,
    pub(crate) blobs: Vec<Hash>,
}

#[derive(Clone)]
pub(crate) struct Fetching {
    pub(crate) round: Round,
    pub(crate) owner: PeerId,
    pub(crate) blob: Hash,
}

pub(crate) struct World {
    pub(crate) keys: Vec<Keypair>,
    pub(crate) now: Millis,
    pub(crate) chain: Chain,
    pub(crate) peers: Vec<Peer>,
    /// Every effect that was carried out.
    pub(crate) log: Vec<(Millis, usize, Effect)>,
    /// Who holds which blob.
    pub(crate) holders: BTreeMap<Hash, BTreeSet<usize>>,
    pub(crate) fates: BTreeMap<(usize, Round), (Hash, Fate)>,
    /// Every commitment that was ever submitted, in a block or not.
    pub(crate) commitments: BTreeMap<(usize, Round), Hash>,
    queue: BTreeMap<(Millis, u64), Happening>,
    tickets: u64,
    random: u64,
}

impl World {
    pub(crate) fn new(n: usize, rounds: u32, seed: u64) -> Self {
        let keys = keys(n);
        let chain = Chain::new(charter(&keys, rounds));
        let disk = Disk {
            height: 0,
            holds: chain.state.core().roots,
            mine: None,
        };
        let pace = Pace {
            link_ms_max: 50,
            training_ms_max: 3_000,
            merge_ms_max: 200,
        };
        let peer = |_| Peer {
            disk: disk.clone(),
            life: None,
            lives: 0,
            steps: 0,
            pace,
            faults: Vec::new(),
            crashes: Vec::new(),
        };
        let mut world = Self {
            peers: (0..n).map(peer).collect(),
            keys,
            now: Millis(1_000_000),
            chain,
            log: Vec::new(),
            holders: BTreeMap::new(),
            fates: BTreeMap::new(),
            commitments: BTreeMap::new(),
            queue: BTreeMap::new(),
            tickets: 0,
            random: seed,
        };
        (0..n).for_each(|who| world.after(0, Happening::Start(who)));
        world
    }

    pub(crate) fn fault(mut self, who: usize, fault: Fault) -> Self {
        self.peers[who].faults.push(fault);
        self
    }

    pub(crate) fn crash(mut self, who: usize, crash: Crash) -> Self {
        self.peers[who].crashes.push(crash);
        self
    }

    pub(crate) fn peer(&self, who: usize) -> PeerId {
        self.keys[who].peer()
    }

    pub(crate) fn who(&self, peer: &PeerId) -> usize {
        self.keys.iter().position(|key| key.peer() == *peer).unwrap()
    }

    /// SplitMix64.
    pub(crate) fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % below.max(1)
    }

    pub(crate) fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    pub(crate) fn at(&mut self, at: Millis, happening: Happening) {
        let ticket = self.ticket();
        self.queue.insert((at.max(self.now), ticket), happening);
    }

    pub(crate) fn after(&mut self, ms: u64, happening: Happening) {
        self.at(self.now.after(Millis(ms)), happening);
    }

    pub(crate) fn link_ms(&mut self, who: usize) -> u64 {
        let most = self.peers[who].pace.link_ms_max;
        1 + self.random(most)
    }

    pub(crate) fn merge_ms(&mut self, who: usize) -> u64 {
        let most = self.peers[who].pace.merge_ms_max;
        1 + self.random(most)
    }

    pub(crate) fn training_ms(&mut self, who: usize) -> u64 {
        let most = self.peers[who].pace.training_ms_max;
        most / 2 + self.random(most / 2)
    }

    /// Runs until nothing happens any more.
    pub(crate) fn run(&mut self) {
        self.run_while(|_| true);
    }

    /// Runs while `go_on` says so and something happens.
    pub(crate) fn run_while(&mut self, go_on: impl Fn(&Self) -> bool) {
        while go_on(self) {
            let Some(((at, _), happening)) = self.queue.pop_first() else {
                return;
            };
            self.now = at;
            assert!(at < TIME_MAX, "stuck: {}", rules::picture(self));
            self.happen(happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Input { who, life, input } if self.lives(who, life) => self.step(who, input),
            Happening::Statement(statement) => {
                self.chain.accept(statement);
                self.after(BLOCK_MS, Happening::Propose);
            }
            Happening::Propose => self.propose(),
            Happening::TrainingEnds {
                who,
                life,
                ticket,
                round,
            } if self.lives(who, life) => {
                self.training_ends(who, ticket, round);
            }
            Happening::MergeEnds {
                who,
                life,
                ticket,
                merge,
            } if self.lives(who, life) => {
                self.merge_ends(who, ticket, &merge);
            }
            Happening::AdoptionTried {
                who,
                life,
                ticket,
                roots,
            } if self.lives(who, life) => {
                self.try_adoption(who, ticket, roots);
            }
            Happening::FetchTried { who, life, fetch } if self.lives(who, life) => self.try_fetch(who, fetch),
            Happening::Leave(who) => self.step(who, Input::Leave),
            Happening::Start(who) => self.start(who),
            _ => {} // meant for a life that is over
        }
    }

    fn lives(&self, who: usize, number: u32) -> bool {
        self.peers[who].life.as_ref().is_some_and(|life| life.number == number)
    }

    fn propose(&mut self) {
        if self.chain.propose(self.now) {
            let height = self.chain.height();
            (0..self.peers.len()).for_each(|who| self.deliver(who, height, 0));
        }
        if let Some(at) = self.chain.state.next_deadline().filter(|at| *at > self.now) {
            self.at(at, Happening::Propose);
        }
    }

    /// Sends block `height` to a peer that lives, after those sent before.
    fn deliver(&mut self, who: usize, height: usize, distance_ms: u64) {
        let delay = self.link_ms(who);
        let at = self.now.after(Millis(delay));
        let block = self.chain.blocks[height - 1].clone();
        if let Some(life) = self.peers[who].life.as_mut() {
            let at = at.max(life.last_delivery.after(Millis(distance_ms)));
            life.last_delivery = at;
            let (life, input) = (life.number, Input::Final(block));
            self.at(at, Happening::Input { who, life, input });
        }
    }

    fn start(&mut self, who: usize) {
        let (me, state) = (self.peer(who), self.chain.replay(self.peers[who].disk.height));
        self.settle_old(who, state.round().number);
        let peer = &mut self.peers[who];
        assert!(peer.life.is_none(), "peer {who} lives already");
        peer.lives += 1;
        peer.life = Some(Life {
            node: Node::new(me, state, peer.disk.holds, peer.disk.mine.clone()),
            number: peer.lives,
            last_delivery: self.now,
            training: None,
            merging: None,
            copy: None,
            adopting: None,
        });
        let (now, mut effects) = (self.now, Vec::new());
        self.node(who).start(now, &mut effects);
        self.carry_out(who, effects, usize::MAX);
        let missed = self.peers[who].disk.height + 1..=self.chain.height();
        missed.for_each(|height| self.deliver(who, height, CATCH_UP_MS));
    }

    pub(crate) fn node(&mut self, who: usize) -> &mut Node {
        &mut self.peers[who].life.as_mut().unwrap().node
    }

    /// One step of one machine; a crash that is due cuts its effects short.
    fn step(&mut self, who: usize, input: Input) {
        let block = matches!(input, Input::Final(_));
        let (now, mut effects) = (self.now, Vec::new());
        if let Input::Final(applied) = &input {
            let applied = applied.clone();
            self.settle_merged(who, applied.events());
        }
        self.node(who).step(now, input, &mut effects);
        rules::after_step(self, who, &effects);
        let peer = &mut self.peers[who];
        let due = peer.crashes.first().is_some_and(|crash| crash.step <= peer.steps);
        let crash = due.then(|| peer.crashes.remove(0));
        peer.steps += 1;
        self.carry_out(who, effects, crash.map_or(usize::MAX, |crash| crash.effects));
        if let Some(crash) = crash {
            self.peers[who].life = None;
            self.after(crash.away.0, Happening::Start(who));
        } else if block {
            self.peers[who].disk.height = self.node(who).state().height().0 as usize;
        }
    }

    fn carry_out(&mut self, who: usize, effects: Vec<Effect>, most: usize) {
        for effect in effects.into_iter().take(most) {
            self.log.push((self.now, who, effect.clone()));
            self.perform(who, effect);
        }
    }

    /// Feeds a machine after `ms`, if it still lives then.
    pub(crate) fn feed(&mut self, who: usize, ms: u64, input: Input) {
        let life = self.peers[who].life.as_ref().unwrap().number;
        self.after(ms, Happening::Input { who, life, input });
    }

    pub(crate) fn contribution(&self, who: usize) -> Option<&Contribution> {
        self.peers[who].disk.mine.as_ref()
    }
}
