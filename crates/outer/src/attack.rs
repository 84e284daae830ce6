//! What a liar sends in place of its pseudo-gradient: the arithmetic of known attacks, for tests, for the
//! simulator, and for whoever wants to see a run survive them. Conventions are those of Python `byzfl` 0.0.11.
//!
//! `honest` are vectors that the liars know, all of one length: those of everybody where they see everything,
//! else their own, made honestly. Of none, nothing is made.

use rayon::prelude::*;
use std::{fmt, str::FromStr};
use thiserror::Error;

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

/// Noise of the standard normal distribution, times `deviation`: on one machine the same for the same seed.
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

/// A named way to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liar {
    /// The pseudo-gradient, away from improvement.
    SignFlip,
    /// Ten times the pseudo-gradient.
    Scale10,
    /// A hundred times the pseudo-gradient.
    Scale100,
    /// Noise of the pseudo-gradient's length.
    Gaussian,
    /// [`a_little`] away from what the others sent last.
    ALittle,
    /// [`inner_product`] of what the others sent last.
    InnerProduct,
    /// What another sent last.
    Copycat,
    /// What it sent itself in its first round, again and again.
    Resend,
    /// Nothing but zeros.
    Zeros,
    /// Noise of a thousandth of the others' length: no work.
    Idle,
    /// The pseudo-gradient, and a fifth of its length in a direction that is always the same.
    Drift,
    /// The pseudo-gradient of labels that are turned around.
    LabelFlip,
    /// The pseudo-gradient of a tenth of the steps.
    Lazy,
    /// A blob of bytes that mean nothing.
    Garbage,
    /// A blob that is larger than any contribution.
    Oversize,
    /// A blob that nobody can fetch.
    Withhold,
}

impl Liar {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::SignFlip,
        Self::Scale10,
        Self::Scale100,
        Self::Gaussian,
        Self::ALittle,
        Self::InnerProduct,
        Self::Copycat,
        Self::Resend,
        Self::Zeros,
        Self::Idle,
        Self::Drift,
        Self::LabelFlip,
        Self::Lazy,
        Self::Garbage,
        Self::Oversize,
        Self::Withhold,
    ];

    /// Its word on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::SignFlip => "sign-flip",
            Self::Scale10 => "scale-10",
            Self::Scale100 => "scale-100",
            Self::Gaussian => "gaussian",
            Self::ALittle => "a-little",
            Self::InnerProduct => "inner-product",
            Self::Copycat => "copycat",
            Self::Resend => "resend",
            Self::Zeros => "zeros",
            Self::Idle => "idle",
            Self::Drift => "drift",
            Self::LabelFlip => "label-flip",
            Self::Lazy => "lazy",
            Self::Garbage => "garbage",
            Self::Oversize => "oversize",
            Self::Withhold => "withhold",
        }
    }

    /// What it sends in place of its honest pseudo-gradient. Who lies in another way sends that.
    pub fn sends(self, view: &View<'_>) -> Vec<f32> {
        let View { own, others, .. } = view;
        let known: Vec<&[f32]> = match others.is_empty() {
            true => vec![own],
            false => others.iter().map(Vec::as_slice).collect(),
        };
        let length = |vector: &[f32]| vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        let noise = |part: f64, seed| {
            let deviation = part * length(own) / (own.len().max(1) as f64).sqrt();
            gaussian(own.len(), deviation as f32, seed)
        };
        match self {
            Self::SignFlip => inner_product(&[own], 1.0),
            Self::Scale10 => own.iter().map(|x| 10.0 * x).collect(),
            Self::Scale100 => own.iter().map(|x| 100.0 * x).collect(),
            Self::Gaussian => noise(1.0, view.seed),
            Self::ALittle => a_little(&known, 1.5),
            Self::InnerProduct => inner_product(&known, 2.0),
            Self::Copycat => known.first().map_or_else(Vec::new, |other| other.to_vec()),
            Self::Resend => view.first.unwrap_or(own).to_vec(),
            Self::Zeros => vec![0.0; own.len()],
            Self::Idle => noise(1e-3, view.seed),
            Self::Drift => own.iter().zip(noise(0.2, 0)).map(|(own, drift)| own + drift).collect(),
            Self::LabelFlip | Self::Lazy | Self::Garbage | Self::Oversize | Self::Withhold => own.to_vec(),
        }
    }
}

/// What a liar knows when it lies.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Its honest pseudo-gradient.
    pub own: &'a [f32],
    /// What others sent that it has seen, decoded.
    pub others: &'a [Vec<f32>],
    /// What it sent first, if it has sent anything.
    pub first: Option<&'a [f32]>,
    /// Another one in each round.
    pub seed: u64,
}

impl fmt::Display for Liar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no liar has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no liar; known are {names}", names = Liar::ALL.map(Liar::name).join(", "))]
pub struct UnknownLiar(pub String);

impl FromStr for Liar {
    type Err = UnknownLiar;
    fn from_str(text: &str) -> Result<Self, UnknownLiar> {
        let found = Self::ALL.into_iter().find(|liar| liar.name() == text);
        found.ok_or_else(|| UnknownLiar(text.to_string()))
    }
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

    #[test]
    fn liars_have_names_and_lie() {
        let own = [3.0, 0.0, 4.0];
        let others = [vec![1.0, 1.0, 1.0], vec![3.0, 1.0, 1.0]];
        let view = View {
            own: &own,
            others: &others,
            first: Some(&[7.0, 7.0, 7.0]),
            seed: 5,
        };
        for liar in Liar::ALL {
            assert_eq!(liar.name().parse(), Ok(liar));
            assert_eq!(liar.sends(&view).len(), 3, "{liar}");
        }
        let sends = |liar: Liar| liar.sends(&view);
        assert_eq!(sends(Liar::SignFlip), [-3.0, 0.0, -4.0]);
        assert_eq!(sends(Liar::Scale100), [300.0, 0.0, 400.0]);
        assert_eq!(sends(Liar::InnerProduct), [-4.0, -2.0, -2.0]);
        assert_eq!(sends(Liar::Copycat), others[0]);
        assert_eq!(sends(Liar::Resend), [7.0; 3]);
        assert_eq!(sends(Liar::Lazy), own);
        let unknown = "liar".parse::<Liar>().unwrap_err().to_string();
        assert!(unknown.contains("known are sign-flip, scale-10"), "{unknown}");
    }
}
