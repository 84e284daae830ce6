//! The charter that a scenario's rules make.

use super::Scenario;
use crate::random::Random;
use atoll_protocol::{
    Audit, Charter, Hash, InnerSteps, Keypair, Millis, Nano, Robust, Score,
    charter::{Codec, Compression, Deadlines, Model, OuterOptimizer, Overlap},
    tiny_charter,
};

/// Keys of `n` members, ascending by peer: node 0 is the first.
pub(crate) fn keys(n: u32, seed: u64) -> Vec<Keypair> {
    let key = |node: u32| {
        let mut random = Random::of(seed, &[0x6b65_7973, node.into()]);
        let mut bytes = [0; 32];
        bytes
            .chunks_exact_mut(8)
            .for_each(|chunk| chunk.copy_from_slice(&random.bits().to_le_bytes()));
        Keypair::from_seed(&bytes)
    };
    let mut keys: Vec<Keypair> = (0..n).map(key).collect();
    keys.sort_by_key(Keypair::peer);
    keys
}

/// A small model of the toy's width.
fn model(scenario: &Scenario, theta: Hash) -> Model {
    let width = scenario.learner.width & !1;
    Model {
        vocab: 4 * width,
        width,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_width: width,
        ffn: 2 * width,
        context: 8,
        rope_theta: 10_000,
        norm_eps: Nano(10_000),
        tied: true,
        theta,
        tokenizer: Hash::ZERO,
    }
}

/// The charter for a scenario that was checked; `theta` is the root of the initial parameters.
pub(crate) fn charter(scenario: &Scenario, seed: u64, theta: Hash) -> Charter {
    let rules = &scenario.rules;
    let [grace, reveal, check, merge, heartbeat] = rules.deadlines_ms.map(Millis);
    let members = keys(scenario.nodes, seed).into_iter().enumerate();
    let mut charter = tiny_charter(members.map(|(node, key)| (format!("node-{node}"), key.peer())));
    charter.name = scenario.name.chars().take(32).collect();
    charter.seed = seed;
    charter.model = model(scenario, theta);
    charter.round.rounds = scenario.rounds;
    charter.round.inner_steps = InnerSteps(rules.inner_steps);
    charter.round.retention = rules.retention;
    charter.round.checkpoint_every = rules.checkpoint_every;
    charter.round.absent_max = rules.absent_max;
    charter.round.overlap = match rules.overlap.as_str() {
        "steps" => Overlap::Steps,
        "eager" => Overlap::Eager,
        "round" => Overlap::Round,
        "auto" => Overlap::Auto,
        _ => Overlap::None,
    };
    charter.inner.lr = Nano(200_000_000);
    charter.outer = match rules.outer.as_str() {
        "nesterov" => OuterOptimizer::Nesterov {
            lr: Nano(700_000_000),
            momentum: Nano(500_000_000),
            warmup: rules.outer_warmup,
        },
        "founded" => OuterOptimizer::Nesterov {
            lr: Nano::ONE,
            momentum: Nano(800_000_000),
            warmup: rules.outer_warmup,
        },
        _ => OuterOptimizer::Sgd { lr: Nano::ONE },
    };
    charter.compression = compression(&rules.codec);
    charter.robust = rules.robust.parse().unwrap_or(Robust::PLAIN);
    charter.audit = Audit {
        share: Nano((rules.audit.share * 1e9) as u64),
        newcomer: rules.audit.newcomer,
        window: rules.audit.window,
        probation: rules.audit.probation,
        tolerance: Nano((rules.audit.tolerance * 1e9) as u64),
        ..Audit::NONE
    };
    charter.score = Score {
        share: Nano((rules.score.share * 1e9) as u64),
        scorers: rules.score.scorers,
        harm: Nano((rules.score.harm * 1e9) as u64),
    };
    charter.deadlines = Deadlines {
        grace,
        reveal,
        check,
        merge,
        heartbeat,
        deviations: rules.deviations,
    };
    charter
}

fn compression(codec: &str) -> Compression {
    let (one, decayed) = (Nano::ONE, Nano(950_000_000));
    match codec {
        "dense" => Compression::Fixed(Codec::Dense),
        "int8" => Compression::Fixed(Codec::Int8 { feedback: one }),
        "sparse" => Compression::Fixed(Codec::Sparse {
            k: 512,
            feedback: decayed,
        }),
        "lowrank" => Compression::Fixed(Codec::LowRank { rank: 1, feedback: one }),
        "auto" => Compression::Auto { feedback: one },
        "effective-rank" => Compression::EffectiveRank {
            rank: 2,
            window: 3,
            feedback: one,
        },
        _ => Compression::Fixed(Codec::Int4 { feedback: one }),
    }
}
