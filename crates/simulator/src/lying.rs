//! Nodes that lie: what they train, send, serve and say in place of the truth.

use crate::world::World;
use atoll_ledger::Planned;
use atoll_outer::{
    attack::{Liar, View},
    blob_bytes_max,
};
use atoll_protocol::{Action, Round, charter::Codec};

/// A liar and its memory. A crash takes none of it: that would only make it more honest.
#[derive(Debug, Clone)]
pub(crate) struct Lying {
    pub(crate) liar: Liar,
    /// What the others sent to the last round that was merged here, decoded.
    others: Vec<Vec<f32>>,
    /// What it sent first.
    first: Option<Vec<f32>>,
    /// What it made in the round before.
    last: Option<Vec<f32>>,
}

impl Lying {
    pub(crate) fn new(liar: Liar) -> Self {
        Self {
            liar,
            others: Vec::new(),
            first: None,
            last: None,
        }
    }
}

impl World {
    pub(crate) fn liar(&self, node: u32) -> Option<Liar> {
        self.peers[node as usize].lying.as_ref().map(|lying| lying.liar)
    }

    /// Whether a node lies, or ever did.
    pub(crate) fn ever_lied(&self, node: u32) -> bool {
        self.peers.get(node as usize).is_some_and(|peer| peer.ever_lied)
    }

    /// w as if training had led to what `node` wants to send; nothing of an honest node.
    pub(crate) fn lie(&mut self, node: u32, round: Round, theta: &[f32], weights: &[f32]) -> Option<Vec<f32>> {
        let lying = self.peers[node as usize].lying.as_mut()?;
        let own: Vec<f32> = theta.iter().zip(weights).map(|(theta, w)| theta - w).collect();
        let view = View {
            own: &own,
            others: &lying.others,
            first: lying.first.as_deref(),
            last: lying.last.as_deref(),
            seed: u64::from(round.0) << 16 | u64::from(node),
        };
        let sent = lying.liar.sends(&view);
        lying.last = Some(own);
        let sent = sent?;
        let weights = theta.iter().zip(&sent).map(|(theta, sent)| theta - sent).collect();
        lying.first.get_or_insert(sent);
        Some(weights)
    }

    /// Changes what a liar goes on from; by what, for its account.
    pub(crate) fn forge(&mut self, node: u32, round: Round, theta: &[f32], weights: &[f32]) -> Option<Vec<f32>> {
        let liar = self.liar(node)?; // most are none, and this is done for every contribution
        let own: Vec<f32> = theta.iter().zip(weights).map(|(theta, w)| theta - w).collect();
        let forged = liar.forges(&own, round)?;
        let life = self.peers[node as usize].life.as_mut()?;
        let mut feedback = life.replica.feedback().clone();
        feedback.forge(&forged).ok()?;
        life.replica.go_back(feedback);
        Some(forged)
    }

    /// A liar looks at what the others sent.
    pub(crate) fn learn_from(&mut self, node: u32, plan: &[Planned]) {
        let (me, parameters) = (self.peers[node as usize].id, self.layout.parameters);
        let Some(mut lying) = self.peers[node as usize].lying.take() else {
            return;
        };
        // what a gang knows is what the honest sent
        let honest = |peer| {
            self.peers
                .get(self.node_of(peer) as usize)
                .is_some_and(|peer| peer.lying.is_none())
        };
        let blobs = plan.iter().filter(|entry| entry.peer != me && honest(&entry.peer));
        let blobs = blobs.filter_map(|entry| self.blobs.find(&entry.blob));
        let read = blobs.filter_map(|id| self.blobs.get(id).read.as_ref().ok());
        let decoded = read.filter_map(|contribution| {
            let mut values = vec![0.0; parameters];
            contribution.decode_into(&mut values).ok().map(|()| values)
        });
        lying.others = decoded.collect();
        self.peers[node as usize].lying = Some(lying);
    }

    /// The bytes that are sent in place of an honest blob.
    pub(crate) fn garbled(&self, node: u32, blob: &[u8], codec: &Codec) -> Option<Vec<u8>> {
        self.liar(node)?.garbles(blob, blob_bytes_max(&self.layout, codec))
    }

    /// What a node says where an honest one would say this.
    pub(crate) fn said(&self, node: u32, action: Action) -> Vec<Action> {
        let genesis = self.order.genesis.core().genesis;
        match self.liar(node) {
            Some(liar) => liar.says(action, &genesis, &self.peers[node as usize].id),
            None => vec![action],
        }
    }
}
