//! How far the clocks of other validators are from ours, by the times in the blocks that they propose.
//!
//! A leader writes its own time into a block, or the moment after the block before if that is later. So a fresh
//! proposal tells how far its clock is from ours, less the time that it was on its way.

use atoll_protocol::{Millis, PeerId};
use std::collections::BTreeMap;

/// What a proposal said of a clock is forgotten after so long: clocks are set right.
const FORGET: Millis = Millis(10 * 60 * 1000);

/// What the newest proposal of each leader said.
#[derive(Debug, Default)]
pub(crate) struct Clocks(BTreeMap<PeerId, (Millis, i64)>);

impl Clocks {
    /// Notes a proposal that is seen for the first time at `now`, by our clock.
    pub(crate) fn note(&mut self, leader: PeerId, block: Millis, now: Millis) {
        let signed = |time: Millis| i64::try_from(time.0).unwrap_or(i64::MAX);
        self.0.insert(leader, (now, signed(block).saturating_sub(signed(now))));
    }

    /// How many milliseconds each leader's clock is ahead of ours, ascending by leader.
    pub(crate) fn ahead(&self, now: Millis) -> Vec<(PeerId, i64)> {
        let fresh = self.0.iter().filter(|(_, (seen, _))| seen.after(FORGET) >= now);
        fresh.map(|(leader, (_, ahead))| (*leader, *ahead)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_word_of_each_leader_counts_for_a_while() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let mut clocks = Clocks::default();
        clocks.note(a, Millis(40_000), Millis(10_000));
        clocks.note(b, Millis(9_000), Millis(10_000));
        assert_eq!(clocks.ahead(Millis(11_000)), [(a, 30_000), (b, -1_000)]);
        clocks.note(a, Millis(500_000), Millis(500_100));
        assert_eq!(clocks.ahead(Millis(500_100)), [(a, -100), (b, -1_000)]);
        assert_eq!(clocks.ahead(Millis(700_000)), [(a, -100)], "b said nothing for longer");
        clocks.note(b, Millis(u64::MAX), Millis(0));
        assert_eq!(clocks.ahead(Millis(0))[1], (b, i64::MAX), "a time that cannot be");
    }
}
