//! The rules of the toy network: small numbers, short deadlines, four members at most.

use atoll_protocol::{
    Fraction, Hash, InnerSteps, Keypair, Millis, Nano,
    charter::{
        CHARTER_VERSION, Charter, Codec, Data, Deadlines, InnerOptimizer, Member, Model, OuterOptimizer, RoundRules,
    },
};

/// Keys of `n` members, ascending by peer.
pub(crate) fn keys(n: usize) -> Vec<Keypair> {
    let mut keys: Vec<Keypair> = (0..n as u8).map(|i| Keypair::from_seed(&[i + 1; 32])).collect();
    keys.sort_by_key(Keypair::peer);
    keys
}

/// A charter for these members and so many rounds.
pub(crate) fn charter(keys: &[Keypair], rounds: u32) -> Charter {
    let members = keys.iter().zip("abcdefgh".chars()).map(|(key, name)| Member {
        name: name.into(),
        key: key.peer(),
    });
    Charter {
        version: CHARTER_VERSION,
        name: "toy".into(),
        seed: 1,
        model: Model {
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
            theta: Hash([9; 32]),
            tokenizer: Hash::ZERO,
        },
        data: Data { manifest: Hash::ZERO },
        round: RoundRules {
            rounds,
            inner_steps: InnerSteps(4),
            batch: 2,
            sequence: 8,
            held_out: 1,
            quorum: Fraction {
                numerator: 2,
                denominator: 3,
            },
            retention: 2,
            checkpoint_every: 2,
            absent_max: 2,
        },
        inner: InnerOptimizer {
            lr: Nano(1_000_000),
            lr_min_ratio: Nano(0),
            warmup: InnerSteps(0),
            weight_decay: Nano(0),
            beta1: Nano(0),
            beta2: Nano(0),
            eps: Nano(10),
            clip: Nano::ONE,
        },
        outer: OuterOptimizer::Sgd { lr: Nano::ONE },
        codec: Codec::Dense,
        deadlines: Deadlines {
            grace: Millis(2_000),
            reveal: Millis(5_000),
            check: Millis(10_000),
            merge: Millis(10_000),
            heartbeat: Millis(60_000),
        },
        members: members.collect(),
    }
}
