//! A node's trainer: one order at a time, and what it reports is on disk by then, as in the real one.

use crate::{
    blobs::Blob,
    clock::Micros,
    peer::{Busy, Made, Saved, Stage, Stored},
    scenario::Deed,
    trace::Span,
    world::{Happening, World},
};
use atoll_ledger::{Planned, Roots, assign::Share};
use atoll_node::Input;
use atoll_outer::{Contribution, OuterState};
use atoll_protocol::{ByteCount, Hash, InnerSteps, MicroNats, Round, Tokens, transaction::Reveal};
use std::sync::Arc;

/// An order.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    Train(Round, Share),
    Merge(Round, Vec<Planned>),
    Advance(Roots),
    Discard,
    Restore(Round),
    Settle(Round),
    Adopt(Roots, Arc<OuterState>),
    Checkpoint(Round),
}

/// A loss as the ledger writes it.
fn micro_nats(loss: f64) -> MicroNats {
    MicroNats((loss.max(0.0) * 1e6).round() as u64)
}

impl World {
    /// Gives an order to a node's trainer.
    pub(crate) fn order_job(&mut self, node: u32, job: Job) {
        if let Some(life) = self.peers[node as usize].life.as_mut() {
            life.jobs.push_back(job);
        }
        self.next_job(node);
    }

    /// Begins the next orders, if nothing is under way; most take no time.
    pub(crate) fn next_job(&mut self, node: u32) {
        loop {
            let Some(life) = self.peers[node as usize].life.as_mut() else {
                return;
            };
            if life.busy.is_some() {
                return;
            }
            let Some(job) = life.jobs.pop_front() else { return };
            self.begin_job(node, job);
        }
    }

    fn begin_job(&mut self, node: u32, job: Job) {
        let peer = &mut self.peers[node as usize];
        let Some(life) = peer.life.as_mut() else { return };
        match job {
            Job::Train(..) => {
                let earlier = life.replica.pending().map(|pending| pending.reveal.round);
                if let Some(earlier) = earlier {
                    self.restore(node, earlier); // its round is over, and this one would take its place on disk
                }
                let peer = &mut self.peers[node as usize];
                let steps = f64::from(self.scenario.rules.inner_steps);
                let pace = 0.8 + 0.4 * peer.random.unit();
                let length = peer.profile.step.times(steps * pace * peer.slow.training);
                self.be_busy(node, job, Stage::Computing, length);
            }
            Job::Merge(..) | Job::Checkpoint(_) => {
                let length = peer.profile.merge.times(0.5 + peer.random.unit());
                self.be_busy(node, job, Stage::Computing, length);
            }
            Job::Advance(roots) => {
                if let Err(error) = life.replica.advance((roots.theta, roots.momentum)) {
                    self.violated("theta", format!("node {node} cannot advance: {error}"));
                }
            }
            Job::Discard => life.replica.discard(),
            Job::Adopt(roots, state) => {
                life.replica.adopt((*state).clone(), (roots.theta, roots.momentum));
                self.input(node, Input::Adopted(roots));
            }
            Job::Restore(round) => {
                if self.restore(node, round) {
                    self.save(node, job, None);
                }
            }
            Job::Settle(round) => {
                if life.replica.settle(round) {
                    self.save(node, job, None);
                }
            }
        }
    }

    fn be_busy(&mut self, node: u32, job: Job, stage: Stage, length: Micros) {
        let (ticket, since) = (self.ticket(), self.now);
        if let Some(life) = self.peers[node as usize].life.as_mut() {
            let number = life.number;
            life.busy = Some(Busy {
                ticket,
                job,
                stage,
                since,
                stop: false,
            });
            self.queue.push(
                since.after(length),
                Happening::Job {
                    node,
                    life: number,
                    ticket,
                },
            );
        }
    }

    /// Writes the private state as it is now.
    fn save(&mut self, node: u32, job: Job, made: Option<Box<Made>>) {
        let peer = &mut self.peers[node as usize];
        let Some(life) = peer.life.as_ref() else { return };
        let saved = Saved {
            feedback: life.replica.feedback().to_bytes(),
            learner: life.learner.save(),
            pending: life.replica.pending().cloned(),
        };
        let safe = peer.write(self.now, saved.feedback.len() + saved.learner.len());
        let stage = Stage::Private(Box::new(saved), made);
        self.be_busy(node, job, stage, safe.since(self.now));
    }

    /// Training under way ends at its next inner step.
    pub(crate) fn stop_training(&mut self, node: u32) {
        let (now, steps) = (self.now, u64::from(self.scenario.rules.inner_steps));
        let peer = &mut self.peers[node as usize];
        let step = peer.profile.step.times(peer.slow.training);
        let Some(life) = peer.life.as_mut() else { return };
        life.jobs.retain(|job| !matches!(job, Job::Train(..)));
        let number = life.number;
        let Some(busy) = life.busy.as_mut() else { return };
        if matches!((&busy.job, &busy.stage), (Job::Train(..), Stage::Computing)) && !busy.stop {
            busy.stop = true;
            let done = now.since(busy.since).0 / step.0.max(1) + 1;
            let at = busy.since.after(Micros(step.0 * done.min(steps))).max(now);
            let ticket = busy.ticket;
            self.queue.push(
                at,
                Happening::Job {
                    node,
                    life: number,
                    ticket,
                },
            );
        }
    }

    /// What is under way at a node's trainer is done.
    pub(crate) fn job_ends(&mut self, node: u32, ticket: u64) {
        let Some(life) = self.peers[node as usize].life.as_mut() else {
            return;
        };
        let Some(busy) = life.busy.take_if(|busy| busy.ticket == ticket) else {
            return; // it was stopped earlier
        };
        match (busy.job, busy.stage) {
            (Job::Train(round, share), Stage::Computing) => {
                self.trace.span(node, round, Span::Train, busy.since, self.now);
                if !busy.stop {
                    self.trained(node, round, share);
                }
            }
            (job, Stage::Blob(made)) => {
                self.blobs.hold(made.blob, node, true);
                self.save(node, job, Some(made));
            }
            (_, Stage::Private(saved, made)) => self.saved(node, *saved, made),
            (Job::Merge(round, plan), Stage::Computing) => self.merge(node, round, plan, busy.since),
            (Job::Merge(round, _), Stage::Theta(state, roots)) => self.stored(node, round, &state, roots),
            (Job::Checkpoint(round), _) => self.checkpoint(node, round),
            _ => {}
        }
        self.next_job(node);
    }

    /// H steps are done: encodes the contribution and writes its blob.
    fn trained(&mut self, node: u32, round: Round, share: Share) {
        let malformed = self.peers[node as usize].fault(Deed::Malformed, round);
        let Some(life) = self.peers[node as usize].life.as_mut() else {
            return;
        };
        let theta = life.replica.theta().to_vec();
        let trained = match life.learner.train(&theta, round, &share) {
            Ok(trained) => trained,
            Err(error) => return self.violated("learner", format!("node {node}, round {round}: {error}")),
        };
        let before = life.replica.feedback().values().to_vec();
        self.check_books(node, &before);
        let Some(life) = self.peers[node as usize].life.as_mut() else {
            return;
        };
        let base = life.replica.roots().0;
        let mut bytes = match life.replica.contribute(&trained.weights) {
            Ok(bytes) => bytes,
            Err(error) => return self.violated("contribution", format!("node {node}, round {round}: {error}")),
        };
        let honest = malformed.then(|| bytes.clone());
        bytes.truncate(bytes.len() - usize::from(malformed));
        let (hash, length) = (Hash::of_blob(&bytes), bytes.len());
        let rules = &self.charter.round;
        let tokens = u64::from(rules.inner_steps.0) * u64::from(rules.batch) * u64::from(rules.sequence);
        life.replica.set_pending(Reveal {
            round,
            blob: hash,
            bytes: ByteCount(length as u64),
            steps: InnerSteps(rules.inner_steps.0),
            tokens: Tokens(tokens),
            train_loss: micro_nats(trained.train_loss),
            held_out: micro_nats(trained.held_out),
        });
        let (layout, codec) = (self.layout.clone(), self.charter.codec.clone());
        let read = |bytes| Contribution::read(bytes, &layout, &codec, &base).map_err(|error| error.reason());
        let blob = || Blob::new((node, round), bytes, base, read);
        let blob = self.blobs.add(self.scenario.nodes, blob, hash);
        self.honest.extend(honest.map(|honest| (blob, honest)));
        let delta = theta.iter().zip(&trained.weights).map(|(theta, w)| theta - w).collect();
        let safe = self.peers[node as usize].write(self.now, length);
        let made = Box::new(Made { blob, delta });
        self.be_busy(node, Job::Train(round, share), Stage::Blob(made), safe.since(self.now));
    }

    /// The private state is on disk; a contribution in it may be spoken of now.
    fn saved(&mut self, node: u32, saved: Saved, made: Option<Box<Made>>) {
        let reveal = saved.pending.as_ref().map(|pending| pending.reveal.clone());
        self.peers[node as usize].disk.saved = saved;
        if let (Some(made), Some(reveal)) = (made, reveal) {
            self.keep_books(node, reveal.round, &made);
            self.input(node, Input::Trained(reveal));
        }
    }

    /// e ← e + D(blob), in memory. Whether there was something to add.
    fn restore(&mut self, node: u32, round: Round) -> bool {
        let Some(life) = self.peers[node as usize].life.as_mut() else {
            return false;
        };
        let pending = life.replica.pending().filter(|pending| pending.reveal.round == round);
        let id = pending.and_then(|pending| self.blobs.find(&pending.reveal.blob));
        let held = id.filter(|id| self.blobs.is_held(*id, node)); // one's newest is never collected
        let honest = |id| self.honest.get(&id).unwrap_or(&self.blobs.get(id).bytes).clone();
        let blob = held.map(honest);
        if self.planted_skip_restore {
            return life.replica.settle(round);
        }
        match life.replica.restore(round, blob) {
            Ok(was_open) => was_open,
            Err(error) => {
                self.violated("restore", format!("node {node}, round {round}: {error}"));
                false
            }
        }
    }

    /// Merges a plan whose blobs are all here, and writes the result.
    fn merge(&mut self, node: u32, round: Round, plan: Vec<Planned>, since: Micros) {
        self.trace.span(node, round, Span::Merge, since, self.now);
        let fails = self.peers[node as usize].fault(Deed::MergeFails, round);
        let merged = match fails {
            true => Err("a fault that was asked for".to_string()),
            false => self.merged(node, round, &plan),
        };
        let (mut state, mut roots) = match merged {
            Ok(merged) => merged,
            Err(reason) => return self.input(node, Input::MergeFailed { round, reason }),
        };
        if self.peers[node as usize].fault(Deed::OtherRoot, round) {
            let mut other = (*state).clone();
            other.theta[0] += 1.0 + node as f32; // liars do not conspire
            let (theta, momentum) = other.roots();
            (state, roots) = (Arc::new(other), Roots { theta, momentum });
        }
        let bytes = 4 * self.layout.parameters * if roots.momentum.is_some() { 2 } else { 1 };
        let safe = self.peers[node as usize].write(self.now, bytes);
        let stage = Stage::Theta(state, roots);
        self.be_busy(node, Job::Merge(round, plan), stage, safe.since(self.now));
    }

    /// A merged θ is on disk.
    fn stored(&mut self, node: u32, round: Round, state: &Arc<OuterState>, roots: Roots) {
        let at = self.now;
        let peer = &mut self.peers[node as usize];
        let keep = peer
            .disk
            .thetas
            .get(&roots)
            .map_or(round.next(), |there| there.keep.max(round.next()));
        let state_kept = state.clone();
        peer.disk.thetas.insert(
            roots,
            Stored {
                state: state_kept,
                keep,
                at,
            },
        );
        if let Some(life) = peer.life.as_mut() {
            life.replica
                .put_beside((**state).clone(), (roots.theta, roots.momentum));
        }
        self.input(node, Input::Merged { round, roots });
    }

    fn checkpoint(&mut self, node: u32, round: Round) {
        let Some(life) = self.peers[node as usize].life.as_mut() else {
            return;
        };
        let theta = life.replica.theta().to_vec();
        let held_out = match life.learner.loss(&theta) {
            Ok(loss) => micro_nats(loss),
            Err(error) => return self.violated("learner", format!("node {node}, checkpoint {round}: {error}")),
        };
        let manifest = life.replica.roots().0;
        self.input(
            node,
            Input::Checkpointed {
                round,
                manifest,
                held_out,
            },
        );
    }
}
