//! Blobs and outer steps against reference values made outside Rust; see the scripts in `golden/`.

mod common;

use atoll_outer::{Contribution, OuterRule, OuterState, blob_bytes_max, encode, root};
use atoll_protocol::{
    Hash, InnerSteps, Nano, Round,
    charter::{Codec, OuterOptimizer},
    tiny_charter,
};
use common::{base, codecs, layout, values};

/// The reference decodes what the low-rank encoder found, and does not find it again.
#[test]
#[ignore = "writes golden/lowrank-*.bin; blobs.py is to be run after it"]
fn write_low_rank_blobs() {
    let layout = layout();
    let input = values(layout.parameters, 1);
    for (name, codec) in codecs() {
        if matches!(codec, Codec::LowRank { .. }) {
            let blob = encode(&input, &codec, &layout, &base()).expect("finite values");
            let path = format!("{}/golden/{name}.bin", env!("CARGO_MANIFEST_DIR"));
            std::fs::write(path, blob).expect("a file that can be written");
        }
    }
}

#[test]
fn blobs_are_those_of_the_reference_encoder() {
    let layout = layout();
    let input = values(layout.parameters, 1);
    let golden = include_str!("../golden/blobs.txt")
        .lines()
        .filter(|line| !line.starts_with('#'));
    let mut seen = 0;
    for (line, (name, codec)) in golden.zip(codecs()) {
        let blob = encode(&input, &codec, &layout, &base()).expect("finite values");
        let contribution = Contribution::read(blob.clone(), &layout, &codec, &base()).expect("own blob");
        let mut decoded = vec![0.0; layout.parameters];
        contribution.decode_into(&mut decoded).expect("length");
        let made = format!("{name} {} {} {}", blob.len(), Hash::of_blob(&blob), root(&decoded));
        assert_eq!(made, line);
        assert!(blob.len() as u64 <= blob_bytes_max(&layout, &codec), "{name}");
        seen += 1;
    }
    assert_eq!(seen, codecs().len());
}

fn vector(words: &str) -> Vec<f32> {
    let word = |word: &str| f32::from_bits(u32::from_str_radix(word, 16).expect("hexadecimal"));
    words.split(' ').map(word).collect()
}

/// How many f32 lie between two values of one sign.
fn units_apart(a: f32, b: f32) -> u32 {
    a.to_bits().abs_diff(b.to_bits())
}

fn optimizer(words: &str) -> OuterOptimizer {
    let words: Vec<&str> = words.split(' ').collect();
    let nano = |at: usize| Nano(words[at].parse().expect("nano"));
    match words[0] {
        "sgd" => OuterOptimizer::Sgd { lr: nano(1) },
        _ => OuterOptimizer::Nesterov {
            lr: nano(1),
            momentum: nano(2),
            warmup: 0,
        },
    }
}

/// A round as long as the charter's, after the warm-up.
fn rule(outer: &OuterOptimizer) -> OuterRule {
    let mut charter = tiny_charter([]);
    (charter.outer, charter.round.inner_steps) = (outer.clone(), InnerSteps(1));
    OuterRule::of(&charter, outer.momentum_in(Round(0)), InnerSteps(1))
}

/// PyTorch may fuse a product with a sum, and a sum near zero then differs in more of its last bits.
fn assert_near(ours: &[f32], torch: &[f32]) {
    for (a, b) in ours.iter().zip(torch) {
        assert!(units_apart(*a, *b) <= 4 || (a - b).abs() <= 2e-7, "{a} is not {b}");
    }
}

#[test]
fn outer_steps_are_those_of_numpy_to_the_bit_and_of_pytorch_nearly() {
    let mut outer = OuterOptimizer::Sgd { lr: Nano::ONE };
    let mut state = OuterState::new(vec![], &outer);
    let mut compared = 0;
    let golden = include_str!("../golden/outer.txt")
        .lines()
        .filter(|line| !line.starts_with('#'));
    for line in golden {
        let (what, words) = line.split_once(' ').expect("a word and values");
        match what {
            "case" => outer = optimizer(words),
            "start" => state = OuterState::new(vector(words), &outer),
            "delta" => state = state.step(rule(&outer), vector(words)).expect("finite"),
            "torch" => assert_near(&state.theta, &vector(words)),
            "theta" => {
                assert_eq!(state.roots().0, root(&vector(words)));
                compared += 1;
            }
            "momentum" => match outer {
                OuterOptimizer::Sgd { .. } => assert_eq!(state.roots().1, None),
                OuterOptimizer::Nesterov { .. } => assert_eq!(state.roots().1, Some(root(&vector(words)))),
            },
            other => panic!("unknown line {other}"),
        }
    }
    assert_eq!(compared, 30);
}
