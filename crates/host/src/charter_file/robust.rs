//! The table `robust`.

use super::{Refused, nano, real};
use atoll_protocol::{Robust, robust::Weighing};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Rule {
    Mean,
    CenteredClipping,
    GeometricMedian,
    Krum,
    MultiKrum,
    MinimumDiameter,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RobustTable {
    rule: Rule,
    mixing: bool,
    clip: bool,
    norm_max: f64,
    cosine_max: f64,
}

impl RobustTable {
    pub(super) fn into_robust(self) -> Result<Robust, Refused> {
        Ok(Robust {
            rule: match self.rule {
                Rule::Mean => Weighing::Mean,
                Rule::CenteredClipping => Weighing::CenteredClipping,
                Rule::GeometricMedian => Weighing::GeometricMedian,
                Rule::Krum => Weighing::Krum,
                Rule::MultiKrum => Weighing::MultiKrum,
                Rule::MinimumDiameter => Weighing::MinimumDiameter,
            },
            mixing: self.mixing,
            clip: self.clip,
            norm_max: nano("robust.norm_max", self.norm_max)?,
            cosine_max: nano("robust.cosine_max", self.cosine_max)?,
        })
    }

    pub(super) fn of(robust: &Robust) -> Self {
        Self {
            rule: match robust.rule {
                Weighing::Mean => Rule::Mean,
                Weighing::CenteredClipping => Rule::CenteredClipping,
                Weighing::GeometricMedian => Rule::GeometricMedian,
                Weighing::Krum => Rule::Krum,
                Weighing::MultiKrum => Rule::MultiKrum,
                Weighing::MinimumDiameter => Rule::MinimumDiameter,
            },
            mixing: robust.mixing,
            clip: robust.clip,
            norm_max: real(robust.norm_max),
            cosine_max: real(robust.cosine_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_the_name_that_it_says() {
        for rule in Weighing::ALL {
            let robust = Robust { rule, ..Robust::PLAIN };
            let text = toml::to_string(&RobustTable::of(&robust)).unwrap();
            assert!(text.contains(&format!("rule = \"{rule}\"")), "{text}");
            let read: RobustTable = toml::from_str(&text).unwrap();
            assert_eq!(read.into_robust().ok(), Some(robust));
        }
    }
}
