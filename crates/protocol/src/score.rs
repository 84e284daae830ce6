//! What merged contributions do to the loss: who measures, and what is too much.

use crate::{
    Nano,
    charter::{CharterError, refuse, within, within_nano},
    limits::JURY_MAX,
};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;

/// Rules for measuring what single contributions do to the loss.
///
/// Unlike doing them again, this needs no state of their authors, only what everybody has: it works over slow links,
/// and finds harm that was trained honestly, from bad rows.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Score {
    /// The share of merged contributions that is measured; with 0 nothing is.
    pub share: Nano,
    /// How many measure each, before there is any suspicion.
    pub scorers: u32,
    /// From which rise of the loss on a contribution is harmful, as a share of the loss.
    pub harm: Nano,
}

impl Score {
    /// Nothing is measured.
    pub const NONE: Self = Self {
        share: Nano(0),
        scorers: 3,
        harm: Nano(5_000_000),
    };

    /// Whether anything is ever measured.
    pub fn is_on(&self) -> bool {
        self.share > Nano(0)
    }

    /// The limit of harm in millionths of the loss.
    pub fn limit(&self) -> i32 {
        i32::try_from(self.harm.0 / 1000).unwrap_or(i32::MAX)
    }

    /// Whether this change is more than is forgiven.
    pub fn is_harm(&self, change: LossChange) -> bool {
        i64::from(change.random) * 1000 > i64::try_from(self.harm.0).unwrap_or(i64::MAX)
    }

    /// Of a run that keeps blobs for `retention` rounds, 0 standing for all, and needs those of `kept`.
    pub(crate) fn validate(&self, retention: u32, kept: u32) -> Result<(), CharterError> {
        within_nano("score.share", self.share, Nano(0), Nano::ONE)?;
        within("score.scorers", self.scorers.into(), 1, JURY_MAX as u64)?;
        within_nano("score.harm", self.harm, Nano(1_000), Nano::ONE)?;
        let needed = kept + 1;
        match self.is_on() && retention > 0 && retention < needed {
            true => Err(refuse(
                "round.retention",
                retention,
                alloc::format!("score.share above 0 needs {needed} rounds at least, or 0 for all"),
            )),
            false => Ok(()),
        }
    }
}

/// How a contribution changes the loss, in millionths of the loss before; above 0 it rises.
///
/// Measured at a part of the step that the contribution asks for (see `atoll_outer::score`), since alone and in full even
/// an honest one may overshoot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub struct LossChange {
    /// On rows that its author was to train on.
    pub own: i32,
    /// On rows that were drawn when it was merged.
    pub random: i32,
}

impl LossChange {
    /// As bad as can be said: where a loss is no number.
    pub const WORST: Self = Self {
        own: i32::MAX,
        random: i32::MAX,
    };
}

impl fmt::Display for LossChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the loss changes by {} % on rows drawn for it and {} % on its own",
            Percent(self.random),
            Percent(self.own)
        )
    }
}

/// Millionths as per cent.
struct Percent(i32);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0.unsigned_abs();
        let sign = if self.0 < 0 { '-' } else { '+' };
        write!(f, "{sign}{}.{:04}", size / 10_000, size % 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn change(own: i32, random: i32) -> LossChange {
        LossChange { own, random }
    }

    #[test]
    fn harm_is_beyond_the_limit() {
        let score = Score::NONE;
        let table = [(0, false), (-5_001, false), (5_000, false), (5_001, true)];
        for (random, harm) in table {
            assert_eq!(score.is_harm(change(i32::MAX, random)), harm, "{random}");
        }
        assert_eq!(score.limit(), 5_000);
        assert!(score.is_harm(LossChange::WORST) && !score.is_harm(change(0, i32::MIN)));
        assert_eq!(
            change(-1_234, 50_000).to_string(),
            "the loss changes by +5.0000 % on rows drawn for it and -0.1234 % on its own"
        );
    }

    #[test]
    fn what_it_needs_must_be_kept() {
        let on = Score {
            share: Nano(1),
            ..Score::NONE
        };
        assert!(Score::NONE.validate(1, 17).is_ok() && on.validate(0, 17).is_ok() && on.validate(18, 17).is_ok());
        assert!(on.validate(17, 17).unwrap_err().to_string().contains("18 rounds"));
        let none = Score { scorers: 0, ..on };
        assert!(none.validate(0, 17).unwrap_err().to_string().contains("score.scorers"));
    }
}
