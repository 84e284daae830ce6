//! What a run is, and what it gave: the lines of a results file.

use crate::convergence::spec::loss;
use atoll_protocol::Nano;
use atoll_simulator::{
    Audit, Deed, Event, Hold, LearnerSpec, Planted, Report, Rules, Scenario, Shape, Text, World, finish,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One run, complete: the same spec gives the same result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Size of the model: `tiny` or `1m`.
    pub size: String,
    /// N.
    pub replicas: u32,
    /// Rounds.
    pub rounds: u32,
    /// H.
    pub inner_steps: u32,
    /// How contributions are judged, as in `geometric-median clip gates`.
    pub rule: String,
    /// Whether they are made again.
    pub audits: bool,
    /// How the last of the replicas lie; empty where none does.
    pub liar: String,
    /// How many do: f.
    pub liars: u32,
    /// Of θ⁰, of rows, and of the network.
    pub seed: u64,
}

/// What a run gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Held-out loss at the end, nats per byte.
    #[serde(with = "loss")]
    pub loss: f64,
    /// Held-out loss at the beginning.
    pub first: f64,
    /// Liars that were caught.
    pub caught: u32,
    /// Rounds until the last of them was, of those that were.
    pub detection: Option<u32>,
    /// How the first of them was.
    pub reason: String,
    /// Honest contributions that were kept out, as a share of all honest ones that were judged.
    pub honest_out: f64,
    /// Honest replicas that were barred.
    pub barred_honest: u32,
    /// Rounds that did not move θ.
    pub void: u32,
    /// What must hold and did not, such as that rounds end.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub broken: String,
    /// Wall time in seconds; not part of the result.
    pub wall_s: f64,
}

/// Why a run did not end.
#[derive(Debug, Error)]
pub enum RunError {
    /// A setting that cannot be.
    #[error("{field} = {value}: {allowed}")]
    Spec {
        /// The setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The simulator refuses it.
    #[error("the scenario cannot be: {0}")]
    Scenario(String),
}

/// Of charters that have audits on: the share, of newcomers all so often, rounds to do it in, rounds to stay out.
const AUDIT: Audit = Audit {
    share: 0.125,
    newcomer: 5,
    window: 3,
    probation: 50,
    tolerance: 0.05,
};

impl Spec {
    fn shape(&self) -> Result<Shape, RunError> {
        match self.size.as_str() {
            "tiny" => Ok(Shape {
                width: 32,
                layers: 2,
                ffn: 88,
                batch: 2,
                sequence: 32,
                lr: Nano(6_000_000),
            }),
            "1m" => Ok(Shape {
                width: 128,
                layers: 5,
                ffn: 344,
                batch: 1,
                sequence: 128,
                lr: Nano(1_500_000),
            }),
            other => Err(RunError::Spec {
                field: "size",
                value: other.into(),
                allowed: "tiny or 1m is allowed".into(),
            }),
        }
    }

    /// The network that it is.
    fn scenario(&self) -> Result<Scenario, RunError> {
        let mut events = Vec::new();
        if self.liars > 0 {
            let liar = self.liar.parse().map_err(|error| RunError::Spec {
                field: "liar",
                value: self.liar.clone(),
                allowed: format!("{error}"),
            })?;
            let mut event = Event::new(0.0, Deed::Lie, 0, None);
            event.who = (self.replicas.saturating_sub(self.liars)..self.replicas).collect();
            event.liar = Some(liar);
            events.push(event);
        }
        let scenario = Scenario {
            name: "attacks".into(),
            about: String::new(),
            nodes: self.replicas,
            rounds: self.rounds,
            rules: Rules {
                inner_steps: self.inner_steps,
                codec: "auto".into(),
                outer: "founded".into(),
                outer_warmup: 10,
                robust: self.rule.clone(),
                audit: if self.audits { AUDIT } else { Audit::default() },
                retention: 5 * AUDIT.window + 2,
                checkpoint_every: self.rounds,
                ..Rules::default()
            },
            learner: LearnerSpec {
                step_ms: [300, 400],
                ..LearnerSpec::default()
            },
            events,
            hold: Hold {
                // a model that a liar has spoilt is a result here
                loss_share_max: 1e9,
                deadlines_per_round: 10.0,
                ..Hold::default()
            },
            ..Scenario::from_toml("name = \"attacks\"\nabout = \"\"\nnodes = 1\nrounds = 1\n")
                .map_err(|error| RunError::Scenario(error.to_string()))?
        };
        let text = scenario
            .to_toml()
            .map_err(|error| RunError::Scenario(error.to_string()))?;
        Scenario::from_toml(&text).map_err(|error| RunError::Scenario(error.to_string()))
    }

    /// Refuses what cannot be.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn check(&self) -> Result<(), RunError> {
        self.shape()?;
        self.scenario().map(drop)
    }

    /// Runs it to its end on `text`, whose model's shape does not matter. `stop` ends it early, without a result.
    ///
    /// # Errors
    /// Where a setting cannot be.
    pub fn run(&self, text: &Text, stop: &dyn Fn() -> bool) -> Result<Option<RunResult>, RunError> {
        let began = std::time::Instant::now();
        let task = text.with(self.shape()?);
        let mut world = World::new(&self.scenario()?, self.seed, Box::new(task)).map_err(RunError::Scenario)?;
        while world.advance() {
            if stop() {
                return Ok(None);
            }
        }
        let report = finish(world, Planted::default(), |_| {});
        Ok(Some(self.result(&report, began.elapsed().as_secs_f64())))
    }

    fn result(&self, report: &Report, wall_s: f64) -> RunResult {
        let caught = report.caught();
        let honest: Vec<_> = report.peers[..(self.replicas - self.liars) as usize].to_vec();
        let (mut judged, mut out) = (0, 0);
        for record in &report.records {
            let kept_out = record
                .kept_out
                .iter()
                .filter(|entry| honest.contains(&entry.planned.peer));
            let merged = record.merged.iter().filter(|entry| honest.contains(&entry.peer));
            let kept_out = kept_out.count();
            judged += merged.count() + kept_out;
            out += kept_out;
        }
        RunResult {
            loss: report.losses.1,
            first: report.losses.0,
            caught: caught.len() as u32,
            detection: caught.iter().map(|caught| caught.round.0 + 1).max(),
            reason: caught.first().map_or_else(String::new, |caught| caught.reason.clone()),
            honest_out: f64::from(out as u32) / f64::from(judged.max(1) as u32),
            barred_honest: report.barred_honest().len() as u32,
            void: (report.records.len() - report.closed()) as u32,
            broken: report
                .violations
                .first()
                .map_or_else(String::new, |broken| format!("{}: {}", broken.rule, broken.text)),
            wall_s,
        }
    }
}
