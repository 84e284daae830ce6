//! What a scenario's events do, and what a crash leaves on disk.

use crate::{
    clock::Micros,
    lying::Lying,
    peer::Stage,
    random::Random,
    scenario::Deed,
    trainer::Job,
    world::{Happening, World},
};
use atoll_node::Input;

/// From an operator's leave to power off.
const LEAVING: Micros = Micros::s(10);
/// What was written without waiting for the disk is safe after so long.
const SETTLED: Micros = Micros::s(1);
/// What draws are for.
const TORN: u64 = 31;

impl World {
    /// An event of the scenario begins.
    pub(crate) fn deed(&mut self, number: u32) {
        let event = self.scenario.events[number as usize].clone();
        let factor = event.factor.unwrap_or(1.0);
        self.trace.deed(self.now, number);
        for node in event.who.iter().copied() {
            match event.deed {
                Deed::Crash => self.crash(node, event.length()),
                Deed::Leave => self.leave(node, event.length()),
                Deed::Partition => {
                    self.peers[node as usize].side = number + 1;
                    self.trace.side(self.now, node, true);
                }
                Deed::SlowTraining => {
                    self.peers[node as usize].slow.training = factor;
                    self.slowest = self.slowest.max(factor);
                }
                Deed::SlowDisk => self.peers[node as usize].slow.disk = factor,
                Deed::SlowLink => self.slow_link(node, factor),
                Deed::Lie => {
                    let peer = &mut self.peers[node as usize];
                    peer.lying = event.liar.map(Lying::new);
                    peer.ever_lied = true;
                }
                _ => {} // not at a time
            }
        }
        if event.deed == Deed::Partition {
            self.cut_lines();
        }
        if let Some(length) = event.length().filter(|_| event.deed.ends()) {
            self.queue.push(self.now.after(length), Happening::DeedEnds(number));
        }
    }

    /// It ends.
    pub(crate) fn deed_ends(&mut self, number: u32) {
        let event = self.scenario.events[number as usize].clone();
        self.trace.deed(self.now, number);
        for node in event.who.iter().copied() {
            match event.deed {
                // A later partition may have taken the node elsewhere.
                Deed::Partition if self.peers[node as usize].side == number + 1 => {
                    self.peers[node as usize].side = 0;
                    self.trace.side(self.now, node, false);
                }
                Deed::SlowTraining => self.peers[node as usize].slow.training = 1.0,
                Deed::SlowDisk => self.peers[node as usize].slow.disk = 1.0,
                Deed::SlowLink => self.slow_link(node, 1.0),
                Deed::Lie => self.peers[node as usize].lying = None,
                _ => {}
            }
        }
        if event.deed == Deed::Partition {
            self.cut_lines();
        }
    }

    /// Ends transfers between nodes that do not reach each other any more; the cut off ask for blocks.
    fn cut_lines(&mut self) {
        let peers = &self.peers;
        let apart = |a: u32, b: u32| peers[a as usize].side != peers[b as usize].side;
        for ticket in self.transfers.of(|transfer| apart(transfer.source, transfer.sink)) {
            self.end_transfer(ticket);
        }
        for node in 0..self.scenario.nodes {
            let Some(life) = self.peers[node as usize].life.as_ref() else {
                continue;
            };
            let life = life.number;
            self.queue.push(self.now, Happening::CatchUp { node, life });
        }
    }

    fn end_transfer(&mut self, ticket: u64) {
        if let Some(transfer) = self.transfers.give_up(self.now, ticket) {
            self.cut_off(&transfer);
        }
    }

    fn slow_link(&mut self, node: u32, factor: f64) {
        let peer = &mut self.peers[node as usize];
        peer.slow.link = factor;
        let rate = |bytes: u64| ((bytes as f64 / factor) as u64).max(1);
        let (up, down) = (rate(peer.profile.up), rate(peer.profile.down));
        let wakes = self.transfers.set_rates(self.now, node, up, down);
        self.wake_lines(wakes);
    }

    fn leave(&mut self, node: u32, away: Option<Micros>) {
        let Some(life) = self.peers[node as usize].life.as_ref().map(|life| life.number) else {
            return;
        };
        self.step(node, Input::Leave);
        self.queue
            .push(self.now.after(LEAVING), Happening::PowerOff { node, life });
        if let Some(away) = away {
            self.start_at(node, self.now.after(away.max(LEAVING)).after(Micros(1)));
        }
    }

    /// Power off. What was being written is there or not; what was not waited for may be gone. On again after `away`.
    pub(crate) fn crash(&mut self, node: u32, away: Option<Micros>) {
        let now = self.now;
        let peer = &mut self.peers[node as usize];
        let Some(life) = peer.life.take() else { return };
        self.died_at[node as usize] = now;
        self.trace.stop(now, node);
        let mut random = Random::of(self.seed, &[TORN, node.into(), life.number.into()]);
        self.lose_statements(node, &mut random);
        let peer = &mut self.peers[node as usize];
        if life.next > peer.disk.height + 1 && random.chance(0.5) {
            peer.disk.height += 1; // written, but nothing followed from it yet
        }
        peer.disk.free_at = now;
        let young = |stored: &crate::peer::Stored| stored.at.after(SETTLED) > now;
        peer.disk
            .thetas
            .retain(|roots, stored| roots.momentum.is_none() || !young(stored) || random.chance(0.5));
        let (round, synced) = (life.round, peer.disk.synced);
        if let Some(busy) = life.busy
            && random.chance(0.5)
        {
            self.written_after_all(node, busy.job, busy.stage);
        }
        let unsafe_blobs: Vec<_> = self
            .blobs
            .since(round)
            .filter(|id| self.blobs.get(*id).owner != node && *id >= synced)
            .collect();
        for id in unsafe_blobs {
            if random.chance(0.5) {
                self.blobs.hold(id, node, false);
            }
        }
        for ticket in self
            .transfers
            .of(|transfer| transfer.source == node || transfer.sink == node)
        {
            self.end_transfer(ticket);
        }
        if let Some(away) = away {
            self.start_at(node, now.after(away));
        }
    }

    /// A write that was under way reached the disk; nobody was told.
    fn written_after_all(&mut self, node: u32, job: Job, stage: Stage) {
        match (job, stage) {
            (_, Stage::Blob(made)) => self.blobs.hold(made.blob, node, true),
            (_, Stage::Private(saved, made)) => self.note_saved(node, *saved, made.as_deref()),
            (Job::Merge(round, ..), Stage::Theta(state, merged)) => {
                let (keep, at) = (round.next(), self.now);
                let disk = &mut self.peers[node as usize].disk;
                disk.thetas
                    .entry(merged.roots)
                    .or_insert(crate::peer::Stored { state, keep, at });
            }
            _ => {}
        }
    }
}

impl Deed {
    /// Whether the deed has an end of its own.
    fn ends(self) -> bool {
        matches!(
            self,
            Self::Partition | Self::SlowTraining | Self::SlowLink | Self::SlowDisk | Self::Lie
        )
    }
}
