//! What keeps a contribution out of a merge, and how those that are in are weighed.

use crate::{
    Nano,
    charter::{CharterError, refuse, within_nano},
    limits::SUBSETS_MEMBERS_MAX,
};
use alloc::string::String;
use borsh::{BorshDeserialize, BorshSerialize};
use core::{fmt, str::FromStr};
use thiserror::Error;

/// Rules for contributions that are well formed but may be wrong.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Robust {
    /// How contributions are weighed.
    pub rule: Weighing,
    /// Whether each is replaced by the mean of its nearest before.
    pub mixing: bool,
    /// Whether each tensor is shortened to the median length that it has among the contributions.
    pub clip: bool,
    /// The longest that a contribution may be, as a multiple of the median of late.
    pub norm_max: Nano,
    /// The largest cosine of two contributions; of two that are more alike the later is refused. 1 allows all.
    pub cosine_max: Nano,
}

/// How contributions are weighed; the rules are described in `atoll_outer::robust`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Weighing {
    /// By tokens alone.
    Mean,
    /// Differences from a median are clipped to their median length.
    CenteredClipping,
    /// The smoothed geometric median.
    GeometricMedian,
    /// One alone: the one with the nearest neighbours.
    Krum,
    /// The mean of those with the nearest neighbours.
    MultiKrum,
    /// The mean of those that lie closest together.
    MinimumDiameter,
}

impl Weighing {
    /// All, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::Mean,
        Self::CenteredClipping,
        Self::GeometricMedian,
        Self::Krum,
        Self::MultiKrum,
        Self::MinimumDiameter,
    ];

    /// The rule with this word.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }

    /// Its word in a charter file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::CenteredClipping => "centered-clipping",
            Self::GeometricMedian => "geometric-median",
            Self::Krum => "krum",
            Self::MultiKrum => "multi-krum",
            Self::MinimumDiameter => "minimum-diameter",
        }
    }
}

impl fmt::Display for Weighing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that says nothing about judging.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?}: a rule's name ({rules}), mixing, clip or gates is allowed", rules = Weighing::ALL.map(Weighing::name).join(", "))]
pub struct UnknownWord(pub String);

/// A rule's name, with `mixing`, `clip` and `gates` beside it, such as `geometric-median clip gates`; of nothing,
/// [`Robust::PLAIN`].
impl FromStr for Robust {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let mut robust = Self::PLAIN;
        for word in text.split_whitespace() {
            match (word, Weighing::named(word)) {
                (_, Some(rule)) => robust.rule = rule,
                ("mixing", _) => robust.mixing = true,
                ("clip", _) => robust.clip = true,
                ("gates", _) => (robust.norm_max, robust.cosine_max) = (Self::GATES.0, Self::GATES.1),
                _ => return Err(UnknownWord(word.into())),
            }
        }
        Ok(robust)
    }
}

impl Robust {
    /// Lengths up to three times the usual pass, and cosines up to 0.99.
    const GATES: (Nano, Nano) = (Nano(3 * Nano::ONE.0), Nano(990_000_000));

    /// Merges by tokens alone; nothing is refused.
    pub const PLAIN: Self = Self {
        rule: Weighing::Mean,
        mixing: false,
        clip: false,
        norm_max: Nano(NORM_MAX_MOST),
        cosine_max: Nano::ONE,
    };

    /// How many of `count` contributions may be wrong at once: a quarter of the others, one of four at least.
    pub fn faulty(count: usize) -> usize {
        match count {
            0..=3 => 0,
            _ => ((count - 1) / 4).max(1),
        }
    }

    pub(crate) fn validate(&self, members: usize) -> Result<(), CharterError> {
        within_nano("robust.norm_max", self.norm_max, Nano::ONE, Nano(NORM_MAX_MOST))?;
        within_nano("robust.cosine_max", self.cosine_max, Nano(0), Nano::ONE)?;
        match self.rule == Weighing::MinimumDiameter && members > SUBSETS_MEMBERS_MAX {
            true => Err(refuse(
                "robust.rule",
                self.rule,
                alloc::format!(
                    "{members} members; this rule looks at all subsets: at most {SUBSETS_MEMBERS_MAX} members are allowed"
                ),
            )),
            false => Ok(()),
        }
    }
}

/// A million times the median is no limit.
const NORM_MAX_MOST: u64 = 1_000_000 * Nano::ONE.0;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_quarter_of_the_others_may_be_wrong() {
        let table = [(0, 0), (1, 0), (3, 0), (4, 1), (5, 1), (8, 1), (9, 2), (16, 3), (33, 8)];
        for (count, faulty) in table {
            assert_eq!(Robust::faulty(count), faulty, "{count}");
        }
    }

    #[test]
    fn words() {
        let judged: Robust = "geometric-median clip gates".parse().unwrap();
        assert!(judged.clip && !judged.mixing && judged.cosine_max < Nano::ONE);
        assert_eq!(judged.rule, Weighing::GeometricMedian);
        assert_eq!("".parse(), Ok(Robust::PLAIN));
        let unknown = "krum bulyan".parse::<Robust>().unwrap_err().to_string();
        assert!(unknown.starts_with("\"bulyan\": a rule's name (mean, "), "{unknown}");
    }

    #[test]
    fn limits() {
        let with = |rule, norm_max, cosine_max| Robust {
            rule,
            norm_max: Nano(norm_max),
            cosine_max: Nano(cosine_max),
            ..Robust::PLAIN
        };
        let one = Nano::ONE.0;
        assert!(
            with(Weighing::MinimumDiameter, one, 0)
                .validate(SUBSETS_MEMBERS_MAX)
                .is_ok()
        );
        let table = [
            (with(Weighing::MinimumDiameter, one, 0), "robust.rule"),
            (with(Weighing::Mean, one - 1, 0), "robust.norm_max"),
            (with(Weighing::Mean, one, one + 1), "robust.cosine_max"),
        ];
        for (robust, field) in table {
            assert_eq!(robust.validate(SUBSETS_MEMBERS_MAX + 1).unwrap_err().field, field);
        }
    }
}
