//! Inner steps: the model, the corpus and the rules of a step; the same for who trains and who trains again.

use anyhow::bail;
use atoll_learner::{
    Batch, BurnLearner, DeviceChoice, Learner as _,
    data::{Dataset, Split},
    learning_rate,
};
use atoll_ledger::assign::{Purpose, Share};
use atoll_protocol::{Charter, Hash};
use std::sync::Arc;

/// What takes inner steps.
pub(crate) struct Inner {
    charter: Arc<Charter>,
    genesis: Hash,
    pub(crate) learner: BurnLearner,
    dataset: Arc<Dataset>,
}

/// Which replicas' held-out rows to read.
pub(crate) struct HeldOut {
    pub(crate) replica: u64,
    pub(crate) replicas: u64,
    pub(crate) parts: u64,
}

impl Inner {
    pub(crate) fn new(charter: Arc<Charter>, dataset: Arc<Dataset>) -> anyhow::Result<Self> {
        let learner = BurnLearner::new(&charter.model, &charter.inner, DeviceChoice::default())?;
        Ok(Self {
            genesis: charter.genesis(),
            charter,
            learner,
            dataset,
        })
    }

    /// The corpus.
    pub(crate) fn dataset(&self) -> Arc<Dataset> {
        self.dataset.clone()
    }

    /// Inner steps of the run.
    pub(crate) fn budget(&self) -> u64 {
        let rules = &self.charter.round;
        u64::from(rules.rounds) * u64::from(rules.inner_steps.0)
    }

    /// The `step`-th rows of `share`.
    pub(crate) fn batch(&self, share: &Share, step: u32) -> anyhow::Result<Batch> {
        let rules = &self.charter.round;
        let rows = self.dataset.rows(Split::Train, rules.sequence);
        let chosen = share.rows(Purpose::Train, step.into(), rules.batch.into(), rows);
        Ok(self.dataset.batch(Split::Train, &chosen, rules.sequence)?)
    }

    /// One inner step on `batch`, the run's `global`-th; the loss before it, in nats per token.
    pub(crate) fn step(&mut self, batch: &Batch, global: u64) -> anyhow::Result<f64> {
        let rate = learning_rate(&self.charter.inner, global, self.budget());
        Ok(self.learner.train_step(batch, rate)?.loss)
    }

    /// Mean loss of the learner's parameters on the `step`-th rows of `share`, in nats per token.
    pub(crate) fn loss(&mut self, share: &Share, step: u32) -> anyhow::Result<f64> {
        let batch = self.batch(share, step)?;
        let (nats, tokens) = self.learner.evaluate(&batch)?;
        Ok(nats / tokens.max(1) as f64)
    }

    /// Loss of the learner's parameters on fixed held-out rows. The rows are the same in every round,
    /// so that losses can be compared; replicas share them out.
    pub(crate) fn held_out(&mut self, part: &HeldOut) -> anyhow::Result<f64> {
        let rules = &self.charter.round;
        let (sequence, each, batch) = (rules.sequence, u64::from(rules.held_out), rules.batch as usize);
        let rows = self.dataset.rows(Split::HeldOut, sequence);
        let (mut nats, mut tokens) = (0.0, 0u64);
        for offset in 0..part.parts {
            let share = Share {
                beacon: self.genesis,
                replica: part.replica + offset,
                replicas: part.replicas,
            };
            let chosen = share.rows(Purpose::HeldOut, 0, each.min(rows), rows);
            for rows in chosen.chunks(batch) {
                let batch = self.dataset.batch(Split::HeldOut, rows, sequence)?;
                let (sum, count) = self.learner.evaluate(&batch)?;
                nats += sum;
                tokens += count;
            }
        }
        if tokens == 0 {
            bail!("the corpus has no held-out rows of {sequence} tokens");
        }
        Ok(nats / tokens as f64)
    }
}
