//! Inner steps that a trainer takes while its last contribution travels, whenever there is no order.
//!
//! They are a part of the next round if that comes to them. If it does not, because its training is stopped, or
//! another θ is adopted, or numbers go bad, they leave no trace: the optimizer's moments are those from before.

use super::{Report, Trainer, Training, is_numeric};
use atoll_learner::Learner as _;
use atoll_ledger::{Terms, assign::Share};
use atoll_outer::{Ahead as GoneAhead, Contribution, OuterRule};
use atoll_protocol::{
    InnerSteps, Round,
    charter::Overlap,
    transaction::{Ahead, AheadFrom},
};

/// Training that goes on while a contribution travels.
pub(super) struct Underway {
    from: GoneAhead,
    /// The round that its steps count for, unless the one before is void.
    round: Round,
    /// Whose rows it reads: those of the last round, behind the ones that were read.
    share: Share,
    /// The first of its steps in the share, and in the run.
    first: u32,
    first_step: u64,
    /// How many there may be, and how many there were.
    most: u32,
    taken: u32,
    losses: f64,
    /// w, while the learner holds something else.
    aside: Option<Vec<f32>>,
    /// The optimizer's moments before the first of them.
    moments: Vec<u8>,
}

/// Steps that were taken ahead of their round.
pub(super) struct Early {
    /// θ + (w − s): where the rest of the round begins.
    pub(super) begin: Vec<f32>,
    pub(super) losses: f64,
    pub(super) ahead: Ahead,
}

impl Trainer {
    /// Begins what the charter wants done while a contribution travels. `moments` are the optimizer's now.
    pub(super) fn go_ahead(
        &mut self,
        local: &[f32],
        contribution: &Contribution,
        moments: Vec<u8>,
        training: &Training,
    ) -> anyhow::Result<()> {
        let Training {
            round, share, terms, ..
        } = training;
        let first_step = terms.first_step + u64::from(terms.steps.0);
        let left = self.inner.budget().saturating_sub(first_step);
        let most = terms.steps.0.min(u32::try_from(left).unwrap_or(u32::MAX));
        let from = match self.charter.round.overlap {
            Overlap::None => return Ok(()),
            Overlap::Steps | Overlap::Auto => AheadFrom::Own,
            Overlap::Eager => AheadFrom::Eager,
            Overlap::Round => AheadFrom::Theta,
        };
        let rule = OuterRule::of(&self.charter, terms.momentum, terms.steps);
        let replicas = usize::try_from(share.replicas).unwrap_or(usize::MAX);
        let from = self
            .replica
            .go_ahead(from, local, contribution, (*round, rule, replicas))?;
        self.inner.learner.write(from.start())?;
        self.ahead = Some(Underway {
            from,
            round: round.next(),
            share: share.clone(),
            first: terms.steps.0,
            first_step,
            most,
            taken: 0,
            losses: 0.0,
            aside: None,
            moments,
        });
        Ok(())
    }

    pub(super) fn may_go_ahead(&self) -> bool {
        self.ahead.as_ref().is_some_and(|ahead| ahead.taken < ahead.most)
    }

    /// One inner step while the last contribution travels. Bad numbers end it: the next round begins from θ.
    pub(super) fn step_ahead(&mut self) -> anyhow::Result<()> {
        let Some(mut ahead) = self.ahead.take() else {
            return Ok(());
        };
        if let Some(local) = ahead.aside.take() {
            self.inner.learner.write(&local)?;
        }
        let place = (ahead.first + ahead.taken, ahead.first_step + u64::from(ahead.taken));
        match self.step(&ahead.share.clone(), place.0, place.1) {
            Ok(taken) => {
                ahead.taken += 1;
                ahead.losses += taken.loss;
                self.report(Report::Step {
                    round: ahead.round,
                    ahead: true,
                    step: ahead.taken,
                    taken,
                });
                self.ahead = Some(ahead);
                Ok(())
            }
            Err(error) if is_numeric(&error) => {
                self.ahead = Some(ahead);
                self.drop_ahead()
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps w while the learner is used for something else.
    pub(super) fn put_aside(&mut self) {
        if let Some(ahead) = &mut self.ahead {
            ahead.aside.get_or_insert_with(|| self.inner.learner.read());
        }
    }

    /// Forgets what was done ahead.
    pub(super) fn drop_ahead(&mut self) -> anyhow::Result<()> {
        match self.ahead.take() {
            Some(ahead) => Ok(self.inner.learner.restore(&ahead.moments)?),
            None => Ok(()),
        }
    }

    /// The optimizer's moments as a crash should leave them: without the steps that it would lose.
    pub(super) fn moments(&self) -> Vec<u8> {
        let ahead = self.ahead.as_ref();
        ahead.map_or_else(|| self.inner.learner.save(), |ahead| ahead.moments.clone())
    }

    /// What the steps taken ahead come to on the θ that there is now.
    pub(super) fn come_back(&mut self, terms: &Terms) -> anyhow::Result<Option<Early>> {
        // more steps than the round has fit into no contribution to it
        let fits = |ahead: &mut Underway| (1..=terms.steps.0).contains(&ahead.taken);
        let Some(ahead) = self.ahead.take_if(fits) else {
            self.drop_ahead()?;
            return Ok(None);
        };
        let local = ahead.aside.unwrap_or_else(|| self.inner.learner.read());
        match self.replica.come_back(&ahead.from, &local) {
            Ok(begin) => Ok(Some(Early {
                begin,
                losses: ahead.losses,
                ahead: Ahead {
                    from: ahead.from.from,
                    steps: InnerSteps(ahead.taken),
                },
            })),
            Err(error) => {
                self.inner.learner.restore(&ahead.moments)?;
                Err(error.into())
            }
        }
    }
}
