//! Machines that compute a little apart: the same steps lead each of them somewhere else, by a share of what they
//! moved.

use crate::{
    learner::{Learner, Stepped},
    random::Random,
    world::World,
};
use atoll_ledger::assign::Share;
use atoll_outer::attack::Liar;
use std::ops::Range;

/// What draws are for.
const MACHINE: u64 = 0x6d61_6368;

/// A learner on one of them.
struct Machine {
    learner: Box<dyn Learner>,
    node: u32,
    seed: u64,
    apart: f64,
}

impl Learner for Machine {
    fn steps(&mut self, weights: &[f32], share: &Share, steps: Range<u32>, global: u64) -> Result<Stepped, String> {
        let what = [
            MACHINE,
            u64::from(self.node),
            global,
            share.replica,
            u64::from(steps.start),
            u64::from(steps.end),
        ];
        let mut stepped = self.learner.steps(weights, share, steps, global)?;
        let moved = stepped
            .weights
            .iter()
            .zip(weights)
            .map(|(to, from)| f64::from(to - from));
        let length = moved.map(|moved| moved * moved).sum::<f64>().sqrt();
        let deviation = (self.apart * length / (weights.len().max(1) as f64).sqrt()) as f32;
        let mut random = Random::of(self.seed, &what);
        for weight in &mut stepped.weights {
            *weight += deviation * random.bell();
        }
        Ok(stepped)
    }

    fn loss(&mut self, theta: &[f32]) -> Result<f64, String> {
        self.learner.loss(theta)
    }

    fn loss_on(&mut self, weights: &[f32], share: &Share, step: u32) -> Result<Option<f64>, String> {
        self.learner.loss_on(weights, share, step)
    }

    fn save(&self) -> Vec<u8> {
        self.learner.save()
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), String> {
        self.learner.restore(saved)
    }

    fn moments_apart(&self, saved: &[u8]) -> Result<f64, String> {
        self.learner.moments_apart(saved)
    }

    fn turn(&mut self, liar: Option<Liar>) {
        self.learner.turn(liar);
    }
}

impl World {
    /// A fresh learner on the machine of `node`; without one, on a machine that nobody has.
    pub(crate) fn learner_of(&self, node: Option<u32>) -> Result<Box<dyn Learner>, String> {
        let learner = self.task.learner(&self.charter)?;
        let apart = self.scenario.learner.apart;
        Ok(match node.filter(|_| apart > 0.0) {
            Some(node) => Box::new(Machine {
                learner,
                node,
                seed: self.seed,
                apart,
            }),
            None => learner,
        })
    }
}
