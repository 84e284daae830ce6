//! What a run is, and what it gave: the lines of a results file.

use super::RunError;
use atoll_outer::attack::Liar;
use atoll_protocol::{
    Charter, InnerSteps, Nano, PeerId,
    charter::{Codec, Compression, Matrices, Model, OuterOptimizer, Overlap},
    robust::UnknownWord,
    tiny_charter,
};
use serde::{Deserialize, Serialize};

/// How replicas learn from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The gradient of every step is averaged in f32: one learner with all replicas' rows.
    AllReduce,
    /// CocktailSGD: the gradient of every step, sparsified and in four bits, with error feedback.
    Cocktail,
    /// Pseudo-gradients after H steps: DiLoCo and its kin, and Atoll.
    OuterLoop,
}

/// One run, complete: the same spec gives the same result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The arm that it belongs to.
    pub arm: String,
    /// Size of the model: `tiny`, `1m` or `10m`.
    pub size: String,
    /// How it learns.
    pub method: Method,
    /// N.
    pub replicas: u32,
    /// Rounds.
    pub rounds: u32,
    /// H.
    pub inner_steps: u32,
    /// Sequences of one step of one replica.
    pub batch: u32,
    /// Tokens of a sequence.
    pub sequence: u32,
    /// Of θ⁰ and of the order of rows.
    pub seed: u64,
    /// Inner optimizer: `adamw` or `muon`.
    pub inner: String,
    /// Its peak learning rate.
    pub lr: f64,
    /// Outer learning rate.
    pub outer_lr: f64,
    /// Outer momentum; 0 is plain SGD.
    pub outer_momentum: f64,
    /// Rounds of its warm-up, as in the charter.
    pub outer_warmup: u32,
    /// Codec: `dense`, `fp16`, `int8`, `int4`, `sparse-K`, `lowrank-R`, `auto`, `effective-rank-R`.
    pub codec: String,
    /// β of the error feedback.
    pub feedback: f64,
    /// `none`, `steps-T`, `auto-T`, `eager`, `eager-T` or `round`: T steps, or as many as a round has.
    pub overlap: String,
    /// ρ of the links, which an adaptive codec follows; 0 tells it nothing of them.
    pub rho: f64,
    /// How contributions are judged: nothing, or a rule's name, with `mixing`, `clip` and `gates` after it, as in
    /// `geometric-median mixing clip gates`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub robust: String,
    /// How the last replicas lie.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub liars: Vec<String>,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Inner steps of each replica so far.
    pub step: u64,
    /// Bytes that a replica encoded so far.
    pub encoded: u64,
    /// Held-out loss, nats per token.
    pub loss: f64,
}

/// What a run gave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Held-out loss at the end, nats per token.
    #[serde(with = "loss")]
    pub loss: f64,
    /// Mean loss of the last tenth of the steps, before each step.
    #[serde(with = "loss")]
    pub train_loss: f64,
    /// The way there.
    pub curve: Vec<Point>,
    /// Bytes that a replica encoded in all.
    pub encoded: u64,
    /// How often.
    pub syncs: u64,
    /// Tokens that a replica trained on.
    pub tokens: u64,
    /// Parameters.
    pub parameters: u64,
    /// Which codecs were used, and in how many rounds each.
    pub codecs: Vec<(String, u32)>,
    /// Mean of ‖e‖ / ‖δ‖.
    pub residual: f64,
    /// Of each liar, in how many rounds it was kept out, and in which first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caught: Vec<Caught>,
    /// In how many rounds an honest replica's contribution was kept out, summed over replicas.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub honest_kept_out: u32,
    /// Wall time in seconds; not part of the result.
    pub wall_s: f64,
}

/// What became of a liar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caught {
    /// The first round in which it was kept out.
    pub first: Option<u32>,
    /// In how many.
    pub rounds: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// JSON has no infinity: a run that diverged has no loss.
pub(crate) mod loss {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(loss: &f64, to: S) -> Result<S::Ok, S::Error> {
        loss.is_finite().then_some(*loss).serialize(to)
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(from)?.unwrap_or(f64::INFINITY))
    }
}

impl RunResult {
    pub(super) fn diverged() -> Self {
        Self {
            loss: f64::INFINITY,
            train_loss: f64::INFINITY,
            ..Self::default()
        }
    }
}

fn refuse(field: &'static str, value: impl ToString, allowed: &'static str) -> RunError {
    RunError::Spec {
        field,
        value: value.to_string(),
        allowed,
    }
}

fn nano(value: f64) -> Nano {
    Nano((value * 1e9).round() as u64)
}

/// The model of a named size, on bytes.
pub fn model(size: &str, vocab: u32, sequence: u32) -> Option<Model> {
    let (width, layers, heads, ffn) = match size {
        "tiny" => (32, 2, 2, 88),
        "1m" => (128, 5, 4, 344),
        "10m" => (320, 8, 5, 864),
        _ => return None,
    };
    Some(Model {
        vocab,
        width,
        layers,
        heads,
        kv_heads: heads,
        head_width: width / heads,
        ffn,
        context: sequence,
        ..tiny_charter([]).model
    })
}

impl Spec {
    /// Rounds times H.
    pub fn steps(&self) -> u64 {
        u64::from(self.rounds) * u64::from(self.inner_steps)
    }

    /// What stands for τ: inner steps taken while a contribution travels.
    pub(super) fn ahead(&self) -> Result<u32, RunError> {
        match self.overlap.split_once('-') {
            Some(("steps" | "auto" | "eager", tau)) => tau
                .parse()
                .ok()
                .filter(|tau| *tau <= self.inner_steps)
                .ok_or_else(|| refuse("overlap", &self.overlap, "T in steps-T is at most the inner steps")),
            None if self.overlap == "none" => Ok(0),
            None if matches!(self.overlap.as_str(), "eager" | "round") => Ok(self.inner_steps),
            _ => Err(refuse(
                "overlap",
                &self.overlap,
                "none, steps-T, auto-T, eager, eager-T or round is allowed",
            )),
        }
    }

    fn compression(&self) -> Result<Compression, RunError> {
        let feedback = nano(self.feedback);
        let allowed = "dense, fp16, int8, int4, sparse-K, lowrank-R, auto or effective-rank-R is allowed";
        let wrong = || refuse("codec", &self.codec, allowed);
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        Ok(match self.codec.as_str() {
            "dense" | "fp16" => Compression::Fixed(Codec::Dense),
            "int8" => Compression::Fixed(Codec::Int8 { feedback }),
            "int4" => Compression::Fixed(Codec::Int4 { feedback }),
            "auto" => Compression::Auto { feedback },
            other => match other.rsplit_once('-') {
                Some(("sparse", k)) => Compression::Fixed(Codec::Sparse {
                    k: number(k)?,
                    feedback,
                }),
                Some(("lowrank", rank)) => Compression::Fixed(Codec::LowRank {
                    rank: number(rank)?,
                    feedback,
                }),
                Some(("effective-rank", rank)) => Compression::EffectiveRank {
                    rank: number(rank)?,
                    window: 5,
                    feedback,
                },
                _ => return Err(wrong()),
            },
        })
    }

    /// How the replica at `who` lies, if it does.
    pub(super) fn liar(&self, who: usize) -> Result<Option<Liar>, RunError> {
        let honest = (self.replicas as usize).saturating_sub(self.liars.len());
        let name = who.checked_sub(honest).and_then(|at| self.liars.get(at));
        let liar = name.map(|name| name.parse::<Liar>());
        liar.transpose()
            .map_err(|error| refuse("liars", error, "see the names of atoll demo --liars"))
    }

    /// The charter under which such a run would be.
    pub(super) fn charter(&self, vocab: u32) -> Result<Charter, RunError> {
        let members = (0..self.replicas).map(|i| (format!("replica-{i}"), peer(i)));
        let mut charter = tiny_charter(members);
        charter.seed = self.seed;
        charter.model =
            model(&self.size, vocab, self.sequence).ok_or_else(|| refuse("size", &self.size, "tiny, 1m or 10m"))?;
        charter.round.rounds = self.rounds;
        charter.round.inner_steps = InnerSteps(self.inner_steps);
        charter.round.batch = self.batch;
        charter.round.sequence = self.sequence;
        charter.round.overlap = match self.overlap.split('-').next() {
            Some("steps") => Overlap::Steps,
            Some("auto") => Overlap::Auto,
            Some("eager") => Overlap::Eager,
            Some("round") => Overlap::Round,
            _ => Overlap::None,
        };
        charter.inner.lr = nano(self.lr);
        charter.inner.warmup = InnerSteps(u32::try_from(self.steps() / 20).unwrap_or(u32::MAX));
        charter.inner.matrices = match self.inner.as_str() {
            "adamw" => Matrices::AdamW,
            "muon" => Matrices::Muon { momentum: nano(0.95) },
            other => return Err(refuse("inner", other, "adamw or muon is allowed")),
        };
        let (lr, momentum) = (nano(self.outer_lr), nano(self.outer_momentum));
        charter.outer = match self.outer_momentum == 0.0 {
            true => OuterOptimizer::Sgd { lr },
            false => OuterOptimizer::Nesterov {
                lr,
                momentum,
                warmup: self.outer_warmup,
            },
        };
        charter.compression = self.compression()?;
        let robust = self.robust.parse();
        charter.robust = robust.map_err(|error: UnknownWord| refuse("robust", error, "see atoll found --help"))?;
        charter.validate().map_err(|error| RunError::Spec {
            field: "charter",
            value: format!("{}: {}", error.field, error.value),
            allowed: "see the charter's limits",
        })?;
        Ok(charter)
    }
}

/// The id of replica `i`.
pub(super) fn peer(i: u32) -> PeerId {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&i.to_be_bytes());
    PeerId(id)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Spec {
        Spec {
            arm: "sample".into(),
            size: "tiny".into(),
            method: Method::OuterLoop,
            replicas: 2,
            rounds: 3,
            inner_steps: 4,
            batch: 2,
            sequence: 16,
            seed: 1,
            inner: "adamw".into(),
            lr: 0.006,
            outer_lr: 1.0,
            outer_momentum: 0.0,
            outer_warmup: 0,
            codec: "int4".into(),
            feedback: 1.0,
            overlap: "none".into(),
            rho: 0.0,
            robust: String::new(),
            liars: Vec::new(),
        }
    }

    #[test]
    fn wrong_settings_are_refused_by_name() {
        type Change = fn(&mut Spec);
        let table: [(&str, Change); 9] = [
            ("robust = \"bulyan\"", |s| s.robust = "krum bulyan".into()),
            ("liars = \"none\" is no liar", |s| s.liars = vec!["none".into()]),
            ("codec = sparse-x", |s| s.codec = "sparse-x".into()),
            ("codec = zip", |s| s.codec = "zip".into()),
            ("size = 1g", |s| s.size = "1g".into()),
            ("inner = sgd", |s| s.inner = "sgd".into()),
            ("charter = codec.k: 5000", |s| s.codec = "sparse-5000".into()),
            ("overlap = steps-5", |s| s.overlap = "steps-5".into()),
            ("overlap = later", |s| s.overlap = "later".into()),
        ];
        for (expected, change) in table {
            let mut spec = sample();
            change(&mut spec);
            let refused = spec.charter(257).map(drop).and_then(|()| spec.ahead().map(drop));
            let refused = refused.and_then(|()| spec.liar(1).map(drop));
            let text = refused.expect_err(expected).to_string();
            assert!(text.starts_with(expected), "{text}");
        }
    }

    #[test]
    fn a_diverged_run_comes_back_from_json() {
        let text = serde_json::to_string(&RunResult::diverged()).unwrap();
        let read: RunResult = serde_json::from_str(&text).unwrap();
        assert_eq!(read, RunResult::diverged());
    }
}
