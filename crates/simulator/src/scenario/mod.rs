//! What a run is: who, on which lines, what happens when, and what must hold.
//!
//! [`Scenario`] is what people write. [`Scenario::settled`] draws from a seed what it leaves to chance, so
//! that every event stands there with its time and its nodes: such a scenario can be made smaller, event by
//! event. [`Profile`] is what a seed makes of one node.

mod charter;
mod check;
mod file;
mod settle;
mod wild;

pub(crate) use charter::{charter, keys};
pub use check::ScenarioError;

use crate::clock::Micros;
use atoll_outer::attack::Liar;
use serde::{Deserialize, Serialize};

/// A network, a timeline and what must hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name, as in the file's.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// N: members of the run. All of them validate.
    pub nodes: u32,
    /// Outer rounds.
    pub rounds: u32,
    /// When it must be over, in virtual seconds.
    #[serde(default = "default_virtual_s_max")]
    pub virtual_s_max: u64,
    /// The charter's rules.
    #[serde(default)]
    pub rules: Rules,
    /// How replicas train.
    #[serde(default)]
    pub learner: Learner,
    /// Lines to the Internet.
    #[serde(default)]
    pub link: Line,
    /// Disks.
    #[serde(default)]
    pub disk: Disk,
    /// Clocks.
    #[serde(default)]
    pub clock: Clock,
    /// The total order.
    #[serde(default)]
    pub order: Order,
    /// Nodes that come and go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub churn: Option<Churn>,
    /// Crashes between the effects of single steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storm: Option<Storm>,
    /// What happens when.
    #[serde(default, rename = "event", skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// What must hold at the end, beside the invariants.
    #[serde(default)]
    pub hold: Hold,
}

fn default_virtual_s_max() -> u64 {
    24 * 60 * 60
}

/// From, to, both possible: each node draws its own value.
pub type Range = [u64; 2];

/// The charter's rules that matter here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// H.
    pub inner_steps: u32,
    /// Codec: `dense`, `int8`, `int4`, `sparse`, `lowrank`, `auto` or `effective-rank`.
    pub codec: String,
    /// What a peer does while its contribution travels: `none`, `steps`, `eager`, `round` or `auto`.
    pub overlap: String,
    /// Outer optimizer: `sgd`, `nesterov` (0.7, 0.5), or that of `atoll found` (1.0, 0.8).
    pub outer: String,
    /// Rounds of its momentum's warm-up.
    pub outer_warmup: u32,
    /// Rounds whose blobs are kept.
    pub retention: u32,
    /// Rounds between checkpoints.
    pub checkpoint_every: u32,
    /// Rounds a peer may miss in a row.
    pub absent_max: u32,
    /// Deadlines in milliseconds: grace, reveal, check, merge, heartbeat.
    pub deadlines_ms: [u64; 5],
    /// Deviations above the median after which a phase ends; 0 keeps these deadlines.
    pub deviations: u32,
    /// How contributions are judged: nothing, or a rule's name with `mixing`, `clip` and `gates` after it.
    pub robust: String,
    /// Whether and how contributions are made again.
    pub audit: Audit,
    /// Whether and how it is measured what contributions do to the loss.
    pub score: Score,
}

/// How contributions are measured; not at all by default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Score {
    /// Share of merged contributions.
    pub share: f64,
    /// How many measure each.
    pub scorers: u32,
    /// From which rise of the loss on it is harm.
    pub harm: f64,
}

impl Default for Score {
    fn default() -> Self {
        Self {
            share: 0.0,
            scorers: 3,
            harm: 0.005,
        }
    }
}

/// How contributions are made again; nothing by default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Share of merged contributions.
    pub share: f64,
    /// Of a newcomer all, until so many were merged.
    pub newcomer: u32,
    /// Rounds within which that is done.
    pub window: u32,
    /// Rounds for which the guilty stay out.
    pub probation: u32,
    /// How far what was sent may lie from what comes out.
    pub tolerance: f64,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            share: 0.0,
            newcomer: 0,
            window: 3,
            probation: 50,
            tolerance: 0.05,
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            inner_steps: 4,
            codec: "int4".into(),
            overlap: "none".into(),
            outer: "sgd".into(),
            outer_warmup: 0,
            retention: 2,
            checkpoint_every: 5,
            absent_max: 2,
            deadlines_ms: [2_000, 5_000, 10_000, 10_000, 60_000],
            deviations: 0,
            robust: String::new(),
            audit: Audit::default(),
            score: Score::default(),
        }
    }
}

/// How replicas train. The toy is a noisy quadratic whose optimum is known: its loss is the distance from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Learner {
    /// Width of the toy's model: P is about 13 · width².
    pub width: u32,
    /// Standard deviation of a gradient's noise.
    pub noise: f64,
    /// Milliseconds of an inner step.
    pub step_ms: Range,
    /// Milliseconds of a merge or a checkpoint.
    pub merge_ms: Range,
    /// How far apart two machines come with the same steps, about, as a share of what these move.
    pub apart: f64,
}

impl Default for Learner {
    fn default() -> Self {
        Self {
            width: 4,
            noise: 0.05,
            step_ms: [300, 700],
            merge_ms: [20, 200],
            apart: 0.0,
        }
    }
}

/// Lines: a node's latency counts half of a way, the other node's the other half.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Line {
    /// One way to the middle of the Internet and out again to a node just like it, in milliseconds.
    pub latency_ms: Range,
    /// At most so much is added to each message, which lets messages overtake each other.
    pub jitter_ms: u64,
    /// Upload in kilobits a second, shared fairly among a node's transfers.
    pub up_kbit: Range,
    /// Download in kilobits a second.
    pub down_kbit: Range,
    /// Share of packets that are lost.
    pub loss: f64,
    /// Share of statements and blocks that arrive twice.
    pub duplicate: f64,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            latency_ms: [10, 80],
            jitter_ms: 10,
            up_kbit: [20_000, 100_000],
            down_kbit: [50_000, 500_000],
            loss: 0.0,
            duplicate: 0.0,
        }
    }
}

/// Disks: writes follow each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Disk {
    /// Milliseconds until a write is safe.
    pub sync_ms: Range,
    /// Kilobytes a second.
    pub write_kb_s: Range,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            sync_ms: [1, 8],
            write_kb_s: [50_000, 500_000],
        }
    }
}

/// Clocks: each is wrong by up to this much, one way or the other.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clock {
    /// In milliseconds.
    pub skew_ms: u64,
}

/// The simulated total order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Order {
    /// What a view costs whose leader is gone.
    pub leader_timeout_ms: u64,
    /// At most so much is added to the time until a block is final.
    pub delay_ms: u64,
    /// Share of the waiting statements that a leader leaves out.
    pub omit: f64,
    /// Share of the views whose leader proposes nothing although it could.
    pub silent: f64,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            leader_timeout_ms: 2_000,
            delay_ms: 20,
            omit: 0.0,
            silent: 0.0,
        }
    }
}

/// Nodes that come and go, from the first round to the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// Share of the nodes that are away at a time, on average.
    pub share: f64,
    /// Seconds that they stay.
    pub stay_s: Range,
    /// Until when, in seconds.
    pub until_s: u64,
    /// Share of the departures that are announced; the others are crashes.
    pub announced: f64,
}

/// Crashes while the effects of a step are carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storm {
    /// Crashes of each node, at most.
    pub crashes: u32,
    /// Among its first so many steps.
    pub steps: u32,
    /// Milliseconds until it is back.
    pub away_ms: Range,
}

/// What happens to whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When, in seconds.
    #[serde(default)]
    pub at_s: f64,
    /// What.
    #[serde(rename = "do")]
    pub deed: Deed,
    /// To these nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub who: Vec<u32>,
    /// Or to this share of all nodes, drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// For so long, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_s: Option<f64>,
    /// So many times as slow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// In this round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u32>,
    /// At this step of the node's machine, counted over all its lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// After so many effects of that step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effects: Option<u32>,
    /// In this way.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "liar")]
    pub liar: Option<Liar>,
}

/// Liars by name.
mod liar {
    use atoll_outer::attack::Liar;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(liar: &Option<Liar>, to: S) -> Result<S::Ok, S::Error> {
        liar.map(Liar::name).serialize(to)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Option<Liar>, D::Error> {
        let name = Option::<String>::deserialize(from)?;
        name.map(|name| name.parse().map_err(D::Error::custom)).transpose()
    }
}

/// The kinds of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// Power off; power on after `for_s`, or never.
    Crash,
    /// Power off in the middle of step `step`, after `effects` effects; on after `for_s`, or never.
    Cut,
    /// Not started before `at_s`.
    Late,
    /// An operator's leave; comes back after `for_s`, or never.
    Leave,
    /// Cut off from all others, but together with each other, for `for_s`.
    Partition,
    /// Training takes `factor` times as long, for `for_s` or for good.
    SlowTraining,
    /// The line is `factor` times as slow, for `for_s` or for good.
    SlowLink,
    /// The disk is `factor` times as slow, for `for_s` or for good.
    SlowDisk,
    /// Gives another root than the merge of `round` has.
    OtherRoot,
    /// Does not serve its contribution to `round`.
    Unserved,
    /// Its contribution to `round` is cut short.
    Malformed,
    /// Its first two tries to merge `round` fail.
    MergeFails,
    /// Commits twice to `round`, differently.
    Equivocate,
    /// Says everything about `round` at once: with its commitment a check and a root.
    Hasty,
    /// Its commitment to `round` arrives twenty seconds late.
    Tardy,
    /// Lies as `liar` does, for `for_s` or for good.
    Lie,
}

/// What must hold beside the invariants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hold {
    /// While a quorum works and is connected, a round ends within so many times the sum of its deadlines
    /// and the slowest training.
    pub deadlines_per_round: f64,
    /// Rounds that may be void, at most.
    pub void_max: u32,
    /// Of the contributions that could have been merged (roster times rounds), this share at least was.
    pub merged_share_min: f64,
    /// The loss at the end, at most this share of the one at the beginning.
    pub loss_share_max: f64,
    /// Who is excluded at the end; nobody else is, but for those that `lie`.
    pub excluded: Vec<u32>,
    /// Who must have been found guilty by then, by those who made its work again.
    pub convicted: Vec<u32>,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            deadlines_per_round: 2.0,
            void_max: u32::MAX,
            merged_share_min: 0.0,
            loss_share_max: 1.0,
            excluded: Vec::new(),
            convicted: Vec::new(),
        }
    }
}

/// One node's place in the world.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// One way to a node just like it.
    pub latency: Micros,
    /// Bytes a second.
    pub up: u64,
    /// Bytes a second.
    pub down: u64,
    /// Until a write is safe.
    pub sync: Micros,
    /// Bytes a second.
    pub write: u64,
    /// How far its clock is ahead.
    pub skew_ms: i64,
    /// An inner step.
    pub step: Micros,
    /// A merge or a checkpoint.
    pub merge: Micros,
}
