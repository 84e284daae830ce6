//! Units are types, so that a step is never added to a token.

use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident($inner:ty), $suffix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{}", $suffix), self.0)
            }
        }
    };
}

unit! {
    /// Milliseconds since the Unix epoch, or a length of time in milliseconds.
    Millis(u64), " ms"
}
unit! {
    /// An outer round, counted from 0. (Consensus has views and heights.)
    Round(u32), ""
}
unit! {
    /// A block's height; the genesis is 0.
    Height(u64), ""
}
unit! {
    /// Optimizer steps within one round.
    InnerSteps(u32), " steps"
}
unit! {
    /// Training tokens.
    Tokens(u64), " tokens"
}
unit! {
    /// A size in bytes.
    ByteCount(u64), " B"
}
unit! {
    /// A loss in millionths of a nat per token. The ledger knows no floats.
    MicroNats(u64), " µnat"
}
unit! {
    /// A real number in billionths: 0.9 is `Nano(900_000_000)`. The ledger knows no floats.
    Nano(u64), "e-9"
}

impl Millis {
    /// `self + length`, or the end of time.
    pub fn after(self, length: Millis) -> Millis {
        Millis(self.0.saturating_add(length.0))
    }
}

impl Round {
    /// The round after this one; the last round number has none.
    pub fn next(self) -> Round {
        Round(self.0.saturating_add(1))
    }
}

impl Nano {
    /// One.
    pub const ONE: Self = Self(1_000_000_000);
}

/// A share such as 2/3, kept exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Fraction {
    /// Above the line.
    pub numerator: u32,
    /// Below the line, never 0 in a valid charter.
    pub denominator: u32,
}

impl Fraction {
    /// The least whole number that is at least this share of `n`: ⌈n · numerator / denominator⌉.
    /// At least 1, so that an empty set never is a quorum.
    pub fn ceil_of(self, n: usize) -> usize {
        let product = n as u128 * u128::from(self.numerator);
        let share = product.div_ceil(u128::from(self.denominator).max(1));
        usize::try_from(share).unwrap_or(usize::MAX).max(1)
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.numerator, self.denominator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorums_of_small_networks() {
        let two_thirds = Fraction {
            numerator: 2,
            denominator: 3,
        };
        for (n, quorum) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (3, 2),
            (4, 3),
            (5, 4),
            (6, 4),
            (7, 5),
            (100, 67),
        ] {
            assert_eq!(two_thirds.ceil_of(n), quorum, "n = {n}");
        }
    }
}
