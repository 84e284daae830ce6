//! How long contributions travel: the ledger chooses codecs by it.

use alloc::vec::Vec;
use atoll_protocol::{ByteCount, Millis};

/// The fetches of a round, and what those of the last one came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Travel {
    /// From when until when, and how many bytes.
    fetched: Vec<(Millis, Millis, ByteCount)>,
    kib_micros: u32,
}

impl Travel {
    /// A contribution has arrived that was asked for at `since`.
    pub(crate) fn arrived(&mut self, since: Millis, now: Millis, bytes: ByteCount) {
        self.fetched.push((since, now.max(since), bytes));
    }

    /// The round is over, of which so many contributions of others make a quorum; what arrived after them does not
    /// count, and of what was on its way then only a part. Where nothing was fetched, what was known before still
    /// holds.
    pub(crate) fn round_over(&mut self, enough: usize) {
        let mut ends: Vec<Millis> = self.fetched.iter().map(|(_, to, _)| *to).collect();
        ends.sort_unstable();
        let last = ends.get(enough.max(1) - 1).or(ends.last()).copied();
        let Some(last) = last else { return };
        self.fetched.sort_unstable();
        let (mut bytes, mut busy, mut until) = (0u64, 0u64, Millis(0));
        for (from, to, ByteCount(size)) in self.fetched.drain(..).filter(|(from, ..)| *from <= last) {
            let there = to.min(last);
            bytes = bytes.saturating_add(part(size, there.0 - from.0, to.0 - from.0));
            busy += there.0.saturating_sub(from.max(until).0);
            until = until.max(there);
        }
        self.fetched.clear();
        let micros = u128::from(busy) * 1000 * 1024;
        if let Some(each) = micros.checked_div(bytes.into()) {
            self.kib_micros = u32::try_from(each).unwrap_or(u32::MAX).max(1);
        }
    }

    /// Microseconds a KiB, while at least one contribution was on its way; 0 where none ever was.
    pub(crate) fn kib_micros(&self) -> u32 {
        self.kib_micros
    }
}

/// `size · done / all`; all of it where it took no time.
fn part(size: u64, done: u64, all: u64) -> u64 {
    let part = (u128::from(size) * u128::from(done)).checked_div(all.into());
    part.map_or(size, |part| u64::try_from(part).unwrap_or(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_when_nothing_travels_do_not_count() {
        type Fetch = (u64, u64, u64);
        let table: [(&[Fetch], u32); 7] = [
            (&[], 0),
            (&[(0, 100, 1024)], 100_000),
            (&[(0, 100, 1024), (50, 150, 2048)], 50_000),
            (&[(900, 1_000, 1024), (0, 100, 1024)], 100_000),
            (&[(0, 100, 1024), (10, 20, 1024)], 50_000),
            (&[(5, 5, 1 << 30)], 1),
            (&[(0, u64::MAX, 1)], u32::MAX),
        ];
        for (fetches, kib_micros) in table {
            let mut travel = Travel::default();
            for (from, to, bytes) in fetches {
                travel.arrived(Millis(*from), Millis(*to), ByteCount(*bytes));
            }
            travel.round_over(9);
            assert_eq!(travel.kib_micros(), kib_micros, "{fetches:?}");
            travel.round_over(9);
            assert_eq!(travel.kib_micros(), kib_micros, "a round without fetches");
        }
    }

    #[test]
    fn who_serves_slowly_does_not_make_links_slow() {
        let of = |slow: u64| {
            let mut travel = Travel::default();
            for to in [100, 100, slow] {
                travel.arrived(Millis(0), Millis(to), ByteCount(1 << 20));
            }
            travel.round_over(2);
            travel.kib_micros()
        };
        assert_eq!(of(100), 32);
        assert_eq!(of(1_000), 46);
        assert_eq!(of(1_000_000), 48);
    }
}
