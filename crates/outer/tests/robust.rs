//! Robust rules and attacks against byzfl (see `golden/robust.py`), and what must hold of every rule.

use atoll_outer::{
    attack,
    robust::{
        Gram,
        judge::{Candidate, judge, weigh},
        rules::{Mixing, Radius, Rule, Start, weights},
    },
};
use atoll_protocol::{Nano, Robust, robust::Weighing, transaction::Unfit};
use proptest::prelude::*;

const DIMENSION: u32 = 40;

/// As `value` in golden/robust.py.
fn value(case: u32, i: u32, k: u32) -> f64 {
    let mut x = case
        .wrapping_mul(7919)
        .wrapping_add(i.wrapping_mul(104_729))
        .wrapping_add(k.wrapping_mul(1_299_709))
        .wrapping_add(12_345);
    for _ in 0..3 {
        x = (x ^ (x >> 16)).wrapping_mul(0x45d_9f3b);
    }
    (f64::from(x >> 11) - f64::from(1 << 20)) / f64::from(1 << 20)
}

fn vectors(case: u32, count: u32, faulty: u32) -> Vec<Vec<f64>> {
    let row = |i: u32| {
        let factor = if i >= faulty { 1.0 } else { -4.0 };
        let at = |k| factor * (value(case, 999, k) + 0.5 * value(case, i, k));
        (0..DIMENSION).map(at).collect()
    };
    (0..count).map(row).collect()
}

fn gram(vectors: &[Vec<f64>]) -> Gram {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
    let rows = (0..vectors.len()).flat_map(|i| (0..=i).map(move |j| (i, j)));
    let lower = rows.map(|(i, j)| dot(&vectors[i], &vectors[j])).collect();
    Gram::from_lower(vectors.len(), lower).unwrap()
}

fn combined(vectors: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; vectors[0].len()];
    for (vector, weight) in vectors.iter().zip(weights) {
        for (sum, x) in sum.iter_mut().zip(vector) {
            *sum += weight * x;
        }
    }
    sum
}

fn rule(name: &str) -> Option<Rule> {
    Some(match name {
        "mean" => Rule::Mean,
        "geometric-median" => Rule::GeometricMedian {
            floor: Radius::Length(0.1),
            steps: 3,
        },
        "krum" => Rule::Krum,
        "multi-krum" => Rule::MultiKrum,
        "minimum-diameter" => Rule::MinimumDiameter,
        "centered-clipping" => Rule::CenteredClipping {
            start: Start::Zero,
            radius: Radius::Length(2.0),
            steps: 3,
        },
        _ => return None,
    })
}

#[test]
fn rules_and_attacks_give_what_byzfl_gives() {
    let mut checked = 0;
    for line in include_str!("../golden/robust.txt").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (case, name, how) = (words[0].parse::<u32>().unwrap(), words[1], words[3]);
        let faulty: usize = words[2].parse().unwrap();
        let expected: Vec<f64> = words[4..].iter().map(|word| word.parse().unwrap()).collect();
        let count = [4, 5, 8, 9, 16][case as usize];
        let all = vectors(case, count, faulty as u32);
        let found = match (how, rule(name)) {
            ("plain", Some(rule)) => combined(&all, &weights(&gram(&all), faulty, rule)),
            ("mixed", Some(rule)) => {
                let gram = gram(&all);
                let mixing = Mixing::new(&gram, faulty);
                let mixed = weights(&mixing.gram(&gram), faulty, rule);
                combined(&all, &mixing.weights(&mixed))
            }
            _ => {
                let honest: Vec<Vec<f32>> = all[faulty..]
                    .iter()
                    .map(|vector| vector.iter().map(|x| *x as f32).collect())
                    .collect();
                let honest: Vec<&[f32]> = honest.iter().map(Vec::as_slice).collect();
                let sent = match name {
                    "sign-flip" => attack::inner_product(&honest, 1.0),
                    "inner-product" => attack::inner_product(&honest, 2.0),
                    "a-little" => attack::a_little(&honest, 1.5),
                    "mimic" => honest[0].to_vec(),
                    other => panic!("unknown: {other}"),
                };
                sent.iter().map(|x| f64::from(*x)).collect()
            }
        };
        let tolerance = if how == "attack" { 1e-6 } else { 1e-9 };
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < tolerance, "{line}: {found} for {expected}");
        }
        checked += 1;
    }
    assert_eq!(checked, 80);
}

fn rules() -> impl Strategy<Value = Robust> {
    (0..Weighing::ALL.len(), any::<bool>(), any::<bool>()).prop_map(|(rule, mixing, clip)| Robust {
        rule: Weighing::ALL[rule],
        mixing,
        clip,
        ..Robust::PLAIN
    })
}

/// Vectors of small integers, so that no sum is rounded and no order matters.
fn some_vectors(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<f64>>> {
    let vector = prop::collection::vec((-50i32..50).prop_map(f64::from), 6);
    prop::collection::vec(vector, count)
}

fn share_of(all: &[Vec<f64>], rules: &Robust) -> Vec<f64> {
    let weights = weigh(&gram(all), rules);
    weights
        .iter()
        .map(|weight| weight.0 as f64 / 1e9 / all.len() as f64)
        .collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

proptest! {
    #[test]
    fn weights_are_a_mean(all in some_vectors(1..12), rules in rules()) {
        let weights = share_of(&all, &rules);
        prop_assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{weights:?}");
        prop_assert!(weights.iter().all(|weight| (0.0..=1.0 + 1e-9).contains(weight)), "{weights:?}");
    }

    #[test]
    fn scale_changes_no_weight(all in some_vectors(4..12), rules in rules(), power in -20i32..20) {
        let scaled: Vec<Vec<f64>> = all.iter()
            .map(|vector| vector.iter().map(|x| x * 2f64.powi(power)).collect())
            .collect();
        prop_assert_eq!(weigh(&gram(&all), &rules), weigh(&gram(&scaled), &rules));
    }

    /// Where no two are equally good, the order of the contributions changes nothing.
    #[test]
    fn order_changes_nothing(seed in 0u32..1000, count in 4u32..12, turn in 1usize..11, mixing in any::<bool>()) {
        let all = vectors(seed + 10, count, Robust::faulty(count as usize) as u32);
        let mut turned = all.clone();
        turned.rotate_left(turn % all.len());
        for rule in Weighing::ALL {
            let rules = Robust { rule, mixing, ..Robust::PLAIN };
            let mut weights = share_of(&all, &rules);
            weights.rotate_left(turn % all.len());
            let other = share_of(&turned, &rules);
            for (a, b) in weights.iter().zip(&other) {
                prop_assert!((a - b).abs() < 1e-6, "{rule}: {weights:?} {other:?}");
            }
        }
    }

    /// However far f equal vectors are, and wherever, the result stays with the honest ones. The bound is
    /// generous; a mean leaves it at once.
    #[test]
    fn equal_liars_do_not_move_the_result_far(
        seed in 0u32..1000,
        count in 8u32..17,
        far in 0u32..8,
        mixing in any::<bool>(),
    ) {
        let liars = Robust::faulty(count as usize);
        let mut all = vectors(seed + 10, count, 0);
        let lie: Vec<f64> = (0..DIMENSION).map(|k| 10f64.powi(far as i32) * value(seed, 77, k)).collect();
        for vector in &mut all[..liars] {
            vector.clone_from(&lie);
        }
        let honest = &all[liars..];
        let mean = combined(honest, &vec![1.0 / honest.len() as f64; honest.len()]);
        let spread = honest.iter().map(|vector| distance(vector, &mean)).fold(0.0, f64::max);
        for rule in Weighing::ALL.into_iter().filter(|rule| *rule != Weighing::Mean) {
            let result = combined(&all, &share_of(&all, &Robust { rule, mixing, ..Robust::PLAIN }));
            let moved = distance(&result, &mean);
            prop_assert!(moved <= 2.5 * spread, "{rule}: {moved} with a spread of {spread}");
        }
    }

    /// Whatever is sent, in whatever number, judging it ends and gives everyone a place.
    #[test]
    fn anything_can_be_judged(
        all in prop::collection::vec(prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO | prop::num::f32::SUBNORMAL, 3), 0..10),
        rules in rules(),
        usual in prop::option::of(any::<u64>()),
    ) {
        let all: Vec<Vec<f64>> = all.iter().map(|v| v.iter().map(|x| f64::from(*x)).collect()).collect();
        let candidates: Vec<Candidate> = (0..all.len() as u16).map(|i| Candidate { replica: i, order: i.into() }).collect();
        let strict = Robust { norm_max: Nano(3 * Nano::ONE.0), cosine_max: Nano(990_000_000), ..rules };
        let grams = if all.is_empty() { vec![] } else { vec![gram(&all)] };
        let judged = judge(&grams, &candidates, usual, &strict);
        prop_assert_eq!(judged.shares.len(), all.len());
        let gated = judged.unfit.iter().filter(|out| out.reason != Unfit::Weightless).count();
        prop_assert_eq!(gated + judged.matrix.replicas.len(), all.len());
        let weighed = judged.shares.iter().filter(|share| share.weight > Nano(0)).count();
        prop_assert_eq!(judged.unfit.len() + weighed, all.len());
        prop_assert!(judged.shares.iter().flat_map(|share| &share.factors).all(|factor| (0.0..=1.0).contains(factor)));
        let again = weigh(&judged.matrix.gram, &strict);
        prop_assert_eq!(again, judged.matrix.weights);
    }
}
