//! One node of per-step all-reduce over a real network: gradient, mean over the ring, optimizer, and how
//! long each took. What `cargo xtask link-test` holds the outer loop against.
//!
//! Rows are drawn by chance instead of read: what a step costs does not depend on the text.

use crate::ring::{Ring, RingError};
use atoll_learner::{
    Batch, BatchError, BurnLearner, DeviceChoice, LearnError, Learner as _, init, learning_rate, theta_hash,
};
use atoll_protocol::{Charter, Hash};
use std::time::Instant;
use thiserror::Error;

/// Why it ended early.
#[derive(Debug, Error)]
pub enum AllReduceError {
    /// The ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The learner.
    #[error(transparent)]
    Learn(#[from] LearnError),
    /// The charter's batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// From 1.
    pub step: u32,
    /// Nats per token of the own rows, before the step.
    pub loss: f64,
    /// Both passes and the optimizer.
    pub compute_s: f64,
    /// And the exchange of gradients.
    pub wall_s: f64,
}

/// Whether nodes exchange gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// After every step.
    EveryStep,
    /// Never: each trains by itself, all at the same time. What a step costs where nodes share cores.
    Never,
}

/// Trains `steps` steps of the charter's model, batch and optimizer from θ⁰; `tell` gets each. The first waits
/// until all nodes are ready, outside of what is measured. The hash of θ at the end, which is the same on all nodes if they
/// exchange gradients, and the bytes sent.
///
/// # Errors
/// If a neighbour or the learner fails.
pub fn run(
    charter: &Charter,
    (rank, mut ring): (usize, Ring),
    (steps, exchange): (u32, Exchange),
    mut tell: impl FnMut(Step),
) -> Result<(Hash, u64), AllReduceError> {
    let mut learner = BurnLearner::new(&charter.model, &charter.inner, DeviceChoice::Cpu)?;
    learner.write(&init(&charter.model, charter.seed))?;
    learner.gradient(&rows(charter, rank, 0)?)?; // the first pass also allocates
    let mut ready = vec![0.0; ring.nodes()];
    ring.mean(&mut ready)?;
    for step in 1..=steps {
        let began = Instant::now();
        let (loss, gradient) = learner.gradient(&rows(charter, rank, step)?)?;
        let mut gradient = gradient.to_vec();
        let passes = began.elapsed();
        if exchange == Exchange::EveryStep {
            ring.mean(&mut gradient)?;
        }
        let exchanged = began.elapsed();
        learner.apply(
            &gradient,
            learning_rate(&charter.inner, u64::from(step) - 1, steps.into()),
        )?;
        let wall = began.elapsed();
        tell(Step {
            step,
            loss,
            compute_s: (passes + wall - exchanged).as_secs_f64(),
            wall_s: wall.as_secs_f64(),
        });
    }
    let sent = ring.sent();
    ring.leave()?;
    Ok((theta_hash(&learner.read()), sent))
}

/// The tokens of one node's step.
fn rows(charter: &Charter, rank: usize, step: u32) -> Result<Batch, BatchError> {
    let (rules, vocab) = (&charter.round, u64::from(charter.model.vocab.max(1)));
    let mut state = charter.seed ^ (rank as u64) << 32 ^ u64::from(step);
    let mut token = || {
        // SplitMix64
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % vocab) as u32
    };
    let count = rules.batch as usize * (rules.sequence as usize + 1);
    Batch::new((0..count).map(|_| token()).collect(), rules.sequence as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Place;
    use atoll_protocol::{PeerId, tiny_charter};
    use std::{net::TcpListener, time::Duration};

    #[test]
    fn two_nodes_stay_equal() {
        let charter = tiny_charter([("a".to_string(), PeerId([1; 32]))]);
        let held = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = held.map(|listener| listener.local_addr().unwrap());
        let of = (3, Exchange::EveryStep);
        let done = std::thread::scope(|scope| {
            let node = |rank: usize| {
                let (charter, place) = (
                    &charter,
                    Place {
                        rank,
                        nodes: 2,
                        listen: ports[rank],
                        next: ports[1 - rank],
                        wait: Duration::from_secs(30),
                    },
                );
                scope.spawn(move || {
                    let mut steps = Vec::new();
                    let ring = Ring::join(&place).unwrap();
                    let (theta, sent) = run(charter, (rank, ring), of, |step| steps.push(step)).unwrap();
                    (theta, sent, steps)
                })
            };
            [node(0), node(1)].map(|thread| thread.join().unwrap())
        });
        assert_eq!(done[0].0, done[1].0);
        assert_ne!(done[0].0, theta_hash(&init(&charter.model, charter.seed)));
        assert_eq!(done[0].2.len(), 3);
        assert!(
            done[0]
                .2
                .iter()
                .all(|step| step.compute_s > 0.0 && step.compute_s <= step.wall_s)
        );
        let parameters = atoll_protocol::Layout::of(&charter.model).parameters as u64;
        assert_eq!(done[0].1 + done[1].1, 3 * 2 * 4 * parameters + 2 * 4 * 2);
    }
}
