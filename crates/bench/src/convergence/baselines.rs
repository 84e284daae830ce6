//! What the outer loop is compared with: all-reduce of every step's gradient, and CocktailSGD.

use super::{
    RunError,
    outer_loop::{POINTS, tail_mean},
    spec::{Point, RunResult, Spec},
    task::{Rows, Task},
};
use atoll_learner::{BurnLearner, DeviceChoice, Learner as _, init, learning_rate};
use atoll_protocol::{Charter, Layout};

/// CocktailSGD: the share of coordinates drawn by chance in each step, the same for all replicas.
const DRAWN_IN: u64 = 10;
/// And the share of those that is kept, the largest.
const KEPT: f64 = 0.08;
/// Values that share a scale.
const BLOCK: usize = 128;

/// A learner at θ⁰ and its run so far.
struct Run<'a> {
    spec: &'a Spec,
    task: &'a Task,
    charter: Charter,
    learner: BurnLearner,
    losses: Vec<f64>,
    done: RunResult,
}

impl<'a> Run<'a> {
    fn new(spec: &'a Spec, task: &'a Task) -> Result<Self, RunError> {
        task.check(spec.sequence)?;
        let charter = spec.charter(task.vocab())?;
        let mut learner = BurnLearner::new(&charter.model, &charter.inner, DeviceChoice::Cpu)?;
        learner.write(&init(&charter.model, charter.seed))?;
        let steps = spec.steps();
        let done = RunResult {
            parameters: Layout::of(&charter.model).parameters as u64,
            syncs: steps,
            tokens: steps * u64::from(spec.batch) * u64::from(spec.sequence),
            ..RunResult::default()
        };
        Ok(Self {
            spec,
            task,
            charter,
            learner,
            losses: Vec::new(),
            done,
        })
    }

    fn rows(&self, step: u64, replica: u32, replicas: u32, batch: u32) -> Rows {
        Rows {
            seed: self.spec.seed,
            step,
            replica,
            replicas,
            batch,
            sequence: self.spec.sequence,
        }
    }

    /// Runs `step` for every step, with evaluations between.
    fn steps(
        mut self,
        stop: &(dyn Fn() -> bool + Sync),
        mut step: impl FnMut(&mut Self, u64, f32) -> Result<(f64, u64), RunError>,
    ) -> Result<RunResult, RunError> {
        let total = self.spec.steps();
        let mut next_point = 0;
        for at in 0..total {
            if stop() {
                return Err(RunError::Stopped);
            }
            if at * POINTS >= next_point * total {
                self.point(at)?;
                next_point += 1;
            }
            let rate = learning_rate(&self.charter.inner, at, total);
            let (loss, bytes) = step(&mut self, at, rate)?;
            self.losses.push(loss);
            self.done.encoded += bytes;
        }
        self.done.loss = self.point(total)?;
        self.done.train_loss = tail_mean(&self.losses);
        Ok(self.done)
    }

    fn point(&mut self, step: u64) -> Result<f64, RunError> {
        let loss = self.task.held_out(&mut self.learner, self.spec.sequence)?;
        let encoded = self.done.encoded;
        self.done.curve.push(Point { step, encoded, loss });
        Ok(loss)
    }
}

/// One learner with the rows of all: what averaging every gradient in f32 gives.
pub(super) fn all_reduce(spec: &Spec, task: &Task, stop: &(dyn Fn() -> bool + Sync)) -> Result<RunResult, RunError> {
    let run = Run::new(spec, task)?;
    let bytes = 4 * run.done.parameters;
    run.steps(stop, |run, at, rate| {
        let rows = run.rows(at, 0, 1, run.spec.batch * run.spec.replicas);
        let batch = run.task.batch(rows)?;
        Ok((run.learner.train_step(&batch, rate)?.loss, bytes))
    })
}

/// CocktailSGD (Wang et al., ICML 2023): of each gradient and what earlier steps left, a tenth of the
/// coordinates drawn by a common seed, of those the largest 8 %, in four bits. Without the loss that its one-step
/// delay costs; the clock hides a step of transfer as if it had it.
pub(super) fn cocktail(spec: &Spec, task: &Task, stop: &(dyn Fn() -> bool + Sync)) -> Result<RunResult, RunError> {
    let run = Run::new(spec, task)?;
    let parameters = run.done.parameters as usize;
    let mut left: Vec<Vec<f32>> = vec![vec![0.0; parameters]; spec.replicas as usize];
    let mut mean = vec![0.0f32; parameters];
    run.steps(stop, move |run, at, rate| {
        let drawn = drawn(parameters, run.spec.seed, at);
        mean.fill(0.0);
        let (mut losses, mut bits) = (0.0, 0.0);
        for (replica, left) in left.iter_mut().enumerate() {
            let rows = run.rows(at, replica as u32, run.spec.replicas, run.spec.batch);
            let batch = run.task.batch(rows)?;
            let (loss, gradient) = run.learner.gradient(&batch)?;
            losses += loss;
            for (left, gradient) in left.iter_mut().zip(gradient) {
                *left += gradient;
            }
            bits += send(left, &drawn, run.spec.replicas as f32, &mut mean);
        }
        run.learner.apply(&mean, rate)?;
        let replicas = f64::from(run.spec.replicas);
        Ok((losses / replicas, (bits / replicas / 8.0).ceil() as u64))
    })
}

/// The coordinates of a step, ascending.
fn drawn(parameters: usize, seed: u64, step: u64) -> Vec<usize> {
    let state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ step;
    let mix = |index: usize| {
        let z = state.wrapping_add((index as u64 + 1).wrapping_mul(0xD134_2543_DE82_EF95));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    (0..parameters).filter(|index| mix(*index) % DRAWN_IN == 0).collect()
}

/// Adds the share of one replica to `mean` and takes it from `left`; the bits it takes: four a value, a scale
/// for each block, and the places' entropy among those drawn.
fn send(left: &mut [f32], drawn: &[usize], replicas: f32, mean: &mut [f32]) -> f64 {
    let count = ((drawn.len() as f64 * KEPT) as usize).clamp(1, drawn.len().max(1));
    let mut largest: Vec<usize> = drawn.to_vec();
    if count < largest.len() {
        largest.select_nth_unstable_by(count, |a, b| left[*b].abs().total_cmp(&left[*a].abs()));
        largest.truncate(count);
    }
    largest.sort_unstable();
    for block in largest.chunks(BLOCK) {
        let scale = block.iter().fold(0.0f32, |most, at| most.max(left[*at].abs())) / 7.0;
        for at in block {
            let code = if scale > 0.0 { (left[*at] / scale).round() } else { 0.0 };
            let sent = code * scale;
            mean[*at] += sent / replicas;
            left[*at] -= sent;
        }
    }
    let share = KEPT;
    let entropy = -(share * share.log2() + (1.0 - share) * (1.0 - share).log2());
    4.0 * count as f64 + 32.0 * count.div_ceil(BLOCK) as f64 + entropy * drawn.len() as f64
}

/// `x` rounded to IEEE half precision and back; beyond its range the largest half.
pub(super) fn through_fp16(x: f32) -> f32 {
    const LARGEST: f32 = 65_504.0;
    let magnitude = x.abs().min(LARGEST);
    // A half has 11 significant bits down to 2^-14, below that steps of 2^-24.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-14);
    let step = f32::from_bits(((exponent - 10 + 127) as u32) << 23);
    let rounded = (magnitude / step).round_ties_even() * step;
    rounded.min(LARGEST).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_halves() {
        let table = [
            (0.0, 0.0),
            (1.0, 1.0),
            (-0.1, -0.099_975_586),
            (1.0 + 1.0 / 2048.0, 1.0),
            (1.0 + 3.0 / 2048.0, 1.0 + 2.0 / 1024.0),
            (65_504.0, 65_504.0),
            (1e9, 65_504.0),
            (5.960_464_5e-8, 5.960_464_5e-8),
            (2.0e-8, 0.0),
            (6.1e-5, 6.097_555e-5),
        ];
        for (x, half) in table {
            assert_eq!(through_fp16(x), half, "{x}");
        }
    }

    #[test]
    fn what_cocktail_does_not_send_is_left() {
        let mut left: Vec<f32> = (0..4000).map(|i| ((i * 37 % 101) as f32 - 50.0) / 9.0).collect();
        let before = left.clone();
        let mut mean = vec![0.0; left.len()];
        let drawn = drawn(left.len(), 3, 5);
        assert!((300..500).contains(&drawn.len()), "{}", drawn.len());
        let bits = send(&mut left, &drawn, 1.0, &mut mean);
        let sent = mean.iter().filter(|x| **x != 0.0).count();
        assert_eq!(sent, (drawn.len() as f64 * KEPT) as usize);
        assert!(bits > 4.0 * sent as f64);
        for ((before, left), sent) in before.iter().zip(&left).zip(&mean) {
            assert!((before - left - sent).abs() < 1e-6);
        }
    }
}
