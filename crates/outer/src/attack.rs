//! What a liar sends in place of its pseudo-gradient: the arithmetic of known attacks, for tests, for the
//! simulator, and for whoever wants to see a run survive them. Conventions are those of Python `byzfl` 0.0.11.
//!
//! `honest` are vectors that the liars know, all of one length: those of everybody where they see everything,
//! else their own, made honestly. Of none, nothing is made.

use rayon::prelude::*;

/// −`factor` · mean: with 1 a flipped sign, with more the *inner product manipulation* of
/// Xie, Koyejo, Gupta 2020 (arXiv:1903.03936).
pub fn inner_product(honest: &[&[f32]], factor: f64) -> Vec<f32> {
    by_coordinate(honest, |values, mean| -factor * mean(values))
}

/// mean + `deviations` · standard deviation, which has N − 1 below the line: *a little is enough*.
/// Baruch, Baruch, Goldberg 2019 (arXiv:1902.06156).
pub fn a_little(honest: &[&[f32]], deviations: f64) -> Vec<f32> {
    by_coordinate(honest, |values, mean| {
        let middle = mean(values);
        let squares: f64 = values.iter().map(|value| (value - middle) * (value - middle)).sum();
        let below = values.len().saturating_sub(1).max(1) as f64;
        middle + deviations * (squares / below).sqrt()
    })
}

fn by_coordinate(honest: &[&[f32]], of: impl Fn(&[f64], &dyn Fn(&[f64]) -> f64) -> f64 + Sync) -> Vec<f32> {
    let length = honest.iter().map(|vector| vector.len()).min().unwrap_or(0);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let coordinates = (0..length).into_par_iter().map_init(Vec::new, |values, k| {
        values.clear();
        values.extend(honest.iter().map(|vector| f64::from(vector[k])));
        of(values, &mean) as f32
    });
    coordinates.collect()
}

/// Noise of the standard normal distribution, times `deviation`: the same for the same seed.
pub fn gaussian(length: usize, deviation: f32, seed: u64) -> Vec<f32> {
    let uniform = |counter: u64| {
        // SplitMix64 (Steele, Lea, Flood 2014), as a number above 0 and at most 1
        let mut mixed = seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((mixed ^ (mixed >> 31)) >> 11) + 1) as f64 / (1u64 << 53) as f64
    };
    // Box and Muller 1958, one of each pair
    let normal = |k: u64| (-2.0 * uniform(2 * k).ln()).sqrt() * (std::f64::consts::TAU * uniform(2 * k + 1)).cos();
    (0..length as u64)
        .into_par_iter()
        .map(|k| deviation * normal(k) as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_its_deviation_and_its_seed() {
        let noise = gaussian(100_000, 2.0, 7);
        let square: f64 = noise.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / noise.len() as f64;
        let mean: f64 = noise.iter().map(|x| f64::from(*x)).sum::<f64>() / noise.len() as f64;
        assert!((square - 4.0).abs() < 0.1 && mean.abs() < 0.03, "{square} {mean}");
        assert_eq!(noise[..10], gaussian(10, 2.0, 7));
        assert_ne!(noise[..10], gaussian(10, 2.0, 8));
        assert!(inner_product(&[], 1.0).is_empty());
    }
}
