//! The learning rate: linear warm-up, then a cosine, over the steps of the whole run.

use atoll_protocol::{Nano, charter::InnerOptimizer};

/// `nano` as a float.
pub(crate) fn float(nano: Nano) -> f64 {
    nano.0 as f64 / Nano::ONE.0 as f64
}

/// The rate for `global_step` (from 0) of `total_steps`: it rises linearly to the peak over
/// `inner.warmup` steps, then falls along a half cosine to peak · `lr_min_ratio` at the last step
/// and stays there. Global, so that a late joiner trains at everybody's rate.
pub fn learning_rate(inner: &InnerOptimizer, global_step: u64, total_steps: u64) -> f32 {
    let (peak, warmup) = (float(inner.lr), u64::from(inner.warmup.0));
    if global_step < warmup {
        return (peak * (global_step + 1) as f64 / warmup as f64) as f32;
    }
    let length = total_steps.saturating_sub(1).saturating_sub(warmup).max(1);
    let done = ((global_step - warmup) as f64 / length as f64).min(1.0);
    let low = float(inner.lr_min_ratio);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
    (peak * (low + (1.0 - low) * cosine)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::tests::inner;
    use atoll_protocol::InnerSteps;

    #[test]
    fn warm_up_peak_and_end() {
        let mut optimizer = inner();
        (optimizer.lr, optimizer.lr_min_ratio) = (Nano(1_000_000), Nano(100_000_000));
        optimizer.warmup = InnerSteps(10);
        let table = [
            (0, 1e-4),
            (4, 5e-4),
            (9, 1e-3),
            (10, 1e-3),
            (60, 5.5e-4),
            (110, 1e-4),
            (5000, 1e-4),
        ];
        for (step, expected) in table {
            let lr = learning_rate(&optimizer, step, 111);
            assert!(
                (f64::from(lr) - expected).abs() < 1e-9,
                "step {step}: {lr}, not {expected}"
            );
        }
        optimizer.warmup = InnerSteps(0);
        for total in [0, 1, 2] {
            assert_eq!(learning_rate(&optimizer, 0, total), 1e-3, "of {total} steps");
        }
    }
}
