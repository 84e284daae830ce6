//! How a round is trained and encoded, fixed when it opens, from what earlier rounds showed. Integers only:
//! every peer and every auditor derives the same.
//!
//! **Auto** walks a ladder from four bits a value down to few values, one rung a round:
//!
//! - Error feedback delivers a coordinate after about 1 / density rounds, so a density below [`DELIVERIES`] /
//!   (rounds left) would never deliver: a run gets denser again towards its end.
//! - ‖e‖ / ‖δ‖ says how many rounds of work wait to be sent; above [`RESIDUAL_MILLI_MAX`] the next round is
//!   denser.
//! - Where blobs travel in less than a [`CHEAP`]-th of the time of training, bytes cost nothing and no rung
//!   below the [`RUNG_CHEAP`]-th is taken.
//!
//! **Effective rank** is DiLoCoX's rule (arXiv:2506.21263, Algorithm 3): the rank follows the mean effective
//! rank over a window, and H follows the rank, as the time of transfer does.

use alloc::vec::Vec;
use atoll_protocol::{
    Charter, InnerSteps, Millis, Nano, Round,
    charter::{Codec, Compression},
};
use borsh::{BorshDeserialize, BorshSerialize};

/// Values kept of 4096 on the rungs below four bits a value.
const KEPT: [u32; 6] = [1024, 512, 256, 128, 64, 32];
/// How often at the least a coordinate's turn should come in the rounds that are left.
const DELIVERIES: u32 = 3;
/// The most that may wait in error feedback, in thousandths of one round's work.
const RESIDUAL_MILLI_MAX: u32 = 6_000;
/// Transfers of less than this part of the time of training cost nothing.
const CHEAP: u64 = 20;
/// The lowest rung that is worth it then.
const RUNG_CHEAP: u8 = 2;
/// H is never less than this part of the charter's.
const STEPS_PART_MIN: u32 = 4;

/// What is fixed for a round when it opens.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Terms {
    /// How contributions are encoded.
    pub codec: Codec,
    /// H, inner steps of this round.
    pub steps: InnerSteps,
    /// Global steps before it: where the learning rate's schedule stands.
    pub first_step: u64,
    /// Effective ranks of the last rounds, oldest first, where the codec follows them.
    ranks_milli: Vec<u32>,
}

/// What a round showed; medians over the peers that were merged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observed {
    /// ‖e‖ / ‖δ‖ in thousandths.
    pub residual_milli: u32,
    /// Effective rank in thousandths.
    pub rank_milli: u32,
    /// From the round's start to the commitment, if that is known.
    pub training: Option<Millis>,
    /// From the last reveal to the check, if that is known.
    pub transfer: Option<Millis>,
}

impl Terms {
    /// Those of the first round.
    pub fn first(charter: &Charter) -> Self {
        let mut terms = Self {
            codec: charter.compression.first(),
            steps: charter.round.inner_steps,
            first_step: 0,
            ranks_milli: Vec::new(),
        };
        if let Compression::Auto { feedback } = charter.compression {
            terms.codec = on_rung(densest(charter.round.rounds), feedback);
        }
        terms
    }

    /// Those of the round after `round`, which had these. `observed` is nothing where θ did not move: the
    /// codec stays then, since what was encoded may be sent again.
    pub fn next(&self, charter: &Charter, round: Round, observed: Option<Observed>) -> Self {
        let mut next = self.clone();
        next.first_step = self.first_step.saturating_add(self.steps.0.into());
        let Some(observed) = observed else { return next };
        match &charter.compression {
            Compression::Fixed(_) => {}
            Compression::Auto { feedback } => {
                let left = charter.round.rounds.saturating_sub(round.next().0).max(1);
                next.codec = on_rung(next_rung(rung_of(&self.codec), left, &observed), *feedback);
            }
            Compression::EffectiveRank { rank, window, feedback } => {
                next.ranks_milli.push(observed.rank_milli);
                let surplus = next.ranks_milli.len().saturating_sub(*window as usize);
                next.ranks_milli.drain(..surplus);
                let sum: u64 = next.ranks_milli.iter().map(|rank| u64::from(*rank)).sum();
                let mean = sum.div_ceil(1000 * next.ranks_milli.len().max(1) as u64);
                let followed = u32::try_from(mean).unwrap_or(u32::MAX).clamp(1, *rank);
                let InnerSteps(most) = charter.round.inner_steps;
                next.codec = Codec::LowRank {
                    rank: followed,
                    feedback: *feedback,
                };
                let steps = u64::from(most) * u64::from(followed) / u64::from(*rank);
                let least = most.div_ceil(STEPS_PART_MIN);
                next.steps = InnerSteps(u32::try_from(steps).unwrap_or(most).clamp(least, most));
            }
        }
        next
    }
}

/// Rung 0 is four bits a value.
fn on_rung(rung: u8, feedback: Nano) -> Codec {
    match usize::from(rung).checked_sub(1).and_then(|at| KEPT.get(at)) {
        Some(k) => Codec::Sparse { k: *k, feedback },
        None => Codec::Int4 { feedback },
    }
}

fn rung_of(codec: &Codec) -> u8 {
    match codec {
        Codec::Sparse { k, .. } => KEPT.iter().position(|kept| kept == k).map_or(0, |at| at as u8 + 1),
        _ => 0,
    }
}

/// The lowest rung that still delivers what is left in `rounds`.
fn lowest(rounds: u32) -> u8 {
    let delivers = |k: &&u32| u64::from(**k) * u64::from(rounds) >= u64::from(DELIVERIES) * 4096;
    KEPT.iter().take_while(delivers).count() as u8
}

fn densest(rounds: u32) -> u8 {
    lowest(rounds).min(1)
}

fn next_rung(rung: u8, left: u32, observed: &Observed) -> u8 {
    let mut next = match observed.residual_milli <= RESIDUAL_MILLI_MAX {
        true => rung.saturating_add(1),
        false => rung.saturating_sub(1),
    };
    if let (Some(training), Some(transfer)) = (observed.training, observed.transfer)
        && transfer.0.saturating_mul(CHEAP) < training.0
    {
        next = next.min(RUNG_CHEAP);
    }
    next.min(lowest(left))
}
