//! Contributions measured: what they do to the loss. It is computed once and is the same for all who are asked; the
//! time that it takes is everybody's own.

use crate::world::{Happening, World};
use atoll_ledger::Scoring;
use atoll_node::Input;
use atoll_outer::{Contribution, ScoreRows, VectorError, loss_change};
use atoll_protocol::{Hash, LossChange, PeerId, Round};
use std::collections::BTreeMap;

/// What measuring takes, in inner steps: four times forward.
const STEPS: f64 = 4.0 / 3.0;

/// What came out, by round, author and what drew the rows.
#[derive(Default)]
pub(crate) struct Measured(BTreeMap<(Round, PeerId, Hash), LossChange>);

/// Why nothing did.
struct Failed(String);

impl From<VectorError> for Failed {
    fn from(error: VectorError) -> Self {
        Self(error.to_string())
    }
}

impl World {
    /// Begins to measure, beside all else.
    pub(crate) fn begin_scoring(&mut self, node: u32, author: PeerId, case: Box<Scoring>) {
        let peer = &self.peers[node as usize];
        let length = peer.profile.step.times(STEPS * peer.slow.training);
        let life = peer.life.as_ref().map_or(0, |life| life.number);
        let measured = Happening::Measured {
            node,
            life,
            author,
            case,
        };
        self.queue.push(self.now.after(length), measured);
    }

    pub(crate) fn measured(&mut self, node: u32, author: PeerId, case: &Scoring) {
        let round = case.reveal.round;
        match self.loss_change(author, case) {
            Ok(change) => self.input(
                node,
                Input::Scored {
                    round,
                    peer: author,
                    beacon: case.beacon,
                    change: Some(change),
                },
            ),
            Err(error) => self.violated("score", format!("node {node} cannot measure a contribution: {error}")),
        }
    }

    /// What the contribution does.
    pub(crate) fn loss_change(&mut self, author: PeerId, case: &Scoring) -> Result<LossChange, String> {
        let key = (case.reveal.round, author, case.beacon);
        if let Some(change) = self.measured.0.get(&key) {
            return Ok(*change);
        }
        let outer = self.outer(&case.base)?;
        let id = self.blobs.find(&case.reveal.blob).ok_or("nobody has its blob")?;
        let (bytes, codec) = (self.blobs.get(id).bytes.clone(), &case.codec);
        let contribution = Contribution::read(bytes, &self.layout, codec, &case.base.theta);
        let contribution = contribution.map_err(|error| error.to_string())?;
        let mut learner = self.task.learner(&self.charter)?;
        let change = loss_change(&outer.theta, &contribution, |weights, rows| {
            let (share, step) = match rows {
                ScoreRows::Own => case.own_rows(),
                ScoreRows::Random => case.random_rows(),
            };
            learner.loss_on(weights, &share, step).map_err(Failed)
        });
        let change = change.map_err(|Failed(error)| error)?;
        self.measured.0.insert(key, change);
        Ok(change)
    }
}
