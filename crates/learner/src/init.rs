//! θ⁰: the same bits on every machine, from a seed.
//!
//! Only integer arithmetic, one f32 multiplication per value and a correctly rounded square root
//! are used, so that nobody has to trust the one who started the run.

use atoll_protocol::{Hash, Layout, charter::Model, layout::Role};

/// Standard deviation of a fresh weight, as in GPT-2.
const STD: f64 = 0.02;
/// Mean of the sum of four draws from 0..=65535.
const FOUR_DRAWS_MEAN: f32 = 131_070.0;

/// SplitMix64's output function (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014).
fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The `index`-th value of the stream that starts at `state`.
fn draw(state: u64, index: u64) -> u64 {
    mix(state.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

/// Four 16-bit draws summed: a bell (Irwin–Hall) around 0, with standard deviation
/// √((2³² − 1) / 3), in an integer that f32 holds exactly.
fn bell(bits: u64) -> f32 {
    let sum: u32 = (0..4).map(|part| (bits >> (16 * part)) as u32 & 0xFFFF).sum();
    sum as f32 - FOUR_DRAWS_MEAN
}

/// θ⁰ in layout order. Gains are 1; matrices and embeddings are bell-shaped with standard deviation
/// 0.02, divided by √(2 · layers) where they write into the residual stream (GPT-2).
///
/// The model must have passed `Charter::validate`.
pub fn init(model: &Model, seed: u64) -> Vec<f32> {
    let layout = Layout::of(model);
    let bell_std = (f64::from(u32::MAX) / 3.0).sqrt();
    let scale = STD / bell_std;
    let residual = scale / (2.0 * f64::from(model.layers)).sqrt();
    let state = mix(seed ^ 0x6174_6F6C_6C00_0001);
    let mut theta = Vec::with_capacity(layout.parameters);
    for tensor in &layout.tensors {
        let writes_residual = tensor.name.ends_with("attention.output") || tensor.name.ends_with("ffn.down");
        let scale = if writes_residual { residual } else { scale } as f32;
        theta.extend(tensor.range().map(|index| match tensor.role {
            Role::Vector => 1.0,
            Role::Embedding | Role::Matrix => bell(draw(state, index as u64)) * scale,
        }));
    }
    theta
}

/// θ as little-endian f32: the bytes whose BLAKE3 is a state root and whose blob a joiner fetches.
pub fn theta_bytes(theta: &[f32]) -> Vec<u8> {
    theta.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// BLAKE3 of [`theta_bytes`], without holding them all.
pub fn theta_hash(theta: &[f32]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for chunk in theta.chunks(16 * 1024) {
        hasher.update(&theta_bytes(chunk));
    }
    Hash(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::tests::tiny;

    #[test]
    fn theta_zero_is_frozen() {
        let theta = init(&tiny(true), 7);
        assert_eq!(theta_hash(&theta), Hash::of_blob(&theta_bytes(&theta)));
        assert_eq!(
            theta_hash(&theta).to_string(),
            "0467f3d8d697c5e1e78709491017ff22cebfc3e8e095fa694e9689dba9a36ce3",
            "a changed θ⁰ breaks every existing charter"
        );
        assert_ne!(theta, init(&tiny(true), 8));
    }

    #[test]
    fn weights_have_the_promised_spread() {
        let mut model = tiny(false);
        (model.vocab, model.width, model.ffn) = (512, 64, 128);
        let theta = init(&model, 1);
        for tensor in Layout::of(&model).tensors {
            let values = &theta[tensor.range()];
            let count = values.len() as f64;
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
            let std = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / count - mean * mean).sqrt();
            let residual = 0.02 / (2.0 * f64::from(model.layers)).sqrt();
            let (expected_mean, expected_std) = match (tensor.role, tensor.name.as_str()) {
                (Role::Vector, _) => (1.0, 0.0),
                (_, name) if name.ends_with(".output") || name.ends_with(".down") => (0.0, residual),
                _ => (0.0, 0.02),
            };
            // Four standard errors of the mean; those of the standard deviation are smaller.
            let allowed = 4.0 * expected_std / count.sqrt();
            assert!((mean - expected_mean).abs() <= allowed, "{}: mean {mean}", tensor.name);
            assert!((std - expected_std).abs() <= allowed, "{}: std {std}", tensor.name);
        }
    }
}
