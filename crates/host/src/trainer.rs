//! The trainer thread: holds θ, trains, merges, writes checkpoints; orders in, reports out.
//!
//! Orders are carried out one at a time, in order. What a report speaks of is on disk by then.

mod ahead;
mod lie;
mod standing;

use self::{
    ahead::{Early, Underway},
    lie::Lie,
};
use crate::{
    blobs::{Blobs, Keep},
    folder::Folder,
    inner::{HeldOut, Inner},
    merging::{apply_plan, read_plan, state_of, take_out},
    private::Private,
};
use anyhow::Context as _;
use atoll_learner::{
    LearnError, Learner as _, checkpoint,
    data::{Dataset, Tokenizer},
};
use atoll_ledger::{Excision, Planned, Roots, Terms, Work, assign::Share};
use atoll_node::Contribution as Done;
use atoll_outer::{
    Contribution, ErrorFeedback, Merged, OuterState, Pending, Replica, ReplicaError, attack::Liar, theta_bytes,
};
use atoll_protocol::{
    ByteCount, Charter, Hash, InnerSteps, Layout, MicroNats, PeerId, Round, Tokens,
    transaction::{Judgement, Measured, Reveal},
};
use bytes::Bytes;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Instant,
};
use tokio::{runtime::Handle, sync::mpsc as channel};

/// What the trainer is told.
#[derive(Debug)]
pub enum Order {
    /// Train a round.
    Train(Training),
    /// Merge these blobs, in the plan's order, into a copy of θ.
    Merge(Merger),
    /// The copy is θ.
    Advance(Roots),
    /// Drop the copy.
    Discard,
    /// Add one's own contribution to this round back to the error feedback.
    Restore(Round),
    /// The contribution to this round was merged.
    Settle(Round),
    /// Take this θ and momentum.
    Adopt(Roots, Bytes, Option<Bytes>),
    /// Write the checkpoint of θ after this round.
    Checkpoint(Round),
}

/// A round to merge.
#[derive(Debug)]
pub struct Merger {
    /// Which.
    pub round: Round,
    /// In this order.
    pub plan: Vec<Planned>,
    /// The plan's blobs.
    pub blobs: Vec<Bytes>,
    /// How contributions are encoded, and the outer step.
    pub terms: Terms,
    /// What is taken out after the step, with the blobs that this needs.
    pub excisions: Vec<(Excision, Vec<Bytes>)>,
}

/// A round to train.
#[derive(Debug)]
pub struct Training {
    /// Which.
    pub round: Round,
    /// What to read.
    pub share: Share,
    /// How long, and how to encode.
    pub terms: Terms,
    /// How long contributions travel, in microseconds a KiB, for the reveal.
    pub kib_micros: u32,
    /// This node's newest work on the ledger.
    pub standing: Option<Box<Work>>,
    /// Ends it early.
    pub stop: Arc<AtomicBool>,
}

/// What the trainer tells.
#[derive(Debug)]
pub enum Report {
    /// θ's loss on this replica's held-out rows.
    HeldOut(Round, f64),
    /// One inner step.
    Step {
        /// The round that it counts for.
        round: Round,
        /// Whether it was taken ahead, while a contribution travels.
        ahead: bool,
        /// Step in the round, from 1.
        step: u32,
        /// What it gave.
        taken: Step,
    },
    /// A contribution is on disk.
    Trained(Done),
    /// A merge is done and its θ on disk.
    Merged(Round, Roots, Judgement),
    /// A plan could not be merged.
    MergeFailed(Round, String),
    /// θ is this now.
    Adopted(Roots),
    /// A checkpoint is on disk.
    Checkpointed(Round, Hash, MicroNats),
    /// Something about a round was left undone; the node goes on.
    Skipped(Round, String),
    /// The trainer cannot go on.
    Failed(String),
}

/// What one inner step gave.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Nats per token, before the step.
    pub loss: f64,
    /// Targets.
    pub tokens: u64,
    /// How long it took: reading the rows, both passes and the optimizer.
    pub seconds: f64,
}

/// Everything that the trainer works with.
pub struct Trainer {
    charter: Arc<Charter>,
    layout: Arc<Layout>,
    me: PeerId,
    bound: (Hash, PeerId),
    folder: Folder,
    blobs: Blobs,
    runtime: Handle,
    reports: channel::UnboundedSender<Report>,
    inner: Inner,
    tokenizer: Tokenizer,
    replica: Replica,
    ahead: Option<Underway>,
    lie: Option<Lie>,
    /// The state after the last contribution, and whether that went back into error feedback since: what the
    /// ledger expects the next one to start from, where contributions are made again.
    stands_on: (Hash, bool),
    /// What the last inner step took.
    step_seconds: f64,
}

/// What a trainer is made from.
pub struct Parts {
    /// The rules.
    pub charter: Arc<Charter>,
    /// This node.
    pub me: PeerId,
    /// Its folder.
    pub folder: Folder,
    /// Its blobs.
    pub blobs: Blobs,
    /// The corpus.
    pub dataset: Arc<Dataset>,
    /// `tokenizer.json`.
    pub tokenizer: Tokenizer,
    /// θ and its roots as the ledger writes them.
    pub theta: (OuterState, Roots),
    /// How it lies, if it does.
    pub liar: Option<Liar>,
}

impl Trainer {
    /// Prepares a trainer; reads the private state.
    pub fn new(parts: Parts, runtime: Handle, reports: channel::UnboundedSender<Report>) -> anyhow::Result<Self> {
        let Parts {
            charter,
            me,
            folder,
            blobs,
            dataset,
            tokenizer,
            theta: (outer, roots),
            liar,
        } = parts;
        let layout = Arc::new(Layout::of(&charter.model));
        let mut inner = Inner::new(charter.clone(), dataset)?;
        let bound = (charter.genesis(), me);
        let (mut feedback, mut pending) = (ErrorFeedback::new(layout.parameters), None);
        let mut stands_on = (Hash::ZERO, false);
        if let Some(saved) = Private::read(&folder.trainer(), bound)? {
            feedback = ErrorFeedback::from_bytes(&saved.feedback, layout.parameters)?;
            inner.learner.restore(&saved.optimizer)?;
            stands_on = saved.stands_on;
            pending = saved
                .pending
                .map(|(reveal, base, codec)| Pending { reveal, base, codec });
        }
        let theta = (outer, (roots.theta, roots.momentum));
        let replica = Replica::new(charter.clone(), layout.clone(), theta, feedback, pending);
        Ok(Self {
            charter,
            layout,
            me,
            bound,
            folder,
            blobs,
            runtime,
            reports,
            inner,
            tokenizer,
            replica,
            ahead: None,
            lie: liar.map(Lie::new),
            stands_on,
            step_seconds: 0.0,
        })
    }

    /// The contribution on disk whose fate is open.
    pub fn pending(&self) -> Option<&Done> {
        self.replica.pending().map(|pending| &pending.reveal)
    }

    /// How it lies, if it does.
    pub(crate) fn liar(&self) -> Option<Liar> {
        self.lie.as_ref().map(|lie| lie.liar)
    }

    /// The corpus.
    pub(crate) fn dataset(&self) -> Arc<Dataset> {
        self.inner.dataset()
    }

    /// Runs until the orders end.
    pub fn spawn(mut self, orders: mpsc::Receiver<Order>) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("trainer".into()).spawn(move || {
            while let Some(done) = self.next(&orders) {
                if let Err(error) = done {
                    return self.report(Report::Failed(format!("{error:#}")));
                }
            }
        })
    }

    /// Carries out the next order; while there is none, takes a step ahead. Nothing when the orders have ended.
    fn next(&mut self, orders: &mpsc::Receiver<Order>) -> Option<anyhow::Result<()>> {
        let order = match orders.try_recv() {
            Ok(order) => order,
            Err(mpsc::TryRecvError::Disconnected) => return None,
            Err(mpsc::TryRecvError::Empty) if self.may_go_ahead() => return Some(self.step_ahead()),
            Err(mpsc::TryRecvError::Empty) => orders.recv().ok()?,
        };
        Some(self.carry_out(order))
    }

    fn report(&self, report: Report) {
        let _ = self.reports.send(report); // nobody listens only while the node stops
    }

    fn carry_out(&mut self, order: Order) -> anyhow::Result<()> {
        match order {
            Order::Train(training) => self.train(&training),
            Order::Merge(merger) => self.merge(merger),
            Order::Advance(roots) => self.advance(roots),
            Order::Discard => {
                self.replica.discard();
                Ok(())
            }
            Order::Restore(round) => self.restore(round),
            Order::Settle(round) => self.settle(round),
            Order::Adopt(roots, theta, momentum) => self.adopt(roots, &theta, momentum.as_deref()),
            Order::Checkpoint(round) => self.checkpoint(round),
        }
    }

    fn train(&mut self, training: &Training) -> anyhow::Result<()> {
        let (round, terms) = (training.round, &training.terms);
        let again = match self.may_repeat(training.standing.as_deref()) {
            true => self.replica.repeat(round, &terms.codec, terms.steps).cloned(),
            false => None,
        };
        if let Some(again) = again {
            let keep = Keep::Contribution(round, self.me);
            self.runtime.block_on(self.blobs.keep(&again.blob, &keep))?;
            // who looks at it counts from the round that it is sent to
            for state in [again.states.opening, again.states.closing] {
                if state != Hash::ZERO {
                    self.runtime.block_on(self.blobs.keep(&state, &Keep::State(round)))?;
                }
            }
            self.save()?;
            self.report(Report::Trained(again));
            return Ok(());
        }
        if let Some(earlier) = self.pending().map(|done| done.round) {
            self.restore(earlier)?; // θ moved without it, and this one would take its place on disk
        }
        if self.charter.audit.is_on() {
            self.stand_on(training.standing.as_deref())?;
        }
        let before = self.moments();
        match self.trained(training) {
            Ok(Some(done)) => self.report(Report::Trained(done)),
            Ok(None) => self.inner.learner.restore(&before)?, // an abandoned round leaves no trace in the moments
            Err(error) if is_numeric(&error) => {
                self.inner.learner.restore(&before)?;
                self.report(Report::Skipped(round, format!("this round is not trained: {error:#}. If the other members say the same, nobody can train: found a run with a lower inner.lr")));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The contribution to a round, on disk; nothing if the training was stopped.
    fn trained(&mut self, training: &Training) -> anyhow::Result<Option<Done>> {
        let (round, share, terms) = (training.round, &training.share, &training.terms);
        let early = self.come_back(terms)?;
        self.inner.learner.write(self.replica.theta())?;
        let replica = HeldOut {
            replica: share.replica,
            replicas: share.replicas,
            parts: 1,
        };
        let held_out = self.inner.held_out(&replica)?;
        self.report(Report::HeldOut(round, held_out));
        let taken = early.as_ref().map(|early| early.ahead);
        let Some(train_loss) = self.inner_steps(training, early)? else {
            return Ok(None);
        };
        let local = self.inner.learner.read();
        let lie = self.lie(&local, round);
        let usual = terms.usual_norm_micro.filter(|_| lie.is_none()); // a liar keeps to no length
        let sent = lie.as_deref().unwrap_or(&local);
        let encoded = self.replica.contribute(sent, &terms.codec, usual)?;
        self.forge(&local, round)?;
        let base = self.replica.roots().0;
        let honest = Bytes::from(encoded.blob);
        let blob = self.garbled(honest.clone(), &terms.codec);
        let honest = Contribution::read(honest, &self.layout, &terms.codec, &base)?;
        let rules = &self.charter.round;
        let done = Reveal {
            round,
            trained: round,
            blob: Hash::of_blob(&blob),
            bytes: ByteCount(blob.len() as u64),
            steps: terms.steps,
            ahead: taken,
            tokens: Tokens(u64::from(terms.steps.0) * u64::from(rules.batch) * u64::from(rules.sequence)),
            train_loss: micro_nats(train_loss),
            held_out: micro_nats(held_out),
            measured: Measured {
                step_micros: (self.step_seconds * 1e6) as u32, // a cast saturates
                kib_micros: training.kib_micros,
                ..encoded.measured
            },
            states: self.keep_state(round, &local)?,
        };
        let serves = self.liar() != Some(Liar::Withhold);
        self.runtime.block_on(async {
            self.blobs.keep(&done.blob, &Keep::Own).await?;
            let keep = Keep::Contribution(round, self.me);
            match serves {
                true => self.blobs.add_durably(blob, &keep).await.map(drop),
                false => Ok(()),
            }
        })?;
        self.replica.set_pending(done.clone(), terms.codec.clone());
        self.stands_on = (done.states.closing, false);
        let moments = self.saved()?;
        match self.go_ahead(&local, &honest, moments, training) {
            Err(error) if is_numeric(&error) => {} // the next round begins from θ
            begun => begun?,
        }
        Ok(Some(done))
    }

    /// The round's steps that were not taken ahead; nothing if they were stopped. Gives the mean loss of all.
    fn inner_steps(&mut self, training: &Training, early: Option<Early>) -> anyhow::Result<Option<f64>> {
        let Training {
            round,
            share,
            terms,
            stop,
            ..
        } = training;
        let InnerSteps(steps) = terms.steps;
        let (mut first, mut sum) = (0, 0.0);
        if let Some(early) = early {
            self.inner.learner.write(&early.begin)?;
            (first, sum) = (early.ahead.steps.0.min(steps), early.losses);
        }
        let taken_of = self.liar().map_or(steps, |liar| liar.steps(terms.steps));
        for step in first..taken_of {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let taken = self.step(share, step, terms.first_step + u64::from(step))?;
            sum += taken.loss;
            self.report(Report::Step {
                round: *round,
                ahead: false,
                step: step + 1,
                taken,
            });
        }
        Ok(Some(sum / f64::from(taken_of.max(first).max(1))))
    }

    /// One inner step on the `step`-th rows of `share`; the run's `global`-th.
    fn step(&mut self, share: &Share, step: u32, global: u64) -> anyhow::Result<Step> {
        let began = Instant::now();
        let mut batch = self.inner.batch(share, step)?;
        if let Some(lie) = &self.lie {
            batch = lie.batch(batch, self.charter.model.vocab)?;
        }
        let loss = self.inner.step(&batch, global)?;
        let seconds = began.elapsed().as_secs_f64().max(1e-9);
        self.step_seconds = seconds;
        Ok(Step {
            loss,
            tokens: batch.targets(),
            seconds,
        })
    }

    fn merge(&mut self, merger: Merger) -> anyhow::Result<()> {
        let round = merger.round;
        match self.merged(merger) {
            Ok(Merged {
                state,
                judgement,
                matrix,
            }) => {
                let (theta, momentum) = state.roots();
                if let Some(matrix) = matrix {
                    self.runtime.block_on(self.blobs.add(matrix, &Keep::Matrix(round)))?;
                }
                let keep = Keep::Theta(round.next());
                if let Some(momentum) = &state.momentum {
                    self.runtime.block_on(self.blobs.add(theta_bytes(momentum), &keep))?;
                }
                self.runtime
                    .block_on(self.blobs.add_durably(theta_bytes(&state.theta), &keep))?;
                let roots = Roots { theta, momentum };
                self.replica.put_beside(state, (theta, momentum));
                self.report(Report::Merged(round, roots, judgement));
            }
            Err(error) => self.report(Report::MergeFailed(round, format!("{error:#}"))),
        }
        Ok(())
    }

    fn merged(&mut self, merger: Merger) -> anyhow::Result<Merged> {
        let Merger { plan, terms, blobs, .. } = merger;
        let base = self.replica.roots().0;
        let contributions = read_plan(&plan, blobs, &self.charter, &self.layout, (&terms.codec, &base))?;
        if let Some(lie) = &mut self.lie {
            let others = plan
                .iter()
                .zip(&contributions)
                .filter(|(entry, _)| entry.peer != self.me);
            lie.see(others.map(|(_, contribution)| contribution))?;
        }
        let of = (&*self.charter, &*self.layout);
        let mut merged = apply_plan(self.replica.outer(), &plan, &contributions, (of.0, of.1, &terms))?;
        for (excision, blobs) in merger.excisions {
            merged.state = take_out(&merged.state, &excision, blobs, of)?;
        }
        Ok(merged)
    }

    fn advance(&mut self, roots: Roots) -> anyhow::Result<()> {
        Ok(self.replica.advance((roots.theta, roots.momentum))?)
    }

    fn restore(&mut self, round: Round) -> anyhow::Result<()> {
        let Some(done) = self.pending().filter(|done| done.round == round) else {
            return Ok(());
        };
        if self.liar().is_some_and(Liar::spoils_its_blob) {
            return self.settle(round); // there is nothing to take back
        }
        let blob = match self.runtime.block_on(self.blobs.read(&done.blob)) {
            Ok(blob) => Some(blob),
            Err(error) => {
                self.report(Report::Skipped(round, format!("a contribution is lost: {error}")));
                None
            }
        };
        self.replica.restore(round, blob)?;
        self.stands_on.1 = true;
        self.save()
    }

    fn settle(&mut self, round: Round) -> anyhow::Result<()> {
        match self.replica.settle(round) {
            true => self.save(),
            false => Ok(()),
        }
    }

    fn adopt(&mut self, roots: Roots, theta: &[u8], momentum: Option<&[u8]>) -> anyhow::Result<()> {
        let outer = state_of(&self.charter, &self.layout, theta, momentum)?;
        self.replica.adopt(outer, (roots.theta, roots.momentum));
        self.drop_ahead()?; // it led on from another θ
        self.report(Report::Adopted(roots));
        Ok(())
    }

    fn checkpoint(&mut self, round: Round) -> anyhow::Result<()> {
        self.put_aside();
        self.inner.learner.write(self.replica.theta())?;
        let members = self.charter.members.len() as u64;
        let held_out = self.inner.held_out(&HeldOut {
            replica: 0,
            replicas: members,
            parts: members,
        })?;
        let folder = self.folder.checkpoint(round);
        let files = checkpoint::export(&folder, &self.charter.model, self.replica.theta(), &self.tokenizer)
            .with_context(|| format!("cannot write the checkpoint {}", folder.display()))?;
        self.report(Report::Checkpointed(round, manifest_of(&files), micro_nats(held_out)));
        Ok(())
    }

    fn save(&mut self) -> anyhow::Result<()> {
        self.saved().map(drop)
    }

    /// Writes the private state; gives the optimizer's moments in it.
    fn saved(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut private = Private::new(self.bound, self.replica.feedback().to_bytes(), self.moments());
        let pending = self.replica.pending();
        private.stands_on = self.stands_on;
        private.pending = pending.map(|open| (open.reveal.clone(), open.base, open.codec.clone()));
        private.write(&self.folder.trainer())?;
        Ok(private.optimizer)
    }
}

/// Whether an error says that the numbers, not the program or the disk, are bad.
fn is_numeric(error: &anyhow::Error) -> bool {
    let learner = error.downcast_ref::<LearnError>();
    let replica = error.downcast_ref::<ReplicaError>();
    learner.is_some_and(|error| matches!(error, LearnError::NotFinite { .. }))
        || replica.is_some_and(ReplicaError::is_numeric)
}

/// A loss as the ledger writes it.
pub(crate) fn micro_nats(loss: f64) -> MicroNats {
    MicroNats((loss.max(0.0) * 1e6).round() as u64)
}

/// The hash of a checkpoint's file list: names and hashes, in order.
pub fn manifest_of(files: &[(String, Hash)]) -> Hash {
    Hash::of_blob(&atoll_protocol::encode(&files))
}
