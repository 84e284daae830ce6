//! The table `robust`.

use super::{Refused, nano, real};
use atoll_protocol::{Robust, robust::Weighing};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RobustTable {
    rule: String,
    mixing: bool,
    clip: bool,
    norm_max: f64,
    cosine_max: f64,
}

impl RobustTable {
    pub(super) fn into_robust(self) -> Result<Robust, Refused> {
        let rule = Weighing::named(&self.rule).ok_or_else(|| {
            let known = Weighing::ALL.map(Weighing::name).join(", ");
            Refused {
                field: "robust.rule".into(),
                message: format!("robust.rule = {:?}: one of {known} is needed", self.rule),
            }
        })?;
        Ok(Robust {
            rule,
            mixing: self.mixing,
            clip: self.clip,
            norm_max: nano("robust.norm_max", self.norm_max)?,
            cosine_max: nano("robust.cosine_max", self.cosine_max)?,
        })
    }

    pub(super) fn of(robust: &Robust) -> Self {
        Self {
            rule: robust.rule.name().into(),
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
    fn every_rule_reads_back_and_another_is_refused() {
        for rule in Weighing::ALL {
            let robust = Robust { rule, ..Robust::PLAIN };
            assert_eq!(RobustTable::of(&robust).into_robust().ok(), Some(robust));
        }
        let mut table = RobustTable::of(&Robust::PLAIN);
        table.rule = "bulyan".into();
        let refused = table.into_robust().err().unwrap();
        assert!(
            refused
                .message
                .starts_with("robust.rule = \"bulyan\": one of mean, centered-clipping")
        );
    }
}
