//! One direction of a node's line, shared fairly: each transfer that is on it gets the same rate.
//!
//! Processor sharing in virtual time (as in the analysis of fair queueing): `carried` is how many bytes a
//! transfer would have got that was there all along, so one number moves all of them on at once.

use crate::clock::Micros;
use std::{cmp::Reverse, collections::BinaryHeap};

/// Fractions of a byte, so that rounding does not add up.
const FINE: u128 = 1 << 12;

/// A line's direction.
#[derive(Debug)]
pub(crate) struct Link {
    bytes_per_s: u64,
    /// In fractions of a byte.
    carried: u128,
    updated: Micros,
    active: u64,
    /// When `carried` is so far, the transfer is through.
    ends: BinaryHeap<Reverse<(u128, u64)>>,
    /// The earliest wake-up that is under way.
    pub(crate) wake: Option<Micros>,
}

impl Link {
    pub(crate) fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s: bytes_per_s.max(1),
            carried: 0,
            updated: Micros(0),
            active: 0,
            ends: BinaryHeap::new(),
            wake: None,
        }
    }

    fn advance(&mut self, now: Micros) {
        let passed = u128::from(now.since(self.updated).0);
        if self.active > 0 {
            self.carried += passed * u128::from(self.bytes_per_s) * FINE / (1_000_000 * u128::from(self.active));
        }
        self.updated = self.updated.max(now);
    }

    /// From `now` on the line is so fast.
    pub(crate) fn set_rate(&mut self, now: Micros, bytes_per_s: u64) {
        self.advance(now);
        self.bytes_per_s = bytes_per_s.max(1);
    }

    /// A transfer of `bytes` begins.
    pub(crate) fn add(&mut self, now: Micros, ticket: u64, bytes: u64) {
        self.advance(now);
        self.active += 1;
        self.ends
            .push(Reverse((self.carried + u128::from(bytes) * FINE, ticket)));
    }

    /// A transfer that has not ended is given up; [`Link::take_ended`] may still name it.
    pub(crate) fn give_up(&mut self, now: Micros) {
        self.advance(now);
        self.active -= 1;
    }

    /// A transfer that is through by `now`, if `counts` says that it was not given up before.
    pub(crate) fn take_ended(&mut self, now: Micros, counts: impl Fn(u64) -> bool) -> Option<u64> {
        self.advance(now);
        while let Some(Reverse((end, ticket))) = self.ends.peek().copied() {
            if !counts(ticket) {
                self.ends.pop();
                continue;
            }
            if end > self.carried {
                return None;
            }
            self.ends.pop();
            self.active -= 1;
            return Some(ticket);
        }
        None
    }

    /// When the next transfer is through, if none comes or goes until then.
    pub(crate) fn next_end(&self, now: Micros) -> Option<Micros> {
        let Reverse((end, _)) = self.ends.peek()?;
        let left = end.saturating_sub(self.carried) * 1_000_000 * u128::from(self.active.max(1));
        let micros = left.div_ceil(u128::from(self.bytes_per_s) * FINE).max(1);
        Some(now.after(Micros(u64::try_from(micros).unwrap_or(u64::MAX))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a link alone until all transfers are through; who ended when, in milliseconds.
    fn run(link: &mut Link, arrivals: &[(u64, u64, u64)]) -> Vec<(u64, u64)> {
        let (mut ended, mut now, mut coming) = (Vec::new(), Micros(0), arrivals.iter().peekable());
        loop {
            let arrival = coming.peek().map(|(ms, ..)| Micros::ms(*ms));
            let end = link.next_end(now);
            now = match (arrival, end) {
                (Some(arrival), Some(end)) => arrival.min(end),
                (Some(at), None) | (None, Some(at)) => at,
                (None, None) => return ended,
            };
            while let Some((_, ticket, bytes)) = coming.next_if(|(ms, ..)| Micros::ms(*ms) <= now) {
                link.add(now, *ticket, *bytes);
            }
            while let Some(ticket) = link.take_ended(now, |_| true) {
                ended.push((ticket, (now.0 + 500) / 1_000));
            }
        }
    }

    #[test]
    fn a_line_is_shared_fairly() {
        // 1000 bytes a second. One alone: 1 s a kilobyte. Two: each half as fast, while both are there.
        let mut link = Link::new(1_000);
        assert_eq!(
            run(&mut link, &[(0, 1, 1_000), (0, 2, 2_000)]),
            [(1, 2_000), (2, 3_000)]
        );
        let mut link = Link::new(1_000);
        // The late one gets its half at once.
        assert_eq!(
            run(&mut link, &[(0, 1, 2_000), (1_000, 2, 500)]),
            [(2, 2_000), (1, 2_500)]
        );
        assert_eq!(link.active, 0);
    }

    #[test]
    fn a_transfer_that_is_given_up_leaves_its_share() {
        let mut link = Link::new(1_000);
        link.add(Micros(0), 1, 1_000);
        link.add(Micros(0), 2, 1_000);
        link.give_up(Micros::s(1));
        assert_eq!(link.take_ended(Micros::ms(1_499), |ticket| ticket == 2), None);
        assert_eq!(link.next_end(Micros::ms(1_499)), Some(Micros::ms(1_500)));
        assert_eq!(link.take_ended(Micros::ms(1_501), |ticket| ticket == 2), Some(2));
    }

    #[test]
    fn many_small_steps_carry_as_much_as_one() {
        let mut link = Link::new(999_983);
        link.add(Micros(0), 1, 999_983);
        for micro in 1..1_000_000 {
            assert_eq!(link.take_ended(Micros(micro), |_| true), None);
        }
        assert_eq!(link.take_ended(Micros(1_000_300), |_| true), Some(1));
    }
}
