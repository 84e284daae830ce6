//! Who does again what was merged, and what follows where it comes to something else.

use crate::{
    Nano, Round,
    charter::{CharterError, refuse, within, within_nano},
    limits::JURY_MAX,
};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;

/// Rules for doing merged contributions again.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Audit {
    /// The share of merged contributions that is drawn; with 0 nothing is ever done again, and peers need not
    /// keep what they trained from.
    pub share: Nano,
    /// Of a peer all contributions are drawn until so many were merged.
    pub newcomer: u32,
    /// Rounds within which what was drawn is done again, and for which peers keep what that needs.
    pub window: u32,
    /// How many decide about an accusation, at the most.
    pub jury: u32,
    /// How far what was sent may lie from what comes out, as a share of its length: 0 between machines that
    /// compute the same bits.
    pub tolerance: Nano,
    /// Rounds for which a peer that was found guilty is kept out; the second time it is for good.
    pub probation: u32,
}

impl Audit {
    /// Nothing is done again.
    pub const NONE: Self = Self {
        share: Nano(0),
        newcomer: 0,
        window: 4,
        jury: 21,
        tolerance: Nano(0),
        probation: 50,
    };

    /// Whether anything is ever done again.
    pub fn is_on(&self) -> bool {
        self.share > Nano(0) || self.newcomer > 0
    }

    /// Whether a finding speaks against the contribution.
    pub fn fails(&self, finding: Finding) -> bool {
        match finding {
            Finding::Same => false,
            Finding::Apart { billionths } => billionths > self.tolerance.0,
            Finding::Missing => true,
        }
    }

    /// Whether it does so by so much that whoever finds otherwise did not look: two machines may find a little more
    /// and a little less than the tolerance.
    pub fn fails_clearly(&self, finding: Finding) -> bool {
        match finding {
            Finding::Apart { billionths } => billionths > self.tolerance.0.saturating_mul(2),
            _ => false,
        }
    }

    /// The round in which a peer that is found guilty in `round` may take part again.
    pub fn back(&self, round: Round) -> Round {
        Round(round.0.saturating_add(self.probation).saturating_add(1))
    }

    /// Rounds for which what an audit needs is kept: a verifier that is silent, another, a second look, and a jury may
    /// each take the window.
    pub fn kept(&self) -> u32 {
        self.window.saturating_mul(4).saturating_add(1)
    }

    /// Rounds for which states and the blobs that they stand on are kept: what is judged stands on what its author
    /// sent up to a window before, or on nothing.
    pub fn retention(&self) -> u32 {
        self.kept().saturating_add(self.window).saturating_add(1)
    }

    /// Of a run that keeps blobs for `retention` rounds; 0 stands for all.
    pub(crate) fn validate(&self, retention: u32) -> Result<(), CharterError> {
        within_nano("audit.share", self.share, Nano(0), Nano::ONE)?;
        within("audit.window", self.window.into(), 1, WINDOW_MAX.into())?;
        within("audit.jury", self.jury.into(), JURY_MIN.into(), JURY_MAX as u64)?;
        within_nano("audit.tolerance", self.tolerance, Nano(0), Nano::ONE)?;
        let needed = self.retention();
        match self.is_on() && retention > 0 && retention < needed {
            true => Err(refuse(
                "round.retention",
                retention,
                alloc::format!(
                    "audit.window = {} needs {needed} rounds at least, or 0 for all",
                    self.window
                ),
            )),
            false => Ok(()),
        }
    }
}

/// Who keeps blobs for longer than this needs no audit within rounds.
const WINDOW_MAX: u32 = 64;
/// Fewer are no jury: one could be outvoted by one.
pub const JURY_MIN: u32 = 3;

/// What came out when a contribution was made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub enum Finding {
    /// The same, to the bit: what was sent, and what its author goes on from.
    Same,
    /// Something else.
    Apart {
        /// How far, in billionths of the length of what was made again.
        billionths: u64,
    },
    /// Nobody served what its author says it went on from.
    Missing,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("made again it is the same"),
            Self::Apart { billionths } => {
                let (whole, part) = (billionths / Nano::ONE.0, billionths % Nano::ONE.0 / 1_000);
                write!(f, "made again it is {whole}.{part:06} of its length away")
            }
            Self::Missing => f.write_str("nobody served what it was trained from"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn what_fails_is_beyond_the_tolerance() {
        let audit = Audit {
            tolerance: Nano(1_000_000),
            ..Audit::NONE
        };
        let apart = |billionths| Finding::Apart { billionths };
        let table = [
            (Finding::Same, false),
            (apart(0), false),
            (apart(1_000_000), false),
            (apart(1_000_001), true),
            (apart(u64::MAX), true),
            (Finding::Missing, true),
        ];
        for (finding, fails) in table {
            assert_eq!(audit.fails(finding), fails, "{finding}");
        }
        assert!(!audit.fails_clearly(apart(2_000_000)) && !audit.fails_clearly(Finding::Missing));
        assert!(audit.fails_clearly(apart(2_000_001)));
        assert_eq!(
            apart(1_250_000_999).to_string(),
            "made again it is 1.250000 of its length away"
        );
    }

    #[test]
    fn what_an_audit_needs_must_be_kept_so_long() {
        let audit = Audit {
            share: Nano(1),
            ..Audit::NONE
        };
        assert!(Audit::NONE.validate(1).is_ok());
        assert!(audit.validate(0).is_ok() && audit.validate(22).is_ok());
        assert_eq!(
            audit.validate(21).unwrap_err().to_string(),
            "round.retention = 21: audit.window = 4 needs 22 rounds at least, or 0 for all"
        );
    }
}
