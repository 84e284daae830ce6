//! What a scenario may say.

use super::{Deed, Event, Range, Scenario, charter};
use atoll_protocol::{Robust, limits::MEMBERS_MAX};
use thiserror::Error;

/// A scenario that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScenarioError {
    /// Not the TOML that is expected.
    #[error("{0}")]
    Toml(String),
    /// A value that cannot be.
    #[error("{field} = {value}: {allowed}")]
    Value {
        /// Its place.
        field: String,
        /// The value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
}

fn refuse(field: &str, value: impl ToString, allowed: impl Into<String>) -> ScenarioError {
    ScenarioError::Value {
        field: field.into(),
        value: value.to_string(),
        allowed: allowed.into(),
    }
}

fn within(field: &str, value: f64, low: f64, high: f64) -> Result<(), ScenarioError> {
    match (low..=high).contains(&value) {
        true => Ok(()),
        false => Err(refuse(field, value, format!("from {low} to {high} is allowed"))),
    }
}

fn ranged(field: &str, [low, high]: Range, least: u64, most: u64) -> Result<(), ScenarioError> {
    match least <= low && low <= high && high <= most {
        true => Ok(()),
        false => Err(refuse(
            field,
            format!("{:?}", [low, high]),
            format!("[from, to] with {least} ≤ from ≤ to ≤ {most} is needed"),
        )),
    }
}

/// A day: nothing takes longer.
const MS_MAX: u64 = 24 * 60 * 60 * 1_000;
const S_MAX: f64 = 1e6;
/// Of which a run of a thousand nodes and twenty rounds, which takes a gigabyte, has twenty million.
const STATEMENTS_MAX: u64 = 100_000_000;
const VALUES_MAX: u64 = 50_000_000;
/// Departures that churn may make.
const STAYS_MAX: u64 = 100_000;

impl Scenario {
    /// Refuses the first value that cannot be.
    pub(crate) fn check(&self) -> Result<(), ScenarioError> {
        within("nodes", self.nodes.into(), 1.0, MEMBERS_MAX as f64)?;
        within("rounds", self.rounds.into(), 1.0, 10_000.0)?;
        within("virtual_s_max", self.virtual_s_max as f64, 1.0, S_MAX)?;
        within("learner.width", self.learner.width.into(), 2.0, 1_024.0)?;
        within("learner.noise", self.learner.noise, 0.0, 10.0)?;
        ranged("learner.step_ms", self.learner.step_ms, 1, MS_MAX)?;
        ranged("learner.merge_ms", self.learner.merge_ms, 1, MS_MAX)?;
        ranged("link.latency_ms", self.link.latency_ms, 0, 60_000)?;
        within("link.jitter_ms", self.link.jitter_ms as f64, 0.0, 60_000.0)?;
        ranged("link.up_kbit", self.link.up_kbit, 1, 1_000_000_000)?;
        ranged("link.down_kbit", self.link.down_kbit, 1, 1_000_000_000)?;
        within("link.loss", self.link.loss, 0.0, 0.5)?;
        within("link.duplicate", self.link.duplicate, 0.0, 1.0)?;
        ranged("disk.sync_ms", self.disk.sync_ms, 0, 60_000)?;
        ranged("disk.write_kb_s", self.disk.write_kb_s, 1, 1_000_000_000)?;
        within("clock.skew_ms", self.clock.skew_ms as f64, 0.0, 60_000.0)?;
        within(
            "order.leader_timeout_ms",
            self.order.leader_timeout_ms as f64,
            100.0,
            60_000.0,
        )?;
        within("order.delay_ms", self.order.delay_ms as f64, 0.0, 60_000.0)?;
        within("order.omit", self.order.omit, 0.0, 0.9)?;
        within("order.silent", self.order.silent, 0.0, 0.9)?;
        self.check_size()?;
        self.check_crowd()?;
        self.check_hold()?;
        for (number, event) in self.events.iter().enumerate() {
            self.check_event(event).map_err(|error| in_event(number + 1, error))?;
        }
        self.check_charter()
    }

    /// What is kept in memory: states by block, and θ, error feedback and moments by node.
    fn check_size(&self) -> Result<(), ScenarioError> {
        let (nodes, rounds, width) = (
            u64::from(self.nodes),
            u64::from(self.rounds),
            u64::from(self.learner.width),
        );
        let statements = nodes * nodes * rounds;
        if statements > STATEMENTS_MAX {
            return Err(refuse(
                "nodes · nodes · rounds",
                statements,
                format!("at most {STATEMENTS_MAX} is allowed: a run keeps every block's state in memory"),
            ));
        }
        let values = nodes * 13 * width * width;
        match values > VALUES_MAX {
            true => Err(refuse(
                "nodes · 13 · learner.width²",
                values,
                format!("at most {VALUES_MAX} values is allowed: every node keeps some five copies"),
            )),
            false => Ok(()),
        }
    }

    fn check_crowd(&self) -> Result<(), ScenarioError> {
        if let Some(churn) = &self.churn {
            within("churn.share", churn.share, 0.0, 0.9)?;
            within("churn.announced", churn.announced, 0.0, 1.0)?;
            within("churn.until_s", churn.until_s as f64, 0.0, S_MAX)?;
            ranged("churn.stay_s", churn.stay_s, 1, S_MAX as u64)?;
            let stays = u64::from(self.nodes) * churn.until_s / churn.stay_s[0];
            if stays > STAYS_MAX {
                let allowed = format!("at most {STAYS_MAX} departures are allowed");
                return Err(refuse("nodes · churn.until_s / churn.stay_s", stays, allowed));
            }
        }
        if let Some(storm) = &self.storm {
            within("storm.crashes", storm.crashes.into(), 0.0, 1_000.0)?;
            within("storm.steps", storm.steps.into(), 1.0, 1e6)?;
            ranged("storm.away_ms", storm.away_ms, 1, MS_MAX)?;
        }
        Ok(())
    }

    fn check_hold(&self) -> Result<(), ScenarioError> {
        within("hold.deadlines_per_round", self.hold.deadlines_per_round, 1.0, 1_000.0)?;
        within("hold.merged_share_min", self.hold.merged_share_min, 0.0, 1.0)?;
        within("hold.loss_share_max", self.hold.loss_share_max, 0.0, 1e9)?;
        self.check_who("hold.convicted", &self.hold.convicted)?;
        self.check_who("hold.excluded", &self.hold.excluded)
    }

    fn check_who(&self, field: &str, who: &[u32]) -> Result<(), ScenarioError> {
        match who.iter().find(|who| **who >= self.nodes) {
            Some(who) => Err(refuse(field, who, format!("from 0 to {} is allowed", self.nodes - 1))),
            None => Ok(()),
        }
    }

    fn check_event(&self, event: &Event) -> Result<(), ScenarioError> {
        within("at_s", event.at_s, 0.0, S_MAX)?;
        self.check_who("who", &event.who)?;
        match event.share {
            Some(share) => within("share", share, 0.0, 1.0)?,
            None if event.who.is_empty() => return Err(refuse("who", "[]", "name nodes, or give a share")),
            None => {}
        }
        within("for_s", event.for_s.unwrap_or(0.0), 0.0, S_MAX)?;
        within("factor", event.factor.unwrap_or(1.0), 0.001, 1e6)?;
        let needs = |field: &str, there: bool, needed: bool| match needed && !there {
            true => Err(refuse(field, "none", format!("{:?} needs it", event.deed))),
            false => Ok(()),
        };
        needs("step", event.step.is_some(), event.deed == Deed::Cut)?;
        needs("for_s", event.for_s.is_some(), event.deed == Deed::Partition)?;
        needs("liar", event.liar.is_some(), event.deed == Deed::Lie)?;
        let slow = matches!(event.deed, Deed::SlowTraining | Deed::SlowLink | Deed::SlowDisk);
        needs("factor", event.factor.is_some(), slow)?;
        needs("round", event.round.is_some(), event.deed.is_of_a_round())
    }

    fn check_charter(&self) -> Result<(), ScenarioError> {
        let words: [(&str, &String, &[&str]); 3] = [
            (
                "rules.codec",
                &self.rules.codec,
                &["dense", "int8", "int4", "sparse", "lowrank", "auto", "effective-rank"],
            ),
            (
                "rules.overlap",
                &self.rules.overlap,
                &["none", "steps", "eager", "round", "auto"],
            ),
            ("rules.outer", &self.rules.outer, &["sgd", "nesterov", "founded"]),
        ];
        for (field, word, allowed) in words {
            if !allowed.contains(&word.as_str()) {
                return Err(refuse(field, word, format!("one of {} is allowed", allowed.join(", "))));
            }
        }
        within("rules.audit.tolerance", self.rules.audit.tolerance, 0.0, 1.0)?;
        within("learner.apart", self.learner.apart, 0.0, 1.0)?;
        within("rules.score.share", self.rules.score.share, 0.0, 1.0)?;
        within("rules.score.harm", self.rules.score.harm, 0.0, 1.0)?;
        within("rules.audit.share", self.rules.audit.share, 0.0, 1.0)?;
        let robust = self.rules.robust.parse::<Robust>();
        robust.map_err(|error| refuse("rules.robust", &self.rules.robust, error.to_string()))?;
        let charter = charter::charter(self, 0, atoll_protocol::Hash::ZERO);
        charter
            .validate()
            .map_err(|error| refuse(&error.field, error.value, error.allowed))
    }
}

fn in_event(number: usize, error: ScenarioError) -> ScenarioError {
    match error {
        ScenarioError::Value { field, value, allowed } => ScenarioError::Value {
            field: format!("event {number}: {field}"),
            value,
            allowed,
        },
        other => other,
    }
}

impl Deed {
    /// Whether the deed belongs to a round and not to a time.
    pub fn is_of_a_round(self) -> bool {
        use Deed::{Equivocate, Hasty, Malformed, MergeFails, OtherRoot, Tardy, Unserved};
        matches!(
            self,
            OtherRoot | Unserved | Malformed | MergeFails | Equivocate | Hasty | Tardy
        )
    }
}
