//! What one replica carries from round to round: θ, a merged copy beside it, error feedback, and the
//! contribution whose fate is still open. Pure: the owner keeps on disk what must survive a crash.
//!
//! ```text
//! contribute ─▶ pending ─▶ settle   (merged: what was sent is spent)
//!                      └─▶ restore  (not merged: it goes back into e)
//! merged ─▶ put_beside ─▶ advance   (a quorum has the same root)
//!                     └─▶ discard
//! ```

use crate::{
    blob::{BlobError, Contribution},
    feedback::{ErrorFeedback, FeedbackError},
    merge::{MergeError, merge},
    step::{OuterState, StepError},
    theta::{VectorError, pseudo_gradient},
};
use atoll_protocol::{Charter, Hash, Layout, PeerId, Round, Tokens, transaction::Reveal};
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

/// A contribution whose round is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// What was said of it.
    pub reveal: Reveal,
    /// Root of the θ that it was made from.
    pub base: Hash,
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

/// `outer` after merging `inputs` and one outer step: what a replica computes and an auditor computes again.
///
/// # Errors
/// Where the contributions cannot be merged, or the step would leave the range of f32.
pub fn merged(
    outer: &OuterState,
    inputs: &[(PeerId, Tokens, &Contribution)],
    charter: &Charter,
    layout: &Layout,
) -> Result<OuterState, ReplicaError> {
    let delta = merge(layout, inputs)?;
    let mut next = outer.clone();
    next.step(&charter.outer, &delta)?;
    Ok(next)
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
    /// [`Replica::set_pending`] before anything is written to disk.
    ///
    /// # Errors
    /// Where a value is not finite or lengths differ.
    pub fn contribute(&mut self, local: &[f32]) -> Result<Vec<u8>, ReplicaError> {
        let delta = pseudo_gradient(&self.outer.theta, local)?;
        let (codec, base) = (&self.charter.compression.first(), &self.roots.0);
        Ok(self.feedback.contribute(delta, codec, &self.layout, base)?.blob)
    }

    /// Notes what was said of the contribution just made.
    pub fn set_pending(&mut self, reveal: Reveal) {
        let base = self.roots.0;
        self.pending = Some(Pending { reveal, base });
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
            let read = Contribution::read(blob, &self.layout, &self.charter.compression.first(), &pending.base);
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
    pub fn merged(&self, inputs: &[(PeerId, Tokens, &Contribution)]) -> Result<OuterState, ReplicaError> {
        merged(&self.outer, inputs, &self.charter, &self.layout)
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
