//! The charter: everything that is agreed before the first round. Its hash is the genesis hash.

mod validate;

pub use validate::CharterError;
pub(crate) use validate::{refuse, within, within_nano};

use crate::{Audit, Fraction, Hash, InnerSteps, Millis, Nano, PeerId, Robust, Round, Score, encode, ids::Domain};
use alloc::{string::String, vec::Vec};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;

/// The only version there is.
pub const CHARTER_VERSION: u16 = 5;

/// The rules of a run. Two nodes work together if and only if they hold the same charter.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Charter {
    /// [`CHARTER_VERSION`].
    pub version: u16,
    /// The run's name, for people.
    pub name: String,
    /// Seed of the initial parameters and of everything else that is drawn before the first block.
    pub seed: u64,
    /// The model.
    pub model: Model,
    /// What it learns from.
    pub data: Data,
    /// The shape of a round.
    pub round: RoundRules,
    /// How a replica trains within a round.
    pub inner: InnerOptimizer,
    /// How merged pseudo-gradients move θ.
    pub outer: OuterOptimizer,
    /// How pseudo-gradients travel.
    pub compression: Compression,
    /// What is kept out of a merge, and how the rest is weighed.
    pub robust: Robust,
    /// What is done again after it was merged, and what follows.
    pub audit: Audit,
    /// What merged contributions do to the loss, measured, and what is too much.
    pub score: Score,
    /// When the ledger goes on.
    pub deadlines: Deadlines,
    /// Who may take part; all of them validate. Ascending by key, without repeats.
    pub members: Vec<Member>,
}

/// A Llama-style decoder.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Model {
    /// Vocabulary size.
    pub vocab: u32,
    /// Width of the residual stream.
    pub width: u32,
    /// Decoder layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Width of one head; even.
    pub head_width: u32,
    /// Width of the feed-forward layer.
    pub ffn: u32,
    /// Longest sequence in tokens.
    pub context: u32,
    /// Base of the rotary embedding.
    pub rope_theta: u32,
    /// Epsilon of RMSNorm.
    pub norm_eps: Nano,
    /// Whether the output head is the embedding.
    pub tied: bool,
    /// BLAKE3 of θ⁰ as little-endian f32.
    pub theta: Hash,
    /// BLAKE3 of `tokenizer.json`.
    pub tokenizer: Hash,
}

/// The corpus.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Data {
    /// BLAKE3 of the manifest, which names every shard by hash.
    pub manifest: Hash,
}

/// The shape of a round.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RoundRules {
    /// Rounds in the run.
    pub rounds: u32,
    /// H: optimizer steps per round.
    pub inner_steps: InnerSteps,
    /// Sequences per step and replica.
    pub batch: u32,
    /// Tokens per sequence, at most the model's context.
    pub sequence: u32,
    /// Held-out sequences that each replica evaluates in each round.
    pub held_out: u32,
    /// The share of the round's roster that closes a phase and agrees on a root; more than 1/2.
    pub quorum: Fraction,
    /// Rounds whose blobs are kept; older ones may be collected. 0 keeps all.
    pub retention: u32,
    /// A checkpoint is due after every so many rounds, and after the last.
    pub checkpoint_every: u32,
    /// Rounds a peer may miss in a row before it must join again.
    pub absent_max: u32,
    /// What a peer does while its contribution travels.
    pub overlap: Overlap,
}

/// What a peer does from the moment its contribution is encoded until the next θ is there. It trains on,
/// at most H steps, from some weights s to w; then θ^{t+1} + (w − s) is where the next round goes on, and
/// the steps count as that round's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Overlap {
    /// It waits.
    None,
    /// s are its own weights, as when it sent. Streaming DiLoCo (arXiv:2501.18512), of one fragment.
    Steps,
    /// s is the θ^{t+1} to expect of its own contribution and of earlier rounds, for a transfer that takes about
    /// a whole round. Eager updates (arXiv:2502.12996).
    Eager,
    /// s is θ^t: the next contribution knows nothing of the last. DiLoCoX (arXiv:2506.21263).
    Round,
    /// [`Overlap::Steps`], and the more steps are taken so, the lower the outer momentum.
    Auto,
}

/// AdamW with global-norm clipping and a cosine schedule on the global step; Muon for matrices, if wanted.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct InnerOptimizer {
    /// Peak learning rate.
    pub lr: Nano,
    /// Final learning rate as a share of the peak.
    pub lr_min_ratio: Nano,
    /// Global steps of linear warm-up.
    pub warmup: InnerSteps,
    /// Decoupled weight decay, on tensors of two dimensions.
    pub weight_decay: Nano,
    /// First moment decay.
    pub beta1: Nano,
    /// Second moment decay.
    pub beta2: Nano,
    /// Epsilon.
    pub eps: Nano,
    /// Largest global gradient norm.
    pub clip: Nano,
    /// What moves matrices between two activations. Embeddings and gains are AdamW's.
    pub matrices: Matrices,
}

/// An inner optimizer for matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Matrices {
    /// As everything else.
    AdamW,
    /// Momentum, made orthogonal by Newton–Schulz, scaled to the size of an AdamW step, so that rate and
    /// decay are the same (arXiv:2502.16982).
    Muon {
        /// Nesterov momentum.
        momentum: Nano,
    },
}

/// The outer optimizer. Its learning rate is applied here and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum OuterOptimizer {
    /// θ ← θ − lr·Δ.
    Sgd {
        /// Learning rate; 1 is plain averaging.
        lr: Nano,
    },
    /// v ← μ·v + Δ; θ ← θ − lr·(μ·v + Δ). DiLoCo (arXiv:2311.08105).
    Nesterov {
        /// Learning rate.
        lr: Nano,
        /// μ, at the most.
        momentum: Nano,
        /// w: in round t, from 0, μ is at most t / (t + w), so that it averages over no more rounds than a
        /// w-th of those there were, and one.
        warmup: u32,
    },
}

/// How the codec of each round is chosen.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Compression {
    /// The same in every round.
    Fixed(Codec),
    /// The ledger takes it from a ladder of codecs by what peers measured.
    Auto {
        /// β in e ← β·e + δ.
        feedback: Nano,
    },
    /// Low rank, with rank and H that follow the effective rank that peers measured. DiLoCoX
    /// (arXiv:2506.21263), Algorithm 3.
    EffectiveRank {
        /// The first rank, and the largest.
        rank: u32,
        /// Rounds over which the effective rank is averaged.
        window: u32,
        /// β in e ← β·e + δ.
        feedback: Nano,
    },
}

/// How a pseudo-gradient is encoded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub enum Codec {
    /// f32, the baseline.
    Dense,
    /// Eight bits a value, one scale a block, error feedback with this decay β.
    Int8 {
        /// β in e ← β·e + δ.
        feedback: Nano,
    },
    /// Four bits a value, one scale a block, error feedback with this decay β.
    Int4 {
        /// β in e ← β·e + δ.
        feedback: Nano,
    },
    /// Top-k per chunk of 4096 with a two-bit codebook, error feedback with this decay β.
    Sparse {
        /// Values kept per chunk.
        k: u32,
        /// β in e ← β·e + δ.
        feedback: Nano,
    },
    /// Matrices as P·Qᵀ, P in eight bits and Q in four, the rest as [`Codec::Int4`].
    LowRank {
        /// Columns of P and Q.
        rank: u32,
        /// β in e ← β·e + δ.
        feedback: Nano,
    },
}

/// Lengths of time. Blocks carry the clock; nothing else does. Of the phases of a round these are the
/// longest; the ledger shortens them to what peers were found to need.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Deadlines {
    /// After a quorum has committed, how long the rest may still commit.
    pub grace: Millis,
    /// For revealing what was committed.
    pub reveal: Millis,
    /// For fetching and checking the revealed blobs.
    pub check: Millis,
    /// For agreeing on the merged root.
    pub merge: Millis,
    /// An empty block at the latest after this long.
    pub heartbeat: Millis,
    /// k: a phase lasts no longer than the median of what peers needed in past rounds and k times the
    /// median deviation from it; 0 leaves every phase its longest.
    pub deviations: u32,
}

/// Somebody who may take part.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Member {
    /// For people.
    pub name: String,
    /// For machines.
    pub key: PeerId,
}

impl Charter {
    /// The genesis hash.
    pub fn genesis(&self) -> Hash {
        Hash::of(Domain::Charter, &encode(self))
    }

    /// Who may take part, ascending.
    pub fn keys(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.members.iter().map(|member| member.key)
    }

    /// Whether `peer` may take part.
    pub fn is_member(&self, peer: &PeerId) -> bool {
        self.members.binary_search_by_key(peer, |member| member.key).is_ok()
    }

    /// The name of `peer`, or the start of its key.
    pub fn name_of(&self, peer: &PeerId) -> String {
        match self.members.iter().find(|member| member.key == *peer) {
            Some(member) => member.name.clone(),
            None => peer.short(),
        }
    }

    /// How many of `n` peers are a quorum.
    pub fn quorum(&self, n: usize) -> usize {
        self.round.quorum.ceil_of(n)
    }

    /// How many equal statements of `n` peers decide what θ or a checkpoint is: a quorum of them, and
    /// always more than the members that may lie, however few take part.
    pub fn decisive(&self, n: usize) -> usize {
        let liars = self.members.len().saturating_sub(1) / 3;
        self.quorum(n).max(liars + 1)
    }
}

impl OuterOptimizer {
    /// μ in `round`: at most t / (t + w), so that a short run, and the start of a long one, are not carried
    /// on by pseudo-gradients that no longer hold. None where there is no momentum.
    pub fn momentum_in(&self, round: Round) -> Option<Nano> {
        match self {
            Self::Sgd { .. } => None,
            Self::Nesterov {
                momentum, warmup: 0, ..
            } => Some(*momentum),
            Self::Nesterov { momentum, warmup, .. } => {
                let (t, w) = (u64::from(round.0), u64::from(*warmup));
                Some(Nano(t * Nano::ONE.0 / (t + w)).min(*momentum))
            }
        }
    }
}

impl Compression {
    /// The codec of the first round.
    pub fn first(&self) -> Codec {
        match self {
            Self::Fixed(codec) => codec.clone(),
            Self::Auto { feedback } => Codec::Int4 { feedback: *feedback },
            Self::EffectiveRank { rank, feedback, .. } => Codec::LowRank {
                rank: *rank,
                feedback: *feedback,
            },
        }
    }
}

/// In one word, with its parameter: `sparse-64`.
impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense => f.write_str("dense"),
            Self::Int8 { .. } => f.write_str("int8"),
            Self::Int4 { .. } => f.write_str("int4"),
            Self::Sparse { k, .. } => write!(f, "sparse-{k}"),
            Self::LowRank { rank, .. } => write!(f, "lowrank-{rank}"),
        }
    }
}

impl Codec {
    /// β of the error feedback; dense loses nothing and needs none.
    pub fn feedback(&self) -> Nano {
        match self {
            Self::Dense => Nano(0),
            Self::Int8 { feedback }
            | Self::Int4 { feedback }
            | Self::Sparse { feedback, .. }
            | Self::LowRank { feedback, .. } => *feedback,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::{format, string::ToString as _};

    pub(crate) fn sample() -> Charter {
        crate::tiny_charter([1, 2].map(|key| (format!("{key}"), PeerId([key; 32]))))
    }

    #[test]
    fn every_field_is_in_the_genesis_hash() {
        let charter = sample();
        assert_eq!(charter.validate(), Ok(()));
        let mut other = charter.clone();
        other.deadlines.grace = Millis(2_001);
        assert_ne!(charter.genesis(), other.genesis());
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        type Change = fn(&mut Charter);
        let table: [(&str, Change); 15] = [
            ("version", |c| c.version = 1),
            ("name", |c| c.name = "a\nb".into()),
            ("model.kv_heads", |c| c.model.kv_heads = 2),
            ("model.head_width", |c| c.model.head_width = 7),
            ("round.sequence", |c| c.round.sequence = 33),
            ("round.quorum", |c| {
                c.round.quorum = Fraction {
                    numerator: 1,
                    denominator: 2,
                }
            }),
            ("round.quorum", |c| {
                c.round.quorum = Fraction {
                    numerator: 1,
                    denominator: 0,
                }
            }),
            ("inner.beta2", |c| c.inner.beta2 = Nano::ONE),
            ("outer.momentum", |c| {
                c.outer = OuterOptimizer::Nesterov {
                    lr: Nano::ONE,
                    momentum: Nano::ONE,
                    warmup: 0,
                }
            }),
            ("codec.k", |c| {
                c.compression = Compression::Fixed(Codec::Sparse {
                    k: 5000,
                    feedback: Nano(0),
                })
            }),
            ("codec.window", |c| {
                c.compression = Compression::EffectiveRank {
                    rank: 8,
                    window: 0,
                    feedback: Nano(0),
                }
            }),
            ("deadlines.heartbeat_ms", |c| c.deadlines.heartbeat = Millis(0)),
            ("members", |c| c.members.clear()),
            ("members.key", |c| c.members[1].key = c.members[0].key),
            ("members.name", |c| c.members[1].name = c.members[0].name.clone()),
        ];
        for (field, change) in table {
            let mut charter = sample();
            change(&mut charter);
            let error = charter.validate().expect_err(field);
            assert_eq!(error.field, field, "{error}");
        }
    }

    #[test]
    fn momentum_warms_up() {
        let outer = |warmup| OuterOptimizer::Nesterov {
            lr: Nano::ONE,
            momentum: Nano(900_000_000),
            warmup,
        };
        let table = [
            (0, 0, 900),
            (10, 0, 0),
            (10, 10, 500),
            (10, 89, 898),
            (10, 90, 900),
            (10, u32::MAX, 900),
        ];
        for (warmup, round, milli) in table {
            let nano = outer(warmup).momentum_in(Round(round)).expect("Nesterov");
            assert_eq!(nano.0 / 1_000_000, milli, "round {round}, warm-up {warmup}");
        }
        assert_eq!(OuterOptimizer::Sgd { lr: Nano::ONE }.momentum_in(Round(5)), None);
    }

    #[test]
    fn a_refusal_names_value_and_range() {
        let mut charter = sample();
        charter.inner.lr = Nano(2_500_000_000);
        let text = charter.validate().expect_err("too large").to_string();
        assert_eq!(text, "inner.lr = 2.5: from 0.000000001 to 1 is allowed");
    }
}
