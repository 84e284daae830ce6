//! How long the phases of a round may last, learned from how long peers needed.
//!
//! Of every phase that reached a quorum the ledger keeps the median of the peers' delays and the median
//! deviation from it (MAD). Peers can move it within limits: a phase is held to have succeeded when a quorum
//! spoke, whatever it said, and one blob that is withheld keeps all checks from being full. The limit of the next such
//! phase is the middle of `median + k · MAD` over the last rounds, at least a quarter above the median, never
//! below what clocks may be apart, never above the charter's. A phase that ends without a quorum says that
//! the limit is too short for the network as it is: its record is dropped, and the charter's limit holds
//! again.

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

    fn limit(self, deviations: u32) -> u64 {
        let Self { median, deviation } = self;
        let above = deviation.0.saturating_mul(deviations.into()).max(median.0 / 4);
        median.0.saturating_add(above)
    }
}

/// The last phases of one kind, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Window(Vec<Spread>);

impl Window {
    /// A phase is over: `delays` of those who spoke, ascending, of `peers`, where `quorum` was needed.
    pub(crate) fn record(&mut self, delays: &[Millis], peers: usize, quorum: usize) {
        if delays.len() < quorum {
            self.0.clear();
            return;
        }
        self.0.extend(Spread::of(delays, peers));
        let surplus = self.0.len().saturating_sub(KEPT);
        self.0.drain(..surplus);
    }

    /// How long such a phase may last now. `longest` is the charter's, `deviations` its k.
    pub fn limit(&self, deviations: u32, longest: Millis) -> Millis {
        if deviations == 0 || self.0.len() < NEEDED {
            return longest;
        }
        let mut limits: Vec<u64> = self.0.iter().map(|spread| spread.limit(deviations)).collect();
        limits.sort_unstable();
        let middle = limits.get(limits.len() / 2).copied().unwrap_or(longest.0);
        Millis(middle.max(DEADLINE_MS_MIN)).min(longest)
    }

    /// The newest entry.
    pub fn last(&self) -> Option<Spread> {
        self.0.last().copied()
    }
}

/// The phases of a round.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Pace {
    /// From the opening to the commitments: training.
    pub commit: Window,
    /// To the reveals.
    pub reveal: Window,
    /// To the checks: blobs travel.
    pub check: Window,
    /// To the roots.
    pub merge: Window,
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
        let mut window = Window::default();
        let longest = Millis(60_000);
        let around = |center: u64| millis(&[center - 100, center, center + 100]);
        for round in 0..NEEDED {
            assert_eq!(window.limit(6, longest), longest, "round {round}");
            window.record(&around(10_000), 3, 2);
        }
        assert_eq!(window.limit(6, longest), Millis(12_500), "a quarter above the median");
        assert_eq!(window.limit(50, longest), Millis(15_000));
        assert_eq!(window.limit(0, longest), longest, "fixed deadlines");
        assert_eq!(window.limit(50, Millis(11_000)), Millis(11_000));
        for _ in 0..KEPT {
            window.record(&around(200), 3, 2);
        }
        assert_eq!(window.limit(6, longest), Millis(DEADLINE_MS_MIN));
        window.record(&millis(&[200]), 3, 2);
        assert_eq!(window.limit(6, longest), longest, "no quorum in time");
    }
}
