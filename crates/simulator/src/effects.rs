//! What a machine's effects do to the world, as the real host carries them out.

use crate::{
    blobs::BlobId,
    clock::Micros,
    merges::left_of,
    peer::{Gathering, Stored},
    scenario::Deed,
    trace::Span,
    trainer::Job,
    transfers::{Purpose, Transfer},
    world::{Happening, World},
};
use atoll_ledger::{Applied, Event, Outcome, Planned, Roots, RoundRecord};
use atoll_node::{Effect, Input, Notice};
use atoll_outer::attack::Liar;
use atoll_protocol::{
    Action, CheckReason, Domain, Hash, Round, Transaction,
    transaction::{Judgement, SignedTransaction, commitment},
};
use std::sync::Arc;

/// Until something that nobody serves is asked for again, as in the real host.
const RETRY: Micros = Micros::ms(300);
/// What it costs to find out that a node is not there.
const DIAL: Micros = Micros::s(3);
/// How long a tardy node holds its commitment back.
const TARDY: Micros = Micros::s(20);
/// A statement that comes twice comes again within so long, included in a block by then or not.
const TWICE: Micros = Micros::s(2);
/// Bytes of a packet.
const PACKET: u64 = 1_200;

impl World {
    pub(crate) fn carry_out(&mut self, node: u32, effect: Effect) {
        match effect {
            Effect::Submit(action) => self.submit(node, action),
            Effect::Train {
                round,
                share,
                terms,
                kib_micros,
                standing,
            } => {
                if let Some(life) = self.peers[node as usize].life.as_mut() {
                    (life.kib_micros, life.standing) = (kib_micros, standing);
                }
                self.order_job(node, Job::Train(round, share, terms));
            }
            Effect::Abort => self.stop_training(node),
            Effect::Fetch { reveal, .. } => match self.blobs.find(&reveal.blob) {
                Some(blob) => self.fetch(node, reveal.round, blob, 0),
                None => self.violated(
                    "blob",
                    format!("node {node} fetches {}, which nobody made", reveal.blob.short()),
                ),
            },
            Effect::Merge {
                round,
                plan,
                terms,
                excisions,
            } => {
                let ticket = self.ticket();
                if let Some(life) = self.peers[node as usize].life.as_mut() {
                    life.merging = Some(Gathering {
                        ticket,
                        round,
                        plan,
                        terms,
                        excisions,
                    });
                }
                self.gather(node, ticket);
            }
            Effect::Replay { author, case, .. } => self.begin_replay(node, author, case),
            Effect::Score(author, case) => self.begin_scoring(node, author, case),
            Effect::Advance(roots) => self.order_job(node, Job::Advance(roots)),
            Effect::Discard => {
                if let Some(life) = self.peers[node as usize].life.as_mut() {
                    life.merging = None;
                }
                self.order_job(node, Job::Discard);
            }
            Effect::Restore(round) => self.order_job(node, Job::Restore(round)),
            Effect::Adopt(roots) => {
                let ticket = self.ticket();
                if let Some(life) = self.peers[node as usize].life.as_mut() {
                    life.adopting = Some((ticket, roots));
                }
                self.adopt(node, ticket);
            }
            Effect::Checkpoint(round) => self.order_job(node, Job::Checkpoint(round)),
            Effect::Collect(before) => self.collect(node, before),
            Effect::SetTimer { at, timer } => {
                let (now, peer) = (self.now, &mut self.peers[node as usize]);
                let at = Micros::when(at, peer.profile.skew_ms).max(now);
                if let Some(life) = peer.life.as_mut() {
                    life.timers += 1;
                    let life = life.number;
                    self.queue.push(at, Happening::Timer { node, life, timer });
                }
            }
            Effect::Notice(notice) => self.notice(node, &notice),
        }
    }

    fn notice(&mut self, node: u32, notice: &Notice) {
        match notice {
            Notice::Broken(text) => self.violated("history", format!("node {node}: {text}")),
            Notice::Diverged { round, .. } if !self.peers[node as usize].is_faulty(Deed::OtherRoot, *round) => {
                self.violated(
                    "merge",
                    format!("node {node} merged round {round} to a root that nobody else has"),
                );
            }
            _ => {}
        }
    }

    fn submit(&mut self, node: u32, action: Action) {
        let mut actions = self.said(node, action.clone());
        if let Action::Commit { round, .. } = action {
            if self.peers[node as usize].fault(Deed::Tardy, round) {
                let statement = Box::new(self.signed(node, action));
                return self.queue.push(self.now.after(TARDY), Happening::Late(node, statement));
            }
            actions.extend(self.lies(node, round));
        }
        for action in actions {
            let statement = self.signed(node, action);
            if let Action::Check { .. } = statement.body.action {
                self.sync_then_say(node, statement);
                continue;
            }
            let twice = self.scenario.link.duplicate;
            let random = &mut self.peers[node as usize].random;
            if random.chance(twice) {
                let at = self.now.after(Micros(random.below(TWICE.0)));
                self.queue.push(at, Happening::Late(node, Box::new(statement.clone())));
            }
            self.accept(node, statement);
        }
    }

    /// A check says what is held, so that must be safe first.
    fn sync_then_say(&mut self, node: u32, statement: SignedTransaction) {
        let peer = &mut self.peers[node as usize];
        let safe = peer.write(self.now, 0);
        if let Some(life) = peer.life.as_ref().map(|life| life.number) {
            let statement = Box::new(statement);
            self.queue.push(safe, Happening::Synced { node, life, statement });
        }
    }

    /// What a liar says beside its commitment.
    fn lies(&mut self, node: u32, round: Round) -> Vec<Action> {
        let genesis = self.order.genesis.core().genesis;
        let peer = &mut self.peers[node as usize];
        let mut lies = Vec::new();
        if peer.fault(Deed::Equivocate, round) {
            let commitment = commitment(&genesis, &peer.id, round, &Hash::ZERO);
            lies.push(Action::Commit { round, commitment });
        }
        if peer.fault(Deed::Hasty, round) {
            let (refused, theta, momentum) = (Vec::new(), Hash::ZERO, None);
            let held = None;
            lies.push(Action::Check { round, held, refused });
            lies.push(Action::MergeRoot {
                round,
                theta,
                momentum,
                judgement: Judgement::NONE,
            });
        }
        lies
    }

    fn signed(&self, node: u32, action: Action) -> SignedTransaction {
        let genesis = self.order.genesis.core().genesis;
        let transaction = Transaction { genesis, action };
        self.peers[node as usize].key.sign(Domain::Transaction, transaction)
    }

    /// Fetches a contribution to be checked: from its owner, or from anyone.
    pub(crate) fn fetch(&mut self, node: u32, round: Round, blob: BlobId, tried: u32) {
        let Some(life) = self.peers[node as usize].life.as_ref() else {
            return;
        };
        if life.node.state().round().number != round {
            return;
        }
        let number = life.number;
        if self.holds(node, blob) {
            return self.fetched(node, round, blob);
        }
        let owner = self.blobs.get(blob).owner;
        if tried == 0 && !self.reach(node, owner) {
            let at = self.now.after(DIAL);
            let again = Happening::Fetch {
                node,
                life: number,
                round,
                blob,
                tried: 1,
            };
            return self.queue.push(at, again);
        }
        match self.provider(node, blob) {
            Some(source) => {
                let bytes = self.blobs.get(blob).bytes.len() as u64;
                let ticket = self.begin(source, node, bytes, Purpose::Check { round, blob });
                if let Some(life) = self.peers[node as usize].life.as_mut() {
                    life.fetches.push(ticket);
                }
            }
            None => {
                let again = Happening::Fetch {
                    node,
                    life: number,
                    round,
                    blob,
                    tried: 1,
                };
                self.queue.push(self.now.after(RETRY), again);
            }
        }
    }

    /// Whether a node has a contribution and serves it.
    pub(crate) fn holds(&self, node: u32, blob: BlobId) -> bool {
        let collected = self.peers[node as usize].disk.collected;
        self.blobs.is_held(blob, node) && self.blobs.get(blob).round >= collected
    }

    /// Who can be asked for a contribution: its owner first, then everyone.
    fn provider(&self, node: u32, blob: BlobId) -> Option<u32> {
        let owner = self.blobs.get(blob).owner;
        let faulty = self.peers[owner as usize].is_faulty(Deed::Unserved, self.blobs.get(blob).round);
        let hidden = faulty || self.liar(owner) == Some(Liar::Withhold);
        let serves = |other: &u32| self.reach(node, *other) && self.holds(*other, blob) && !(hidden && *other == owner);
        std::iter::once(owner).chain(0..self.scenario.nodes).find(serves)
    }

    pub(crate) fn begin(&mut self, source: u32, sink: u32, bytes: u64, purpose: Purpose) -> u64 {
        let life = self.peers[sink as usize].life.as_ref().map_or(0, |life| life.number);
        let (loss, jitter_ms) = (self.scenario.link.loss, self.scenario.link.jitter_ms);
        let there_and_back = self.way(sink, source).after(self.way(source, sink));
        let random = &mut self.peers[sink as usize].random;
        let lost = (0..bytes.div_ceil(PACKET).min(64))
            .filter(|_| random.chance(loss))
            .count() as u64;
        let jitter = Micros(random.below(jitter_ms * 1_000 + 1));
        let mut delay = there_and_back.after(jitter);
        if lost > 0 {
            delay = delay.after(there_and_back); // asked for again
        }
        let bytes = bytes + lost * PACKET;
        let (ticket, wakes) = self
            .transfers
            .begin(self.now, (source, sink, life), bytes, delay, purpose);
        self.wake_lines(wakes);
        ticket
    }

    /// A transfer has arrived.
    pub(crate) fn arrived(&mut self, ticket: u64) {
        let Some(transfer) = self.transfers.finish(ticket) else {
            return;
        };
        let node = transfer.sink;
        if !self.lives(node, transfer.life) {
            return;
        }
        match transfer.purpose {
            Purpose::Check { round, blob } => {
                self.blobs.hold(blob, node, true);
                self.fetched(node, round, blob);
            }
            Purpose::Plan { ticket, blob } => {
                self.blobs.hold(blob, node, true);
                self.gather(node, ticket);
            }
            Purpose::Theta { ticket } => self.theta_arrived(node, ticket, transfer.source),
            Purpose::States { ticket } => self.states_arrived(node, ticket),
        }
    }

    /// A transfer was cut off: what it was for is asked for again.
    pub(crate) fn cut_off(&mut self, transfer: &Transfer) {
        let (node, life, at) = (transfer.sink, transfer.life, self.now.after(RETRY));
        if !self.lives(node, life) {
            return;
        }
        let again = match transfer.purpose {
            Purpose::Check { round, blob } => Happening::Fetch {
                node,
                life,
                round,
                blob,
                tried: 1,
            },
            Purpose::Plan { ticket, .. } => Happening::Gather { node, life, ticket },
            Purpose::Theta { ticket } => Happening::Adopt { node, life, ticket },
            Purpose::States { ticket } => Happening::States { node, life, ticket },
        };
        self.queue.push(at, again);
    }

    /// A contribution is here: is it fit to be merged?
    fn fetched(&mut self, node: u32, round: Round, blob: BlobId) {
        let Some(life) = self.peers[node as usize].life.as_ref() else {
            return;
        };
        if life.round != round {
            return;
        }
        let (peer, base) = (self.peers[self.blobs.get(blob).owner as usize].id, life.base.theta);
        let blob = self.blobs.get(blob);
        let verdict = match &blob.read {
            _ if blob.base != base => Err(CheckReason::OtherBase),
            Ok(_) => Ok(()),
            Err(reason) => Err(*reason),
        };
        self.trace.span(node, round, Span::Fetch, self.now, self.now);
        self.input(node, Input::Fetched { round, peer, verdict });
    }

    /// Fetches what a plan needs and is not here, one after the other; then merges.
    pub(crate) fn gather(&mut self, node: u32, ticket: u64) {
        let Some(life) = self.peers[node as usize].life.as_ref() else {
            return;
        };
        let Some(gathering) = life.merging.as_ref().filter(|gathering| gathering.ticket == ticket) else {
            return; // another merge is wanted by now, or none
        };
        let taken_out: Vec<Planned> = gathering.excisions.iter().flat_map(left_of).collect();
        let missing = gathering.plan.iter().chain(&taken_out).find_map(|entry| {
            let blob = self.blobs.find(&entry.blob)?;
            (!self.holds(node, blob)).then_some(blob)
        });
        match missing.map(|blob| (blob, self.provider(node, blob))) {
            None => {
                let Some(life) = self.peers[node as usize].life.as_mut() else {
                    return;
                };
                if let Some(gathered) = life.merging.take() {
                    let Gathering {
                        round,
                        plan,
                        terms,
                        excisions,
                        ..
                    } = gathered;
                    self.order_job(node, Job::Merge(round, plan, Box::new(terms), excisions));
                }
            }
            Some((blob, Some(source))) => {
                let bytes = self.blobs.get(blob).bytes.len() as u64;
                self.begin(source, node, bytes, Purpose::Plan { ticket, blob });
            }
            Some((blob, None)) => {
                let (round, hash) = (gathering.round, self.blobs.get(blob).hash);
                let reason = format!("nobody serves blob {}", hash.short());
                if let Some(life) = self.peers[node as usize].life.as_mut() {
                    life.merging = None;
                }
                self.input(node, Input::MergeFailed { round, reason });
            }
        }
    }

    /// Asks everybody for a θ, until somebody has it.
    pub(crate) fn adopt(&mut self, node: u32, ticket: u64) {
        let Some(life) = self.peers[node as usize].life.as_ref() else {
            return;
        };
        let (number, wanted) = (life.number, life.adopting.filter(|(asked, _)| *asked == ticket));
        let Some((_, roots)) = wanted else { return };
        if let Some(stored) = self.peers[node as usize].disk.thetas.get(&roots) {
            let state = stored.state.clone();
            return self.order_job(node, Job::Adopt(roots, state));
        }
        let has =
            |other: &u32| self.reach(node, *other) && self.peers[*other as usize].disk.thetas.contains_key(&roots);
        match (0..self.scenario.nodes).find(has) {
            Some(source) => {
                let copies = if roots.momentum.is_some() { 2 } else { 1 };
                let bytes = 4 * self.layout.parameters as u64 * copies;
                self.begin(source, node, bytes, Purpose::Theta { ticket });
            }
            None => {
                let again = Happening::Adopt {
                    node,
                    life: number,
                    ticket,
                };
                self.queue.push(self.now.after(RETRY), again);
            }
        }
    }

    fn theta_arrived(&mut self, node: u32, ticket: u64, source: u32) {
        let Some(life) = self.peers[node as usize].life.as_ref() else {
            return;
        };
        let Some((_, roots)) = life.adopting.filter(|(asked, _)| *asked == ticket) else {
            return;
        };
        let Some(state) = self.peers[source as usize]
            .disk
            .thetas
            .get(&roots)
            .map(|stored| stored.state.clone())
        else {
            return self.adopt(node, ticket);
        };
        let (keep, at) = (life.round, self.now);
        let stored = Stored {
            state: state.clone(),
            keep,
            at,
        };
        self.peers[node as usize].disk.thetas.insert(roots, stored);
        self.order_job(node, Job::Adopt(roots, state));
    }

    fn collect(&mut self, node: u32, before: Round) {
        let disk = &mut self.peers[node as usize].disk;
        disk.collected = disk.collected.max(before);
        disk.thetas.retain(|_, stored| stored.keep >= before);
    }

    /// A final block is here: it goes to disk before anyone acts on it.
    pub(crate) fn deliver(&mut self, node: u32, life: u32, height: u64) {
        let bytes = self.ledger.block_bytes(&self.order, height);
        let now = self.now;
        let peer = &mut self.peers[node as usize];
        let Some(living) = peer.life.as_mut() else { return };
        if height != living.next {
            if height > living.next {
                living.following = false;
                self.queue.push(now, Happening::CatchUp { node, life });
            }
            return; // it came twice
        }
        living.next = height + 1;
        let safe = peer.write(now, bytes);
        self.queue.push(safe, Happening::Stored { node, life, height });
    }

    /// The block is on disk.
    pub(crate) fn block_stored(&mut self, node: u32, height: u64) {
        let applied = self.order.blocks[height as usize - 1].clone();
        let applied = self.applied_by(node, height, applied);
        self.peers[node as usize].disk.height = height;
        for event in applied.events() {
            if let Event::RoundEnded(record) = event {
                self.round_ended(node, record);
            }
        }
        self.trace_phases(node, &applied);
        self.step(node, Input::Final(applied));
    }

    /// What a node makes of a block: it applies it, or takes the word of whoever does so in its place.
    fn applied_by(&mut self, node: u32, height: u64, applied: Arc<Applied>) -> Arc<Applied> {
        if !self.computes(node, height << 8) {
            return applied;
        }
        let Some(life) = self.peers[node as usize].life.as_ref() else {
            return applied;
        };
        if life.node.state().height().0 + 1 != height {
            return applied;
        }
        match life.node.state().advance(applied.block().clone()) {
            Ok(own) if own == *applied => Arc::new(own),
            Ok(_) => {
                self.violated("history", format!("node {node} makes another state of block {height}"));
                applied
            }
            Err(error) => {
                self.violated("history", format!("node {node} refuses final block {height}: {error}"));
                applied
            }
        }
    }

    /// What the host keeps of a round that is over: fetches end, a merged contribution is settled, the θ
    /// that everyone stands on is kept.
    fn round_ended(&mut self, node: u32, record: &RoundRecord) {
        let now = self.now;
        let peer = &mut self.peers[node as usize];
        let me = peer.id;
        let Some(life) = peer.life.as_mut() else { return };
        life.round = record.round.next();
        if let Outcome::Closed(roots) = record.outcome {
            life.base = roots;
        }
        let (round, base) = (life.round, life.base);
        let fetches = std::mem::take(&mut life.fetches);
        self.keep_theta(node, base, round);
        for ticket in fetches {
            self.transfers.give_up(now, ticket);
        }
        if record.merged.binary_search_by_key(&me, |entry| entry.peer).is_ok() {
            self.order_job(node, Job::Settle(record.round));
        }
    }

    pub(crate) fn keep_theta(&mut self, node: u32, roots: Roots, round: Round) {
        if let Some(stored) = self.peers[node as usize].disk.thetas.get_mut(&roots) {
            stored.keep = stored.keep.max(round);
        }
    }

    /// Where a round's phases begin, for the picture.
    fn trace_phases(&mut self, node: u32, applied: &Applied) {
        for event in applied.events() {
            match event {
                Event::RevealOpened(round) => self.trace.span(node, *round, Span::Send, self.now, self.now),
                Event::RoundEnded(record) => self.trace.round_ended(node, record.round, self.now),
                _ => {}
            }
        }
    }
}
