//! The table `score`.

use super::{Refused, nano, real};
use atoll_protocol::Score;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScoreTable {
    share: f64,
    scorers: u32,
    harm: f64,
}

impl ScoreTable {
    pub(super) fn into_score(self) -> Result<Score, Refused> {
        Ok(Score {
            share: nano("score.share", self.share)?,
            scorers: self.scorers,
            harm: nano("score.harm", self.harm)?,
        })
    }

    pub(super) fn of(score: &Score) -> Self {
        Self {
            share: real(score.share),
            scorers: score.scorers,
            harm: real(score.harm),
        }
    }
}
