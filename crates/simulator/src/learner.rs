//! What trains in a world, and the toy that does it cheaply.
//!
//! The toy: f(w) = ½ · mean hᵢ · (wᵢ − w*ᵢ)², with noise on every gradient. Its optimum w* is known, so a loss
//! says how far θ is from where it should be.

use crate::random::Random;
use atoll_ledger::assign::{Purpose, Share};
use atoll_outer::attack::Liar;
use atoll_protocol::{Charter, Layout, charter::Model};
use std::{ops::Range, sync::Arc};

/// What some inner steps gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Stepped {
    /// w, P values.
    pub weights: Vec<f32>,
    /// Sum of the training losses before each step.
    pub losses: f64,
}

/// One replica's training. The same calls give the same bits.
pub trait Learner {
    /// These inner steps from `weights` on this share; the first of them is the run's `global`-th.
    ///
    /// # Errors
    /// Where the numbers are bad.
    fn steps(&mut self, weights: &[f32], share: &Share, steps: Range<u32>, global: u64) -> Result<Stepped, String>;

    /// θ's loss.
    ///
    /// # Errors
    /// Where the numbers are bad.
    fn loss(&mut self, theta: &[f32]) -> Result<f64, String>;

    /// The mean loss of `weights` on the `step`-th training rows of this share; nothing where it is no number.
    ///
    /// # Errors
    /// Where the rows are bad.
    fn loss_on(&mut self, weights: &[f32], share: &Share, step: u32) -> Result<Option<f64>, String>;

    /// θ's loss, looked at more closely: what a run is judged by.
    ///
    /// # Errors
    /// Where the numbers are bad.
    fn final_loss(&mut self, theta: &[f32]) -> Result<f64, String> {
        self.loss(theta)
    }

    /// What must survive a crash.
    fn save(&self) -> Vec<u8>;

    /// Goes on from what was saved.
    ///
    /// # Errors
    /// Where that is something else.
    fn restore(&mut self, saved: &[u8]) -> Result<(), String>;

    /// How far what was saved elsewhere lies from what would be saved here, as a share of its length.
    ///
    /// # Errors
    /// Where that is something else.
    fn moments_apart(&self, saved: &[u8]) -> Result<f64, String>;

    /// Trains on rows as this liar turns them from now on; on none's, on what it is given.
    fn turn(&mut self, liar: Option<Liar>);
}

/// What a world trains: makes the model, θ⁰ and every node's learner.
pub trait Task {
    /// Makes the charter fit the task: its model, rows and inner optimizer.
    fn adapt(&self, charter: &mut Charter);

    /// θ⁰ in the layout of the charter's model.
    fn start(&self, model: &Model, seed: u64) -> Vec<f32>;

    /// A fresh learner; the same for every node.
    ///
    /// # Errors
    /// Where the charter's model cannot be trained here.
    fn learner(&self, charter: &Arc<Charter>) -> Result<Box<dyn Learner>, String>;
}

/// The task of the toy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Toy {
    /// Standard deviation of a gradient's noise.
    pub noise: f64,
}

/// What draws are for.
const OPTIMUM: u64 = 0x6f70_7469;
const NOISE: u64 = 0x6e6f_6973;

impl Task for Toy {
    fn adapt(&self, _charter: &mut Charter) {}

    /// All zeros: the optimum is elsewhere.
    fn start(&self, model: &Model, _seed: u64) -> Vec<f32> {
        vec![0.0; Layout::of(model).parameters]
    }

    fn learner(&self, charter: &Arc<Charter>) -> Result<Box<dyn Learner>, String> {
        let mut random = Random::of(charter.seed, &[OPTIMUM]);
        let parameters = Layout::of(&charter.model).parameters;
        let optimum = (0..parameters).map(|_| random.bell()).collect();
        let curvature = (0..parameters).map(|_| 0.25 + random.unit() as f32).collect();
        Ok(Box::new(Quadratic {
            charter: charter.clone(),
            optimum,
            curvature,
            noise: self.noise as f32,
            turned: false,
        }))
    }
}

struct Quadratic {
    charter: Arc<Charter>,
    optimum: Vec<f32>,
    curvature: Vec<f32>,
    noise: f32,
    /// Whether the optimum is sought on the other side: the toy's rows have no labels to turn.
    turned: bool,
}

/// Rows that the toy pretends to have.
const ROWS: u64 = 1 << 20;

impl Quadratic {
    fn distance(&self, theta: &[f32]) -> f64 {
        let places = theta.iter().zip(&self.optimum).zip(&self.curvature);
        let sum: f64 = places
            .map(|((weight, optimum), curvature)| f64::from(curvature * (weight - optimum) * (weight - optimum)))
            .sum();
        sum / 2.0 / theta.len() as f64
    }
}

impl Learner for Quadratic {
    fn steps(&mut self, weights: &[f32], share: &Share, steps: Range<u32>, _global: u64) -> Result<Stepped, String> {
        let mut weights = weights.to_vec();
        let (rules, mut losses) = (&self.charter.round, 0.0);
        let lr = self.charter.inner.lr.0 as f32 / 1e9;
        let side = if self.turned { -1.0 } else { 1.0 };
        for step in steps {
            losses += self.distance(&weights);
            let rows = share.rows(Purpose::Train, step.into(), rules.batch.into(), ROWS);
            let mut random = Random::of(NOISE, &rows);
            let optimum = self.optimum.iter().zip(&self.curvature);
            for (weight, (optimum, curvature)) in weights.iter_mut().zip(optimum) {
                let gradient = curvature * (*weight - side * optimum) + self.noise * random.bell();
                *weight -= lr * gradient;
            }
        }
        Ok(Stepped { weights, losses })
    }

    fn loss(&mut self, theta: &[f32]) -> Result<f64, String> {
        Ok(self.distance(theta))
    }

    /// What the gradients with these rows' noise are those of, and 1, which nothing takes away, as in text.
    fn loss_on(&mut self, weights: &[f32], share: &Share, step: u32) -> Result<Option<f64>, String> {
        let rows = share.rows(Purpose::Train, step.into(), self.charter.round.batch.into(), ROWS);
        let mut random = Random::of(NOISE, &rows);
        let noise: f64 = weights.iter().map(|w| f64::from(w * random.bell())).sum();
        let loss = 1.0 + self.distance(weights) + f64::from(self.noise) * noise / weights.len() as f64;
        Ok(Some(loss).filter(|loss| loss.is_finite()))
    }

    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _saved: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn moments_apart(&self, _saved: &[u8]) -> Result<f64, String> {
        Ok(0.0) // it has none
    }

    fn turn(&mut self, liar: Option<Liar>) {
        self.turned = liar.is_some_and(Liar::turns_rows);
    }
}
