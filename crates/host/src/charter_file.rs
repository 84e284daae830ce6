//! `charter.toml`: the charter as people write it. Refusals name the line, the value and what is allowed.

mod audit;
mod codec;
mod robust;
mod score;

use self::{audit::AuditTable, codec::CodecTable, robust::RobustTable, score::ScoreTable};
use atoll_protocol::{
    Charter, Fraction, Hash, InnerSteps, Millis, Nano, PeerId,
    charter::{Data, Deadlines, InnerOptimizer, Matrices, Member, Model, OuterOptimizer, Overlap, RoundRules},
    limits::CHARTER_BYTES_MAX,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use thiserror::Error;
use toml::de::{DeTable, DeValue};

/// Why a charter file is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}:{line}: {message}", path.display())]
pub struct CharterFileError {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong, with the value and what is allowed.
    pub message: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u16,
    name: String,
    seed: u64,
    model: ModelTable,
    data: DataTable,
    round: RoundTable,
    inner: InnerTable,
    outer: OuterTable,
    codec: CodecTable,
    robust: RobustTable,
    audit: AuditTable,
    score: ScoreTable,
    deadlines: DeadlinesTable,
    members: Vec<MemberTable>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelTable {
    vocab: u32,
    width: u32,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    head_width: u32,
    ffn: u32,
    context: u32,
    rope_theta: u32,
    norm_eps: f64,
    tied: bool,
    theta: String,
    tokenizer: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DataTable {
    manifest: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoundTable {
    rounds: u32,
    inner_steps: u32,
    batch: u32,
    sequence: u32,
    held_out: u32,
    quorum: String,
    retention: u32,
    checkpoint_every: u32,
    absent_max: u32,
    overlap: OverlapKind,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OverlapKind {
    None,
    Steps,
    Eager,
    Round,
    Auto,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InnerTable {
    optimizer: InnerKind,
    lr: f64,
    lr_min_ratio: f64,
    warmup: u32,
    weight_decay: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    clip: f64,
    /// Muon's; AdamW has beta1 in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    momentum: Option<f64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum InnerKind {
    Adamw,
    Muon,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "optimizer", rename_all = "lowercase", deny_unknown_fields)]
enum OuterTable {
    Sgd { lr: f64 },
    Nesterov { lr: f64, momentum: f64, warmup: u32 },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeadlinesTable {
    grace_ms: u64,
    reveal_ms: u64,
    check_ms: u64,
    merge_ms: u64,
    heartbeat_ms: u64,
    deviations: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberTable {
    name: String,
    key: String,
}

/// A refusal that does not know its line yet.
struct Refused {
    field: String,
    message: String,
}

/// Reads and validates the charter at `path`.
pub fn read(path: &Path) -> Result<Charter, CharterFileError> {
    let at_top = |message| CharterFileError {
        path: path.to_path_buf(),
        line: 1,
        message,
    };
    let bytes =
        crate::folder::read_limited(path, CHARTER_BYTES_MAX as u64).map_err(|error| at_top(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| at_top("the file is not UTF-8 text".into()))?;
    parse(path, &text)
}

/// Reads and validates a charter's text; `path` is for messages.
pub fn parse(path: &Path, text: &str) -> Result<Charter, CharterFileError> {
    let error = |line, message| CharterFileError {
        path: path.to_path_buf(),
        line,
        message,
    };
    let file: File = toml::from_str(text).map_err(|refused| {
        let start = refused.span().map_or(0, |span| span.start);
        error(line_at(text, start), refused.message().replace('\n', "; "))
    })?;
    let located = |refused: Refused| error(line_of(text, &refused.field), refused.message);
    let charter = file.into_charter().map_err(located)?;
    charter.validate().map_err(|refused| {
        located(Refused {
            message: refused.to_string(),
            field: refused.field,
        })
    })?;
    Ok(charter)
}

fn line_at(text: &str, byte: usize) -> usize {
    1 + text.as_bytes().iter().take(byte).filter(|byte| **byte == b'\n').count()
}

/// The line of a field such as `round.batch`; of the deepest part of the path that is there.
fn line_of(text: &str, field: &str) -> usize {
    let Ok(table) = DeTable::parse(text) else { return 1 };
    let (mut table, mut line) = (table.get_ref(), 1);
    for part in field.split('.') {
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == part) else {
            break;
        };
        line = line_at(text, key.span().start);
        table = match value.get_ref() {
            DeValue::Table(inner) => inner,
            DeValue::Array(items) => match items.first().map(|item| item.get_ref()) {
                Some(DeValue::Table(inner)) => inner,
                _ => break,
            },
            _ => break,
        };
    }
    line
}

fn nano(field: &str, value: f64) -> Result<Nano, Refused> {
    match value.is_finite() && (0.0..=1e6).contains(&value) {
        true => Ok(Nano((value * 1e9).round() as u64)),
        false => Err(Refused {
            field: field.into(),
            message: format!("{field} = {value}: from 0 to 1000000 is allowed"),
        }),
    }
}

fn real(nano: Nano) -> f64 {
    nano.0 as f64 / 1e9
}

fn id<T: std::str::FromStr<Err: ToString>>(field: &str, text: &str) -> Result<T, Refused> {
    let refuse = |error: T::Err| Refused {
        field: field.into(),
        message: format!("{field}: {}", error.to_string()),
    };
    text.parse().map_err(refuse)
}

fn fraction(field: &str, text: &str) -> Result<Fraction, Refused> {
    let parts = text.split_once('/').and_then(|(numerator, denominator)| {
        Some(Fraction {
            numerator: numerator.trim().parse().ok()?,
            denominator: denominator.trim().parse().ok()?,
        })
    });
    parts.ok_or_else(|| Refused {
        field: field.into(),
        message: format!("{field} = {text:?}: a fraction such as \"2/3\" is needed"),
    })
}

impl File {
    fn into_charter(self) -> Result<Charter, Refused> {
        let members = self.members.into_iter().map(|member| {
            Ok(Member {
                name: member.name,
                key: id::<PeerId>("members.key", &member.key)?,
            })
        });
        let mut members = members.collect::<Result<Vec<_>, Refused>>()?;
        members.sort_by_key(|member| member.key);
        Ok(Charter {
            version: self.version,
            name: self.name,
            seed: self.seed,
            model: self.model.into_model()?,
            data: Data {
                manifest: id::<Hash>("data.manifest", &self.data.manifest)?,
            },
            round: self.round.into_rules()?,
            inner: self.inner.into_optimizer()?,
            outer: self.outer.into_optimizer()?,
            compression: self.codec.into_compression()?,
            robust: self.robust.into_robust()?,
            audit: self.audit.into_audit()?,
            score: self.score.into_score()?,
            deadlines: Deadlines {
                grace: Millis(self.deadlines.grace_ms),
                reveal: Millis(self.deadlines.reveal_ms),
                check: Millis(self.deadlines.check_ms),
                merge: Millis(self.deadlines.merge_ms),
                heartbeat: Millis(self.deadlines.heartbeat_ms),
                deviations: self.deadlines.deviations,
            },
            members,
        })
    }
}

impl ModelTable {
    fn into_model(self) -> Result<Model, Refused> {
        Ok(Model {
            vocab: self.vocab,
            width: self.width,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_width: self.head_width,
            ffn: self.ffn,
            context: self.context,
            rope_theta: self.rope_theta,
            norm_eps: nano("model.norm_eps", self.norm_eps)?,
            tied: self.tied,
            theta: id("model.theta", &self.theta)?,
            tokenizer: id("model.tokenizer", &self.tokenizer)?,
        })
    }
}

impl RoundTable {
    fn into_rules(self) -> Result<RoundRules, Refused> {
        Ok(RoundRules {
            rounds: self.rounds,
            inner_steps: InnerSteps(self.inner_steps),
            batch: self.batch,
            sequence: self.sequence,
            held_out: self.held_out,
            quorum: fraction("round.quorum", &self.quorum)?,
            retention: self.retention,
            checkpoint_every: self.checkpoint_every,
            absent_max: self.absent_max,
            overlap: match self.overlap {
                OverlapKind::None => Overlap::None,
                OverlapKind::Steps => Overlap::Steps,
                OverlapKind::Eager => Overlap::Eager,
                OverlapKind::Round => Overlap::Round,
                OverlapKind::Auto => Overlap::Auto,
            },
        })
    }
}

impl InnerTable {
    fn into_optimizer(self) -> Result<InnerOptimizer, Refused> {
        let matrices = match (self.optimizer, self.momentum) {
            (InnerKind::Adamw, None) => Matrices::AdamW,
            (InnerKind::Muon, Some(momentum)) => Matrices::Muon {
                momentum: nano("inner.momentum", momentum)?,
            },
            (InnerKind::Adamw, Some(_)) => {
                return Err(Refused {
                    field: "inner.momentum".into(),
                    message: "inner.momentum: only the optimizer muon has it; leave it out".into(),
                });
            }
            (InnerKind::Muon, None) => {
                return Err(Refused {
                    field: "inner.optimizer".into(),
                    message: "inner.momentum is missing: the optimizer muon needs it, such as 0.95".into(),
                });
            }
        };
        Ok(InnerOptimizer {
            matrices,
            lr: nano("inner.lr", self.lr)?,
            lr_min_ratio: nano("inner.lr_min_ratio", self.lr_min_ratio)?,
            warmup: InnerSteps(self.warmup),
            weight_decay: nano("inner.weight_decay", self.weight_decay)?,
            beta1: nano("inner.beta1", self.beta1)?,
            beta2: nano("inner.beta2", self.beta2)?,
            eps: nano("inner.eps", self.eps)?,
            clip: nano("inner.clip", self.clip)?,
        })
    }
}

impl OuterTable {
    fn into_optimizer(self) -> Result<OuterOptimizer, Refused> {
        Ok(match self {
            Self::Sgd { lr } => OuterOptimizer::Sgd {
                lr: nano("outer.lr", lr)?,
            },
            Self::Nesterov { lr, momentum, warmup } => OuterOptimizer::Nesterov {
                lr: nano("outer.lr", lr)?,
                momentum: nano("outer.momentum", momentum)?,
                warmup,
            },
        })
    }
}

/// The text of a charter, which [`parse`] reads back to the same charter.
pub fn to_text(charter: &Charter) -> Result<String, toml::ser::Error> {
    let (model, round, inner) = (&charter.model, &charter.round, &charter.inner);
    let file = File {
        version: charter.version,
        name: charter.name.clone(),
        seed: charter.seed,
        model: ModelTable {
            vocab: model.vocab,
            width: model.width,
            layers: model.layers,
            heads: model.heads,
            kv_heads: model.kv_heads,
            head_width: model.head_width,
            ffn: model.ffn,
            context: model.context,
            rope_theta: model.rope_theta,
            norm_eps: real(model.norm_eps),
            tied: model.tied,
            theta: model.theta.to_string(),
            tokenizer: model.tokenizer.to_string(),
        },
        data: DataTable {
            manifest: charter.data.manifest.to_string(),
        },
        round: RoundTable {
            rounds: round.rounds,
            inner_steps: round.inner_steps.0,
            batch: round.batch,
            sequence: round.sequence,
            held_out: round.held_out,
            quorum: round.quorum.to_string(),
            retention: round.retention,
            checkpoint_every: round.checkpoint_every,
            absent_max: round.absent_max,
            overlap: match round.overlap {
                Overlap::None => OverlapKind::None,
                Overlap::Steps => OverlapKind::Steps,
                Overlap::Eager => OverlapKind::Eager,
                Overlap::Round => OverlapKind::Round,
                Overlap::Auto => OverlapKind::Auto,
            },
        },
        inner: InnerTable {
            optimizer: match inner.matrices {
                Matrices::AdamW => InnerKind::Adamw,
                Matrices::Muon { .. } => InnerKind::Muon,
            },
            lr: real(inner.lr),
            lr_min_ratio: real(inner.lr_min_ratio),
            warmup: inner.warmup.0,
            weight_decay: real(inner.weight_decay),
            beta1: real(inner.beta1),
            beta2: real(inner.beta2),
            eps: real(inner.eps),
            clip: real(inner.clip),
            momentum: match inner.matrices {
                Matrices::AdamW => None,
                Matrices::Muon { momentum } => Some(real(momentum)),
            },
        },
        outer: match &charter.outer {
            OuterOptimizer::Sgd { lr } => OuterTable::Sgd { lr: real(*lr) },
            OuterOptimizer::Nesterov { lr, momentum, warmup } => OuterTable::Nesterov {
                lr: real(*lr),
                momentum: real(*momentum),
                warmup: *warmup,
            },
        },
        codec: CodecTable::of(&charter.compression),
        robust: RobustTable::of(&charter.robust),
        audit: AuditTable::of(&charter.audit),
        score: ScoreTable::of(&charter.score),
        deadlines: DeadlinesTable {
            grace_ms: charter.deadlines.grace.0,
            reveal_ms: charter.deadlines.reveal.0,
            check_ms: charter.deadlines.check.0,
            merge_ms: charter.deadlines.merge.0,
            heartbeat_ms: charter.deadlines.heartbeat.0,
            deviations: charter.deadlines.deviations,
        },
        members: charter
            .members
            .iter()
            .map(|member| MemberTable {
                name: member.name.clone(),
                key: member.key.to_string(),
            })
            .collect(),
    };
    let head = format!(
        "# The charter of a run: everything that was agreed before the first round.\n\
         # Nodes work together only if they hold the same one. Genesis {}\n\n",
        charter.genesis()
    );
    Ok(head + &toml::to_string(&file)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::tests::charter_of;
    use atoll_protocol::charter::{Codec, Compression};

    fn text() -> String {
        to_text(&charter_of(&[PeerId([1; 32]), PeerId([2; 32])])).unwrap()
    }

    fn refused(from: &str, to: &str) -> String {
        let text = text();
        assert!(text.contains(from), "{from} is not in\n{text}");
        parse(Path::new("charter.toml"), &text.replacen(from, to, 1))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let mut charter = charter_of(&[PeerId([1; 32]), PeerId([2; 32])]);
        let feedback = Nano(950_000_000);
        let compressions = [
            Compression::Auto { feedback },
            Compression::EffectiveRank {
                rank: 8,
                window: 3,
                feedback,
            },
            Compression::Fixed(Codec::Dense),
            Compression::Fixed(Codec::Int8 { feedback }),
            Compression::Fixed(Codec::Int4 { feedback }),
            Compression::Fixed(Codec::Sparse { k: 64, feedback }),
            Compression::Fixed(Codec::LowRank { rank: 4, feedback }),
        ];
        let overlaps = [
            Overlap::None,
            Overlap::Steps,
            Overlap::Eager,
            Overlap::Round,
            Overlap::Auto,
        ];
        for (compression, overlap) in compressions.into_iter().zip(overlaps.into_iter().cycle()) {
            charter.compression = compression;
            charter.round.overlap = overlap;
            assert_eq!(parse(Path::new("c"), &to_text(&charter).unwrap()), Ok(charter.clone()));
        }
        charter.inner.matrices = Matrices::Muon { momentum: feedback };
        charter.outer = OuterOptimizer::Nesterov {
            lr: Nano::ONE,
            momentum: feedback,
            warmup: 10,
        };
        assert_eq!(parse(Path::new("c"), &to_text(&charter).unwrap()), Ok(charter));
    }

    #[test]
    fn refusals_name_line_value_and_what_is_allowed() {
        let line = |field: &str| 1 + text().lines().position(|line| line.starts_with(field)).unwrap();
        let table = [
            (
                "batch = 8",
                "batch = 0",
                "batch",
                "round.batch = 0: from 1 to 65536 is allowed",
            ),
            ("batch = 8", "batches = 8", "batch", "unknown field `batches`"),
            (
                "lr = 0.003",
                "lr = 7.5",
                "lr",
                "inner.lr = 7.5: from 0.000000001 to 1 is allowed",
            ),
            (
                "lr = 0.003",
                "lr = -1.0",
                "lr",
                "inner.lr = -1: from 0 to 1000000 is allowed",
            ),
            (
                "quorum = \"2/3\"",
                "quorum = \"1/2\"",
                "quorum",
                "round.quorum = 1/2: more than 1/2",
            ),
            (
                "quorum = \"2/3\"",
                "quorum = \"most\"",
                "quorum",
                "a fraction such as \"2/3\" is needed",
            ),
            ("kind = \"auto\"", "kind = \"zip\"", "", "unknown variant `zip`"),
            (
                "optimizer = \"adamw\"",
                "optimizer = \"muon\"",
                "optimizer",
                "inner.momentum is missing",
            ),
            (
                "heartbeat_ms = 60000",
                "heartbeat_ms = 1",
                "heartbeat_ms",
                "deadlines.heartbeat_ms = 1: from 1000",
            ),
        ];
        for (from, to, field, expected) in table {
            let message = refused(from, to);
            assert!(message.contains(expected), "{message}");
            if !field.is_empty() {
                assert!(
                    message.starts_with(&format!("charter.toml:{}: ", line(field))),
                    "{message}"
                );
            }
        }
    }

    #[test]
    fn text_that_is_no_charter_is_refused() {
        for text in ["", "name = 1", "[[", "\u{0}", "version = 1\nversion = 1"] {
            assert!(parse(Path::new("c"), text).is_err(), "{text}");
        }
    }
}
