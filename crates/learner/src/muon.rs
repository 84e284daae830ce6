//! Muon on one matrix: momentum, made orthogonal.
//!
//! Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with the scale of
//! Liu et al., "Muon is Scalable for LLM Training" (arXiv:2502.16982), which lets it share AdamW's rate
//! and decay. The references compute the iteration in bf16, this in f32.
//!
//! R rows, C columns; S the smaller and L the larger of them.

use crate::{burn_learner::host, learner::LearnError};
use burn::tensor::{Device, Tensor, TensorData};

/// Newton–Schulz steps.
const STEPS: usize = 5;
/// a, b, c in X ← aX + b(XXᵀ)X + c(XXᵀ)²X: singular values end between about 0.7 and 1.2.
const COEFFICIENTS: [f32; 3] = [3.4445, -4.775, 2.0315];
/// Added to the norm that the matrix is divided by.
const NORM_EPS: f64 = 1e-7;
/// Root mean square of an AdamW update, found in practice (arXiv:2502.16982, section 2.2).
const UPDATE_RMS: f64 = 0.2;

/// m ← μ·m + g, where g is `gradient` times `scale`. The reference of arXiv:2502.16982 sums; that of
/// Jordan averages, m ← μ·m + (1 − μ)·g, which makes m and g + μ·m smaller by 1 − μ and no other, and
/// what follows does not see a factor.
pub(crate) fn remember(momentum: f32, scale: f32, moment: &mut [f32], gradient: &[f32]) {
    for (moment, gradient) in moment.iter_mut().zip(gradient) {
        *moment = momentum * *moment + scale * gradient;
    }
}

/// Nesterov: g + μ·m for the m that [`remember`] is about to make of `moment`.
pub(crate) fn look_ahead(momentum: f32, scale: f32, moment: &[f32], gradient: &[f32]) -> Vec<f32> {
    let values = moment.iter().zip(gradient).map(|(moment, gradient)| {
        let gradient = scale * gradient;
        gradient + momentum * (momentum * moment + gradient)
    });
    values.collect()
}

/// The length that lr times an orthogonal R×C matrix gets, so that the root mean square of its values is
/// [`UPDATE_RMS`]: 0.2·√L.
pub(crate) fn size([rows, columns]: [usize; 2]) -> f64 {
    UPDATE_RMS * (rows.max(columns) as f64).sqrt()
}

/// The nearest orthogonal matrix to `values` (R, C) of Frobenius norm `norm`, nearly.
pub(crate) fn orthogonal(
    mut values: Vec<f32>,
    norm: f64,
    shape: [usize; 2],
    device: &Device,
) -> Result<Vec<f32>, LearnError> {
    let scale = (norm + NORM_EPS).recip() as f32;
    values.iter_mut().for_each(|value| *value *= scale);
    let x_rc = Tensor::<2>::from_data(TensorData::new(values, shape), device);
    let tall = shape[0] > shape[1];
    let mut x_sl = if tall { x_rc.transpose() } else { x_rc };
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..STEPS {
        let gram_ss = x_sl.clone().matmul(x_sl.clone().transpose());
        let both_ss = gram_ss.clone() * b + gram_ss.clone().matmul(gram_ss) * c;
        x_sl = x_sl.clone() * a + both_ss.matmul(x_sl);
    }
    let x_rc = if tall { x_sl.transpose() } else { x_sl };
    host(x_rc, "making a matrix orthogonal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_or_rows_become_nearly_orthonormal() {
        for shape in [[24, 24], [8, 40], [40, 8], [1, 5], [5, 1]] {
            let [rows, columns] = shape;
            let values: Vec<f32> = (0..rows * columns).map(|i| ((i * i * 7 + i) as f32).sin()).collect();
            let norm = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let made = orthogonal(values.clone(), norm, shape, &Device::flex()).unwrap();
            let at = |r: usize, c: usize| f64::from(made[r * columns + c]);
            let dot = |i: usize, j: usize| -> f64 {
                match rows > columns {
                    true => (0..rows).map(|r| at(r, i) * at(r, j)).sum(),
                    false => (0..columns).map(|c| at(i, c) * at(j, c)).sum(),
                }
            };
            let smaller = rows.min(columns);
            for i in 0..smaller {
                for j in 0..smaller {
                    let off = if i == j {
                        (dot(i, i) - 1.0).abs()
                    } else {
                        dot(i, j).abs()
                    };
                    assert!(off < 0.6, "{shape:?}: {i}·{j} is {}", dot(i, j));
                }
            }
            let along: f64 = values.iter().zip(&made).map(|(v, m)| f64::from(v * m)).sum();
            assert!(along > 0.5 * norm, "{shape:?}: it points where the matrix points");
        }
    }

    #[test]
    fn nothing_stays_nothing() {
        assert_eq!(orthogonal(vec![0.0; 6], 0.0, [2, 3], &Device::flex()), Ok(vec![0.0; 6]));
    }
}
