//! The state that the ledger knows of, from which the next contribution must start where contributions are made
//! again.

use super::{Report, Trainer};
use crate::blobs::Keep;
use anyhow::Context as _;
use atoll_learner::Learner as _;
use atoll_ledger::Work;
use atoll_outer::{Contribution, ErrorFeedback, OwnState, attack::Liar};
use atoll_protocol::{Hash, Round, transaction::States};

impl Trainer {
    /// Goes on from the state that the ledger knows of. What was trained since and never revealed nobody could
    /// follow: it is dropped.
    pub(super) fn stand_on(&mut self, standing: Option<&Work>) -> anyhow::Result<()> {
        let known = standing.map(|work| (work.reveal.states.closing, !work.merged));
        let expected = known.unwrap_or((Hash::ZERO, false));
        if self.stands_on == expected {
            return Ok(());
        }
        self.ahead = None;
        let back = standing.map(|work| self.state_after(work)).transpose();
        let (feedback, stands_on) = match back {
            Ok(Some(feedback)) => (feedback, expected),
            lost => {
                if let Err(error) = lost {
                    let what = format!("this node's own state is lost, it makes a fresh start: {error:#}");
                    self.report(Report::Skipped(Round(0), what));
                }
                self.inner.learner.reset_optimizer();
                (ErrorFeedback::new(self.layout.parameters), (Hash::ZERO, false))
            }
        };
        self.replica.go_back(feedback);
        self.stands_on = stands_on;
        self.save()
    }

    /// Whether the open contribution stands on what the ledger knows, so that it can be sent again: not after a jury
    /// wanted a fresh start.
    pub(super) fn may_repeat(&self, standing: Option<&Work>) -> bool {
        let Some(pending) = self.replica.pending().filter(|_| self.charter.audit.is_on()) else {
            return true;
        };
        let States { opening, .. } = pending.reveal.states;
        let known = standing.map(|work| &work.reveal);
        opening == Hash::ZERO
            || known.is_some_and(|known| known.trained == pending.reveal.trained || known.states.closing == opening)
    }

    /// Takes the moments after `work`; its error feedback, with what was not merged.
    fn state_after(&mut self, work: &Work) -> anyhow::Result<ErrorFeedback> {
        let bytes = self.runtime.block_on(self.blobs.read(&work.reveal.states.closing))?;
        let state = OwnState::from_bytes(&bytes)?;
        let mut feedback = ErrorFeedback::from_bytes(&state.feedback, self.layout.parameters)?;
        if !work.merged {
            let assigned = work.assigned.as_ref().context("its codec is not known any more")?;
            let blob = self.runtime.block_on(self.blobs.read(&work.reveal.blob))?;
            let read = Contribution::read(blob, &self.layout, &assigned.terms.codec, &work.base.theta)?;
            feedback.restore(&read)?;
        }
        self.inner.learner.restore(&state.moments)?;
        Ok(feedback)
    }

    /// Keeps the state after the contribution just made; its address.
    pub(super) fn keep_state(&self, round: Round, local: &[f32]) -> anyhow::Result<States> {
        if !self.charter.audit.is_on() {
            return Ok(States::NONE);
        }
        let after = (self.replica.feedback().to_bytes(), self.inner.learner.save());
        let state = OwnState::new(&self.charter, round, after, local).to_bytes();
        let (opening, _) = self.stands_on;
        if opening != Hash::ZERO {
            // however long this node was away: others may ask for it now
            self.runtime.block_on(self.blobs.keep(&opening, &Keep::State(round)))?;
        }
        if self.liar() == Some(Liar::Hide) {
            let closing = Hash::of_blob(&state);
            return Ok(States { opening, closing });
        }
        let closing = self.runtime.block_on(self.blobs.add(state, &Keep::State(round)))?;
        self.runtime.block_on(self.blobs.keep(&closing, &Keep::OwnState))?;
        Ok(States { opening, closing })
    }
}
