//! A contribution made again from what its author says it started from, and how far it lies from what was sent.

use crate::{inner::Inner, own_state::OwnState};
use anyhow::{Context as _, bail};
use atoll_learner::Learner as _;
use atoll_ledger::{Assigned, Work, Worked};
use atoll_outer::{Contribution, ErrorFeedback, OuterRule, OuterState, Replica, replica::longest};
use atoll_protocol::{
    Charter, Finding, Hash, Layout,
    transaction::{Ahead, AheadFrom, States},
};
use bytes::Bytes;
use std::sync::Arc;

/// What fails for reasons of this node's own.
#[derive(Debug, thiserror::Error)]
#[error("the rows cannot be read here")]
pub(crate) struct Local;

/// Everything that making a contribution again needs.
pub struct Material {
    /// What was revealed, and what before.
    pub worked: Worked,
    /// The state it started from; nothing for a fresh start.
    pub opening: Option<Bytes>,
    /// The θ that it was made from.
    pub base: OuterState,
    /// The contribution before, if it is needed: it was not merged, or steps were taken ahead from it.
    pub before: Option<Bytes>,
    /// The θ that the one before was made from, if it is needed.
    pub before_base: Option<OuterState>,
}

/// What came out.
pub(crate) struct Again {
    blob: Vec<u8>,
    closing: OwnState,
    /// Error feedback before, without its sum: to encode once more.
    warm: ErrorFeedback,
    local: Vec<f32>,
    base: OuterState,
}

/// The terms and rows of a work; without them it is never drawn.
fn assigned(work: &Work) -> anyhow::Result<&Assigned> {
    work.assigned.as_ref().context("its rows are not known any more")
}

/// Makes it again. An error says that what its author claims cannot be, or that the disk or the program fails.
pub(crate) fn again(
    inner: &mut Inner,
    charter: &Arc<Charter>,
    layout: &Arc<Layout>,
    material: Material,
) -> anyhow::Result<Again> {
    let Material {
        worked,
        opening,
        base,
        before,
        before_base,
    } = material;
    let (reveal, earlier) = (&worked.last.reveal, worked.before.as_ref());
    let Assigned { share, terms } = assigned(&worked.last)?;
    let opening = opening.map(|bytes| OwnState::from_bytes(&bytes)).transpose()?;
    let mut feedback = match &opening {
        Some(opening) => ErrorFeedback::from_bytes(&opening.feedback, layout.parameters)?,
        None => ErrorFeedback::new(layout.parameters),
    };
    match &opening {
        Some(opening) => inner.learner.restore(&opening.moments)?,
        None => inner.learner.reset_optimizer(),
    }
    let contribution = match (earlier, before) {
        (Some(earlier), Some(blob)) => {
            let codec = &assigned(earlier)?.terms.codec;
            Some(Contribution::read(blob, layout, codec, &earlier.base.theta)?)
        }
        _ => None,
    };
    if let Some(contribution) = contribution
        .as_ref()
        .filter(|_| earlier.is_some_and(|earlier| !earlier.merged))
    {
        feedback.restore(contribution)?;
    }
    let warm = feedback.emptied();
    let roots = base.roots();
    let mut replica = Replica::new(charter.clone(), layout.clone(), (base.clone(), roots), feedback, None);
    let (begin, first) = match reveal.ahead {
        None => (base.theta.clone(), 0),
        Some(Ahead { from, steps }) => {
            let earlier = earlier.context("it claims steps ahead of nothing")?;
            let Assigned {
                share: rows,
                terms: then,
            } = assigned(earlier)?;
            let local = opening
                .as_ref()
                .map(|opening| opening.local(layout))
                .transpose()?
                .flatten();
            let stood = before_base.unwrap_or_else(|| base.clone());
            let stood_roots = stood.roots();
            let none = ErrorFeedback::new(layout.parameters);
            let place = stood.theta.clone();
            let stood = Replica::new(charter.clone(), layout.clone(), (stood, stood_roots), none, None);
            let local = match (from, local) {
                (AheadFrom::Own, None) => bail!("it claims steps ahead of weights that are not in its state"),
                (_, local) => local.unwrap_or(place),
            };
            let contribution = contribution.context("the contribution before is missing")?;
            let rule = OuterRule::of(charter, then.momentum, then.steps);
            let replicas = usize::try_from(rows.replicas).unwrap_or(usize::MAX);
            let of = (earlier.reveal.trained, rule, replicas);
            let ahead = stood.go_ahead(from, &local, &contribution, of)?;
            inner.learner.write(ahead.start())?;
            for step in 0..steps.0 {
                let batch = inner.batch(rows, then.steps.0 + step).context(Local)?;
                let global = then.first_step + u64::from(then.steps.0 + step);
                inner.step(&batch, global)?;
            }
            (replica.come_back(&ahead, &inner.learner.read())?, steps.0)
        }
    };
    inner.learner.write(&begin)?;
    for step in first..reveal.steps.0 {
        let batch = inner.batch(share, step).context(Local)?;
        inner.step(&batch, terms.first_step + u64::from(step))?;
    }
    let local = inner.learner.read();
    let encoded = replica.contribute(&local, &terms.codec, terms.usual_norm_micro)?;
    let closing = OwnState::new(charter, replica.feedback().to_bytes(), inner.learner.save(), &local);
    Ok(Again {
        blob: encoded.blob,
        closing,
        warm,
        local,
        base,
    })
}

impl Again {
    /// Whether it is the same to the bit, and what follows from it too.
    pub(crate) fn is(&self, work: &Work) -> bool {
        let States { closing, .. } = work.reveal.states;
        Hash::of_blob(&self.blob) == work.reveal.blob && Hash::of_blob(&self.closing.to_bytes()) == closing
    }

    /// How far what was sent, and the state that its author goes on from, lie from what came out: the largest of
    /// four distances, each as a share of what came out. The sum that was encoded, e + D(blob); what that sum
    /// encodes to, beside what was sent, since else e could take up any lie; the moments; the weights.
    pub(crate) fn finding(
        &self,
        inner: &Inner,
        layout: &Layout,
        (work, sent, closing): (&Work, &Contribution, &OwnState),
    ) -> anyhow::Result<Finding> {
        let Assigned { terms, .. } = assigned(work)?;
        let ours = Contribution::read(self.blob.clone(), layout, &terms.codec, &work.base.theta)?;
        let sum = |state: &OwnState, contribution: &Contribution| -> anyhow::Result<Vec<f32>> {
            let mut feedback = ErrorFeedback::from_bytes(&state.feedback, layout.parameters)?;
            feedback.restore(contribution)?;
            Ok(feedback.values().to_vec())
        };
        let (our_sum, their_sum) = (sum(&self.closing, &ours)?, sum(closing, sent)?);
        let longest = longest(&inner.charter().robust, terms.usual_norm_micro);
        let mut warm = self.warm.clone();
        let encoded = warm.contribute(their_sum.clone(), &terms.codec, (layout, &work.base.theta), longest)?;
        let encoded = Contribution::read(encoded.blob, layout, &terms.codec, &work.base.theta)?;
        let values = |contribution: &Contribution| -> anyhow::Result<Vec<f32>> {
            let mut values = vec![0.0; layout.parameters];
            contribution.decode_into(&mut values)?;
            Ok(values)
        };
        let moved =
            |local: &[f32]| -> Vec<f32> { local.iter().zip(&self.base.theta).map(|(w, theta)| w - theta).collect() };
        let weights = match closing.local(layout)? {
            Some(theirs) => apart(&moved(&self.local), &moved(&theirs)),
            None => 0.0,
        };
        let distances = [
            apart(&our_sum, &their_sum),
            apart(&values(&encoded)?, &values(sent)?),
            inner.learner.moments_apart(&closing.moments)?,
            weights,
        ];
        let largest = distances.into_iter().fold(0.0, f64::max);
        Ok(Finding::Apart {
            billionths: (largest * 1e9).ceil() as u64, // a cast saturates
        })
    }
}

/// ‖a − b‖ / ‖a‖.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    let (mut moved, mut length) = (0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        moved += (a - b) * (a - b);
        length += a * a;
    }
    if moved == 0.0 { 0.0 } else { (moved / length).sqrt() }
}
