//! Global-norm clipping and AdamW on flat vectors.
//!
//! θ, the gradient and both moments are plain slices in layout order: one pass over memory instead
//! of a dozen tensor operations per tensor.

use crate::{learner::LearnError, schedule::float};
use atoll_protocol::{Layout, charter::InnerOptimizer, layout::Role};

/// First bytes of a saved state.
const MAGIC: [u8; 8] = *b"ATOLADM1";
/// Magic, parameters, step.
const HEADER_BYTES: usize = 24;
/// PyTorch's `clip_grad_norm_` adds this to the norm.
const CLIP_EPS: f64 = 1e-6;
/// Sums of squares that run side by side. Their number is part of the result: addition of floats is
/// not associative.
const LANES: usize = 8;

/// Coefficients and state. AdamW: Loshchilov, Hutter (arXiv:1711.05101), as in `torch.optim.AdamW`.
pub(crate) struct AdamW {
    beta1: f32,
    beta2: f32,
    eps: f32,
    clip: f64,
    weight_decay: f64,
    /// θ's parts: where each starts and ends, and whether it decays (matrices do, gains do not).
    parts: Vec<(std::ops::Range<usize>, bool)>,
    /// Steps since the moments were zero, for the bias correction.
    step: u64,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl AdamW {
    pub(crate) fn new(layout: &Layout, inner: &InnerOptimizer) -> Self {
        let decays = |role| role != Role::Vector;
        Self {
            beta1: float(inner.beta1) as f32,
            beta2: float(inner.beta2) as f32,
            eps: float(inner.eps) as f32,
            clip: float(inner.clip),
            weight_decay: float(inner.weight_decay),
            parts: layout.tensors.iter().map(|t| (t.range(), decays(t.role))).collect(),
            step: 0,
            first: vec![0.0; layout.parameters],
            second: vec![0.0; layout.parameters],
        }
    }

    /// Steps taken since the last reset.
    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// Zero moments: the next step is a first step again.
    pub(crate) fn reset(&mut self) {
        self.step = 0;
        self.first.fill(0.0);
        self.second.fill(0.0);
    }

    /// Clips `gradient` and moves `theta` along it. Returns the norm before clipping. A norm that
    /// is not finite is refused before anything changes.
    pub(crate) fn update(&mut self, theta: &mut [f32], gradient: &[f32], lr: f32) -> Result<f64, LearnError> {
        let norm = norm(gradient);
        if !norm.is_finite() {
            return Err(LearnError::NotFinite {
                what: "gradient norm",
                step: self.step,
                value: norm,
            });
        }
        let scale = (self.clip / (norm + CLIP_EPS)).min(1.0) as f32;
        self.step += 1;
        let steps = self.step as f64;
        let correction1 = 1.0 - f64::from(self.beta1).powf(steps);
        let correction2 = 1.0 - f64::from(self.beta2).powf(steps);
        let size = (f64::from(lr) / correction1) as f32;
        let root2 = correction2.sqrt() as f32;
        let (beta1, beta2, eps) = (self.beta1, self.beta2, self.eps);
        for (range, decays) in &self.parts {
            let keep = match decays {
                true => (1.0 - f64::from(lr) * self.weight_decay) as f32,
                false => 1.0,
            };
            let moments = self.first[range.clone()]
                .iter_mut()
                .zip(&mut self.second[range.clone()]);
            let values = theta[range.clone()].iter_mut().zip(&gradient[range.clone()]);
            for ((value, gradient), (first, second)) in values.zip(moments) {
                let gradient = gradient * scale;
                *first += (gradient - *first) * (1.0 - beta1);
                *second = *second * beta2 + gradient * gradient * (1.0 - beta2);
                *value = *value * keep - size * (*first / (second.sqrt() / root2 + eps));
            }
        }
        Ok(norm)
    }

    /// Magic, parameters, step, both moments; little-endian.
    pub(crate) fn save(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + 8 * self.first.len());
        bytes.extend(MAGIC);
        bytes.extend((self.first.len() as u64).to_le_bytes());
        bytes.extend(self.step.to_le_bytes());
        for moment in [&self.first, &self.second] {
            bytes.extend(moment.iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes
    }

    /// The reverse of [`Self::save`]. Nothing changes unless all of `bytes` is sound.
    pub(crate) fn restore(&mut self, bytes: &[u8]) -> Result<(), LearnError> {
        let refuse = |reason: String| Err(LearnError::OptimizerState { reason });
        let parameters = self.first.len();
        let expected = HEADER_BYTES + 8 * parameters;
        if bytes.len() != expected {
            return refuse(format!(
                "{} bytes, where {parameters} parameters need {expected}",
                bytes.len()
            ));
        }
        let (header, moments) = bytes.split_at(HEADER_BYTES);
        let word = |at: usize| {
            header[at..at + 8]
                .iter()
                .rev()
                .fold(0u64, |word, byte| word << 8 | u64::from(*byte))
        };
        if header[..8] != MAGIC {
            return refuse("it does not start with ATOLADM1".into());
        }
        if word(8) != parameters as u64 {
            return refuse(format!("it is for {} parameters, the model has {parameters}", word(8)));
        }
        let values = || {
            moments
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        };
        if let Some(bad) = values().find(|value| !value.is_finite()) {
            return refuse(format!("it holds {bad}"));
        }
        self.step = word(16);
        for (slot, value) in self.first.iter_mut().chain(&mut self.second).zip(values()) {
            *slot = value;
        }
        Ok(())
    }
}

/// The Euclidean norm, summed in f64 in a fixed order.
fn norm(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    let rest: f64 = rest.iter().map(|value| f64::from(*value).powi(2)).sum();
    (lanes.iter().sum::<f64>() + rest).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::tests::inner;
    use atoll_protocol::layout::Tensor;
    use proptest::prelude::*;

    /// A 3×4 matrix and a vector of 5.
    fn layout() -> Layout {
        let tensor = |name: &str, role, rows, columns, offset| Tensor {
            name: name.into(),
            rows,
            columns,
            role,
            offset,
        };
        Layout {
            tensors: vec![
                tensor("matrix", Role::Matrix, 3, 4, 0),
                tensor("vector", Role::Vector, 5, 1, 12),
            ],
            parameters: 17,
        }
    }

    #[derive(serde::Deserialize)]
    struct Golden {
        theta: Vec<f32>,
        steps: Vec<Step>,
    }

    #[derive(serde::Deserialize)]
    struct Step {
        lr: f32,
        gradient: Vec<f32>,
        norm: f64,
        theta: Vec<f32>,
    }

    #[test]
    fn steps_equal_those_of_torch() {
        let golden: Golden = serde_json::from_str(include_str!("../golden/adamw.json")).unwrap();
        let mut optimizer = AdamW::new(&layout(), &inner());
        let mut theta = golden.theta;
        for (index, step) in golden.steps.iter().enumerate() {
            // A restored optimizer goes on as if nothing had happened.
            let saved = optimizer.save();
            optimizer = AdamW::new(&layout(), &inner());
            optimizer.restore(&saved).unwrap();
            let norm = optimizer.update(&mut theta, &step.gradient, step.lr).unwrap();
            assert!(
                (norm - step.norm).abs() < 1e-5 * step.norm,
                "step {index}: norm {norm}, not {}",
                step.norm
            );
            for (ours, theirs) in theta.iter().zip(&step.theta) {
                assert!((ours - theirs).abs() < 1e-6, "step {index}: {ours}, not {theirs}");
            }
        }
    }

    #[test]
    fn a_bad_gradient_changes_nothing() {
        for bad in [f32::NAN, f32::INFINITY] {
            let (mut optimizer, mut theta, mut gradient) =
                (AdamW::new(&layout(), &inner()), vec![1.0; 17], vec![1.0; 17]);
            optimizer.update(&mut theta, &gradient, 0.1).unwrap();
            let (saved, before) = (optimizer.save(), theta.clone());
            gradient[3] = bad;
            let error = optimizer.update(&mut theta, &gradient, 0.1).unwrap_err();
            assert!(
                matches!(
                    error,
                    LearnError::NotFinite {
                        what: "gradient norm",
                        step: 1,
                        ..
                    }
                ),
                "{error}"
            );
            assert_eq!((optimizer.save(), theta), (saved, before));
        }
    }

    #[test]
    fn wrong_states_are_refused_and_change_nothing() {
        let mut optimizer = AdamW::new(&layout(), &inner());
        optimizer.update(&mut [0.5; 17], &[0.25; 17], 0.1).unwrap();
        let good = optimizer.save();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let nan = [&good[..good.len() - 4], &f32::NAN.to_le_bytes()].concat();
        for (name, bytes) in [
            ("empty", vec![]),
            ("cut", good[..good.len() - 1].to_vec()),
            ("long", [&good[..], &[0]].concat()),
            ("magic", with(0, b'B')),
            ("parameters", with(8, 16)),
            ("nan", nan),
        ] {
            assert!(optimizer.restore(&bytes).is_err(), "{name}");
            assert_eq!(optimizer.save(), good, "{name}");
        }
    }

    proptest! {
        #[test]
        fn restore_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = AdamW::new(&layout(), &inner()).restore(&bytes);
        }
    }
}
