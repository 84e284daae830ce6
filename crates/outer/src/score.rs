//! What a contribution alone does to the loss: Gauntlet's LossScore (arXiv:2505.21684), on rows of its author's and
//! on rows drawn afterwards.

use crate::{blob::Contribution, theta::VectorError};
use atoll_protocol::LossChange;
use rayon::prelude::*;

/// The part of a contribution that is tried. Alone and in full even an honest one may overshoot: what makes DiLoCo's
/// outer step good is the mean over many. With a part of it what it does wrong counts with the square of this.
const PART: f32 = 0.25;

/// Which rows a loss is wanted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreRows {
    /// Some that its author was to train on.
    Own,
    /// Some that were drawn when it was merged.
    Random,
}

/// Measures what `contribution`, made from `theta`, does. `loss` gives the mean loss of some weights on some rows;
/// nothing where it is no number.
///
/// # Errors
/// Where θ has another length, or `loss` fails.
pub fn loss_change<E: From<VectorError>>(
    theta: &[f32],
    contribution: &Contribution,
    mut loss: impl FnMut(&[f32], ScoreRows) -> Result<Option<f64>, E>,
) -> Result<LossChange, E> {
    let mut tried = vec![0.0; theta.len()];
    contribution.decode_into(&mut tried)?;
    let elements = tried.par_iter_mut().zip(theta);
    elements.for_each(|(moved, theta)| *moved = theta - PART * *moved);
    let mut change = |rows| Ok::<_, E>(relative(loss(theta, rows)?, loss(&tried, rows)?));
    Ok(LossChange {
        own: change(ScoreRows::Own)?,
        random: change(ScoreRows::Random)?,
    })
}

/// In millionths of the loss before.
fn relative(before: Option<f64>, after: Option<f64>) -> i32 {
    match (before, after.filter(|loss| loss.is_finite())) {
        (Some(before), Some(after)) if before > 0.0 => ((after - before) / before * 1e6).round() as i32, // saturates
        (Some(_), None) => LossChange::WORST.random,
        _ => 0, // of a θ without a loss nothing can be said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode;
    use atoll_protocol::{Hash, Layout, charter::Codec, tiny_charter};

    /// f(w) = mean (w − w*)², w* being 1 on rows of its own and 3 on others.
    fn loss(weights: &[f32], rows: ScoreRows) -> Result<Option<f64>, VectorError> {
        let best = if rows == ScoreRows::Own { 1.0 } else { 3.0 };
        let sum: f64 = weights.iter().map(|w| (f64::from(*w) - best).powi(2)).sum();
        Ok(Some(sum / weights.len() as f64))
    }

    #[test]
    fn a_quarter_of_the_step_is_tried() {
        let layout = Layout::of(&tiny_charter([]).model);
        let theta = vec![0.0f32; layout.parameters];
        // δ = θ − w, so it asks for a step of +2
        let blob = encode(&vec![-2.0; layout.parameters], &Codec::Dense, &layout, &Hash::ZERO).unwrap();
        let contribution = Contribution::read(blob, &layout, &Codec::Dense, &Hash::ZERO).unwrap();
        let change = loss_change(&theta, &contribution, loss).unwrap();
        // (1 − 0.5)² of 1², and (3 − 0.5)² of 3²
        assert_eq!((change.own, change.random), (-750_000, -305_556));
        let short = loss_change(&theta[1..], &contribution, loss);
        assert!(matches!(short, Err(VectorError::Length { .. })), "{short:?}");
    }

    #[test]
    fn what_is_no_number_is_the_worst() {
        let table = [
            (Some(2.0), Some(3.0), 500_000),
            (Some(2.0), Some(1.0), -500_000),
            (Some(1e-9), Some(1e9), i32::MAX),
            (Some(2.0), None, i32::MAX),
            (None, Some(2.0), 0),
            (Some(0.0), Some(0.0), 0),
            (Some(2.0), Some(f64::NAN), i32::MAX),
        ];
        for (before, after, expected) in table {
            assert_eq!(relative(before, after), expected, "{before:?} {after:?}");
        }
    }
}
