//! The smallest sensible charter: simulations, tests and fuzzers start from it and change what they are about.

use crate::{
    Audit, Fraction, Hash, InnerSteps, Millis, Nano, PeerId, Robust, Score,
    charter::{
        CHARTER_VERSION, Charter, Codec, Compression, Data, Deadlines, InnerOptimizer, Matrices, Member, Model,
        OuterOptimizer, Overlap, RoundRules,
    },
};
use alloc::string::String;

/// A valid charter of `members`, in any order: three rounds of four steps of a model of 236 parameters.
pub fn tiny_charter(members: impl IntoIterator<Item = (String, PeerId)>) -> Charter {
    let member = |(name, key)| Member { name, key };
    let mut members: alloc::vec::Vec<Member> = members.into_iter().map(member).collect();
    members.sort_by_key(|member| member.key);
    Charter {
        version: CHARTER_VERSION,
        name: "tiny".into(),
        seed: 7,
        model: model(),
        data: Data { manifest: Hash::ZERO },
        round: RoundRules {
            rounds: 3,
            inner_steps: InnerSteps(4),
            batch: 2,
            sequence: 8,
            held_out: 1,
            quorum: Fraction {
                numerator: 2,
                denominator: 3,
            },
            retention: 0,
            checkpoint_every: 1,
            absent_max: 2,
            overlap: Overlap::None,
        },
        inner: inner(),
        outer: OuterOptimizer::Sgd { lr: Nano::ONE },
        compression: Compression::Fixed(Codec::Int4 { feedback: Nano::ONE }),
        robust: Robust::PLAIN,
        audit: Audit::NONE,
        score: Score::NONE,
        deadlines: Deadlines {
            grace: Millis(2_000),
            reveal: Millis(5_000),
            check: Millis(10_000),
            merge: Millis(10_000),
            heartbeat: Millis(60_000),
            deviations: 0,
        },
        members,
    }
}

fn model() -> Model {
    Model {
        vocab: 16,
        width: 4,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_width: 4,
        ffn: 8,
        context: 8,
        rope_theta: 10_000,
        norm_eps: Nano(10_000),
        tied: true,
        theta: Hash::ZERO,
        tokenizer: Hash::ZERO,
    }
}

fn inner() -> InnerOptimizer {
    InnerOptimizer {
        lr: Nano(3_000_000),
        lr_min_ratio: Nano(100_000_000),
        warmup: InnerSteps(2),
        weight_decay: Nano(100_000_000),
        beta1: Nano(900_000_000),
        beta2: Nano(950_000_000),
        eps: Nano(10),
        clip: Nano::ONE,
        matrices: Matrices::AdamW,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn it_is_valid_and_as_small_as_it_says() {
        let charter = tiny_charter([2, 1].map(|key| (key.to_string(), PeerId([key; 32]))));
        assert_eq!(charter.validate(), Ok(()));
        assert_eq!(crate::layout::parameters(&charter.model), Some(236));
    }
}
