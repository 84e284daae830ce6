//! AdamW on one flat tensor: one pass over memory instead of a dozen tensor operations.

use crate::schedule::float;
use atoll_protocol::charter::InnerOptimizer;

/// Coefficients. Loshchilov, Hutter (arXiv:1711.05101), as in `torch.optim.AdamW`.
pub(crate) struct AdamW {
    beta1: f32,
    beta2: f32,
    eps: f32,
}

/// What all values share in one step.
pub(crate) struct Rates {
    /// lr / (1 − β₁ᵗ).
    size: f32,
    /// √(1 − β₂ᵗ).
    root2: f32,
}

impl AdamW {
    pub(crate) fn new(inner: &InnerOptimizer) -> Self {
        Self {
            beta1: float(inner.beta1) as f32,
            beta2: float(inner.beta2) as f32,
            eps: float(inner.eps) as f32,
        }
    }

    /// The rates of step t, from 1.
    pub(crate) fn rates(&self, lr: f32, t: u64) -> Rates {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(t as f64);
        Rates {
            size: (f64::from(lr) / correction(self.beta1)) as f32,
            root2: correction(self.beta2).sqrt() as f32,
        }
    }

    /// Moves `theta`, times `keep`, along `gradient` times `scale`. All slices are equally long.
    pub(crate) fn update(
        &self,
        rates: &Rates,
        [scale, keep]: [f32; 2],
        theta: &mut [f32],
        gradient: &[f32],
        [first, second]: [&mut [f32]; 2],
    ) {
        let (beta1, beta2, eps) = (self.beta1, self.beta2, self.eps);
        let moments = first.iter_mut().zip(second);
        for ((value, gradient), (first, second)) in theta.iter_mut().zip(gradient).zip(moments) {
            let gradient = gradient * scale;
            *first += (gradient - *first) * (1.0 - beta1);
            *second = *second * beta2 + gradient * gradient * (1.0 - beta2);
            *value = *value * keep - rates.size * (*first / (second.sqrt() / rates.root2 + eps));
        }
    }
}
