//! A contribution made again here: the ledger's words and this node's learner, as [`atoll_outer::again`] takes them.

use crate::inner::Inner;
use anyhow::Context as _;
use atoll_learner::{LearnError, Learner as _};
use atoll_ledger::{Assigned, Work, Worked};
use atoll_outer::again::{AgainError, Claimed, Recipe, Rows, Training};
use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

/// How a work was to be made. Without its rows it is never drawn.
pub(crate) fn recipe(work: &Work) -> anyhow::Result<Recipe<'_>> {
    let assigned = work.assigned.as_ref().context("its rows are not known any more")?;
    let Assigned { share, terms } = assigned;
    Ok(Recipe {
        reveal: &work.reveal,
        base: work.base.theta,
        codec: &terms.codec,
        usual_norm_micro: terms.usual_norm_micro,
        momentum: terms.momentum,
        steps: terms.steps,
        replicas: usize::try_from(share.replicas).unwrap_or(usize::MAX),
    })
}

/// What its author claims.
pub(crate) fn claimed(worked: &Worked) -> anyhow::Result<Claimed<'_>> {
    let before = worked.before.as_ref();
    let before = before.map(|work| Ok::<_, anyhow::Error>((recipe(work)?, work.merged)));
    Ok(Claimed {
        last: recipe(&worked.last)?,
        before: before.transpose()?,
    })
}

/// This node's learner on the rows of somebody else.
pub(crate) struct Others<'a> {
    pub(crate) inner: &'a mut Inner,
    pub(crate) worked: &'a Worked,
    /// Whether the node stops: then it is left in the middle.
    pub(crate) stop: &'a AtomicBool,
}

/// Numbers or moments that cannot be are its author's to answer for; everything else is this machine's.
pub(crate) fn learning(error: LearnError) -> AgainError {
    match error {
        LearnError::NotFinite { .. } | LearnError::OptimizerState { .. } => AgainError::Claim(error.to_string()),
        other => AgainError::Here(other.to_string()),
    }
}

fn here(error: impl std::fmt::Display) -> AgainError {
    AgainError::Here(error.to_string())
}

impl Training for Others<'_> {
    fn begin(&mut self, moments: Option<&[u8]>) -> Result<(), AgainError> {
        match moments {
            Some(moments) => self.inner.learner.restore(moments).map_err(learning),
            None => {
                self.inner.learner.reset_optimizer();
                Ok(())
            }
        }
    }

    fn walk(&mut self, weights: &[f32], rows: Rows, steps: Range<u32>) -> Result<Vec<f32>, AgainError> {
        let work = match rows {
            Rows::Last => Some(&self.worked.last),
            Rows::Before => self.worked.before.as_ref(),
        };
        let assigned = work.and_then(|work| work.assigned.as_ref());
        let Assigned { share, terms } = assigned.ok_or_else(|| here("its rows are not known any more"))?;
        self.inner.learner.write(weights).map_err(learning)?;
        for step in steps {
            if self.stop.load(Ordering::Relaxed) {
                return Err(here("the node stops"));
            }
            let batch = self.inner.batch(share, step).map_err(here)?;
            let stepped = self.inner.step(&batch, terms.first_step + u64::from(step));
            stepped.map_err(|error| match error.downcast::<LearnError>() {
                Ok(error) => learning(error),
                Err(error) => here(error),
            })?;
        }
        Ok(self.inner.learner.read())
    }

    fn moments(&self) -> Vec<u8> {
        self.inner.learner.save()
    }

    fn moments_apart(&self, theirs: &[u8]) -> Result<f64, AgainError> {
        self.inner.learner.moments_apart(theirs).map_err(learning)
    }
}
