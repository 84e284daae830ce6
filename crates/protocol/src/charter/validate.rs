//! What a charter may hold: each value that cannot be is refused with its place and what is allowed.

use super::{
    CHARTER_VERSION, Charter, Codec, Compression, Deadlines, InnerOptimizer, Matrices, Model, OuterOptimizer,
    RoundRules,
};
use crate::{
    Fraction, Nano, layout,
    limits::{DEADLINE_MS_MIN, MEMBERS_MAX, NAME_BYTES_MAX, PARAMETERS_MAX, RANK_MAX, ROUNDS_MAX},
};
use alloc::{
    collections::BTreeSet,
    format,
    string::{String, ToString},
};
use thiserror::Error;

/// A value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field} = {value}: {allowed}")]
pub struct CharterError {
    /// Path of the field, as in the file: `round.batch`.
    pub field: String,
    /// The value.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

pub(crate) fn refuse(field: &str, value: impl ToString, allowed: impl ToString) -> CharterError {
    CharterError {
        field: field.to_string(),
        value: value.to_string(),
        allowed: allowed.to_string(),
    }
}

pub(crate) fn within(field: &str, value: u64, min: u64, max: u64) -> Result<(), CharterError> {
    match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(refuse(field, value, format!("from {min} to {max} is allowed"))),
    }
}

fn nano_text(nano: Nano) -> String {
    let (whole, part) = (nano.0 / Nano::ONE.0, nano.0 % Nano::ONE.0);
    match part {
        0 => format!("{whole}"),
        _ => format!("{whole}.{part:09}").trim_end_matches('0').to_string(),
    }
}

pub(crate) fn within_nano(field: &str, value: Nano, min: Nano, max: Nano) -> Result<(), CharterError> {
    match min <= value && value <= max {
        true => Ok(()),
        false => Err(refuse(
            field,
            nano_text(value),
            format!("from {} to {} is allowed", nano_text(min), nano_text(max)),
        )),
    }
}

impl Charter {
    /// Refuses the first value that cannot be, with its place and what is allowed.
    pub fn validate(&self) -> Result<(), CharterError> {
        within(
            "version",
            self.version.into(),
            CHARTER_VERSION.into(),
            CHARTER_VERSION.into(),
        )?;
        name("name", &self.name)?;
        self.model.validate()?;
        self.round.validate(&self.model)?;
        self.inner.validate()?;
        self.outer.validate()?;
        self.compression.validate()?;
        self.robust.validate(self.members.len())?;
        self.audit.validate(self.round.retention)?;
        self.score.validate(self.round.retention, self.audit.kept())?;
        self.deadlines.validate()?;
        self.validate_members()
    }

    fn validate_members(&self) -> Result<(), CharterError> {
        within("members", self.members.len() as u64, 1, MEMBERS_MAX as u64)?;
        let mut names = BTreeSet::new();
        for member in &self.members {
            name("members.name", &member.name)?;
            if !names.insert(&member.name) {
                return Err(refuse("members.name", &member.name, "each name may stand once"));
            }
        }
        match self.members.windows(2).find(|pair| pair[0].key >= pair[1].key) {
            Some(pair) if pair[0].key == pair[1].key => {
                Err(refuse("members.key", pair[0].key, "each key may stand once"))
            }
            Some(pair) => Err(refuse("members.key", pair[1].key, "keys must ascend")),
            None => Ok(()),
        }
    }
}

/// Whether a letter shows nothing or turns the writing around: with such two names look alike (Unicode, Cf).
fn is_invisible(letter: char) -> bool {
    matches!(
        letter,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
    ) || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(letter, '\u{3164}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn name(field: &str, text: &str) -> Result<(), CharterError> {
    let is_seen = |letter: char| !letter.is_control() && !is_invisible(letter);
    let fits = (1..=NAME_BYTES_MAX).contains(&text.len()) && text.trim() == text && text.chars().all(is_seen);
    match fits {
        true => Ok(()),
        false => Err(refuse(
            field,
            format!("{text:?}"),
            format!("1 to {NAME_BYTES_MAX} bytes that can be seen, without blanks at the ends"),
        )),
    }
}

impl Model {
    /// Refuses the first size that cannot be, with its place and what is allowed.
    pub fn validate(&self) -> Result<(), CharterError> {
        within("model.vocab", self.vocab.into(), 2, 1 << 20)?;
        within("model.width", self.width.into(), 2, 1 << 16)?;
        within("model.layers", self.layers.into(), 1, 1024)?;
        within("model.heads", self.heads.into(), 1, 1024)?;
        within("model.kv_heads", self.kv_heads.into(), 1, self.heads.into())?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(refuse(
                "model.kv_heads",
                self.kv_heads,
                format!("must divide heads = {}", self.heads),
            ));
        }
        within("model.head_width", self.head_width.into(), 2, 1024)?;
        if !self.head_width.is_multiple_of(2) {
            return Err(refuse("model.head_width", self.head_width, "must be even"));
        }
        within("model.ffn", self.ffn.into(), 1, 1 << 20)?;
        within("model.context", self.context.into(), 2, 1 << 20)?;
        within("model.rope_theta", self.rope_theta.into(), 2, u64::from(u32::MAX))?;
        within_nano("model.norm_eps", self.norm_eps, Nano(1), Nano(10_000_000))?;
        match layout::parameters(self) {
            Some(count) if count <= PARAMETERS_MAX => Ok(()),
            count => Err(refuse(
                "model",
                count.map_or("more than 2^64 parameters".to_string(), |count| {
                    format!("{count} parameters")
                }),
                format!("at most {PARAMETERS_MAX} parameters are allowed"),
            )),
        }
    }
}

impl RoundRules {
    fn validate(&self, model: &Model) -> Result<(), CharterError> {
        within("round.rounds", self.rounds.into(), 1, ROUNDS_MAX.into())?;
        within("round.inner_steps", self.inner_steps.0.into(), 1, 100_000)?;
        within("round.batch", self.batch.into(), 1, 65_536)?;
        within("round.sequence", self.sequence.into(), 2, model.context.into())?;
        within("round.held_out", self.held_out.into(), 1, 65_536)?;
        within(
            "round.checkpoint_every",
            self.checkpoint_every.into(),
            1,
            ROUNDS_MAX.into(),
        )?;
        within("round.absent_max", self.absent_max.into(), 1, ROUNDS_MAX.into())?;
        let Fraction { numerator, denominator } = self.quorum;
        let (twice, whole) = (2 * u64::from(numerator), u64::from(denominator));
        match twice > whole && u64::from(numerator) <= whole {
            true => Ok(()),
            false => Err(refuse(
                "round.quorum",
                self.quorum,
                "more than 1/2 and at most 1/1 is allowed",
            )),
        }
    }
}

impl InnerOptimizer {
    fn validate(&self) -> Result<(), CharterError> {
        let below_one = Nano(Nano::ONE.0 - 1);
        within_nano("inner.lr", self.lr, Nano(1), Nano::ONE)?;
        within_nano("inner.lr_min_ratio", self.lr_min_ratio, Nano(0), Nano::ONE)?;
        within("inner.warmup", self.warmup.0.into(), 0, 10_000_000)?;
        within_nano("inner.weight_decay", self.weight_decay, Nano(0), Nano::ONE)?;
        within_nano("inner.beta1", self.beta1, Nano(0), below_one)?;
        within_nano("inner.beta2", self.beta2, Nano(0), below_one)?;
        within_nano("inner.eps", self.eps, Nano(1), Nano(1_000_000))?;
        within_nano("inner.clip", self.clip, Nano(1), Nano(1_000 * Nano::ONE.0))?;
        match self.matrices {
            Matrices::AdamW => Ok(()),
            Matrices::Muon { momentum } => within_nano("inner.momentum", momentum, Nano(0), below_one),
        }
    }
}

impl OuterOptimizer {
    fn validate(&self) -> Result<(), CharterError> {
        match self {
            Self::Sgd { lr } => within_nano("outer.lr", *lr, Nano(1), Nano(2 * Nano::ONE.0)),
            Self::Nesterov { lr, momentum, warmup } => {
                within_nano("outer.lr", *lr, Nano(1), Nano(2 * Nano::ONE.0))?;
                within_nano("outer.momentum", *momentum, Nano(0), Nano(Nano::ONE.0 - 1))?;
                within("outer.warmup", (*warmup).into(), 0, ROUNDS_MAX.into())
            }
        }
    }
}

impl Compression {
    fn validate(&self) -> Result<(), CharterError> {
        self.first().validate()?;
        match self {
            Self::EffectiveRank { window, .. } => within("codec.window", (*window).into(), 1, 64),
            Self::Fixed(_) | Self::Auto { .. } => Ok(()),
        }
    }
}

impl Codec {
    fn validate(&self) -> Result<(), CharterError> {
        within_nano("codec.feedback", self.feedback(), Nano(0), Nano::ONE)?;
        match self {
            Self::Sparse { k, .. } => within("codec.k", (*k).into(), 1, 4096),
            Self::LowRank { rank, .. } => within("codec.rank", (*rank).into(), 1, RANK_MAX.into()),
            Self::Dense | Self::Int8 { .. } | Self::Int4 { .. } => Ok(()),
        }
    }
}

impl Deadlines {
    fn validate(&self) -> Result<(), CharterError> {
        const DAY_MS: u64 = 24 * 60 * 60 * 1000;
        within("deadlines.grace_ms", self.grace.0, DEADLINE_MS_MIN, DAY_MS)?;
        within("deadlines.reveal_ms", self.reveal.0, DEADLINE_MS_MIN, DAY_MS)?;
        within("deadlines.check_ms", self.check.0, DEADLINE_MS_MIN, DAY_MS)?;
        within("deadlines.merge_ms", self.merge.0, DEADLINE_MS_MIN, DAY_MS)?;
        within("deadlines.heartbeat_ms", self.heartbeat.0, 1000, DAY_MS)?;
        within("deadlines.deviations", self.deviations.into(), 0, 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_they_look_like() {
        for good in ["ada", "Ada L.", "環礁", "o-1_x", "naïve"] {
            assert!(name("members.name", good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            " ",
            "ada ",
            " ada",
            "a\u{200b}da",
            "ada\u{202e}",
            "\u{feff}ada",
            "a\tb",
            "a\u{ad}b",
        ] {
            assert!(name("members.name", bad).is_err(), "{bad:?}");
        }
        assert!(name("members.name", &"x".repeat(NAME_BYTES_MAX + 1)).is_err());
    }
}
