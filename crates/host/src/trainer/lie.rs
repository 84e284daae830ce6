//! A node that lies on purpose, so that a run can be seen to survive it.

use super::Trainer;
use atoll_learner::Batch;
use atoll_outer::{
    Contribution,
    attack::{Liar, View},
    blob_bytes_max,
};
use atoll_protocol::{Round, charter::Codec};
use bytes::Bytes;

/// A liar's memory.
pub(super) struct Lie {
    pub(super) liar: Liar,
    /// What the others sent to the last round that was merged here, decoded.
    others: Vec<Vec<f32>>,
    /// What it sent first.
    first: Option<Vec<f32>>,
    /// What it made in the round before.
    last: Option<Vec<f32>>,
}

impl Lie {
    pub(super) fn new(liar: Liar) -> Self {
        Self {
            liar,
            others: Vec::new(),
            first: None,
            last: None,
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

    /// The rows that are trained on.
    pub(super) fn batch(&self, batch: Batch, vocab: u32) -> anyhow::Result<Batch> {
        if !self.liar.turns_rows() {
            return Ok(batch);
        }
        let mut tokens = batch.tokens().to_vec();
        for row in tokens.chunks_mut(batch.sequence() + 1) {
            self.liar.turn(row, vocab);
        }
        Ok(Batch::new(tokens, batch.sequence())?)
    }
}

impl Trainer {
    /// w as if training had led to what the liar wants to send; nothing of an honest node, nor of one that lies in
    /// another way.
    pub(super) fn lie(&mut self, local: &[f32], round: Round) -> Option<Vec<f32>> {
        let lie = self.lie.as_mut()?;
        let theta = self.replica.theta();
        let own: Vec<f32> = theta.iter().zip(local).map(|(theta, w)| theta - w).collect();
        let view = View {
            own: &own,
            others: &lie.others,
            first: lie.first.as_deref(),
            last: lie.last.as_deref(),
            seed: u64::from(round.0) + 1,
        };
        let sent = lie.liar.sends(&view);
        lie.last = Some(own);
        let sent = sent?;
        let local = theta.iter().zip(&sent).map(|(theta, sent)| theta - sent).collect();
        lie.first.get_or_insert(sent);
        Some(local)
    }

    /// Changes what the liar says that it goes on from.
    pub(super) fn forge(&mut self, local: &[f32], round: Round) -> anyhow::Result<()> {
        let Some(lie) = &self.lie else { return Ok(()) };
        let theta = self.replica.theta();
        let own: Vec<f32> = theta.iter().zip(local).map(|(theta, w)| theta - w).collect();
        if let Some(forged) = lie.liar.forges(&own, round) {
            let mut feedback = self.replica.feedback().clone();
            feedback.forge(&forged)?;
            self.replica.go_back(feedback);
        }
        Ok(())
    }

    /// The bytes that are sent in place of an honest blob.
    pub(super) fn garbled(&self, blob: Bytes, codec: &Codec) -> Bytes {
        let lie = self.lie.as_ref();
        let garbled = lie.and_then(|lie| lie.liar.garbles(&blob, blob_bytes_max(&self.layout, codec)));
        garbled.map_or(blob, Bytes::from)
    }
}
