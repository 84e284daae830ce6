//! The charter that a scenario's rules make.

use super::Scenario;
use crate::random::Random;
use atoll_protocol::{
    Charter, Fraction, Hash, InnerSteps, Keypair, Millis, Nano,
    charter::{CHARTER_VERSION, Codec, Data, Deadlines, InnerOptimizer, Member, Model, OuterOptimizer, RoundRules},
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
    let members = keys(scenario.nodes, seed)
        .into_iter()
        .enumerate()
        .map(|(node, key)| Member {
            name: format!("node-{node}"),
            key: key.peer(),
        });
    Charter {
        version: CHARTER_VERSION,
        name: scenario.name.chars().take(32).collect(),
        seed,
        model: model(scenario, theta),
        data: Data { manifest: Hash::ZERO },
        round: RoundRules {
            rounds: scenario.rounds,
            inner_steps: InnerSteps(rules.inner_steps),
            batch: 2,
            sequence: 8,
            held_out: 1,
            quorum: Fraction {
                numerator: 2,
                denominator: 3,
            },
            retention: rules.retention,
            checkpoint_every: rules.checkpoint_every,
            absent_max: rules.absent_max,
        },
        inner: InnerOptimizer {
            lr: Nano(200_000_000),
            lr_min_ratio: Nano::ONE,
            warmup: InnerSteps(0),
            weight_decay: Nano(0),
            beta1: Nano(0),
            beta2: Nano(0),
            eps: Nano(10),
            clip: Nano::ONE,
        },
        outer: match rules.outer.as_str() {
            "nesterov" => OuterOptimizer::Nesterov {
                lr: Nano(700_000_000),
                momentum: Nano(500_000_000),
            },
            _ => OuterOptimizer::Sgd { lr: Nano::ONE },
        },
        codec: match rules.codec.as_str() {
            "dense" => Codec::Dense,
            "sparse" => Codec::Sparse {
                k: 512,
                feedback: Nano(950_000_000),
            },
            _ => Codec::Int4 { feedback: Nano::ONE },
        },
        deadlines: Deadlines {
            grace,
            reveal,
            check,
            merge,
            heartbeat,
        },
        members: members.collect(),
    }
}
