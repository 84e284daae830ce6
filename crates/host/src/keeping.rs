//! Which θs stay in the store, and from which round on contributions do.
//!
//! A round's θ follows from any earlier one and the contributions since: an audit computes it again. So θs, which are
//! the most of what a round takes, are kept for what may still be asked for, and now and then, so that an audit can
//! begin where older contributions are not kept.

use atoll_protocol::Round;

/// θs of so many rounds stay in any case: for those who come a little later.
pub(crate) const RECENT: u32 = 4;
/// Where all contributions are kept, one θ in so many rounds is: should a contribution be lost, an audit goes on there.
const STRIDE_OF_ALL: u32 = 32;
/// Where they are kept for some rounds, so many θs are.
const STRIDES: u32 = 8;

/// What a charter's retention means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keeping {
    retention: u32,
}

impl Keeping {
    /// Of a charter that keeps contributions for `retention` rounds; 0 stands for all.
    pub(crate) fn new(retention: u32) -> Self {
        Self { retention }
    }

    /// Rounds from one θ that stays to the next.
    pub(crate) fn stride(self) -> u32 {
        match self.retention {
            0 => STRIDE_OF_ALL,
            some => (some / STRIDES).max(1),
        }
    }

    /// Whether θ at the start of `round` stays.
    pub(crate) fn stays(self, round: Round) -> bool {
        round.0.is_multiple_of(self.stride())
    }

    /// The first round whose contributions are kept when they are wanted from `wanted` on: one whose θ stays.
    pub(crate) fn first(self, wanted: Round) -> Round {
        Round(wanted.0 / self.stride() * self.stride())
    }

    /// θs before this round are let go, but for those that stay, when `ended` has ended.
    pub(crate) fn recent(ended: Round) -> Round {
        Round((ended.0 + 1).saturating_sub(RECENT))
    }

    /// The most rounds of contributions, and θs, that are kept of `rounds`.
    pub(crate) fn most(self, rounds: u32) -> (u32, u32) {
        let kept = match self.retention {
            0 => rounds,
            some => rounds.min(some.saturating_add(self.stride() - 1)),
        };
        (kept, (kept / self.stride() + 1 + RECENT).min(rounds + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_finds_a_theta_at_the_first_round_that_is_kept() {
        for retention in [1, 2, 7, 8, 22, 100, 1000] {
            let keeping = Keeping::new(retention);
            for ended in 0..2_500u32 {
                let wanted = Round((ended + 1).saturating_sub(retention));
                let first = keeping.first(wanted);
                assert!(first <= wanted && keeping.stays(first), "{retention}, {ended}");
                let kept = ended + 1 - first.0;
                let (most, _) = keeping.most(ended + 1);
                assert!(kept <= most, "{retention}, {ended}: {kept} of {most}");
            }
        }
    }

    #[test]
    fn what_is_kept_at_most() {
        for (retention, rounds, expected) in [
            (0, 1, (1, 2)),
            (0, 10, (10, 5)),
            (0, 100, (100, 8)),
            (0, 10_000, (10_000, 317)),
            (100, 100, (100, 13)),
            (100, 10_000, (111, 14)),
            (22, 10_000, (23, 16)),
            (2, 10_000, (2, 7)),
        ] {
            assert_eq!(Keeping::new(retention).most(rounds), expected, "{retention}, {rounds}");
        }
        assert_eq!(
            Keeping::recent(Round(9)),
            Round(6),
            "rounds 6 to 9 and the next begin from theirs"
        );
        assert_eq!(Keeping::recent(Round(2)), Round(0));
    }
}
