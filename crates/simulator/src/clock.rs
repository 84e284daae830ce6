//! Virtual time: microseconds since the run began.

use atoll_protocol::Millis;
use std::fmt;

/// A moment of the run, or a length of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub u64);

/// What every clock showed when the run began: nodes know wall clocks only.
const EPOCH_MS: u64 = 1_000_000_000;

impl Micros {
    /// From milliseconds.
    pub const fn ms(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000))
    }

    /// From seconds.
    pub const fn s(s: u64) -> Self {
        Self(s.saturating_mul(1_000_000))
    }

    /// `self + length`.
    #[must_use]
    pub fn after(self, length: Self) -> Self {
        Self(self.0.saturating_add(length.0))
    }

    /// The length of time from `earlier` to `self`; 0 if that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// `self · factor`.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self((self.0 as f64 * factor) as u64)
    }

    /// In seconds, for people.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// What a clock that is `skew_ms` ahead shows at this moment.
    pub fn shown(self, skew_ms: i64) -> Millis {
        Millis((EPOCH_MS + self.0 / 1_000).saturating_add_signed(skew_ms))
    }

    /// The first moment at which a clock that is `skew_ms` ahead shows `shown`.
    pub fn when(shown: Millis, skew_ms: i64) -> Self {
        let true_ms = shown.0.saturating_add_signed(skew_ms.saturating_neg());
        Self::ms(true_ms.saturating_sub(EPOCH_MS))
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s", self.seconds())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_ahead_show_a_time_earlier() {
        for skew in [-700, 0, 700] {
            let at = Micros::ms(12_345);
            assert_eq!(Micros::when(at.shown(skew), skew), at);
        }
        assert!(Micros::when(Millis(EPOCH_MS + 1_000), 300) < Micros::when(Millis(EPOCH_MS + 1_000), 0));
    }
}
