//! A contribution made again from what its author says it started from, and how far it lies from what was sent.
//!
//! Whoever trains is behind [`Training`]: the arithmetic here is that of a replica, the steps are the learner's.

use crate::{
    blob::{BlobError, Contribution},
    feedback::{ErrorFeedback, FeedbackError},
    own_state::{OwnState, OwnStateError},
    replica::{Replica, ReplicaError, longest},
    step::{OuterRule, OuterState},
    theta::VectorError,
};
use atoll_protocol::{
    Charter, Finding, Hash, InnerSteps, Layout, Nano,
    charter::Codec,
    transaction::{Ahead, AheadFrom, Reveal, States},
};
use std::{ops::Range, sync::Arc};
use thiserror::Error;

/// Why nothing came out.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum AgainError {
    /// What its author claims cannot be.
    #[error("{0}")]
    Claim(String),
    /// This node fails, for reasons of its own.
    #[error("{0}")]
    Here(String),
}

macro_rules! claims {
    ($($error:ty),*) => {
        $(impl From<$error> for AgainError {
            fn from(error: $error) -> Self {
                Self::Claim(error.to_string())
            }
        })*
    };
}
claims!(BlobError, FeedbackError, OwnStateError, ReplicaError, VectorError);

/// How a contribution was to be made.
#[derive(Debug, Clone, Copy)]
pub struct Recipe<'a> {
    /// What its author said of it.
    pub reveal: &'a Reveal,
    /// Root of the θ that it was made from.
    pub base: Hash,
    /// How it was to be encoded.
    pub codec: &'a Codec,
    /// Median length of contributions of late, in millionths, if it was known.
    pub usual_norm_micro: Option<u64>,
    /// The outer momentum of its round.
    pub momentum: Option<Nano>,
    /// H of its round.
    pub steps: InnerSteps,
    /// N of its round.
    pub replicas: usize,
}

/// A contribution, and the one before it, on whose state it stands, with whether that was merged.
#[derive(Debug, Clone, Copy)]
pub struct Claimed<'a> {
    /// What is made again.
    pub last: Recipe<'a>,
    /// The one before, unless its author made a fresh start.
    pub before: Option<(Recipe<'a>, bool)>,
}

/// Everything that making a contribution again needs. `B` are bytes.
#[derive(Debug, Clone)]
pub struct Material<B> {
    /// The state it started from; nothing for a fresh start.
    pub opening: Option<B>,
    /// The θ that it was made from.
    pub base: OuterState,
    /// The contribution before, if it is needed: it was not merged, or steps were taken ahead from it.
    pub before: Option<B>,
    /// The θ that the one before was made from, if it is needed.
    pub before_base: Option<OuterState>,
}

/// Whose rows are trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Those of the contribution that is made again.
    Last,
    /// Those of the one before: steps were taken ahead on them.
    Before,
}

/// A learner that takes the steps of a replica.
pub trait Training {
    /// Begins with these moments; without any, afresh.
    ///
    /// # Errors
    /// Where they are no moments of this learner.
    fn begin(&mut self, moments: Option<&[u8]>) -> Result<(), AgainError>;

    /// These steps on these rows, from `weights`; where they lead.
    ///
    /// # Errors
    /// Where the rows cannot be read here, or the numbers are bad.
    fn walk(&mut self, weights: &[f32], rows: Rows, steps: Range<u32>) -> Result<Vec<f32>, AgainError>;

    /// Its moments.
    fn moments(&self) -> Vec<u8>;

    /// How far these moments lie from its own, as a share of their length.
    ///
    /// # Errors
    /// Where they are no moments of this learner.
    fn moments_apart(&self, theirs: &[u8]) -> Result<f64, AgainError>;
}

/// What came out.
pub struct Again {
    blob: Vec<u8>,
    closing: OwnState,
    /// Error feedback before, without its sum: to encode once more.
    warm: ErrorFeedback,
    local: Vec<f32>,
    base: OuterState,
    longest: Option<f64>,
}

/// Makes it again.
///
/// # Errors
/// Where what its author claims cannot be, or this node fails.
pub fn again<B: AsRef<[u8]> + Send + Sync + 'static>(
    training: &mut impl Training,
    (charter, layout): (&Arc<Charter>, &Arc<Layout>),
    claimed: Claimed<'_>,
    material: Material<B>,
) -> Result<Again, AgainError> {
    let Claimed { last, before: earlier } = claimed;
    let opening = material.opening.map(|bytes| OwnState::from_bytes(bytes.as_ref()));
    let opening = opening.transpose()?;
    training.begin(opening.as_ref().map(|opening| &opening.moments[..]))?;
    let mut feedback = match &opening {
        Some(opening) => ErrorFeedback::from_bytes(&opening.feedback, layout.parameters)?,
        None => ErrorFeedback::new(layout.parameters),
    };
    let contribution = match (earlier, material.before) {
        (Some((earlier, _)), Some(blob)) => Some(Contribution::read(blob, layout, earlier.codec, &earlier.base)?),
        _ => None,
    };
    if let (Some(contribution), Some((_, false))) = (&contribution, earlier) {
        feedback.restore(contribution)?;
    }
    let warm = feedback.emptied();
    let base = material.base;
    let mut replica = replica((charter, layout), base.clone(), feedback);
    let (begin, first) = match last.reveal.ahead {
        None => (base.theta.clone(), 0),
        Some(Ahead { from, steps }) => {
            let claim = |what: &str| AgainError::Claim(what.into());
            let (earlier, _) = earlier.ok_or(claim("it claims steps ahead of nothing"))?;
            let contribution = contribution.ok_or(claim("the contribution before is missing"))?;
            let local = opening.as_ref().map(|opening| opening.local(layout)).transpose()?;
            let stood = material.before_base.unwrap_or_else(|| base.clone());
            let local = match (from, local.flatten()) {
                (AheadFrom::Own, None) => return Err(claim("it claims steps ahead of weights that its state lacks")),
                (_, local) => local.unwrap_or_else(|| stood.theta.clone()),
            };
            let none = ErrorFeedback::new(layout.parameters);
            let stood = self::replica((charter, layout), stood, none);
            let rule = OuterRule::of(charter, earlier.momentum, earlier.steps);
            let of = (earlier.reveal.trained, rule, earlier.replicas);
            let ahead = stood.go_ahead(from, &local, &contribution, of)?;
            let taken = earlier.steps.0..earlier.steps.0.saturating_add(steps.0);
            let local = training.walk(ahead.start(), Rows::Before, taken)?;
            (replica.come_back(&ahead, &local)?, steps.0)
        }
    };
    let local = training.walk(&begin, Rows::Last, first..last.reveal.steps.0)?;
    let encoded = replica.contribute(&local, last.codec, last.usual_norm_micro)?;
    Ok(Again {
        blob: encoded.blob,
        closing: OwnState::new(
            charter,
            last.reveal.trained,
            (replica.feedback().to_bytes(), training.moments()),
            &local,
        ),
        warm,
        local,
        base,
        longest: longest(&charter.robust, last.usual_norm_micro),
    })
}

fn replica((charter, layout): (&Arc<Charter>, &Arc<Layout>), outer: OuterState, feedback: ErrorFeedback) -> Replica {
    let roots = outer.roots();
    Replica::new(charter.clone(), layout.clone(), (outer, roots), feedback, None)
}

impl Again {
    /// Whether it is the same to the bit, and what follows from it too.
    pub fn is(&self, reveal: &Reveal) -> bool {
        let States { closing, .. } = reveal.states;
        Hash::of_blob(&self.blob) == reveal.blob && Hash::of_blob(&self.closing.to_bytes()) == closing
    }

    /// How far `sent`, and the state `closing` that its author goes on from, lie from what came out: the largest of
    /// four distances. The sum that was encoded, e + D(blob), and the weights: as a share of δ's length, as it came
    /// out; what that sum encodes to, beside what was sent, since else e could take up any lie, as a share of the
    /// latter; the moments, of theirs.
    ///
    /// # Errors
    /// Where the state cannot be one of this model's.
    pub fn finding(
        &self,
        training: &impl Training,
        layout: &Layout,
        recipe: Recipe<'_>,
        (sent, closing): (&Contribution, &OwnState),
    ) -> Result<Finding, AgainError> {
        let Recipe { codec, base, .. } = recipe;
        let ours = Contribution::read(self.blob.clone(), layout, codec, &base)?;
        let sum = |state: &OwnState, contribution: &Contribution| -> Result<Vec<f32>, AgainError> {
            let mut feedback = ErrorFeedback::from_bytes(&state.feedback, layout.parameters)?;
            feedback.restore(contribution)?;
            Ok(feedback.values().to_vec())
        };
        let (our_sum, their_sum) = (sum(&self.closing, &ours)?, sum(closing, sent)?);
        let mut warm = self.warm.clone();
        let encoded = warm.contribute(their_sum.clone(), codec, (layout, &base), self.longest)?;
        let encoded = Contribution::read(encoded.blob, layout, codec, &base)?;
        let values = |contribution: &Contribution| -> Result<Vec<f32>, AgainError> {
            let mut values = vec![0.0; layout.parameters];
            contribution.decode_into(&mut values)?;
            Ok(values)
        };
        let moved =
            |local: &[f32]| -> Vec<f32> { local.iter().zip(&self.base.theta).map(|(w, theta)| w - theta).collect() };
        let ours_moved = moved(&self.local);
        let weights = match closing.local(layout)? {
            Some(theirs) => apart(&ours_moved, &moved(&theirs), length(&ours_moved)),
            None => 0.0,
        };
        let sent_values = values(sent)?;
        let distances = [
            // e may be many times as long as δ, and must hide nothing of it
            apart(&our_sum, &their_sum, length(&ours_moved)),
            apart(&sent_values, &values(&encoded)?, length(&sent_values)),
            training.moments_apart(&closing.moments)?,
            weights,
        ];
        let known = |distance: f64| if distance.is_nan() { f64::INFINITY } else { distance };
        let largest = distances.into_iter().map(known).fold(0.0, f64::max);
        Ok(Finding::Apart {
            billionths: (largest * 1e9).ceil() as u64, // a cast saturates
        })
    }
}

fn length(a: &[f32]) -> f64 {
    a.iter().map(|a| f64::from(*a) * f64::from(*a)).sum::<f64>().sqrt()
}

/// ‖a − b‖ as a share of `length`.
fn apart(a: &[f32], b: &[f32], length: f64) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b) * f64::from(a - b));
    let moved = squares.sum::<f64>().sqrt();
    if moved == 0.0 { 0.0 } else { moved / length }
}
