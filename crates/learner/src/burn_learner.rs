//! The learner on Burn: θ on the host, the forward and backward pass on a device.
//!
//! θ, the moments and the optimizer live in flat host vectors; a step copies θ to the device and the
//! gradient back. On the CPU that costs less than an optimizer that walks over tensors; on a GPU it
//! is the price of one code path.

use crate::{
    Batch, DeviceChoice, LearnError, Learner, StepReport,
    forward::{Tables, head, hidden},
    optimizer::Optimizer,
};
use atoll_protocol::{
    Layout,
    charter::{InnerOptimizer, Model},
    layout,
    limits::PARAMETERS_MAX,
};
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData, activation::softmax};

/// A Llama-style decoder with its optimizer.
pub struct BurnLearner {
    model: Model,
    layout: Layout,
    device: Device,
    pub(crate) theta: Vec<f32>,
    pub(crate) gradient: Vec<f32>,
    pub(crate) optimizer: Optimizer,
    /// Tables for training, of the last T.
    tables: Option<Tables>,
    /// θ on the device without gradients, until θ changes.
    pub(crate) frozen: Option<Vec<Tensor<2>>>,
}

/// The chosen device.
fn open(choice: DeviceChoice) -> Device {
    match choice {
        DeviceChoice::Cpu => Device::flex(),
    }
}

/// The values of `tensor`, row-major.
pub(crate) fn host(tensor: Tensor<2>, doing: &'static str) -> Result<Vec<f32>, LearnError> {
    let failed = |reason: String| LearnError::Tensor { doing, reason };
    let data = tensor.try_into_data().map_err(|error| failed(error.to_string()))?;
    data.try_into_vec().map_err(|error| failed(format!("{error:?}")))
}

impl BurnLearner {
    /// A learner with θ = 0 (call [`Learner::write`]) and zero moments. The model must have passed
    /// `Charter::validate`.
    pub fn new(model: &Model, inner: &InnerOptimizer, device: DeviceChoice) -> Result<Self, LearnError> {
        match layout::parameters(model) {
            Some(count) if count <= PARAMETERS_MAX && usize::try_from(count).is_ok() => {}
            count => {
                return Err(LearnError::TooLarge {
                    parameters: count.map_or("more than 2^64".into(), |count| count.to_string()),
                    max: PARAMETERS_MAX,
                });
            }
        }
        let (layout, device) = (Layout::of(model), open(device));
        Ok(Self {
            theta: vec![0.0; layout.parameters],
            gradient: vec![0.0; layout.parameters],
            optimizer: Optimizer::new(&layout, inner, &device),
            device,
            model: model.clone(),
            layout,
            tables: None,
            frozen: None,
        })
    }

    /// θ as tensors in layout order; vectors as one row.
    fn upload(&self, device: &Device) -> Vec<Tensor<2>> {
        let tensor = |tensor: &layout::Tensor| {
            let values = self.theta[tensor.range()].to_vec();
            let shape = match tensor.role {
                layout::Role::Vector => [1, tensor.rows],
                layout::Role::Embedding | layout::Role::Matrix => [tensor.rows, tensor.columns],
            };
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        self.layout.tensors.iter().map(tensor).collect()
    }

    fn frozen(&mut self) -> Vec<Tensor<2>> {
        let tensors = match self.frozen.take() {
            Some(tensors) => tensors,
            None => self.upload(&self.device),
        };
        self.frozen = Some(tensors.clone());
        tensors
    }

    pub(crate) fn check_tokens(&self, tokens: &[u32], sequence: usize) -> Result<(), LearnError> {
        if sequence == 0 || sequence > self.model.context as usize {
            return Err(LearnError::Length {
                got: sequence,
                context: self.model.context,
            });
        }
        match tokens.iter().find(|token| **token >= self.model.vocab) {
            None => Ok(()),
            Some(token) => Err(LearnError::Token {
                token: *token,
                vocab: self.model.vocab,
            }),
        }
    }

    /// Mean loss in nats; the gradient is left in `self.gradient`.
    pub(crate) fn backward(&mut self, batch: &Batch) -> Result<f64, LearnError> {
        let (b, t) = (batch.rows(), batch.sequence());
        let device = self.device.clone().autodiff();
        let tables = match self.tables.take() {
            Some(tables) if tables.sequence == t => tables,
            _ => Tables::new(&self.model, t, &device),
        };
        let weights: Vec<_> = self.upload(&device).into_iter().map(Tensor::require_grad).collect();
        let tokens_bt = Tensor::<2, Int>::from_data(TensorData::new(batch.inputs_n(), [b, t]), &device);
        let targets_n1 = Tensor::<2, Int>::from_data(TensorData::new(batch.targets_n(), [b * t, 1]), &self.device);

        let h_nd = hidden(&self.model, &weights, &tables, tokens_bt);
        let logits_nv = head(&weights, &self.model, h_nd);
        let (nats, slope_nv) = cross_entropy(logits_nv.clone().inner(), targets_n1)?;
        let loss = nats / batch.targets() as f64;
        self.tables = Some(tables);
        if !loss.is_finite() {
            return Err(self.not_finite("loss", loss));
        }

        // d(Σ logits · slope) / d logits = slope: the pass starts from a gradient made by hand.
        let gradients = (logits_nv * Tensor::from_inner(slope_nv)).sum().backward();
        for (place, weight) in self.layout.tensors.iter().zip(&weights) {
            let gradient = &mut self.gradient[place.range()];
            match weight.grad(&gradients) {
                Some(values) => gradient.copy_from_slice(&host(values, "reading gradients")?),
                None => gradient.fill(0.0),
            }
        }
        Ok(loss)
    }

    fn not_finite(&self, what: &'static str, value: f64) -> LearnError {
        LearnError::NotFinite {
            what,
            step: self.optimizer.step(),
            value,
        }
    }
}

/// Sum of −ln p(target) in nats, and the gradient of their mean: (softmax − one-hot) / N.
fn cross_entropy(logits_nv: Tensor<2>, targets_n1: Tensor<2, Int>) -> Result<(f64, Tensor<2>), LearnError> {
    let n = logits_nv.dims()[0];
    let p_nv = softmax(logits_nv.clone(), 1);
    // The likeliest token has p = 1 / Σ exp(z − max), so ln Σ exp z = max − ln p.
    let log_sum_n1 = logits_nv.clone().max_dim(1) - p_nv.clone().max_dim(1).log();
    let nats_n1 = log_sum_n1 - logits_nv.gather(1, targets_n1.clone());
    let nats = host(nats_n1, "reading the loss")?
        .iter()
        .map(|nats| f64::from(*nats))
        .sum();
    let minus_one_n1 = Tensor::ones([n, 1], &p_nv.device()).neg();
    let slope_nv = p_nv.scatter(1, targets_n1, minus_one_n1, IndexingUpdateOp::Add) / n as f64;
    Ok((nats, slope_nv))
}

impl Learner for BurnLearner {
    fn parameters(&self) -> usize {
        self.theta.len()
    }

    fn vocab(&self) -> u32 {
        self.model.vocab
    }

    fn context(&self) -> u32 {
        self.model.context
    }

    fn read(&self) -> Vec<f32> {
        self.theta.clone()
    }

    fn write(&mut self, theta: &[f32]) -> Result<(), LearnError> {
        if theta.len() != self.theta.len() {
            return Err(LearnError::ThetaLength {
                got: theta.len(),
                expected: self.theta.len(),
            });
        }
        if let Some(bad) = theta.iter().find(|value| !value.is_finite()) {
            return Err(self.not_finite("a new parameter", f64::from(*bad)));
        }
        self.theta.copy_from_slice(theta);
        self.frozen = None;
        Ok(())
    }

    fn train_step(&mut self, batch: &Batch, lr: f32) -> Result<StepReport, LearnError> {
        if !lr.is_finite() || lr < 0.0 {
            return Err(LearnError::Option {
                name: "learning rate",
                value: lr.to_string(),
                allowed: "0 or more is allowed",
            });
        }
        self.check_tokens(batch.tokens(), batch.sequence())?;
        let loss = self.backward(batch)?;
        let gradient_norm = self.optimizer.update(&mut self.theta, &self.gradient, lr)?;
        self.frozen = None;
        Ok(StepReport { loss, gradient_norm })
    }

    fn evaluate(&mut self, batch: &Batch) -> Result<(f64, u64), LearnError> {
        let (b, t) = (batch.rows(), batch.sequence());
        self.check_tokens(batch.tokens(), t)?;
        let weights = self.frozen();
        let tables = Tables::new(&self.model, t, &self.device);
        let tokens_bt = Tensor::from_data(TensorData::new(batch.inputs_n(), [b, t]), &self.device);
        let targets_n1 = Tensor::from_data(TensorData::new(batch.targets_n(), [b * t, 1]), &self.device);
        let logits_nv = head(&weights, &self.model, hidden(&self.model, &weights, &tables, tokens_bt));
        let (nats, _) = cross_entropy(logits_nv, targets_n1)?;
        match nats.is_finite() {
            true => Ok((nats, batch.targets())),
            false => Err(self.not_finite("loss", nats)),
        }
    }

    fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, LearnError> {
        let h_nd = self.hidden_of(tokens)?;
        let weights = self.frozen();
        host(head(&weights, &self.model, h_nd), "reading logits")
    }

    fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, LearnError> {
        let h_nd = self.hidden_of(tokens)?;
        let weights = self.frozen();
        let last_1d = h_nd.narrow(0, tokens.len() - 1, 1);
        host(head(&weights, &self.model, last_1d), "reading logits")
    }

    fn save(&self) -> Vec<u8> {
        self.optimizer.save()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), LearnError> {
        self.optimizer.restore(bytes)
    }

    fn reset_optimizer(&mut self) {
        self.optimizer.reset();
    }
}

impl BurnLearner {
    /// How far the moments in `saved` lie from those here, as a share of these.
    ///
    /// # Errors
    /// Where they are not this optimizer's.
    pub fn moments_apart(&self, saved: &[u8]) -> Result<f64, LearnError> {
        self.optimizer.apart(saved)
    }

    /// The residual stream (T, D) of one row of tokens.
    fn hidden_of(&mut self, tokens: &[u32]) -> Result<Tensor<2>, LearnError> {
        self.check_tokens(tokens, tokens.len())?;
        let weights = self.frozen();
        let tables = Tables::new(&self.model, tokens.len(), &self.device);
        let ids: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
        let tokens_bt = Tensor::from_data(TensorData::new(ids, [1, tokens.len()]), &self.device);
        Ok(hidden(&self.model, &weights, &tables, tokens_bt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        init,
        learner::tests::{inner, tiny},
    };

    /// The gradient along a direction, per tensor, against the slope of the loss.
    #[test]
    fn gradients_equal_finite_differences() {
        for tied in [true, false] {
            let model = tiny(tied);
            let theta: Vec<f32> = init(&model, 3)
                .iter()
                .map(|v| if *v == 1.0 { 1.0 } else { v * 15.0 })
                .collect();
            let mut learner = BurnLearner::new(&model, &inner(), DeviceChoice::Cpu).unwrap();
            let batch = Batch::new((0..33).map(|i| i * i * 7 % 19).collect(), 10).unwrap();
            learner.write(&theta).unwrap();
            learner.backward(&batch).unwrap();
            let gradient = learner.gradient.clone();
            let mut loss = |theta: &[f32]| {
                learner.write(theta).unwrap();
                let (nats, tokens) = learner.evaluate(&batch).unwrap();
                nats / tokens as f64
            };
            for place in Layout::of(&model).tensors {
                let part = &gradient[place.range()];
                let norm = part.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                assert!(norm > 1e-4, "{} has no gradient", place.name);
                // Along the gradient itself the slope is its norm.
                let length = 2e-2 * (1.0 + norm).recip();
                let moved = |sign: f64| {
                    let mut theta = theta.clone();
                    for (value, g) in theta[place.range()].iter_mut().zip(part) {
                        *value += (sign * length * f64::from(*g) / norm) as f32;
                    }
                    theta
                };
                let slope = (loss(&moved(1.0)) - loss(&moved(-1.0))) / (2.0 * length);
                assert!(
                    (slope - norm).abs() < 0.02 * norm + 2e-4,
                    "{}: slope {slope}, norm {norm}",
                    place.name
                );
            }
        }
    }
}
