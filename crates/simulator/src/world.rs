//! One run: nodes, lines, disks, the order, one queue, one seed.

use crate::{
    again::Replays,
    blobs::{BlobId, Blobs},
    books::Book,
    clock::Micros,
    invariants::{Ledger, Violation},
    learner::Task,
    merges::Computed,
    order::Order,
    peer::{Cut, Disk, Fault, Peer, Saved, Slow, Stored},
    queue::Queue,
    random::Random,
    report::Scored,
    scenario::{self, Deed, Scenario},
    scoring::Measured,
    trace::Trace,
    transfers::{Transfers, Wake},
};
use atoll_ledger::{Roots, Scoring, State};
use atoll_node::{Effect, Input, Node, Timer};
use atoll_outer::{ErrorFeedback, OuterState};
use atoll_protocol::{Charter, Hash, Keypair, Layout, Millis, PeerId, Round, transaction::SignedTransaction};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

/// How often what takes long to look at is looked at.
const TICK: Micros = Micros::s(1);
/// What draws are for.
const MESSAGES: u64 = 11;
/// Up to so many nodes, each applies every block and makes every merge itself; in larger networks one of
/// them does, by turns, and the others take its word.
const ALL_COMPUTE_MAX: u32 = 4;

/// Something that happens.
pub(crate) enum Happening {
    Start(u32),
    /// An event of the scenario, by its number; or its end.
    Deed(u32),
    DeedEnds(u32),
    Look(u64),
    ViewEnds(u64),
    Finalize(u64),
    PowerOff {
        node: u32,
        life: u32,
    },
    /// What a node holds is safe, as its statement says.
    Synced {
        node: u32,
        life: u32,
        statement: Box<SignedTransaction>,
    },
    /// A statement that its author held back, or that comes again.
    Late(u32, Box<SignedTransaction>),
    Deliver {
        node: u32,
        life: u32,
        height: u64,
    },
    Stored {
        node: u32,
        life: u32,
        height: u64,
    },
    CatchUp {
        node: u32,
        life: u32,
    },
    Timer {
        node: u32,
        life: u32,
        timer: Timer,
    },
    Input {
        node: u32,
        life: u32,
        input: Box<Input>,
    },
    Job {
        node: u32,
        life: u32,
        ticket: u64,
    },
    Line(u32),
    Arrived(u64),
    Fetch {
        node: u32,
        life: u32,
        round: Round,
        blob: BlobId,
        tried: u32,
    },
    Gather {
        node: u32,
        life: u32,
        ticket: u64,
    },
    Adopt {
        node: u32,
        life: u32,
        ticket: u64,
    },
    /// States are asked for, to make a contribution again; and that is done.
    States {
        node: u32,
        life: u32,
        ticket: u64,
    },
    Again {
        node: u32,
        life: u32,
        ticket: u64,
    },
    /// What a contribution does to the loss is measured.
    Measured {
        node: u32,
        life: u32,
        author: PeerId,
        case: Box<Scoring>,
    },
    Tick,
}

/// A run under way.
pub struct World {
    pub(crate) scenario: Scenario,
    pub(crate) seed: u64,
    pub(crate) charter: Arc<Charter>,
    pub(crate) layout: Arc<Layout>,
    pub(crate) now: Micros,
    pub(crate) queue: Queue<Happening>,
    pub(crate) peers: Vec<Peer>,
    places: HashMap<PeerId, u32>,
    pub(crate) order: Order,
    pub(crate) blobs: Blobs,
    pub(crate) transfers: Transfers,
    /// The bytes of contributions that their owner cut short on purpose.
    pub(crate) honest: HashMap<BlobId, Vec<u8>>,
    pub(crate) books: Vec<Book>,
    pub(crate) ledger: Ledger,
    pub(crate) trace: Trace,
    pub(crate) violations: Vec<Violation>,
    /// When each node lost its power last.
    pub(crate) died_at: Vec<Micros>,
    /// When a round ended last.
    pub(crate) last_progress: Micros,
    /// Since when a quorum works and is connected.
    pub(crate) quorum_since: Option<Micros>,
    /// Starts that are still to come.
    pub(crate) coming: u32,
    /// A bug that is put in on purpose: what was not merged is not added back.
    pub(crate) planted_skip_restore: bool,
    /// The most times as slow as usual that training ever was.
    pub(crate) slowest: f64,
    /// Checkpoints on which a quorum agreed.
    pub(crate) checkpoints: u32,
    pub(crate) first: (Arc<OuterState>, Roots),
    pub(crate) task: Box<dyn Task>,
    pub(crate) computed: VecDeque<Computed>,
    pub(crate) replays: Replays,
    /// A learner's state before its first step.
    pub(crate) fresh: Vec<u8>,
    /// Who was found guilty, while which round was under way, and why; the first time.
    pub(crate) convicted: BTreeMap<u32, (Round, String)>,
    /// Who did not serve what it started from, while which round was under way, and for which; the first time.
    pub(crate) unserved: BTreeMap<u32, (Round, String)>,
    /// What was measured, and what came out of it.
    pub(crate) measured: Measured,
    pub(crate) scores: Vec<Scored>,
    /// Who signed two statements, and in which round that was known.
    pub(crate) excluded: BTreeMap<u32, Round>,
    tickets: u64,
    effects: Vec<Effect>,
    through: Vec<(u64, Micros)>,
    pub(crate) steps: u64,
}

impl World {
    /// The world of `scenario` and `seed`; nothing has happened yet. The scenario must have been checked.
    ///
    /// # Errors
    /// Where the task's model cannot be trained here.
    pub fn new(scenario: &Scenario, seed: u64, task: Box<dyn Task>) -> Result<Self, String> {
        let scenario = scenario.settled(seed);
        let mut charter = scenario::charter(&scenario, seed, atoll_protocol::Hash::ZERO);
        task.adapt(&mut charter);
        let start = OuterState::new(task.start(&charter.model, seed), &charter.outer);
        charter.model.theta = start.roots().0;
        let (charter, layout) = (Arc::new(charter.clone()), Arc::new(Layout::of(&charter.model)));
        let genesis = Arc::new(State::genesis(charter.clone()));
        let first = (Arc::new(start), genesis.core().roots);
        let keys = scenario::keys(scenario.nodes, seed);
        let places = keys.iter().map(Keypair::peer).zip(0..).collect();
        let learner = task.learner(&charter)?.save();
        let peer = |(node, key)| peer(&scenario, seed, (node, key), &first, &layout, &learner);
        let peers: Vec<Peer> = (0..scenario.nodes).zip(keys).map(peer).collect();
        let nodes = scenario.nodes as usize;
        let mut world = Self {
            transfers: Transfers::new(peers.iter().map(|peer| (peer.profile.up, peer.profile.down))),
            order: Order::new(genesis.clone(), scenario.nodes),
            ledger: Ledger::new(genesis),
            trace: Trace::new(&scenario, seed),
            books: vec![Book::default(); nodes],
            died_at: vec![Micros(0); nodes],
            scenario,
            seed,
            charter,
            layout,
            now: Micros(0),
            queue: Queue::new(),
            peers,
            places,
            blobs: Blobs::default(),
            honest: HashMap::new(),
            violations: Vec::new(),
            last_progress: Micros(0),
            quorum_since: None,
            coming: 0,
            planted_skip_restore: false,
            checkpoints: 0,
            slowest: 1.0,
            first,
            task,
            computed: VecDeque::new(),
            replays: Replays::default(),
            fresh: learner,
            convicted: BTreeMap::new(),
            unserved: BTreeMap::new(),
            measured: Measured::default(),
            scores: Vec::new(),
            excluded: BTreeMap::new(),
            tickets: 0,
            effects: Vec::new(),
            through: Vec::new(),
            steps: 0,
        };
        world.plan();
        Ok(world)
    }

    /// Puts everything that is known beforehand into the queue.
    fn plan(&mut self) {
        let events = self.scenario.events.clone();
        let mut late = vec![Micros(0); self.peers.len()];
        for (number, event) in events.iter().enumerate() {
            for node in &event.who {
                let peer = &mut self.peers[*node as usize];
                match event.deed {
                    Deed::Late => late[*node as usize] = event.at(),
                    Deed::Cut => peer.cuts.push_back(Cut {
                        step: event.step.unwrap_or(0),
                        effects: event.effects.unwrap_or(0) as usize,
                        away: event.length(),
                    }),
                    deed if deed.is_of_a_round() => peer.faults.push(Fault {
                        deed,
                        round: Round(event.round.unwrap_or(0)),
                        left: if deed == Deed::MergeFails { 2 } else { 1 },
                    }),
                    _ => {}
                }
            }
            let timed = !matches!(event.deed, Deed::Late | Deed::Cut) && !event.deed.is_of_a_round();
            if timed {
                self.queue.push(event.at(), Happening::Deed(number as u32));
            }
        }
        for peer in &mut self.peers {
            peer.cuts.make_contiguous().sort_by_key(|cut| cut.step);
        }
        for (node, at) in late.into_iter().enumerate() {
            self.start_at(node as u32, at);
        }
        self.queue.push(TICK, Happening::Tick);
    }

    pub(crate) fn start_at(&mut self, node: u32, at: Micros) {
        self.coming += 1;
        self.queue.push(at, Happening::Start(node));
    }

    pub(crate) fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// A node's number.
    pub(crate) fn node_of(&self, peer: &PeerId) -> u32 {
        self.places.get(peer).copied().unwrap_or(u32::MAX)
    }

    /// One way from `a` to `b`, without jitter.
    pub(crate) fn way(&self, a: u32, b: u32) -> Micros {
        if a == b {
            return Micros(0);
        }
        let (a, b) = (&self.peers[a as usize], &self.peers[b as usize]);
        Micros((a.profile.latency.0 + b.profile.latency.0) / 2)
    }

    /// Whether two nodes work and reach each other.
    pub(crate) fn reach(&self, a: u32, b: u32) -> bool {
        let (a, b) = (&self.peers[a as usize], &self.peers[b as usize]);
        a.life.is_some() && b.life.is_some() && a.side == b.side
    }

    /// Whether a node computes by itself what depends on `what`.
    pub(crate) fn computes(&self, node: u32, what: u64) -> bool {
        let nodes = self.scenario.nodes;
        nodes <= ALL_COMPUTE_MAX || Random::of(self.seed, &[what]).below(nodes.into()) as u32 == node
    }

    /// Does the next thing. False when the run is over, well or not.
    pub fn advance(&mut self) -> bool {
        let Some((at, happening)) = self.queue.pop() else {
            return false;
        };
        self.now = at;
        self.happen(happening);
        self.violations.is_empty() && !self.is_over()
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Start(node) => self.start(node),
            Happening::Deed(number) => self.deed(number),
            Happening::DeedEnds(number) => self.deed_ends(number),
            Happening::Look(view) => self.look(view),
            Happening::ViewEnds(view) => self.view_ends(view),
            Happening::Finalize(view) => self.finalize(view),
            Happening::Line(line) => self.line(line),
            Happening::Arrived(ticket) => self.arrived(ticket),
            Happening::Tick => self.tick(),
            Happening::Late(node, statement) => self.accept(node, *statement),
            of_a_life => self.happen_to(of_a_life),
        }
    }

    /// What is meant for a life that is over is lost.
    fn happen_to(&mut self, happening: Happening) {
        match happening {
            Happening::PowerOff { node, life } if self.lives(node, life) => self.crash(node, None),
            Happening::Deliver { node, life, height } if self.lives(node, life) => self.deliver(node, life, height),
            Happening::Stored { node, life, height } if self.lives(node, life) => self.block_stored(node, height),
            Happening::CatchUp { node, life } if self.lives(node, life) => self.catch_up(node),
            Happening::Synced { node, life, statement } if self.lives(node, life) => {
                self.peers[node as usize].disk.synced = self.blobs.count();
                self.accept(node, *statement);
            }
            Happening::Timer { node, life, timer } if self.lives(node, life) => {
                if let Some(life) = self.peers[node as usize].life.as_mut() {
                    life.timers -= 1;
                }
                self.step(node, Input::Timer(timer));
            }
            Happening::Input { node, life, input } if self.lives(node, life) => self.step(node, *input),
            Happening::Job { node, life, ticket } if self.lives(node, life) => self.job_ends(node, ticket),
            Happening::Fetch {
                node,
                life,
                round,
                blob,
                tried,
            } if self.lives(node, life) => {
                self.fetch(node, round, blob, tried);
            }
            Happening::Gather { node, life, ticket } if self.lives(node, life) => self.gather(node, ticket),
            Happening::Adopt { node, life, ticket } if self.lives(node, life) => self.adopt(node, ticket),
            Happening::States { node, life, ticket } if self.lives(node, life) => self.fetch_states(node, ticket),
            Happening::Again { node, life, ticket } if self.lives(node, life) => self.made_again(node, ticket),
            Happening::Measured {
                node,
                life,
                author,
                case,
            } if self.lives(node, life) => self.measured(node, author, &case),
            _ => {}
        }
    }

    pub(crate) fn lives(&self, node: u32, life: u32) -> bool {
        self.peers[node as usize].lives(life)
    }

    /// One step of a node's machine; a crash that is due cuts its effects short.
    pub(crate) fn step(&mut self, node: u32, input: Input) {
        self.trace.input(self.now, node, &input);
        let peer = &mut self.peers[node as usize];
        let cut = peer.cuts.front().copied().filter(|cut| cut.step <= peer.steps);
        peer.steps += 1;
        self.steps += 1;
        let most = cut.map_or(usize::MAX, |cut| cut.effects);
        self.take_effects(node, most, |machine, now, out| machine.step(now, input, out));
        self.check_step(node);
        if let Some(cut) = cut {
            self.peers[node as usize].cuts.pop_front();
            self.crash(node, cut.away);
        }
    }

    pub(crate) fn take_effects(
        &mut self,
        node: u32,
        most: usize,
        act: impl FnOnce(&mut Node, Millis, &mut Vec<Effect>),
    ) {
        let mut effects = std::mem::take(&mut self.effects);
        let peer = &mut self.peers[node as usize];
        let now = self.now.shown(peer.profile.skew_ms);
        if let Some(life) = peer.life.as_mut() {
            act(&mut life.node, now, &mut effects);
        }
        for effect in effects.drain(..).take(most) {
            self.trace.effect(node, &effect);
            self.check_effect(node, &effect);
            self.carry_out(node, effect);
        }
        self.effects = effects;
    }

    /// Tells a machine something, after what happens now.
    pub(crate) fn input(&mut self, node: u32, input: Input) {
        if let Some(life) = &self.peers[node as usize].life {
            let (life, input) = (life.number, Box::new(input));
            self.queue.push(self.now, Happening::Input { node, life, input });
        }
    }

    pub(crate) fn wake_lines(&mut self, wakes: [Wake; 2]) {
        for (line, at) in wakes.into_iter().flatten() {
            self.queue.push(at, Happening::Line(line));
        }
    }

    /// Transfers that a line has carried.
    fn line(&mut self, line: u32) {
        let mut through = std::mem::take(&mut self.through);
        let wake = self.transfers.look(self.now, line, &mut through);
        for (ticket, delay) in through.drain(..) {
            self.queue.push(self.now.after(delay), Happening::Arrived(ticket));
        }
        self.through = through;
        self.wake_lines([wake, None]);
    }

    fn tick(&mut self) {
        self.check_stores();
        self.check_progress();
        self.queue.push(self.now.after(TICK), Happening::Tick);
    }

    /// What is left to do when the run has reached its end: nothing, once everybody has caught up.
    fn is_over(&self) -> bool {
        if !self.order.is_finished() || self.coming > 0 {
            return false;
        }
        let (height, core) = (self.order.height(), self.order.tip().core());
        let roots = core.roots;
        let recorded = core.checkpoint.as_ref().is_none_or(|due| due.recorded.is_some());
        self.order.waiting() == 0
            && recorded
            && self
                .peers
                .iter()
                .filter_map(|peer| peer.life.as_ref().map(|life| (peer, life)))
                .all(|(peer, life)| {
                    let (theta, momentum) = life.replica.roots();
                    let idle = life.busy.is_none() && life.jobs.is_empty();
                    idle && peer.disk.height == height && Roots { theta, momentum } == roots
                })
    }

    /// The loss of the first θ, and of the newest that somebody holds.
    pub(crate) fn losses(&self) -> (f64, f64) {
        let roots = self.order.tip().core().roots;
        let newest = self.peers.iter().find_map(|peer| peer.disk.thetas.get(&roots));
        let loss = |theta: &[f32]| self.task.learner(&self.charter)?.final_loss(theta);
        let last = newest.and_then(|stored| loss(&stored.state.theta).ok());
        (
            loss(&self.first.0.theta).unwrap_or(f64::INFINITY),
            last.unwrap_or(f64::INFINITY),
        )
    }

    /// By round, of those that have ended: whether `node`'s contribution was merged.
    pub(crate) fn was_merged(&self, node: u32, round: Round) -> Option<bool> {
        let at = self
            .order
            .records
            .binary_search_by_key(&round, |record| record.round)
            .ok()?;
        let me = self.peers[node as usize].id;
        let record = &self.order.records[at];
        Some(record.merged.binary_search_by_key(&me, |entry| entry.peer).is_ok())
    }
}

fn peer(
    scenario: &Scenario,
    seed: u64,
    (node, key): (u32, Keypair),
    first: &(Arc<OuterState>, Roots),
    layout: &Layout,
    learner: &[u8],
) -> Peer {
    let theta = Stored {
        state: first.0.clone(),
        keep: Round(0),
        at: Micros(0),
    };
    Peer {
        id: key.peer(),
        key,
        profile: scenario.profile(node, seed),
        disk: Disk {
            height: 0,
            saved: Saved {
                feedback: ErrorFeedback::new(layout.parameters).to_bytes(),
                learner: learner.to_vec(),
                pending: None,
                stands_on: (Hash::ZERO, false),
                anew: None,
            },
            thetas: BTreeMap::from([(first.1, theta)]),
            collected: Round(0),
            synced: 0,
            free_at: Micros(0),
        },
        life: None,
        lives: 0,
        steps: 0,
        cuts: VecDeque::new(),
        faults: Vec::new(),
        slow: Slow {
            training: 1.0,
            link: 1.0,
            disk: 1.0,
        },
        side: 0,
        random: Random::of(seed, &[MESSAGES, node.into()]),
        commitments: BTreeMap::new(),
        lying: None,
        ever_lied: false,
    }
}
