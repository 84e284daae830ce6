//! Power on: what a node reads from its disk, as the real host does.

use crate::{
    peer::Life,
    trainer::Job,
    world::{Happening, World},
};
use atoll_ledger::{Roots, State};
use atoll_node::Node;
use atoll_outer::{ErrorFeedback, OuterState, Replica};
use atoll_protocol::Round;
use std::{collections::VecDeque, sync::Arc};

impl World {
    /// Power on: what is on disk is read, the machine begins, blocks are asked for.
    pub(crate) fn start(&mut self, node: u32) {
        self.coming -= 1;
        let now = self.now;
        let height = self.peers[node as usize].disk.height;
        let state = self.order.state_at(height).clone();
        let (theta, holds) = self.theta_on_disk(node, &state);
        let learner = self.learner_of(Some(node));
        let peer = &mut self.peers[node as usize];
        if peer.life.is_some() {
            return; // it was on already
        }
        let saved = &peer.disk.saved;
        let learner = learner.and_then(|mut learner| learner.restore(&saved.learner).map(|()| learner));
        let learner = match learner {
            Ok(learner) => learner,
            Err(error) => return self.violated("learner", format!("node {node}: {error}")),
        };
        let feedback = match ErrorFeedback::from_bytes(&saved.feedback, self.layout.parameters) {
            Ok(feedback) => feedback,
            Err(error) => return self.violated("disk", format!("node {node} cannot read its private state: {error}")),
        };
        let (pending, round, stands_on) = (saved.pending.clone(), state.round().number, saved.stands_on);
        let current = pending.as_ref().map(|pending| pending.reveal.clone());
        let current = current.filter(|reveal| reveal.round == round);
        let theta = ((*theta).clone(), (holds.theta, holds.momentum));
        let replica = Replica::new(self.charter.clone(), self.layout.clone(), theta, feedback, pending);
        peer.lives += 1;
        let life = peer.lives;
        peer.life = Some(Life {
            node: Node::new(peer.id, state.clone(), holds, current),
            replica,
            learner,
            number: life,
            next: height + 1,
            last_delivery: now,
            following: false,
            jobs: VecDeque::new(),
            busy: None,
            adopting: None,
            merging: None,
            fetches: Vec::new(),
            round,
            base: state.core().roots,
            timers: 0,
            ahead: None,
            kib_micros: 0,
            standing: None,
            stands_on,
            anew: None,
            replays: Vec::new(),
        });
        self.order.noticed[node as usize] = false;
        self.trace.start(now, node, height);
        self.keep_theta(node, state.core().roots, round); // a crash may have come before that
        self.settle_old(node, round);
        self.take_effects(node, usize::MAX, |machine, now, out| machine.start(now, out));
        self.queue.push(now, Happening::CatchUp { node, life });
        if self.order.view == 0 {
            self.next_view();
        }
    }

    /// The newest θ on a node's disk, as the real node looks for it: the ledger's, the one before its last
    /// merge, or the first.
    fn theta_on_disk(&self, node: u32, state: &State) -> (Arc<OuterState>, Roots) {
        let core = state.core();
        let before = core.last_merge.as_ref().map(|last| last.base);
        let thetas = &self.peers[node as usize].disk.thetas;
        let found = [Some(core.roots), before].into_iter().flatten().find_map(|roots| {
            let stored = thetas.get(&roots)?;
            Some((stored.state.clone(), roots))
        });
        found.unwrap_or_else(|| self.first.clone())
    }

    /// A contribution by an earlier life to a round that is over is settled if the round's record names it;
    /// else it is sent again or goes back into error feedback when training begins.
    fn settle_old(&mut self, node: u32, current: Round) {
        let saved = &self.peers[node as usize].disk.saved;
        let Some(old) = saved
            .pending
            .as_ref()
            .map(|pending| pending.reveal.round)
            .filter(|round| *round < current)
        else {
            return;
        };
        let me = self.peers[node as usize].id;
        let record = self.order.records.iter().find(|record| record.round == old);
        let merged = record.is_some_and(|record| record.merged.iter().any(|entry| entry.peer == me));
        if merged {
            self.order_job(node, Job::Settle(old));
        }
    }
}
