//! A node's trainer: one order at a time, and what it reports is on disk by then, as in the real one.

use crate::{
    blobs::{Blob, BlobId},
    clock::Micros,
    peer::{Busy, GoneAhead, Life, Made, Saved, Stage, Stored},
    scenario::Deed,
    trace::Span,
    world::{Happening, World},
};
use atoll_ledger::{Excision, Merged, Planned, Roots, Terms, assign::Share};
use atoll_node::Input;
use atoll_outer::{Contribution, OuterRule, OuterState};
use atoll_protocol::{
    ByteCount, Hash, InnerSteps, MicroNats, Round, Tokens,
    charter::Overlap,
    transaction::{Ahead, AheadFrom, Measured, Reveal, States},
};
use std::sync::Arc;

/// An order.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    Train(Round, Share, Terms),
    Merge(Round, Vec<Planned>, Box<Terms>, Vec<Excision>),
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
            Job::Train(round, share, terms) => {
                self.begin_training(node, round, share, terms);
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
                life.ahead = None; // it led on from another θ
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

    /// Sends the open contribution again, if it fits; else trains.
    fn begin_training(&mut self, node: u32, round: Round, share: Share, terms: Terms) {
        let Some(life) = self.peers[node as usize].life.as_mut() else {
            return;
        };
        let repeats = life.may_repeat() && life.replica.repeat(round, &terms.codec, terms.steps).is_some();
        if repeats {
            return self.save(node, Job::Train(round, share, terms), None);
        }
        let earlier = life.replica.pending().map(|pending| pending.reveal.round);
        if let Some(earlier) = earlier {
            self.restore(node, earlier); // θ moved without it, and this one would take its place on disk
        }
        self.stand_on(node);
        let taken = self.steps_ahead(node, terms.steps);
        let peer = &mut self.peers[node as usize];
        let steps = f64::from(terms.steps.0 - taken);
        let pace = 0.8 + 0.4 * peer.random.unit();
        let length = peer.profile.step.times(steps * pace * peer.slow.training);
        self.be_busy(node, Job::Train(round, share, terms), Stage::Computing, length);
    }

    /// How many of a round's `steps` were taken while the last contribution travelled.
    fn steps_ahead(&mut self, node: u32, steps: InnerSteps) -> u32 {
        let (now, peer) = (self.now, &mut self.peers[node as usize]);
        let step = peer.profile.step.times(peer.slow.training);
        let Some(ahead) = peer.life.as_mut().and_then(|life| life.ahead.as_mut()) else {
            return 0;
        };
        let done = now.since(ahead.since).0 / step.0.max(1);
        let taken = u32::try_from(done).unwrap_or(u32::MAX).min(steps.0);
        ahead.taken = taken;
        taken
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
            stands_on: life.stands_on,
            anew: life.anew.clone(),
        };
        let safe = peer.write(self.now, saved.feedback.len() + saved.learner.len());
        let stage = Stage::Private(Box::new(saved), made);
        self.be_busy(node, job, stage, safe.since(self.now));
    }

    /// Training under way ends at its next inner step.
    pub(crate) fn stop_training(&mut self, node: u32) {
        let now = self.now;
        let peer = &mut self.peers[node as usize];
        let step = peer.profile.step.times(peer.slow.training);
        let Some(life) = peer.life.as_mut() else { return };
        life.jobs.retain(|job| !matches!(job, Job::Train(..)));
        let number = life.number;
        let Some(busy) = life.busy.as_mut() else { return };
        let Job::Train(_, _, terms) = &busy.job else { return };
        let steps = u64::from(terms.steps.0);
        if matches!(busy.stage, Stage::Computing) && !busy.stop {
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
            (Job::Train(round, share, terms), Stage::Computing) => {
                self.trace.span(node, round, Span::Train, busy.since, self.now);
                if !busy.stop {
                    self.trained(node, round, share, terms);
                }
            }
            (job, Stage::Blob(made)) => {
                self.blobs.hold(made.blob, node, true);
                self.save(node, job, Some(made));
            }
            (job, Stage::Private(saved, made)) => self.saved(node, &job, *saved, made),
            (Job::Merge(round, plan, terms, excisions), Stage::Computing) => {
                self.merge(node, round, (plan, terms, excisions), busy.since);
            }
            (Job::Merge(round, ..), Stage::Theta(state, merged)) => self.stored(node, round, &state, *merged),
            (Job::Checkpoint(round), _) => self.checkpoint(node, round),
            _ => {}
        }
        self.next_job(node);
    }

    /// H steps are done: encodes the contribution and writes its blob.
    fn trained(&mut self, node: u32, round: Round, share: Share, terms: Terms) {
        let malformed = self.peers[node as usize].fault(Deed::Malformed, round);
        let liar = self.liar(node);
        let peer = &self.peers[node as usize];
        let step = peer.profile.step.times(peer.slow.training);
        let Some(life) = self.peers[node as usize].life.as_mut() else {
            return;
        };
        let theta = life.replica.theta().to_vec();
        life.learner.turn(liar);
        let took = InnerSteps(liar.map_or(terms.steps.0, |liar| liar.steps(terms.steps)));
        let mut trained = match life.train(&theta, &share, &terms, took) {
            Ok(trained) => trained,
            Err(error) => return self.violated("learner", format!("node {node}, round {round}: {error}")),
        };
        let before = life.replica.feedback().values().to_vec();
        self.check_books(node, &before);
        let local = trained.weights.clone();
        let lie = self.lie(node, round, &theta, &local);
        let usual = terms.usual_norm_micro.filter(|_| lie.is_none()); // a liar keeps to no length
        trained.weights = lie.unwrap_or(trained.weights);
        let Some(life) = self.peers[node as usize].life.as_mut() else {
            return;
        };
        let base = life.replica.roots().0;
        let encoded = match life.replica.contribute(&trained.weights, &terms.codec, usual) {
            Ok(encoded) => encoded,
            Err(error) => return self.violated("contribution", format!("node {node}, round {round}: {error}")),
        };
        let (mut bytes, measured) = (encoded.blob, encoded.measured);
        let garbled = self.garbled(node, &bytes, &terms.codec);
        let honest = (malformed || garbled.is_some()).then(|| bytes.clone());
        bytes.truncate(bytes.len() - usize::from(malformed));
        bytes = garbled.unwrap_or(bytes);
        let forged = self.forge(node, round, &theta, &local);
        let states = self.keep_state(node, round, &local);
        let Some(life) = self.peers[node as usize].life.as_mut() else {
            return;
        };
        let (hash, length) = (Hash::of_blob(&bytes), bytes.len());
        let rules = &self.charter.round;
        let tokens = u64::from(terms.steps.0) * u64::from(rules.batch) * u64::from(rules.sequence);
        let reveal = Reveal {
            round,
            trained: round,
            blob: hash,
            bytes: ByteCount(length as u64),
            steps: terms.steps,
            ahead: trained.ahead,
            tokens: Tokens(tokens),
            train_loss: micro_nats(trained.train_loss),
            held_out: micro_nats(trained.held_out),
            measured: Measured {
                step_micros: u32::try_from(step.0).unwrap_or(u32::MAX),
                kib_micros: life.kib_micros,
                ..measured
            },
            states,
        };
        life.replica.set_pending(reveal, terms.codec.clone());
        life.stands_on = (states.closing, false);
        let (layout, codec) = (self.layout.clone(), terms.codec.clone());
        let read = |bytes| Contribution::read(bytes, &layout, &codec, &base).map_err(|error| error.reason());
        let blob = || Blob::new((node, round), bytes, base, read);
        let blob = self.blobs.add(self.scenario.nodes, blob, hash);
        self.honest.extend(honest.map(|honest| (blob, honest)));
        let mut delta: Vec<f32> = theta.iter().zip(&trained.weights).map(|(theta, w)| theta - w).collect();
        for (delta, forged) in delta.iter_mut().zip(forged.iter().flatten()) {
            *delta += forged;
        }
        let ahead = self.ahead(node, blob, &trained.weights, (round, &share, &terms));
        let safe = self.peers[node as usize].write(self.now, length);
        let codec = terms.codec.clone();
        let made = Box::new(Made {
            blob,
            delta,
            codec,
            ahead,
        });
        let job = Job::Train(round, share, terms);
        self.be_busy(node, job, Stage::Blob(made), safe.since(self.now));
    }

    /// Where a node trains on from while its contribution travels, if the charter has it so.
    fn ahead(&mut self, node: u32, blob: BlobId, weights: &[f32], of: (Round, &Share, &Terms)) -> Option<GoneAhead> {
        let (round, share, terms) = of;
        let from = match self.charter.round.overlap {
            Overlap::None => return None,
            Overlap::Steps | Overlap::Auto => AheadFrom::Own,
            Overlap::Eager => AheadFrom::Eager,
            Overlap::Round => AheadFrom::Theta,
        };
        let contribution = self.blobs.get(blob).read.as_ref().ok()?;
        let life = self.peers[node as usize].life.as_ref()?;
        let rule = OuterRule::of(&self.charter, terms.momentum, terms.steps);
        let of = (round, rule, share.replicas as usize);
        let from = life.replica.go_ahead(from, weights, contribution, of);
        Some(GoneAhead {
            from: from.ok()?,
            share: share.clone(),
            first: terms.steps.0,
            global: terms.first_step + u64::from(terms.steps.0),
            since: self.now,
            taken: 0,
        })
    }

    /// What is on disk now, and what the books make of it.
    pub(crate) fn note_saved(&mut self, node: u32, mut saved: Saved, made: Option<&Made>) {
        if let Some(values) = saved.anew.take() {
            self.begin_book(node, &values);
        }
        let round = saved.pending.as_ref().map(|pending| pending.reveal.round);
        self.peers[node as usize].disk.saved = saved;
        match (made, round) {
            (Some(made), Some(round)) => self.keep_books(node, round, made),
            (None, Some(round)) => self.reopen(node, round),
            (_, None) => {}
        }
    }

    /// The private state is on disk; a contribution to the round that was trained may be spoken of now.
    fn saved(&mut self, node: u32, job: &Job, saved: Saved, made: Option<Box<Made>>) {
        let reveal = saved.pending.as_ref().map(|pending| pending.reveal.clone());
        self.note_saved(node, saved, made.as_deref());
        if let Some(life) = self.peers[node as usize].life.as_mut() {
            life.anew = None;
            if let Some(made) = made {
                life.ahead = made.ahead;
            }
        }
        if let (Job::Train(..), Some(reveal)) = (job, reveal) {
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
            Ok(was_open) => {
                life.stands_on.1 |= was_open;
                was_open
            }
            Err(error) => {
                self.violated("restore", format!("node {node}, round {round}: {error}"));
                false
            }
        }
    }

    /// Merges a plan whose blobs are all here, and writes the result.
    fn merge(
        &mut self,
        node: u32,
        round: Round,
        (plan, terms, excisions): (Vec<Planned>, Box<Terms>, Vec<Excision>),
        since: Micros,
    ) {
        self.trace.span(node, round, Span::Merge, since, self.now);
        let fails = self.peers[node as usize].fault(Deed::MergeFails, round);
        let merged = match fails {
            true => Err("a fault that was asked for".to_string()),
            false => self.merged(node, round, (&plan, &terms, &excisions)),
        };
        self.learn_from(node, &plan);
        let (mut state, mut merged) = match merged {
            Ok(merged) => merged,
            Err(reason) => return self.input(node, Input::MergeFailed { round, reason }),
        };
        if self.peers[node as usize].fault(Deed::OtherRoot, round) {
            let mut other = (*state).clone();
            other.theta[0] += 1.0 + node as f32; // liars do not conspire
            let (theta, momentum) = other.roots();
            (state, merged.roots) = (Arc::new(other), Roots { theta, momentum });
        }
        let bytes = 4 * self.layout.parameters * if merged.roots.momentum.is_some() { 2 } else { 1 };
        let safe = self.peers[node as usize].write(self.now, bytes);
        let stage = Stage::Theta(state, Box::new(merged));
        self.be_busy(
            node,
            Job::Merge(round, plan, terms, excisions),
            stage,
            safe.since(self.now),
        );
    }

    /// A merged θ is on disk.
    fn stored(&mut self, node: u32, round: Round, state: &Arc<OuterState>, merged: Merged) {
        let Merged { roots, judgement } = merged;
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
        let input = Input::Merged {
            round,
            roots,
            judgement,
        };
        self.input(node, input);
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

/// What a round's training gave.
struct Trained {
    weights: Vec<f32>,
    train_loss: f64,
    held_out: f64,
    ahead: Option<Ahead>,
}

impl Life {
    /// Whether the open contribution stands on what the ledger knows: not after a jury wanted a fresh start.
    fn may_repeat(&self) -> bool {
        let Some(pending) = self.replica.pending() else {
            return true;
        };
        let States { opening, .. } = pending.reveal.states;
        let known = self.standing.as_ref().map(|work| &work.reveal);
        opening == Hash::ZERO
            || known.is_some_and(|known| known.trained == pending.reveal.trained || known.states.closing == opening)
    }

    /// A round's steps: those taken ahead first, from where they began; then the rest, from where they lead now.
    /// Of all steps only the first `took` are taken.
    fn train(&mut self, theta: &[f32], share: &Share, terms: &Terms, took: InnerSteps) -> Result<Trained, String> {
        let held_out = self.learner.loss(theta)?;
        let (mut weights, mut losses, mut ahead) = (theta.to_vec(), 0.0, None);
        if let Some(gone) = self.ahead.take().filter(|gone| gone.taken > 0) {
            let (first, taken) = (gone.first, gone.taken);
            let steps = first..first + taken;
            let early = self.learner.steps(gone.from.start(), &gone.share, steps, gone.global)?;
            let back = self.replica.come_back(&gone.from, &early.weights);
            weights = back.map_err(|error| error.to_string())?;
            losses = early.losses;
            ahead = Some(Ahead {
                from: gone.from.from,
                steps: InnerSteps(taken),
            });
        }
        let taken = ahead.map_or(0, |ahead| ahead.steps.0);
        let global = terms.first_step + u64::from(taken);
        let rest = self.learner.steps(&weights, share, taken..took.0.max(taken), global)?;
        Ok(Trained {
            weights: rest.weights,
            train_loss: (losses + rest.losses) / f64::from(took.0.max(taken).max(1)),
            held_out,
            ahead,
        })
    }
}
