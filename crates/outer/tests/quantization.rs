//! Every codec decodes to what its documentation says, value by value: the same in plain words, without
//! blocks of bytes.

mod common;

use atoll_outer::{Contribution, encode};
use atoll_protocol::{
    charter::Codec,
    layout::{Role, Tensor},
};
use common::{base, codecs, finite, layout_of};
use proptest::prelude::*;

#[rustfmt::skip]
const NF4: [f32; 16] = [
    -1.0, -0.696_192_8, -0.525_073_05, -0.394_917_5, -0.284_441_38, -0.184_773_43, -0.091_050_036, 0.0,
    0.079_580_3, 0.160_930_2, 0.246_112_3, 0.337_915_24, 0.440_709_83, 0.562_617, 0.722_956_84, 1.0,
];

/// The nearest bf16, ties to even, not beyond the largest.
fn bf16(x: f32) -> f32 {
    let below = f32::from_bits(x.to_bits() & 0xffff_0000);
    let above = f32::from_bits((x.to_bits() & 0xffff_0000) + 0x1_0000);
    if !above.is_finite() {
        return below;
    }
    let (down, up) = (f64::from(x - below).abs(), f64::from(above - x).abs());
    let even = below.to_bits() >> 16 & 1 == 0;
    if down < up || down == up && even { below } else { above }
}

fn in_blocks(values: &[f32], quantized: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let block = |block: &[f32]| -> Vec<f32> {
        let scale = block.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let of = |x: &f32| if scale.is_normal() { quantized(*x, scale) } else { 0.0 };
        block.iter().map(of).collect()
    };
    values.chunks(128).flat_map(block).collect()
}

fn int8(x: f32, scale: f32) -> f32 {
    let code = (x / scale * 127.0).round_ties_even() as i8;
    f32::from(code) * (1.0 / 127.0) * scale
}

fn int4(x: f32, scale: f32) -> f32 {
    let passed = |pair: &&[f32]| x / scale > (pair[0] + pair[1]) * 0.5;
    NF4[NF4.windows(2).filter(passed).count()] * scale
}

fn mean(values: &[f32]) -> f32 {
    let sum: f64 = values.iter().map(|x| f64::from(*x)).sum();
    bf16((sum / values.len() as f64) as f32)
}

/// What each of one sign's ascending magnitudes becomes: the mean of the small or the large, where every
/// division in two was tried.
fn two_levels(magnitudes: &[f32]) -> Vec<f32> {
    let score = |part: &[f32]| part.iter().map(|x| f64::from(*x)).sum::<f64>().powi(2) / part.len() as f64;
    let splits = (1..magnitudes.len()).filter(|at| magnitudes[at - 1] < magnitudes[*at]);
    let best = splits.map(|at| (score(&magnitudes[..at]) + score(&magnitudes[at..]), at));
    let best = best.fold(None, |best: Option<(f64, usize)>, next| match best {
        Some(best) if best.0 >= next.0 => Some(best),
        _ => Some(next),
    });
    let at = best.map_or(magnitudes.len(), |(_, at)| at);
    let (small, large) = magnitudes.split_at(at);
    if large.is_empty() || mean(small) >= mean(large) {
        return vec![mean(magnitudes); magnitudes.len()];
    }
    [vec![mean(small); small.len()], vec![mean(large); large.len()]].concat()
}

fn tile(values: &[f32], k: usize) -> Vec<f32> {
    let mut order: Vec<usize> = (0..values.len()).filter(|at| values[*at].is_normal()).collect();
    order.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()).then(a.cmp(b)));
    order.truncate((k * values.len() / 4096).max(1));
    order.reverse();
    let mut out = vec![0.0; values.len()];
    for sign in [1.0, -1.0] {
        let side: Vec<usize> = order.iter().copied().filter(|at| values[*at] * sign > 0.0).collect();
        let magnitudes: Vec<f32> = side.iter().map(|at| values[*at].abs()).collect();
        for (at, level) in side.iter().zip(two_levels(&magnitudes)) {
            out[*at] = level * sign;
        }
    }
    out
}

fn sparse(values: &[f32], columns: usize, k: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    let rows = values.len() / columns;
    for (top, left) in (0..rows)
        .step_by(64)
        .flat_map(|top| (0..columns).step_by(64).map(move |left| (top, left)))
    {
        let places = (top..rows.min(top + 64)).flat_map(|row| {
            let columns = left..columns.min(left + 64);
            columns.map(move |column| (row, column))
        });
        let places: Vec<usize> = places.map(|(row, column)| row * columns + column).collect();
        let kept = tile(&places.iter().map(|at| values[*at]).collect::<Vec<_>>(), k);
        places.iter().zip(kept).for_each(|(at, x)| out[*at] = x);
    }
    out
}

/// What `values` of `tensor` become; nothing where that is found by iteration.
fn documented(codec: &Codec, tensor: &Tensor, values: &[f32]) -> Option<Vec<f32>> {
    Some(match (codec, tensor.role) {
        (Codec::Dense, _) => values.to_vec(),
        (_, Role::Vector) => values.iter().map(|x| bf16(*x)).collect(),
        (Codec::Int8 { .. }, _) => in_blocks(values, int8),
        (Codec::Int4 { .. }, _) | (Codec::LowRank { .. }, Role::Embedding) => in_blocks(values, int4),
        (Codec::Sparse { k, .. }, _) => sparse(values, tensor.columns, *k as usize),
        (Codec::LowRank { .. }, Role::Matrix) => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn decoding_what_was_encoded_gives_the_documented_values(
        rows in 1usize..80, columns in 2usize..150, seed in prop::collection::vec(finite(), 1..200),
    ) {
        let shapes = [(Role::Embedding, rows, columns), (Role::Vector, columns, 1), (Role::Matrix, columns, rows)];
        let layout = layout_of(&shapes);
        let input: Vec<f32> = seed.iter().copied().cycle().take(layout.parameters).collect();
        for (name, codec) in codecs() {
            let blob = encode(&input, &codec, &layout, &base()).expect("finite");
            let mut output = vec![f32::NAN; layout.parameters];
            let contribution = Contribution::read(blob, &layout, &codec, &base()).expect(name);
            contribution.decode_into(&mut output).expect("length");
            for tensor in &layout.tensors {
                let Some(expected) = documented(&codec, tensor, &input[tensor.range()]) else { continue };
                for (at, (got, expected)) in output[tensor.range()].iter().zip(&expected).enumerate() {
                    prop_assert!(got == expected, "{name} {}[{at}]: {got} is not {expected}", tensor.name);
                }
            }
        }
    }
}
