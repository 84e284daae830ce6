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

    /// The round is over; where nothing was fetched in it, what was known before still holds.
    pub(crate) fn round_over(&mut self) {
        self.fetched.sort_unstable();
        let (mut bytes, mut busy, mut until) = (0u64, 0u64, Millis(0));
        for (from, to, ByteCount(size)) in self.fetched.drain(..) {
            bytes = bytes.saturating_add(size);
            busy += to.0.saturating_sub(from.max(until).0);
            until = until.max(to);
        }
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
            travel.round_over();
            assert_eq!(travel.kib_micros(), kib_micros, "{fetches:?}");
            travel.round_over();
            assert_eq!(travel.kib_micros(), kib_micros, "a round without fetches");
        }
    }
}
