//! A node that lies on purpose, so that a run can be seen to survive it.

use super::Trainer;
use atoll_learner::Batch;
use atoll_outer::{
    Contribution,
    attack::{Liar, View},
    blob_bytes_max,
};
use atoll_protocol::{InnerSteps, Round, charter::Codec};
use bytes::Bytes;

/// A liar's memory.
pub(super) struct Lie {
    pub(super) liar: Liar,
    /// What the others sent to the last round that was merged here, decoded.
    others: Vec<Vec<f32>>,
    /// What it sent first.
    first: Option<Vec<f32>>,
}

impl Lie {
    pub(super) fn new(liar: Liar) -> Self {
        Self {
            liar,
            others: Vec::new(),
            first: None,
        }
    }

    /// Looks at what others sent.
    pub(super) fn see<'a>(&mut self, others: impl Iterator<Item = &'a Contribution>) -> anyhow::Result<()> {
        self.others.clear();
        for contribution in others {
            let mut values = vec![0.0; contribution.parameters()];
            contribution.decode_into(&mut values)?;
            self.others.push(values);
        }
        Ok(())
    }

    /// Steps that are taken of those that are claimed.
    pub(super) fn steps(&self, InnerSteps(steps): InnerSteps) -> u32 {
        match self.liar {
            Liar::Lazy => steps.div_ceil(10),
            _ => steps,
        }
    }

    /// The rows that are trained on.
    pub(super) fn batch(&self, batch: Batch, vocab: u32) -> anyhow::Result<Batch> {
        if self.liar != Liar::LabelFlip {
            return Ok(batch);
        }
        let turned = batch.tokens().iter().map(|token| vocab - 1 - token.min(&(vocab - 1)));
        // inputs turn too, which leaves a model that reads the opposite of what it should
        Ok(Batch::new(turned.collect(), batch.sequence())?)
    }

    /// Whether its blob is one that others will find wrong or not find.
    pub(super) fn spoils_its_blob(&self) -> bool {
        matches!(self.liar, Liar::Garbage | Liar::Oversize | Liar::Withhold)
    }

    /// Whether others can fetch its blob.
    pub(super) fn serves(&self) -> bool {
        self.liar != Liar::Withhold
    }
}

impl Trainer {
    /// w as if training had led to what the liar wants to send; nothing of an honest node.
    pub(super) fn lie(&mut self, local: &[f32], round: Round) -> Option<Vec<f32>> {
        let lie = self.lie.as_mut()?;
        let theta = self.replica.theta();
        let own: Vec<f32> = theta.iter().zip(local).map(|(theta, w)| theta - w).collect();
        let view = View {
            own: &own,
            others: &lie.others,
            first: lie.first.as_deref(),
            seed: u64::from(round.0) + 1,
        };
        let sent = lie.liar.sends(&view);
        lie.first.get_or_insert_with(|| sent.clone());
        Some(theta.iter().zip(&sent).map(|(theta, sent)| theta - sent).collect())
    }

    /// The bytes that are sent in place of an honest blob.
    pub(super) fn garbled(&self, blob: Bytes, codec: &Codec) -> Bytes {
        match self.lie.as_ref().map(|lie| lie.liar) {
            Some(Liar::Garbage) => blob.iter().map(|byte| byte ^ 0x5a).collect(),
            Some(Liar::Oversize) => {
                let most = usize::try_from(blob_bytes_max(&self.layout, codec)).unwrap_or(usize::MAX);
                vec![0; most.saturating_add(1)].into()
            }
            _ => blob,
        }
    }
}
