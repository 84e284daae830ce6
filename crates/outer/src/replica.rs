//! What one replica carries from round to round: θ, a merged copy beside it, error feedback, and the
//! contribution whose fate is still open. Pure: the owner keeps on disk what must survive a crash.
//!
//! ```text
//! contribute ─▶ pending ─▶ settle   (merged: what was sent is spent)
//!                      ├─▶ repeat   (the round was void and θ is the same: sent again)
//!                      └─▶ restore  (not merged: it goes back into e)
//! go_ahead ─▶ inner steps ─▶ come_back  (while the contribution travels)
//! merged ─▶ put_beside ─▶ advance   (a quorum has the same root)
//!                     └─▶ discard
//! ```

use crate::{
    blob::{BlobError, Contribution},
    codec::EncodeError,
    feedback::{Encoded, ErrorFeedback, FeedbackError},
    merge::{MergeError, Weighed, merge_weighed},
    robust::{
        Mixed, grams,
        judge::{Candidate, Judged, judge},
    },
    step::{OuterRule, OuterState, StepError, weight_of_momentum},
    theta::{VectorError, check_finite, check_len, pseudo_gradient},
};
use atoll_protocol::{
    Charter, Hash, InnerSteps, Layout, Nano, PeerId, Robust, Round, Tokens,
    charter::Codec,
    transaction::{AheadFrom, Judgement, Reveal},
};
use rayon::prelude::*;
use std::sync::Arc;
use thiserror::Error;

/// Roots of θ and of the outer optimizer's momentum, as the ledger writes them: [`Hash::ZERO`] stands
/// for the momentum before the first step.
pub type Roots = (Hash, Option<Hash>);

/// Why a replica did not do what it was told. It is unchanged then.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ReplicaError {
    /// Weights or θ that cannot be used.
    #[error(transparent)]
    Vector(#[from] VectorError),
    /// Error feedback that cannot be used.
    #[error(transparent)]
    Feedback(#[from] FeedbackError),
    /// Contributions that cannot be merged.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// An outer step that cannot be taken.
    #[error(transparent)]
    Step(#[from] StepError),
    /// Its own contribution cannot be read back.
    #[error("this node's own contribution to round {round} cannot be read back: {cause}")]
    Own {
        /// The contribution's round.
        round: Round,
        /// What is wrong with it.
        cause: BlobError,
    },
    /// A step to a θ that was not merged here.
    #[error("asked to advance to θ {}, which was not merged here", .0.short())]
    NotMerged(Hash),
}

impl ReplicaError {
    /// Whether a value that is not finite is the reason: the numbers are bad, not the program or the disk.
    pub fn is_numeric(&self) -> bool {
        matches!(
            self,
            Self::Vector(VectorError::NonFinite { .. })
                | Self::Feedback(
                    FeedbackError::Vector(VectorError::NonFinite { .. })
                        | FeedbackError::Encode(EncodeError::NonFinite { .. })
                )
                | Self::Step(StepError::NonFinite { .. } | StepError::Vector(VectorError::NonFinite { .. }))
        )
    }
}

/// An honest contribution is at most this part as long as the longest that passes: others know what is usual only
/// of the rounds before.
const PART_OF_NORM_MAX: f64 = 2.0 / 3.0;

/// How long an honest contribution may be, where it is known how long they were of late.
pub fn longest(robust: &Robust, usual_norm_micro: Option<u64>) -> Option<f64> {
    let most = PART_OF_NORM_MAX * (robust.norm_max.0 as f64 / Nano::ONE.0 as f64);
    usual_norm_micro.map(|usual| most * usual as f64 / 1e6)
}

/// A contribution whose round is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// What was said of it.
    pub reveal: Reveal,
    /// Root of the θ that it was made from.
    pub base: Hash,
    /// How it was encoded.
    pub codec: Codec,
}

/// Where training began that goes on while a contribution travels.
#[derive(Debug, Clone, PartialEq)]
pub struct Ahead {
    /// Which weights these are.
    pub from: AheadFrom,
    /// s, P values.
    start: Vec<f32>,
}

impl Ahead {
    /// s, P values.
    pub fn start(&self) -> &[f32] {
        &self.start
    }
}

/// One replica.
#[derive(Debug, Clone)]
pub struct Replica {
    charter: Arc<Charter>,
    layout: Arc<Layout>,
    outer: OuterState,
    roots: Roots,
    beside: Option<(OuterState, Roots)>,
    feedback: ErrorFeedback,
    pending: Option<Pending>,
}

/// A contribution that is to be judged and merged.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Whose.
    pub peer: PeerId,
    /// Tokens that it was made from.
    pub tokens: Tokens,
    /// As the gates see it.
    pub candidate: Candidate,
    /// The contribution.
    pub contribution: &'a Contribution,
}

/// How a round is merged.
#[derive(Debug, Clone, Copy)]
pub struct Merging<'a> {
    /// The model's.
    pub layout: &'a Layout,
    /// The charter's.
    pub robust: &'a Robust,
    /// Median length of contributions of late, in millionths, if it is known.
    pub usual_norm_micro: Option<u64>,
    /// The outer step.
    pub rule: OuterRule,
}

/// Contributions to an earlier round that are taken out of θ again.
#[derive(Debug, Clone, Copy)]
pub struct TakenBack<'a> {
    /// Everything that was judged then, less what was taken out before.
    pub inputs: &'a [Input<'a>],
    /// Whose are taken out.
    pub peers: &'a [PeerId],
    /// How that round was merged.
    pub merging: Merging<'a>,
    /// The outer steps since, in order.
    pub since: &'a [OuterRule],
}

/// θ and momentum as if what is taken back had not been sent: that round is merged with it and without it, and
/// the difference is taken out as far as the steps since have carried it. Where nothing is left, that round did
/// not move θ.
///
/// # Errors
/// Where the contributions cannot be merged, or θ would leave the range of f32.
pub fn take_back(outer: &OuterState, taken: TakenBack<'_>) -> Result<OuterState, ReplicaError> {
    let left: Vec<Input<'_>> = (taken.inputs.iter())
        .filter(|input| !taken.peers.contains(&input.peer))
        .copied()
        .collect();
    let (mut surplus, _) = pseudo_gradient_of(taken.inputs, taken.merging)?;
    if !left.is_empty() {
        let (without, _) = pseudo_gradient_of(&left, taken.merging)?;
        surplus
            .par_iter_mut()
            .zip(&without)
            .for_each(|(with, without)| *with -= without);
    }
    let rules: Vec<OuterRule> = [taken.merging.rule].iter().chain(taken.since).copied().collect();
    Ok(outer.take_back(&rules, surplus)?)
}

/// What a merge came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// θ and momentum after it.
    pub state: OuterState,
    /// What was kept out.
    pub judgement: Judgement,
    /// The blob of inner products and weights, if the charter asks for any.
    pub matrix: Option<Vec<u8>>,
}

/// `outer` after judging and merging `inputs` and one outer step: what a replica computes and an auditor
/// computes again. Inputs may come in any order.
///
/// # Errors
/// Where the contributions cannot be merged, or the step would leave the range of f32.
pub fn merged(outer: &OuterState, inputs: &[Input<'_>], merging: Merging<'_>) -> Result<Merged, ReplicaError> {
    let (delta, judged) = pseudo_gradient_of(inputs, merging)?;
    let state = outer.step(merging.rule, delta)?;
    let matrix = judged.as_ref().map(|judged| judged.matrix.to_bytes());
    let judgement = Judgement {
        matrix: matrix.as_deref().map_or(Hash::ZERO, Hash::of_blob),
        norm_micro: judged.as_ref().map_or(0, |judged| judged.norm_micro),
        unfit: judged.map_or(Vec::new(), |judged| judged.unfit),
    };
    Ok(Merged {
        state,
        judgement,
        matrix,
    })
}

/// Δ of a round, and how its contributions were judged, if the charter wants that.
fn pseudo_gradient_of(inputs: &[Input<'_>], merging: Merging<'_>) -> Result<(Vec<f32>, Option<Judged>), ReplicaError> {
    let Merging { layout, robust, .. } = merging;
    let mut inputs = inputs.to_vec();
    inputs.sort_by_key(|input| input.peer);
    let plain = *robust == Robust::PLAIN || inputs.len() < 2;
    let judged = match plain {
        true => None,
        false => Some(judged(&inputs, merging)?),
    };
    let share = |i: usize| judged.as_ref().and_then(|judged| judged.shares.get(i));
    let weighed = inputs.iter().enumerate().map(|(i, input)| Weighed {
        peer: input.peer,
        tokens: input.tokens,
        weight: share(i).map_or(Nano::ONE, |share| share.weight),
        factors: share(i).map_or(&[], |share| &share.factors),
        contribution: input.contribution,
    });
    let delta = merge_weighed(layout, &weighed.collect::<Vec<_>>())?;
    Ok((delta, judged))
}

fn judged(inputs: &[Input<'_>], merging: Merging<'_>) -> Result<Judged, ReplicaError> {
    let contributions: Vec<&Contribution> = inputs.iter().map(|input| input.contribution).collect();
    let grams = grams(&contributions).map_err(|Mixed(other)| MergeError::Mixed(inputs[other].peer))?;
    let candidates: Vec<Candidate> = inputs.iter().map(|input| input.candidate).collect();
    Ok(judge(&grams, &candidates, merging.usual_norm_micro, merging.robust))
}

impl Replica {
    /// A replica that stands on `outer`, whose roots are `roots`. `feedback` has P elements; `layout` is
    /// that of the charter's model.
    pub fn new(
        charter: Arc<Charter>,
        layout: Arc<Layout>,
        (outer, roots): (OuterState, Roots),
        feedback: ErrorFeedback,
        pending: Option<Pending>,
    ) -> Self {
        Self {
            charter,
            layout,
            outer,
            roots,
            beside: None,
            feedback,
            pending,
        }
    }

    /// θ, P elements.
    pub fn theta(&self) -> &[f32] {
        &self.outer.theta
    }

    /// Roots of θ and momentum.
    pub fn roots(&self) -> Roots {
        self.roots
    }

    /// θ and momentum.
    pub fn outer(&self) -> &OuterState {
        &self.outer
    }

    /// e.
    pub fn feedback(&self) -> &ErrorFeedback {
        &self.feedback
    }

    /// The contribution whose fate is open.
    pub fn pending(&self) -> Option<&Pending> {
        self.pending.as_ref()
    }

    fn pending_of(&self, round: Round) -> Option<&Pending> {
        self.pending.as_ref().filter(|pending| pending.reveal.round == round)
    }

    /// δ = θ − `local`, encoded with error feedback: the bytes of a blob. Its reveal is to be given to
    /// [`Replica::set_pending`] before anything is written to disk. Where it is known how long contributions were
    /// of late, this one stays well within what the charter lets pass.
    ///
    /// # Errors
    /// Where a value is not finite or lengths differ.
    pub fn contribute(
        &mut self,
        local: &[f32],
        codec: &Codec,
        usual_norm_micro: Option<u64>,
    ) -> Result<Encoded, ReplicaError> {
        let delta = pseudo_gradient(&self.outer.theta, local)?;
        let longest = longest(&self.charter.robust, usual_norm_micro);
        let of = (&*self.layout, &self.roots.0);
        Ok(self.feedback.contribute(delta, codec, of, longest)?)
    }

    /// Notes what was said of the contribution just made with `codec`.
    pub fn set_pending(&mut self, reveal: Reveal, codec: Codec) {
        let base = self.roots.0;
        self.pending = Some(Pending { reveal, base, codec });
    }

    /// The open contribution as one to `round`, if it still fits: made from this θ, in this codec, of no more
    /// than `steps`. So a void round costs neither work nor bytes; and e does not take up the same way from
    /// the same θ twice, as it would if the contribution went back and another was made.
    pub fn repeat(&mut self, round: Round, codec: &Codec, steps: InnerSteps) -> Option<&Reveal> {
        let base = self.roots.0;
        let pending = self.pending.as_mut()?;
        let fits = pending.base == base && pending.codec == *codec && pending.reveal.steps <= steps;
        fits.then(|| {
            pending.reveal.round = round;
            &pending.reveal
        })
    }

    /// Where to train on from while `contribution`, one of so many to a round with such an outer step, travels.
    /// `local` is w as when it was made. See [`atoll_protocol::charter::Overlap`] for the papers.
    ///
    /// # Errors
    /// Where a value is not finite or lengths differ.
    pub fn go_ahead(
        &self,
        from: AheadFrom,
        local: &[f32],
        contribution: &Contribution,
        of: (Round, OuterRule, usize),
    ) -> Result<Ahead, ReplicaError> {
        check_len("local weights", local.len(), self.outer.theta.len())?;
        let start = match from {
            AheadFrom::Own => local.to_vec(),
            AheadFrom::Theta => self.outer.theta.clone(),
            AheadFrom::Eager => self.expected(contribution, of)?,
        };
        check_finite("weights to train on from", &start)?;
        Ok(Ahead { from, start })
    }

    /// The θ^{t+1} to expect when only D, this replica's part of the round's N, is known: the outer step along
    /// D/N + (1 − 1/N) · the mean of past pseudo-gradients, which the momentum has. Without momentum, along D.
    fn expected(
        &self,
        contribution: &Contribution,
        (round, rule, replicas): (Round, OuterRule, usize),
    ) -> Result<Vec<f32>, ReplicaError> {
        let weight = weight_of_momentum(&self.charter.outer, round);
        let past = self.outer.momentum.as_ref().filter(|_| weight > 0.0);
        let own = match past {
            Some(_) => 1.0 / replicas.max(1) as f64,
            None => 1.0,
        };
        let others = (1.0 - own) * f64::from(rule.length()) / weight;
        let mut sums: Vec<f64> = match past {
            Some(past) => past.iter().map(|v| others * f64::from(*v)).collect(),
            None => vec![0.0; self.outer.theta.len()],
        };
        contribution.add_to(own, &mut sums)?;
        let delta: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
        Ok(self.outer.step(rule, delta)?.theta)
    }

    /// θ + (w − s): where the round goes on whose first steps were taken ahead.
    ///
    /// # Errors
    /// Where a value is not finite or lengths differ.
    pub fn come_back(&self, ahead: &Ahead, local: &[f32]) -> Result<Vec<f32>, ReplicaError> {
        check_len("local weights", local.len(), ahead.start.len())?;
        let moved = self.outer.theta.par_iter().zip(&ahead.start).zip(local);
        let weights: Vec<f32> = moved.map(|((theta, start), w)| theta + (w - start)).collect();
        check_finite("local weights", &weights)?;
        Ok(weights)
    }

    /// Goes back to an earlier error feedback; an open contribution is forgotten.
    pub fn go_back(&mut self, feedback: ErrorFeedback) {
        self.feedback = feedback;
        self.pending = None;
    }

    /// The contribution to `round` was merged. Whether that was open.
    pub fn settle(&mut self, round: Round) -> bool {
        let open = self.pending_of(round).is_some();
        if open {
            self.pending = None;
        }
        open
    }

    /// The contribution to `round` was not merged: e ← e + D(blob). No blob stands for a lost one: what it
    /// held is lost to the model, which costs a little quality and nothing else. Whether that was open.
    ///
    /// # Errors
    /// Where the blob is not the one that was made here.
    pub fn restore(
        &mut self,
        round: Round,
        blob: Option<impl AsRef<[u8]> + Send + Sync + 'static>,
    ) -> Result<bool, ReplicaError> {
        let Some(pending) = self.pending_of(round) else {
            return Ok(false);
        };
        if let Some(blob) = blob {
            let read = Contribution::read(blob, &self.layout, &pending.codec, &pending.base);
            let contribution = read.map_err(|cause| ReplicaError::Own { round, cause })?;
            self.feedback.restore(&contribution)?;
        }
        self.pending = None;
        Ok(true)
    }

    /// θ and momentum after merging `inputs` and one outer step. Nothing changes here.
    ///
    /// # Errors
    /// Where the contributions cannot be merged, or the step would leave the range of f32.
    pub fn merged(
        &self,
        inputs: &[Input<'_>],
        usual_norm_micro: Option<u64>,
        rule: OuterRule,
    ) -> Result<Merged, ReplicaError> {
        let merging = Merging {
            layout: &self.layout,
            robust: &self.charter.robust,
            usual_norm_micro,
            rule,
        };
        merged(&self.outer, inputs, merging)
    }

    /// Holds a merged state beside θ until it is known whether a quorum has the same.
    pub fn put_beside(&mut self, state: OuterState, roots: Roots) {
        self.beside = Some((state, roots));
    }

    /// The merged state is θ from now on.
    ///
    /// # Errors
    /// Unless it has these roots; θ and the copy stay as they are.
    pub fn advance(&mut self, roots: Roots) -> Result<(), ReplicaError> {
        let beside = self.beside.take_if(|(_, ours)| *ours == roots);
        let (outer, roots) = beside.ok_or(ReplicaError::NotMerged(roots.0))?;
        (self.outer, self.roots) = (outer, roots);
        Ok(())
    }

    /// Drops the merged state.
    pub fn discard(&mut self) {
        self.beside = None;
    }

    /// Takes somebody else's θ and momentum. Error feedback and an open contribution stay.
    pub fn adopt(&mut self, outer: OuterState, roots: Roots) {
        (self.outer, self.roots) = (outer, roots);
        self.beside = None;
    }
}
