//! How long the phases of a round may last, learned from how long peers needed.
//!
//! Of every round that merged a quorum's contributions the ledger keeps, for each phase, the median of the
//! peers' delays and the median deviation from it (MAD). The limit of the next such phase is the middle of
//! `median + k · MAD` over the last rounds, at least half above the median, and beyond that what clocks may be
//! apart; never more than the charter's. So a minority of peers moves it little. Blobs travel until a quorum of
//! them is there, and may take twice as long as that: the last one may be one peer's who serves slowly on purpose.
//!
//! The limits of a charter hold still wherever a shorter one could do harm. A reveal or check phase ends early
//! only if that leaves a quorum of contributions to be merged: whoever withholds a blob, or refuses everything,
//! makes others wait, not their round void. A merge is over as soon as enough roots are equal, and its limit is
//! always the charter's. After a round that was void, or merged less than a quorum's contributions, the network
//! may be slower than it was: everything is forgotten, and learned again.

use alloc::vec::Vec;
use atoll_protocol::{Millis, limits::DEADLINE_MS_MIN};
use borsh::{BorshDeserialize, BorshSerialize};

/// Phases remembered of each kind.
const KEPT: usize = 8;
/// Fewer say nothing yet.
const NEEDED: usize = 3;

/// What one phase needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Spread {
    /// Median of the peers' delays.
    pub median: Millis,
    /// Median distance from it.
    pub deviation: Millis,
}

impl Spread {
    /// Of `delays`, ascending, among `peers`, the rest being later than all of them. Nothing where the median is
    /// not known.
    fn of(delays: &[Millis], peers: usize) -> Option<Self> {
        let median = *delays.get(peers / 2)?;
        let mut distances: Vec<u64> = delays.iter().map(|delay| delay.0.abs_diff(median.0)).collect();
        distances.sort_unstable();
        // those that did not come are further away than all others
        let deviation = distances.get(peers / 2).or(distances.last()).copied();
        Some(Self {
            median,
            deviation: Millis(deviation?),
        })
    }

    fn limit(self, deviations: u32, halves: u64) -> u64 {
        let Self { median, deviation } = self;
        let least = (median.0 / 2).saturating_mul(halves);
        let above = deviation.0.saturating_mul(deviations.into()).max(least);
        median.0.saturating_add(above)
    }
}

/// The last phases of one kind, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Window(Vec<Spread>);

impl Window {
    /// A phase is over in which statements came after `delays`, ascending, of `peers`. Where the median did not
    /// come nothing is learned.
    fn record(&mut self, delays: &[Millis], peers: usize) {
        self.0.extend(Spread::of(delays, peers));
        let surplus = self.0.len().saturating_sub(KEPT);
        self.0.drain(..surplus);
    }

    /// How long such a phase may last now. `longest` is the charter's, `deviations` its k; at the least it is so
    /// many `halves` of the median above that.
    fn limit(&self, deviations: u32, halves: u64, longest: Millis) -> Millis {
        if deviations == 0 || self.0.len() < NEEDED {
            return longest;
        }
        let mut limits: Vec<u64> = self.0.iter().map(|spread| spread.limit(deviations, halves)).collect();
        limits.sort_unstable();
        let middle = limits.get(limits.len() / 2).copied().unwrap_or(longest.0);
        Millis(middle.saturating_add(DEADLINE_MS_MIN)).min(longest)
    }

    /// The newest entry.
    pub fn last(&self) -> Option<Spread> {
        self.0.last().copied()
    }
}

/// After which time statements came, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Delays {
    /// Commitments, after the round opened.
    pub commit: Vec<Millis>,
    /// Reveals, after commitments closed.
    pub reveal: Vec<Millis>,
    /// When peers held a quorum's contributions, after commitments closed: blobs travel since then. Not when they
    /// held all: one peer that serves slowly would decide for everyone.
    pub check: Vec<Millis>,
}

/// What the phases of the last rounds needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Pace {
    /// From the opening to the commitments: training. For people; whoever is slower than a quorum has the grace
    /// window.
    pub commit: Window,
    /// To the reveals.
    pub reveal: Window,
    /// From the end of commitments until a quorum of blobs is there.
    pub check: Window,
}

impl Pace {
    /// How long the reveal phase may last.
    pub fn reveal_limit(&self, deviations: u32, longest: Millis) -> Millis {
        self.reveal.limit(deviations, 1, longest)
    }

    /// How long blobs may travel: twice what a quorum of them needs.
    pub fn check_limit(&self, deviations: u32, longest: Millis) -> Millis {
        self.check.limit(deviations, 2, longest)
    }

    /// A round of `roster` peers is over to which `commits` of them committed. `good` says that it merged the
    /// contributions of a quorum.
    pub(crate) fn record(&mut self, delays: &Delays, (roster, commits): (usize, usize), good: bool) {
        if !good {
            *self = Self::default();
            return;
        }
        self.commit.record(&delays.commit, roster);
        self.reveal.record(&delays.reveal, commits);
        self.check.record(&delays.check, roster);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(delays: &[u64]) -> Vec<Millis> {
        delays.iter().copied().map(Millis).collect()
    }

    #[test]
    fn a_minority_moves_nothing() {
        type Row = (&'static [u64], usize, Option<(u64, u64)>);
        let table: [Row; 6] = [
            (&[10, 11, 12, 13, 9_000], 5, Some((12, 1))),
            (&[10, 11, 12, 13], 5, Some((12, 1))),
            (&[10, 11, 12], 5, Some((12, 2))),
            (&[10, 11], 5, None),
            (&[7], 1, Some((7, 0))),
            (&[], 0, None),
        ];
        for (delays, peers, expected) in table {
            let spread = Spread::of(&millis(delays), peers);
            assert_eq!(spread.map(|s| (s.median.0, s.deviation.0)), expected, "{delays:?}");
        }
    }

    #[test]
    fn limits_follow_and_let_go() {
        let (mut pace, longest) = (Pace::default(), Millis(60_000));
        let around = |center: u64| Delays {
            check: millis(&[center - 100, center, center + 100]),
            ..Delays::default()
        };
        let limit = |pace: &Pace, deviations| pace.check.limit(deviations, 1, longest).0;
        for round in 0..NEEDED {
            assert_eq!(limit(&pace, 6), 60_000, "round {round}");
            pace.record(&around(10_000), (3, 3), true);
        }
        assert_eq!(limit(&pace, 6), 15_000 + DEADLINE_MS_MIN, "half above the median");
        assert_eq!(limit(&pace, 100), 20_000 + DEADLINE_MS_MIN);
        assert_eq!(limit(&pace, 0), 60_000, "fixed deadlines");
        assert_eq!(pace.check.limit(100, 1, Millis(11_000)), Millis(11_000));
        assert_eq!(
            pace.check.limit(6, 2, longest).0,
            20_000 + DEADLINE_MS_MIN,
            "as much again"
        );
        let known = pace.clone();
        let withheld = Delays::default();
        pace.record(&withheld, (3, 3), true);
        assert_eq!(pace, known, "nobody had everything: nothing is learned");
        for _ in 0..KEPT {
            pace.record(&around(200), (3, 3), true);
        }
        assert_eq!(limit(&pace, 6), 800 + DEADLINE_MS_MIN);
        pace.record(&around(200), (3, 3), false);
        assert_eq!(pace, Pace::default(), "a round that went wrong");
    }
}
