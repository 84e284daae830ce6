//! The simulated total order: leaders by turns, statements on their way to them, blocks that become final
//! after three ways through a quorum, and views that run out.

use crate::{
    clock::Micros,
    random::Random,
    world::{Happening, World},
};
use atoll_ledger::{Applied, Event, Phase, RoundRecord, State};
use atoll_protocol::{
    Millis, PeerId,
    limits::{BLOCK_BYTES_MAX, BLOCK_TRANSACTIONS_MAX, CLOCK_SKEW_MS_MAX, TRANSACTION_BYTES_MAX},
    transaction::SignedTransaction,
};
use std::{collections::BTreeMap, sync::Arc};

/// Statements of one signer that may wait, as in the real mempool.
const SIGNER_TRANSACTIONS_MAX: usize = 256;
/// When a lost statement is sent again, doubling each time, as in the real mempool.
const RESEND_MS: u64 = 250;
const RESENDS_MAX: u32 = 8;
/// A statement has left its author's machine after so long.
const LEAVES: Micros = Micros::ms(20);
/// Blocks that a node asks for at a time.
pub(crate) const CATCH_UP_BLOCKS: u64 = 32;

/// What draws are for.
const SILENT: u64 = 21;
const OMIT: u64 = 22;
const LOST: u64 = 23;
const DELAY: u64 = 24;

/// A statement that waits for a block.
struct Waiting {
    number: u64,
    from: u32,
    since: Micros,
    statement: SignedTransaction,
}

/// A proposed block.
struct Proposed {
    applied: Arc<Applied>,
    leader_life: u32,
    /// From then on others have it, so that it does not matter whether its leader lives.
    spread_at: Micros,
}

/// The order and the history that it made.
pub(crate) struct Order {
    pub(crate) genesis: Arc<State>,
    pub(crate) blocks: Vec<Arc<Applied>>,
    pub(crate) records: Vec<RoundRecord>,
    waiting: BTreeMap<u64, Waiting>,
    /// Numbers of what waits, by signer.
    by_signer: BTreeMap<u32, Vec<u64>>,
    numbers: u64,
    pub(crate) view: u64,
    view_since: Micros,
    leader: u32,
    proposed: Option<Proposed>,
    /// Leaders that let a view run out: skipped until they are heard again.
    pub(crate) noticed: Vec<bool>,
    pub(crate) views_lost: u64,
}

impl Order {
    pub(crate) fn new(genesis: Arc<State>, nodes: u32) -> Self {
        Self {
            genesis,
            blocks: Vec::new(),
            records: Vec::new(),
            waiting: BTreeMap::new(),
            by_signer: BTreeMap::new(),
            numbers: 0,
            view: 0,
            view_since: Micros(0),
            leader: 0,
            proposed: None,
            noticed: vec![false; nodes as usize],
            views_lost: 0,
        }
    }

    /// The last final state.
    pub(crate) fn tip(&self) -> &Arc<State> {
        self.blocks.last().map_or(&self.genesis, |applied| applied.state())
    }

    pub(crate) fn height(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// The state after `height` blocks.
    pub(crate) fn state_at(&self, height: u64) -> &Arc<State> {
        match height.checked_sub(1) {
            Some(index) => self.blocks[index as usize].state(),
            None => &self.genesis,
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.tip().round().phase == Phase::Finished
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn forget(&mut self, number: u64) {
        if let Some(gone) = self.waiting.remove(&number)
            && let Some(own) = self.by_signer.get_mut(&gone.from)
        {
            own.retain(|other| *other != number);
        }
    }
}

impl World {
    /// Takes a statement on its way to whoever leads. The real mempool takes so many of a signer; an honest
    /// node never has them waiting.
    pub(crate) fn accept(&mut self, from: u32, statement: SignedTransaction) {
        let order = &mut self.order;
        let own = order.by_signer.entry(from).or_default();
        let same = |number: &u64| {
            let waiting = order.waiting.get(number);
            waiting.is_some_and(|waiting| waiting.statement.signature == statement.signature)
        };
        if own.iter().any(same) {
            return; // it waits once, however often it is said
        }
        if own.len() >= SIGNER_TRANSACTIONS_MAX {
            let text = format!("node {from} has {SIGNER_TRANSACTIONS_MAX} statements waiting and makes another");
            return self.violated("bounded", text);
        }
        order.numbers += 1;
        own.push(order.numbers);
        let (number, since) = (order.numbers, self.now);
        let waiting = Waiting {
            number,
            from,
            since,
            statement,
        };
        order.waiting.insert(number, waiting);
        if self.order.proposed.is_none()
            && let Some(at) = self.arrival(&self.order.waiting[&number])
        {
            self.look_at(at);
        }
    }

    /// Power fails at `node`: what it has just said may not have left it.
    pub(crate) fn lose_statements(&mut self, node: u32, random: &mut Random) {
        let now = self.now;
        let young = |waiting: &&Waiting| waiting.from == node && waiting.since.after(LEAVES) > now;
        let young: Vec<u64> = self
            .order
            .waiting
            .values()
            .filter(young)
            .map(|waiting| waiting.number)
            .collect();
        for number in young {
            if random.chance(0.5) {
                self.order.forget(number);
            }
        }
    }

    fn look_at(&mut self, at: Micros) {
        let view = self.order.view;
        self.queue.push(at, Happening::Look(view));
    }

    /// When a statement is with the leader of this view; none while the two do not reach each other.
    fn arrival(&self, waiting: &Waiting) -> Option<Micros> {
        let leader = self.order.leader;
        let (from, to) = (&self.peers[waiting.from as usize], &self.peers[leader as usize]);
        if from.side != to.side {
            return None;
        }
        if waiting.from == leader {
            return Some(waiting.since);
        }
        let mut random = Random::of(self.seed, &[LOST, waiting.number, leader.into()]);
        let (mut at, mut wait_ms, loss) = (waiting.since, RESEND_MS, self.scenario.link.loss);
        for _ in 0..RESENDS_MAX {
            if !random.chance(loss) {
                break;
            }
            at = at.after(Micros::ms(wait_ms));
            wait_ms *= 2;
        }
        let jitter = Micros(random.below(self.scenario.link.jitter_ms * 1_000 + 1));
        Some(at.after(self.way(waiting.from, leader)).after(jitter))
    }

    /// Validators that live and reach `node`, and how long one way from it takes; nearest first.
    fn reach_of(&self, node: u32) -> Vec<Micros> {
        let side = self.peers[node as usize].side;
        let others = (0..self.scenario.nodes).filter(|other| {
            let peer = &self.peers[*other as usize];
            peer.life.is_some() && peer.side == side
        });
        let mut ways: Vec<Micros> = others.map(|other| self.way(node, other)).collect();
        ways.sort_unstable();
        ways
    }

    /// More than two thirds of the validators.
    pub(crate) fn validators_needed(&self) -> usize {
        let n = self.scenario.nodes as usize;
        n - (n - 1) / 3
    }

    fn can_lead(&self, node: u32) -> bool {
        let peer = &self.peers[node as usize];
        let silent = self.scenario.order.silent;
        let speaks = !Random::of(self.seed, &[SILENT, self.order.view]).chance(silent);
        peer.life.is_some() && speaks && self.reach_of(node).len() >= self.validators_needed()
    }

    /// The next view begins: its leader waits for something to say.
    pub(crate) fn next_view(&mut self) {
        let nodes = u64::from(self.scenario.nodes);
        self.order.proposed = None;
        self.order.view += 1;
        for _ in 0..nodes {
            let leader = (self.order.view % nodes) as u32;
            if !self.order.noticed[leader as usize] || self.peers[leader as usize].life.is_some() {
                break;
            }
            self.order.view += 1; // known as silent, and skipped by all
        }
        self.order.leader = (self.order.view % nodes) as u32;
        self.order.view_since = self.now;
        let (view, timeout) = (self.order.view, Micros::ms(self.scenario.order.leader_timeout_ms));
        self.queue.push(self.now.after(timeout), Happening::ViewEnds(view));
        if self.can_lead(self.order.leader) {
            let skew = self.peers[self.order.leader as usize].profile.skew_ms;
            let due = Micros::when(self.due(), skew).max(self.now);
            let first = self
                .order
                .waiting
                .values()
                .filter_map(|waiting| self.arrival(waiting))
                .min();
            self.look_at(first.unwrap_or(due).min(due).max(self.now));
            self.look_at(due);
        }
    }

    /// When a block is due although nobody has said anything.
    fn due(&self) -> Millis {
        let tip = self.order.tip();
        let heartbeat = tip.time().after(tip.charter().deadlines.heartbeat);
        tip.next_deadline()
            .map_or(heartbeat, |deadline| deadline.min(heartbeat))
    }

    /// The view has run out without a block.
    pub(crate) fn view_ends(&mut self, view: u64) {
        if view != self.order.view || self.order.proposed.is_some() {
            return;
        }
        let leader = self.order.leader;
        self.order.noticed[leader as usize] = self.peers[leader as usize].life.is_none();
        self.order.views_lost += 1;
        self.next_view();
    }

    /// The leader looks whether there is something to say.
    pub(crate) fn look(&mut self, view: u64) {
        let leader = self.order.leader;
        if view != self.order.view || self.order.proposed.is_some() || !self.can_lead(leader) {
            return;
        }
        let here = self.order.waiting.values().filter(|waiting| {
            let arrived = self.arrival(waiting).is_some_and(|at| at <= self.now);
            arrived && !Random::of(self.seed, &[OMIT, view, waiting.number]).chance(self.scenario.order.omit)
        });
        let here: Vec<(u64, SignedTransaction)> = here
            .take(BLOCK_TRANSACTIONS_MAX)
            .map(|waiting| (waiting.number, waiting.statement.clone()))
            .collect();
        let clock = self.now.shown(self.peers[leader as usize].profile.skew_ms);
        let due = clock >= self.due();
        if here.is_empty() && !due {
            return;
        }
        let statements = here.iter().map(|(_, statement)| statement.clone());
        let applied = Arc::new(self.order.tip().draft(clock, statements));
        self.drop_refused(&here, &applied);
        if due || !applied.block().transactions.is_empty() {
            self.propose(leader, applied);
        }
    }

    /// What the ledger refuses now it would refuse later, too: everybody drops it.
    fn drop_refused(&mut self, here: &[(u64, SignedTransaction)], applied: &Applied) {
        let block = applied.block();
        let full = block.transactions.len() == BLOCK_TRANSACTIONS_MAX
            || atoll_protocol::encode(block).len() + TRANSACTION_BYTES_MAX > BLOCK_BYTES_MAX;
        let last = block.transactions.last().map(|last| last.signature);
        let considered = match full {
            true => here
                .iter()
                .position(|(_, statement)| Some(statement.signature) == last)
                .map_or(0, |at| at + 1),
            false => here.len(),
        };
        let mut taken = block
            .transactions
            .iter()
            .map(|statement| statement.signature)
            .peekable();
        for (number, statement) in &here[..considered] {
            if taken.next_if_eq(&statement.signature).is_none() {
                self.order.forget(*number);
            }
        }
    }

    /// A block goes to all, is voted on twice, and is final: three ways through a quorum.
    fn propose(&mut self, leader: u32, applied: Arc<Applied>) {
        let reach = self.reach_of(leader);
        let Some(way) = reach.get(self.validators_needed() - 1).copied() else {
            return;
        };
        let peer = &self.peers[leader as usize];
        let Some(leader_life) = peer.life.as_ref().map(|life| life.number) else {
            return;
        };
        let bytes = atoll_protocol::encode(applied.block()).len() as u64;
        // Passed on in a tree: everybody sends it twice.
        let sending = Micros(2 * bytes * 1_000_000 / peer.profile.up.max(1)).times(peer.slow.link);
        let view = self.order.view;
        let delay_ms = self.scenario.order.delay_ms;
        let delay = Micros(Random::of(self.seed, &[DELAY, view]).below(delay_ms * 1_000 + 1));
        let spread_at = self.now.after(sending).after(way);
        let final_at = spread_at
            .after(way)
            .after(way)
            .after(delay)
            .max(self.patience(&applied));
        self.order.proposed = Some(Proposed {
            applied,
            leader_life,
            spread_at,
        });
        self.queue.push(final_at, Happening::Finalize(view));
    }

    /// Validators wait while a block's time is too far ahead of their clocks: when a quorum votes.
    fn patience(&self, applied: &Applied) -> Micros {
        let shown = Millis(applied.block().header.time.0.saturating_sub(CLOCK_SKEW_MS_MAX));
        let live = self.peers.iter().filter(|peer| peer.life.is_some());
        let mut times: Vec<Micros> = live.map(|peer| Micros::when(shown, peer.profile.skew_ms)).collect();
        times.sort_unstable();
        times.get(self.validators_needed() - 1).copied().unwrap_or(self.now)
    }

    /// The block is final, unless its leader or the quorum was lost on the way.
    pub(crate) fn finalize(&mut self, view: u64) {
        if view != self.order.view {
            return;
        }
        let leader = self.order.leader;
        let Some(proposed) = self.order.proposed.take() else {
            return;
        };
        let peer = &self.peers[leader as usize];
        let died = !peer.lives(proposed.leader_life) && self.died_at[leader as usize] < proposed.spread_at;
        if died || self.largest_side() < self.validators_needed() {
            self.order.views_lost += 1;
            let timeout = Micros::ms(self.scenario.order.leader_timeout_ms);
            let at = self.order.view_since.after(timeout);
            self.queue.push(at.max(self.now), Happening::ViewEnds(view));
            return;
        }
        self.append(proposed.applied);
        self.next_view();
    }

    /// How many live nodes the largest side has.
    pub(crate) fn largest_side(&self) -> usize {
        self.sides().into_values().max().unwrap_or(0)
    }

    fn append(&mut self, applied: Arc<Applied>) {
        let included: BTreeMap<_, ()> = applied
            .block()
            .transactions
            .iter()
            .map(|statement| (signature_key(statement), ()))
            .collect();
        let gone = self.order.waiting.values();
        let gone: Vec<u64> = gone
            .filter(|waiting| included.contains_key(&signature_key(&waiting.statement)))
            .map(|waiting| waiting.number)
            .collect();
        gone.into_iter().for_each(|number| self.order.forget(number));
        self.trace.block(self.now, &applied);
        self.check_block(&applied);
        for event in applied.events() {
            if let Event::RoundEnded(record) = event {
                self.order.records.push((**record).clone());
                self.last_progress = self.now;
            }
        }
        self.order.blocks.push(applied);
        let height = self.order.height();
        let side = self.main_side(); // its leader may have been cut off since it was sent
        for node in 0..self.scenario.nodes {
            self.send_block(node, height, side);
        }
    }

    /// Sends a block that has just become final to a node that follows.
    fn send_block(&mut self, node: u32, height: u64, side: u32) {
        let way = self.way(self.order.leader, node);
        let (link, now) = (&self.scenario.link, self.now);
        let (jitter_ms, loss, duplicate) = (link.jitter_ms, link.loss, link.duplicate);
        let peer = &mut self.peers[node as usize];
        let cut_off = peer.side != side;
        let Some(life) = peer.life.as_mut().filter(|life| life.following) else {
            return;
        };
        if cut_off {
            life.following = false;
            let life = life.number;
            self.queue.push(now, Happening::CatchUp { node, life });
            return;
        }
        let mut at = now.after(way).after(Micros(peer.random.below(jitter_ms * 1_000 + 1)));
        if peer.random.chance(loss) {
            at = at.after(way).after(way); // asked for and sent again
        }
        at = at.max(life.last_delivery);
        life.last_delivery = at;
        let life = life.number;
        self.queue.push(at, Happening::Deliver { node, life, height });
        if peer.random.chance(duplicate) {
            self.queue
                .push(at.after(way), Happening::Deliver { node, life, height });
        }
    }

    /// A node that does not follow asks for what it has missed.
    pub(crate) fn catch_up(&mut self, node: u32) {
        let (tip, main) = (self.order.height(), self.main_side());
        let peer = &self.peers[node as usize];
        let Some(life) = peer.life.as_ref() else { return };
        let (life, next, side) = (life.number, life.next, peer.side);
        let held = self
            .peers
            .iter()
            .filter(|other| other.life.is_some() && other.side == side);
        let known = match side == main {
            true => tip,
            false => held.map(|other| other.disk.height).max().unwrap_or(0),
        };
        let upto = known.min(next + CATCH_UP_BLOCKS - 1);
        let way = self.way(self.order.leader, node);
        let now = self.now;
        let Some(life_now) = self.peers[node as usize].life.as_mut() else {
            return;
        };
        let at = now.after(way).after(way).max(life_now.last_delivery);
        life_now.last_delivery = at;
        life_now.following = side == main && upto == tip;
        let following = life_now.following;
        for height in next..=upto {
            self.queue.push(at, Happening::Deliver { node, life, height });
        }
        if !following {
            let pause = if upto < known { Micros::ms(1) } else { Micros::s(1) };
            self.queue.push(at.after(pause), Happening::CatchUp { node, life });
        }
    }

    /// The side with the most live nodes: on it blocks become final.
    pub(crate) fn main_side(&self) -> u32 {
        self.sides()
            .into_iter()
            .max_by_key(|(_, count)| *count)
            .map_or(0, |(side, _)| side)
    }

    /// How many live nodes each side has.
    fn sides(&self) -> BTreeMap<u32, usize> {
        let mut sides = BTreeMap::new();
        for peer in self.peers.iter().filter(|peer| peer.life.is_some()) {
            *sides.entry(peer.side).or_default() += 1;
        }
        sides
    }
}

fn signature_key(statement: &SignedTransaction) -> (PeerId, [u8; 64]) {
    (statement.signer, statement.signature.0)
}
