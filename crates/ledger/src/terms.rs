//! How a round is trained and encoded, fixed when it opens, from what earlier rounds showed. Integers only:
//! every peer and every auditor derives the same.
//!
//! **Auto** chooses from a ladder, from four bits a value down to few values:
//!
//! - Error feedback delivers a coordinate after about 1 / density rounds. A run of few rounds cannot wait so
//!   long: every coordinate's turn must come [`DELIVERIES`] times in it, and once in the rounds that are left, so
//!   that the end delivers what waited.
//! - Where it is known how long blobs travel, it takes the densest rung whose transfer is hidden behind a
//!   [`HIDDEN`]-th of the time of training; fast links lose nothing to compression, slow ones do not wait.
//!   The last rounds are not denser than 1024 of 4096 where four bits a value would travel for longer than a
//!   round trains.
//! - ‖e‖ / ‖δ‖ says how many rounds of work wait to be sent. Above [`RESIDUAL_MILLI_MAX`] the next round is one
//!   rung denser; below, where nothing is known of links, one sparser.
//!
//! **The outer momentum** is the charter's; where `overlap = auto`, less, the more steps of a round are taken
//! before its θ is known.
//!
//! **Effective rank** is DiLoCoX's rule (arXiv:2506.21263, Algorithm 3): the rank follows the mean effective
//! rank over a window, and H follows the rank, as the time of transfer does.

use alloc::vec::Vec;
use atoll_protocol::{
    Charter, InnerSteps, Millis, Nano, Round,
    charter::{Codec, Compression, Overlap},
};
use borsh::{BorshDeserialize, BorshSerialize};

/// Values kept of 4096 on the rungs below four bits a value.
const KEPT: [u32; 6] = [1024, 512, 256, 128, 64, 32];
/// Bytes of a contribution on each rung, in thousandths of a byte per parameter.
const BYTES_MILLI: [u64; 7] = [531, 172, 102, 59, 34, 20, 12];
/// How often at the least a coordinate's turn should come in a run.
const DELIVERIES: u64 = 4;
/// The most that may wait in error feedback, in thousandths of one round's work.
const RESIDUAL_MILLI_MAX: u32 = 6_000;
/// Transfers of this part of the time of training are hidden by training on.
const HIDDEN: u64 = 5;
/// So many rounds in which contributions did not arrive make the next ones sparser.
const VOIDS_MAX: u8 = 2;
/// Rounds whose median lengths are remembered.
const NORMS: usize = 9;
/// So large a share of steps ahead, in thousandths, leaves the momentum as it is.
const HARMLESS_MILLI: u32 = 500;
/// What a whole round of steps ahead leaves of the momentum, in thousandths.
const KEPT_MILLI: u64 = 400;
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
    /// Momentum of the outer optimizer, if it has any.
    pub momentum: Option<Nano>,
    /// Median length of contributions over the last rounds, in millionths, if it is known.
    pub usual_norm_micro: Option<u64>,
    /// Median lengths in the last rounds, oldest first.
    norms_micro: Vec<u64>,
    /// Effective ranks of the last rounds, oldest first, where the codec follows them.
    ranks_milli: Vec<u32>,
    /// Rounds since the last whose contributions arrived at the first try in which they did not arrive at all.
    voids: u8,
    /// Share of its steps that a round began with before it knew its θ, in thousandths.
    ahead_milli: u32,
}

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// θ moved.
    Moved(Observed),
    /// Contributions did not arrive.
    Late,
    /// θ did not move for another reason.
    Void,
}

/// What a round showed; medians over the peers that were merged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observed {
    /// ‖e‖ / ‖δ‖ in thousandths.
    pub residual_milli: u32,
    /// Effective rank in thousandths.
    pub rank_milli: u32,
    /// Length of the round's inner steps, if that is known.
    pub training: Option<Millis>,
    /// Whether most of what was merged had been sent to a void round before.
    pub again: bool,
    /// How long a peer needs to fetch the others' contributions, if that is known.
    pub transfer: Option<Millis>,
    /// Share of the round's steps that were taken ahead, in thousandths.
    pub ahead_milli: u32,
    /// Median length of what was merged, in millionths; 0 where nobody looked.
    pub norm_micro: u64,
}

impl Terms {
    /// Those of the first round.
    pub fn first(charter: &Charter) -> Self {
        let mut terms = Self {
            codec: charter.compression.first(),
            steps: charter.round.inner_steps,
            first_step: 0,
            momentum: charter.outer.momentum_in(Round(0)),
            usual_norm_micro: None,
            norms_micro: Vec::new(),
            ranks_milli: Vec::new(),
            voids: 0,
            ahead_milli: 0,
        };
        if let Compression::Auto { feedback } = charter.compression {
            terms.codec = on_rung(first_rung(charter.round.rounds), feedback);
        }
        terms
    }

    /// How long a round takes whose steps take so long.
    pub(crate) fn length(&self, step_micros: u32) -> Millis {
        Millis(u64::from(self.steps.0) * u64::from(step_micros) / 1000)
    }

    /// Those of the round after `round`, which had these. Where θ did not move the codec stays, since what was
    /// encoded may be sent again; but blobs that do not arrive in [`VOIDS_MAX`] rounds are too large.
    pub fn next(&self, charter: &Charter, round: Round, ended: &Ended) -> Self {
        let mut next = self.clone();
        next.first_step = self.first_step.saturating_add(self.steps.0.into());
        if let Ended::Moved(observed) = ended {
            next.ahead_milli = observed.ahead_milli;
            next.note_norm(observed.norm_micro);
        }
        next.momentum = charter.outer.momentum_in(round.next());
        if charter.round.overlap == Overlap::Auto {
            next.momentum = next.momentum.map(|momentum| damped(momentum, next.ahead_milli));
        }
        let Ended::Moved(observed) = ended else {
            if *ended == Ended::Late {
                next.after_late(charter);
            }
            return next;
        };
        if !observed.again {
            next.voids = 0; // what arrives at the second try is too large too
        }
        match &charter.compression {
            Compression::Fixed(_) => {}
            Compression::Auto { feedback } => {
                let left = charter.round.rounds.saturating_sub(round.next().0).max(1);
                let rung = next_rung(rung_of(&self.codec), (left, charter.round.rounds), observed);
                next.codec = on_rung(rung, *feedback);
            }
            Compression::EffectiveRank { .. } if observed.rank_milli == 0 => {} // no matrix is worth it
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

    fn note_norm(&mut self, norm_micro: u64) {
        if norm_micro == 0 {
            return;
        }
        self.norms_micro.push(norm_micro);
        let surplus = self.norms_micro.len().saturating_sub(NORMS);
        self.norms_micro.drain(..surplus);
        self.usual_norm_micro = median(self.norms_micro.iter().copied());
    }

    fn after_late(&mut self, charter: &Charter) {
        self.voids = self.voids.saturating_add(1);
        if let Compression::Auto { feedback } = charter.compression
            && self.voids >= VOIDS_MAX
        {
            let sparser = rung_of(&self.codec).saturating_add(1).min(KEPT.len() as u8);
            self.codec = on_rung(sparser, feedback);
            self.voids = 0;
        }
    }
}

/// The value in the middle, of an even number the upper one.
pub(crate) fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// The momentum that is good where this share of a round's steps, in thousandths, is taken before its θ is known:
/// what the outer step moved too far is put right so much later, and with full momentum it swings ever wider.
fn damped(momentum: Nano, ahead_milli: u32) -> Nano {
    let late = u64::from(ahead_milli.clamp(HARMLESS_MILLI, 1000) - HARMLESS_MILLI);
    let lost_milli = late * (1000 - KEPT_MILLI) / u64::from(1000 - HARMLESS_MILLI);
    Nano(momentum.0 / 1000 * (1000 - lost_milli))
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

/// The lowest rung that still delivers, `left` rounds before the end of a run of `rounds`.
fn lowest(left: u32, rounds: u32) -> u8 {
    let delivers = |k: &&u32| {
        let turns = |rounds: u32| u64::from(**k) * u64::from(rounds) / 4096;
        turns(rounds) >= DELIVERIES && turns(left) >= 1
    };
    KEPT.iter().take_while(delivers).count() as u8
}

/// The rung of the first round, when nothing is known of links and residuals.
fn first_rung(rounds: u32) -> u8 {
    lowest(rounds, rounds).min(1)
}

/// The densest rung whose transfer takes at most `limit`, if one on `rung` takes `transfer`.
fn within(limit: Millis, rung: u8, transfer: Millis) -> u8 {
    let now = BYTES_MILLI.get(usize::from(rung)).copied().unwrap_or(1);
    let takes = |bytes: &u64| transfer.0.saturating_mul(*bytes) / now;
    let place = BYTES_MILLI.iter().position(|bytes| takes(bytes) <= limit.0);
    place.map_or(KEPT.len() as u8, |at| at as u8)
}

fn next_rung(rung: u8, (left, rounds): (u32, u32), observed: &Observed) -> u8 {
    let waits = observed.residual_milli > RESIDUAL_MILLI_MAX;
    let sparsest = KEPT.len() as u8;
    let (wanted, densest) = match (observed.training, observed.transfer) {
        (Some(training), Some(transfer)) => {
            let hidden = within(Millis(training.0 / HIDDEN), rung, transfer);
            let wanted = if waits { hidden.saturating_sub(1) } else { hidden };
            (wanted, within(training, rung, transfer))
        }
        (Some(_), None) => (rung, 0), // it was known, and is not this time
        (None, _) if waits => (rung.saturating_sub(1), 0),
        (None, _) => (rung.saturating_add(1), 0),
    };
    // blobs that travel for longer than a round trains cost more than what the last rounds would still deliver
    let floor = lowest(left, rounds).max(densest.min(1));
    wanted.min(floor).min(sparsest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charter() -> Charter {
        atoll_protocol::tiny_charter([])
    }

    fn auto(rounds: u32) -> Charter {
        let mut charter = charter();
        charter.compression = Compression::Auto { feedback: Nano::ONE };
        charter.round.rounds = rounds;
        charter
    }

    /// Values kept of 4096 in each round of a run, four bits a value being all of them.
    fn run(rounds: u32, observed: impl Fn(u32) -> Observed) -> Vec<u32> {
        let charter = auto(rounds);
        let mut terms = Terms::first(&charter);
        let mut seen = Vec::new();
        for round in 0..rounds {
            seen.push(match terms.codec {
                Codec::Sparse { k, .. } => k,
                _ => 4096,
            });
            terms = terms.next(&charter, Round(round), &Ended::Moved(observed(round)));
        }
        seen
    }

    #[test]
    fn without_a_link_it_gets_sparser_and_dense_at_the_end() {
        let seen = run(100, |_| Observed::default());
        assert_eq!(seen[..5], [1024, 512, 256, 256, 256]);
        assert_eq!(
            seen[84..],
            [
                256, 512, 512, 512, 512, 512, 512, 512, 512, 1024, 1024, 1024, 1024, 4096, 4096, 4096
            ]
        );
        assert!(seen[2..].windows(2).all(|pair| pair[0] <= pair[1]), "{seen:?}");
        assert_eq!(
            run(3, |_| Observed::default()),
            [4096; 3],
            "too short to deliver anything else"
        );
    }

    #[test]
    fn what_waits_makes_it_denser() {
        let waits = |round| Observed {
            residual_milli: if round > 20 { RESIDUAL_MILLI_MAX + 1 } else { 0 },
            ..Observed::default()
        };
        let seen = run(1000, waits);
        assert_eq!(seen[20..25], [32, 32, 64, 128, 256]);
        let latency = |_| Observed {
            training: Some(Millis(1_000)),
            transfer: Some(Millis(900)),
            ..Observed::default()
        };
        assert!(
            run(100, latency).iter().all(|kept| *kept >= 256),
            "a line that is slow whatever it carries"
        );
    }

    #[test]
    fn a_fast_link_is_used_and_a_slow_one_does_not_hold_up() {
        // Transfers of four bits a value at this many times the time of training.
        let link = |times_milli: u64| {
            let charter = auto(1000);
            let mut terms = Terms::first(&charter);
            for round in 0..10 {
                let rung = usize::from(rung_of(&terms.codec));
                let observed = Observed {
                    training: Some(Millis(30_000)),
                    transfer: Some(Millis(30 * times_milli * BYTES_MILLI[rung] / BYTES_MILLI[0])),
                    ..Observed::default()
                };
                terms = terms.next(&charter, Round(round), &Ended::Moved(observed));
            }
            rung_of(&terms.codec)
        };
        let table = [
            (10, 0),
            (199, 0),
            (300, 1),
            (1_000, 2),
            (3_000, 4),
            (6_000, 6),
            (1_000_000, 6),
        ];
        for (times_milli, rung) in table {
            assert_eq!(link(times_milli), rung, "{times_milli}");
        }
    }

    #[test]
    fn a_void_round_changes_the_schedule_and_two_the_codec() {
        let charter = auto(100);
        let first = Terms::first(&charter);
        let next = first.next(&charter, Round(0), &Ended::Late);
        assert_eq!((&next.codec, next.steps), (&first.codec, first.steps));
        assert_eq!(next.first_step, u64::from(first.steps.0));
        let later = next.next(&charter, Round(1), &Ended::Late);
        assert_eq!(
            rung_of(&later.codec),
            rung_of(&first.codec) + 1,
            "what does not arrive is too large"
        );
        assert_eq!(
            next.next(&charter, Round(1), &Ended::Void).codec,
            first.codec,
            "another reason"
        );
        let moved = |again| {
            Ended::Moved(Observed {
                again,
                training: Some(Millis(1_000)), // and the link is not known this time: the codec stays
                ..Observed::default()
            })
        };
        for (again, sparser) in [(true, 1), (false, 0)] {
            let moved = next.next(&charter, Round(1), &moved(again));
            let late = moved.next(&charter, Round(2), &Ended::Late);
            assert_eq!(rung_of(&late.codec), rung_of(&first.codec) + sparser, "{again}");
        }
    }

    #[test]
    fn the_momentum_warms_up_and_falls_with_the_share_of_steps_ahead() {
        let mut charter = charter();
        charter.outer = atoll_protocol::charter::OuterOptimizer::Nesterov {
            lr: Nano::ONE,
            momentum: Nano(800_000_000),
            warmup: 10,
        };
        let momentum = |charter: &Charter, ahead_milli: Option<u32>| {
            let mut terms = Terms::first(charter);
            assert_eq!(terms.momentum, Some(Nano(0)));
            for round in 0..99 {
                let moved = |ahead_milli| {
                    Ended::Moved(Observed {
                        ahead_milli,
                        ..Observed::default()
                    })
                };
                terms = terms.next(charter, Round(round), &ahead_milli.map_or(Ended::Void, moved));
            }
            terms.momentum.map(|momentum| momentum.0)
        };
        let table = [
            (None, 800_000_000),
            (Some(0), 800_000_000),
            (Some(500), 800_000_000),
            (Some(750), 560_000_000),
            (Some(1000), 320_000_000),
            (Some(u32::MAX), 320_000_000),
        ];
        for (ahead_milli, expected) in table {
            charter.round.overlap = Overlap::Auto;
            assert_eq!(momentum(&charter, ahead_milli), Some(expected), "{ahead_milli:?}");
            charter.round.overlap = Overlap::Steps;
            assert_eq!(momentum(&charter, ahead_milli), Some(800_000_000));
        }
        let (round, observed) = (
            Round(50),
            Observed {
                ahead_milli: 1000,
                ..Observed::default()
            },
        );
        charter.round.overlap = Overlap::Auto;
        let late = Terms::first(&charter).next(&charter, round, &Ended::Moved(observed));
        assert_eq!(
            late.next(&charter, Round(51), &Ended::Void).momentum,
            Some(Nano(320_000_000)),
            "a void round says nothing new"
        );
    }

    #[test]
    fn rank_and_steps_follow_the_effective_rank() {
        let mut charter = charter();
        let feedback = Nano::ONE;
        charter.compression = Compression::EffectiveRank {
            rank: 8,
            window: 2,
            feedback,
        };
        charter.round.inner_steps = InnerSteps(32);
        let mut terms = Terms::first(&charter);
        let table = [
            (8_000, 8, 32),
            (3_500, 6, 24),
            (500, 2, 8),
            (0, 2, 8),
            (200, 1, 8),
            (99_000, 8, 32),
        ];
        for (round, (rank_milli, rank, steps)) in table.into_iter().enumerate() {
            let observed = Observed {
                rank_milli,
                ..Observed::default()
            };
            terms = terms.next(&charter, Round(round as u32), &Ended::Moved(observed));
            assert_eq!(terms.codec, Codec::LowRank { rank, feedback }, "round {round}");
            assert_eq!(terms.steps, InnerSteps(steps), "round {round}");
        }
    }
}
