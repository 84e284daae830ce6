//! Global-norm clipping, and AdamW or Muon for each tensor of θ.
//!
//! θ, the gradient and the moments are plain slices in layout order.

use crate::{adamw::AdamW, learner::LearnError, muon, schedule::float};
use atoll_protocol::{
    Layout,
    charter::{InnerOptimizer, Matrices},
    layout::Role,
};
use burn::tensor::Device;
use std::ops::Range;

/// First bytes of a saved state.
const MAGIC: [u8; 8] = *b"ATOLOPT2";
/// Magic, kind, parameters, step.
/// More steps than anybody takes; what somebody claims must not overflow.
const STEPS_MAX: u64 = 1 << 48;
const HEADER_BYTES: usize = 32;
/// PyTorch's `clip_grad_norm_` adds this to the norm.
const CLIP_EPS: f64 = 1e-6;
/// Sums of squares that run side by side. Their number is part of the result: addition of floats is
/// not associative.
const LANES: usize = 8;

/// One tensor of θ.
struct Part {
    /// Its place in θ, in the gradient and in the first moments.
    place: Range<usize>,
    rule: Rule,
}

/// What moves a tensor.
enum Rule {
    AdamW {
        /// Its place in the second moments, which stand without gaps.
        second: Range<usize>,
        /// Gains do not decay.
        decays: bool,
    },
    Muon {
        /// Rows and columns.
        shape: [usize; 2],
    },
}

/// Coefficients and state.
pub(crate) struct Optimizer {
    clip: f64,
    weight_decay: f64,
    adamw: AdamW,
    /// μ, where matrices are Muon's.
    momentum: Option<f32>,
    device: Device,
    parts: Vec<Part>,
    /// Steps since the moments were zero, for the bias correction.
    step: u64,
    /// First moments of AdamW, momentum of Muon.
    first: Vec<f32>,
    /// Second moments, of AdamW alone.
    second: Vec<f32>,
}

/// The parts of θ, and how many second moments they need.
fn parts(layout: &Layout, matrices: Matrices) -> (Vec<Part>, usize) {
    let mut seconds = 0;
    let part = |tensor: &atoll_protocol::layout::Tensor| {
        let rule = match (tensor.role, matrices) {
            (Role::Matrix, Matrices::Muon { .. }) => Rule::Muon {
                shape: [tensor.rows, tensor.columns],
            },
            (Role::Embedding | Role::Matrix | Role::Vector, _) => {
                let start = seconds;
                seconds += tensor.len();
                Rule::AdamW {
                    second: start..seconds,
                    decays: tensor.role != Role::Vector,
                }
            }
        };
        Part {
            place: tensor.range(),
            rule,
        }
    };
    let parts = layout.tensors.iter().map(part).collect();
    (parts, seconds)
}

impl Optimizer {
    /// Muon multiplies its matrices on `device`.
    pub(crate) fn new(layout: &Layout, inner: &InnerOptimizer, device: &Device) -> Self {
        let (parts, seconds) = parts(layout, inner.matrices);
        Self {
            clip: float(inner.clip),
            weight_decay: float(inner.weight_decay),
            adamw: AdamW::new(inner),
            momentum: match inner.matrices {
                Matrices::AdamW => None,
                Matrices::Muon { momentum } => Some(float(momentum) as f32),
            },
            device: device.clone(),
            parts,
            step: 0,
            first: vec![0.0; layout.parameters],
            second: vec![0.0; seconds],
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
        let norm = self.finite("gradient norm", norm(gradient))?;
        let scale = (self.clip / (norm + CLIP_EPS)).min(1.0) as f32;
        // What can fail comes before what changes.
        let directions = self.directions(gradient, scale)?;
        self.step += 1;
        let rates = self.adamw.rates(lr, self.step);
        let keep = (1.0 - f64::from(lr) * self.weight_decay) as f32;
        let momentum = self.momentum.unwrap_or_default();
        for (part, direction) in self.parts.iter().zip(directions) {
            let (theta, gradient) = (&mut theta[part.place.clone()], &gradient[part.place.clone()]);
            let first = &mut self.first[part.place.clone()];
            match &part.rule {
                Rule::AdamW { second, decays } => {
                    let keep = if *decays { keep } else { 1.0 };
                    let moments = [first, &mut self.second[second.clone()]];
                    self.adamw.update(&rates, [scale, keep], theta, gradient, moments);
                }
                Rule::Muon { shape } => {
                    muon::remember(momentum, scale, first, gradient);
                    let size = (f64::from(lr) * muon::size(*shape)) as f32;
                    for (value, direction) in theta.iter_mut().zip(direction) {
                        *value = *value * keep - size * direction;
                    }
                }
            }
        }
        Ok(norm)
    }

    /// Where Muon moves each of its matrices, of length 1 along each axis; for AdamW's tensors, nothing.
    fn directions(&self, gradient: &[f32], scale: f32) -> Result<Vec<Vec<f32>>, LearnError> {
        let direction = |part: &Part| match (&part.rule, self.momentum) {
            (Rule::Muon { shape }, Some(momentum)) => {
                let (moment, gradient) = (&self.first[part.place.clone()], &gradient[part.place.clone()]);
                let ahead = muon::look_ahead(momentum, scale, moment, gradient);
                let norm = self.finite("momentum", norm(&ahead))?;
                muon::orthogonal(ahead, norm, *shape, &self.device)
            }
            (Rule::Muon { .. } | Rule::AdamW { .. }, _) => Ok(Vec::new()),
        };
        self.parts.iter().map(direction).collect()
    }

    fn finite(&self, what: &'static str, value: f64) -> Result<f64, LearnError> {
        match value.is_finite() {
            true => Ok(value),
            false => Err(LearnError::NotFinite {
                what,
                step: self.step,
                value,
            }),
        }
    }

    /// 0 for AdamW alone, 1 for Muon.
    fn kind(&self) -> u64 {
        self.momentum.is_some().into()
    }

    /// Magic, kind, parameters, step, first moments, second moments; little-endian.
    pub(crate) fn save(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.state_bytes());
        bytes.extend(MAGIC);
        for word in [self.kind(), self.first.len() as u64, self.step] {
            bytes.extend(word.to_le_bytes());
        }
        for moment in [&self.first, &self.second] {
            bytes.extend(moment.iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes
    }

    /// How far another saved state lies from this one, as a share of this one's length.
    pub(crate) fn apart(&self, other: &[u8]) -> Result<f64, LearnError> {
        let theirs = self
            .check(other)
            .map_err(|reason| LearnError::OptimizerState { reason })?;
        if word(other, 3) != self.step {
            return Ok(f64::INFINITY);
        }
        let (mut moved, mut length) = (0.0, 0.0);
        for (ours, theirs) in self.first.iter().chain(&self.second).zip(floats(theirs)) {
            let (ours, theirs) = (f64::from(*ours), f64::from(theirs));
            moved += (ours - theirs) * (ours - theirs);
            length += ours * ours;
        }
        Ok(if moved == 0.0 { 0.0 } else { (moved / length).sqrt() })
    }

    fn state_bytes(&self) -> usize {
        HEADER_BYTES + 4 * (self.first.len() + self.second.len())
    }

    /// The reverse of [`Self::save`]. Nothing changes unless all of `bytes` is sound.
    pub(crate) fn restore(&mut self, bytes: &[u8]) -> Result<(), LearnError> {
        let moments = self
            .check(bytes)
            .map_err(|reason| LearnError::OptimizerState { reason })?;
        self.step = word(bytes, 3);
        for (slot, value) in self.first.iter_mut().chain(&mut self.second).zip(floats(moments)) {
            *slot = value;
        }
        Ok(())
    }

    /// The moments in `bytes`, or why they are none of this optimizer.
    fn check<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let name = |kind| match kind {
            0 => "AdamW".into(),
            1 => "Muon".into(),
            kind => format!("unknown optimizer {kind}"),
        };
        let (parameters, expected) = (self.first.len(), self.state_bytes());
        if bytes.len() < HEADER_BYTES || bytes[..8] != MAGIC {
            return Err("it does not start with ATOLOPT2 and a header; was it saved by an earlier version?".into());
        }
        if word(bytes, 1) != self.kind() {
            let (found, ours) = (name(word(bytes, 1)), name(self.kind()));
            return Err(format!(
                "it is of {found}, the charter says {ours}; start with zero moments instead"
            ));
        }
        if word(bytes, 2) != parameters as u64 {
            let found = word(bytes, 2);
            return Err(format!("it is for {found} parameters, the model has {parameters}"));
        }
        if bytes.len() != expected {
            let found = bytes.len();
            return Err(format!("{found} bytes, where {parameters} parameters need {expected}"));
        }
        let step = word(bytes, 3);
        if step > STEPS_MAX {
            return Err(format!("it claims {step} steps; at most {STEPS_MAX} can be"));
        }
        let moments = &bytes[HEADER_BYTES..];
        match floats(moments).find(|value| !value.is_finite()) {
            Some(bad) => Err(format!("it holds {bad}")),
            None => Ok(moments),
        }
    }
}

/// The `index`-th eight bytes, little-endian.
fn word(bytes: &[u8], index: usize) -> u64 {
    let bytes = &bytes[8 * index..8 * index + 8];
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    let words = bytes.as_chunks::<4>().0;
    words.iter().map(|word| f32::from_le_bytes(*word))
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
    use atoll_protocol::{Nano, layout::Tensor};
    use proptest::prelude::*;

    fn layout(tensors: &[(Role, usize, usize)]) -> Layout {
        let mut parameters = 0;
        let tensor = |(role, rows, columns): &(Role, usize, usize)| {
            let offset = parameters;
            parameters += rows * columns;
            Tensor {
                name: format!("{role:?}"),
                rows: *rows,
                columns: *columns,
                role: *role,
                offset,
            }
        };
        let tensors = tensors.iter().map(tensor).collect();
        Layout { tensors, parameters }
    }

    /// AdamW on a 3×4 matrix and a vector of 5.
    fn adamw() -> Optimizer {
        let layout = layout(&[(Role::Matrix, 3, 4), (Role::Vector, 5, 1)]);
        Optimizer::new(&layout, &inner(), &Device::flex())
    }

    /// Muon on matrices of each form, beside an embedding and a vector.
    fn muon() -> Optimizer {
        let layout = layout(&[
            (Role::Embedding, 6, 4),
            (Role::Matrix, 5, 3),
            (Role::Vector, 4, 1),
            (Role::Matrix, 3, 7),
            (Role::Matrix, 4, 4),
        ]);
        let matrices = Matrices::Muon {
            momentum: Nano(950_000_000),
        };
        Optimizer::new(&layout, &InnerOptimizer { matrices, ..inner() }, &Device::flex())
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
        check(adamw, include_str!("../golden/adamw.json"), 1e-6);
        check(muon, include_str!("../golden/muon.json"), 2e-6);
    }

    fn check(new: fn() -> Optimizer, golden: &str, allowed: f32) {
        let golden: Golden = serde_json::from_str(golden).unwrap();
        let (mut optimizer, mut theta) = (new(), golden.theta);
        assert_eq!(theta.len(), optimizer.first.len());
        for (index, step) in golden.steps.iter().enumerate() {
            // A restored optimizer goes on as if nothing had happened.
            let saved = optimizer.save();
            optimizer = new();
            optimizer.restore(&saved).unwrap();
            let norm = optimizer.update(&mut theta, &step.gradient, step.lr).unwrap();
            assert!(
                (norm - step.norm).abs() < 1e-5 * step.norm,
                "step {index}: norm {norm}, not {}",
                step.norm
            );
            for (ours, theirs) in theta.iter().zip(&step.theta) {
                assert!((ours - theirs).abs() < allowed, "step {index}: {ours}, not {theirs}");
            }
        }
    }

    #[test]
    fn a_bad_gradient_changes_nothing() {
        for (new, bad) in [adamw, muon].into_iter().zip([f32::NAN, f32::INFINITY]) {
            let mut optimizer = new();
            let parameters = optimizer.first.len();
            let (mut theta, mut gradient) = (vec![1.0; parameters], vec![1.0; parameters]);
            optimizer.update(&mut theta, &gradient, 0.1).unwrap();
            let (saved, before) = (optimizer.save(), theta.clone());
            gradient[3] = bad;
            let error = optimizer.update(&mut theta, &gradient, 0.1).unwrap_err();
            let LearnError::NotFinite { what, step: 1, .. } = error else {
                panic!("{error}");
            };
            assert_eq!(what, "gradient norm");
            assert_eq!((optimizer.save(), theta), (saved, before));
        }
    }

    #[test]
    fn momentum_that_overflows_changes_nothing() {
        let (mut optimizer, mut theta) = (muon(), vec![1.0; 80]);
        optimizer.first.fill(f32::MAX);
        optimizer.clip = f64::MAX;
        let saved = optimizer.save();
        let error = optimizer.update(&mut theta, &[1e38; 80], 0.1).unwrap_err();
        assert!(
            matches!(error, LearnError::NotFinite { what: "momentum", .. }),
            "{error}"
        );
        assert_eq!((optimizer.save(), theta), (saved, vec![1.0; 80]));
    }

    #[test]
    fn a_matrix_of_muon_needs_one_moment() {
        assert_eq!(adamw().save().len(), 32 + 4 * (17 + 17));
        assert_eq!(muon().save().len(), 32 + 4 * (80 + 24 + 4));
    }

    #[test]
    fn the_state_of_the_other_optimizer_is_refused_by_name() {
        let matrices = layout(&[(Role::Matrix, 3, 4), (Role::Vector, 5, 1)]);
        let muon = InnerOptimizer {
            matrices: Matrices::Muon { momentum: Nano(0) },
            ..inner()
        };
        let mut muon = Optimizer::new(&matrices, &muon, &Device::flex());
        let error = muon.restore(&adamw().save()).unwrap_err().to_string();
        assert!(error.contains("it is of AdamW, the charter says Muon"), "{error}");
        let error = adamw().restore(&muon.save()).unwrap_err().to_string();
        assert!(error.contains("it is of Muon, the charter says AdamW"), "{error}");
    }

    #[test]
    fn wrong_states_are_refused_and_change_nothing() {
        for mut optimizer in [adamw(), muon()] {
            let parameters = optimizer.first.len();
            let mut theta = vec![0.5; parameters];
            optimizer.update(&mut theta, &vec![0.25; parameters], 0.1).unwrap();
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
                ("kind", with(8, 2)),
                ("parameters", with(16, 16)),
                ("nan", nan),
            ] {
                assert!(optimizer.restore(&bytes).is_err(), "{name}");
                assert_eq!(optimizer.save(), good, "{name}");
            }
        }
    }

    proptest! {
        #[test]
        fn restore_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), starts in any::<bool>()) {
            let bytes = if starts { [&MAGIC[..], &bytes].concat() } else { bytes };
            let _ = adamw().restore(&bytes);
            let _ = muon().restore(&bytes);
        }
    }
}
