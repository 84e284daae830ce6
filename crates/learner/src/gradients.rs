//! A training step in two halves, for methods that exchange the gradients of every step.

use crate::{Batch, BurnLearner, LearnError};

impl BurnLearner {
    /// Mean loss of `batch` and its gradient, P values in layout order, before clipping. θ and the optimizer
    /// stay as they are.
    ///
    /// # Errors
    /// Where a token or the loss cannot be.
    pub fn gradient(&mut self, batch: &Batch) -> Result<(f64, &[f32]), LearnError> {
        self.check_tokens(batch.tokens(), batch.sequence())?;
        let loss = self.backward(batch)?;
        Ok((loss, &self.gradient))
    }

    /// Clips `gradient` and moves θ along it, as [`crate::Learner::train_step`] does. The norm before clipping.
    ///
    /// # Errors
    /// Where the gradient has another length or is not finite; nothing has changed then.
    pub fn apply(&mut self, gradient: &[f32], lr: f32) -> Result<f64, LearnError> {
        if gradient.len() != self.theta.len() {
            return Err(LearnError::ThetaLength {
                got: gradient.len(),
                expected: self.theta.len(),
            });
        }
        let norm = self.optimizer.update(&mut self.theta, gradient, lr)?;
        self.frozen = None;
        Ok(norm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DeviceChoice, Learner as _, init,
        learner::tests::{inner, tiny},
    };

    #[test]
    fn two_halves_are_a_step() {
        let model = tiny(true);
        let batch = Batch::new((0..26).map(|i| i * 5 % 19).collect(), 12).unwrap();
        let learner = || {
            let mut learner = BurnLearner::new(&model, &inner(), DeviceChoice::Cpu).unwrap();
            learner.write(&init(&model, 3)).unwrap();
            learner
        };
        let (mut whole, mut halves) = (learner(), learner());
        for _ in 0..3 {
            let report = whole.train_step(&batch, 1e-2).unwrap();
            let (loss, gradient) = halves.gradient(&batch).unwrap();
            let gradient = gradient.to_vec();
            let norm = halves.apply(&gradient, 1e-2).unwrap();
            assert_eq!((report.loss, report.gradient_norm), (loss, norm));
            assert_eq!(whole.read(), halves.read());
        }
        assert!(halves.apply(&[1.0], 1e-2).is_err());
        assert!(halves.apply(&vec![f32::NAN; halves.parameters()], 1e-2).is_err());
        assert_eq!(whole.read(), halves.read());
    }
}
