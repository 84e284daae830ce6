//! The gates between checked contributions and the merge, and the weights of what passes.
//!
//! 1. Length: all zero, or longer than the charter's multiple of the median of late, is kept out.
//! 2. Likeness: of two whose cosine is above the charter's, the one committed to later is kept out.
//! 3. Each tensor is shortened to the median length that it has among the rest.
//! 4. The charter's rule weighs them; what gets no weight is kept out too, so that its author knows.

use super::{
    Gram,
    rules::{Mixing, Radius, Rule, Start, median, norms, weights},
};
use atoll_protocol::{
    Nano, Robust,
    limits::{MEMBERS_MAX, UNFIT_MAX},
    robust::Weighing,
    transaction::{Unfit, UnfitReplica},
};
use thiserror::Error;

/// A contribution as the gates see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the roster.
    pub replica: u16,
    /// When it was committed to: the earlier, the lower. No two have the same.
    pub order: u32,
}

/// What becomes of one contribution in the merge.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// Its weight beside its tokens: 1 where all count alike, 0 where it is kept out.
    pub weight: Nano,
    /// By what each tensor is multiplied, in the layout's order; empty where none is shortened.
    pub factors: Vec<f64>,
}

/// What was found about the contributions of a round.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// In the order of the candidates.
    pub shares: Vec<Share>,
    /// What was kept out, in the order of the candidates.
    pub unfit: Vec<UnfitReplica>,
    /// Median length of the others, in millionths.
    pub norm_micro: u64,
    /// Inner products of the others after shortening, and their weights.
    pub matrix: Matrix,
}

/// Inner products of what passed the gates, after shortening, and the weights that follow from them. As bytes,
/// all little-endian: version and number (4 each), of each its place in the roster (2) and its weight in
/// billionths (8), then the lower triangle of the products, row by row, as f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Who stands in it, by place in the roster.
    pub replicas: Vec<u16>,
    /// Their inner products.
    pub gram: Gram,
    /// Their weights.
    pub weights: Vec<Nano>,
}

/// The only version of the bytes there is.
const VERSION: u32 = 1;

/// Why bytes are no matrix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MatrixError {
    /// Of another version.
    #[error("version {0} is not known; this program reads version 1")]
    Version(u32),
    /// Too many contributions for any round.
    #[error("{0} contributions; at most {MEMBERS_MAX} are allowed")]
    Count(u32),
    /// Another length than its number of contributions gives.
    #[error("{got} bytes; {expected} are needed")]
    Length {
        /// Bytes there are.
        got: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// NaN or infinite.
    #[error("an inner product is not finite")]
    NonFinite,
}

impl Matrix {
    /// See [`Matrix`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let count = self.replicas.len() as u32;
        let mut bytes = Vec::with_capacity(matrix_bytes(self.replicas.len()));
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        for (replica, weight) in self.replicas.iter().zip(&self.weights) {
            bytes.extend_from_slice(&replica.to_le_bytes());
            bytes.extend_from_slice(&weight.0.to_le_bytes());
        }
        for value in self.gram.lower() {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// Reads them.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MatrixError> {
        let short = MatrixError::Length {
            got: bytes.len(),
            expected: HEAD_BYTES,
        };
        let (version, rest) = bytes.split_first_chunk::<4>().ok_or(short.clone())?;
        let (count, mut rest) = rest.split_first_chunk::<4>().ok_or(short)?;
        let (version, number) = (u32::from_le_bytes(*version), u32::from_le_bytes(*count));
        if version != VERSION {
            return Err(MatrixError::Version(version));
        }
        let count = number as usize;
        if count > MEMBERS_MAX {
            return Err(MatrixError::Count(number));
        }
        if bytes.len() != matrix_bytes(count) {
            return Err(MatrixError::Length {
                got: bytes.len(),
                expected: matrix_bytes(count),
            });
        }
        let (mut replicas, mut weights, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            replicas.push(u16::from_le_bytes(take(&mut rest)));
            weights.push(Nano(u64::from_le_bytes(take(&mut rest))));
        }
        while !rest.is_empty() {
            values.push(f64::from_le_bytes(take(&mut rest)));
        }
        Ok(Self {
            replicas,
            gram: Gram::from_lower(count, values).ok_or(MatrixError::NonFinite)?,
            weights,
        })
    }
}

/// Version and number.
const HEAD_BYTES: usize = 8;

fn matrix_bytes(count: usize) -> usize {
    HEAD_BYTES + count * 10 + 8 * (count * (count + 1) / 2)
}

/// The next bytes, or zeros where the length was not checked.
fn take<const N: usize>(from: &mut &[u8]) -> [u8; N] {
    let (taken, rest) = from.split_first_chunk::<N>().unwrap_or((&[0; N], &[]));
    *from = rest;
    *taken
}

/// Judges contributions by their inner products in each tensor. `usual_micro` is the median length of late, in
/// millionths, if it is known.
pub fn judge(grams: &[Gram], candidates: &[Candidate], usual_micro: Option<u64>, rules: &Robust) -> Judged {
    let count = candidates.len();
    let mut whole = Gram::zero(count);
    let ones = vec![1.0; count];
    for gram in grams {
        whole.add_scaled(gram, &ones);
    }
    let lengths = norms(&whole);
    let mut unfit = vec![None; count];
    length_gate(&lengths, usual_micro, rules, &mut unfit);
    likeness_gate(&whole, candidates, rules, &mut unfit);
    keep_within_limit(&mut unfit);
    if unfit.iter().all(Option::is_some) {
        unfit.fill(None); // zeros merge to zero, and of one alone nothing can be told
    }

    let kept: Vec<usize> = (0..count).filter(|i| unfit[*i].is_none()).collect();
    let factors = shorten(grams, &kept, rules);
    let mut gram = Gram::zero(kept.len());
    for (tensor, all) in grams.iter().enumerate() {
        let of: Vec<f64> = factors
            .iter()
            .map(|factors| factors.get(tensor).copied().unwrap_or(1.0))
            .collect();
        gram.add_scaled(&all.of(&kept), &of);
    }
    let weights = weigh(&gram, rules);
    for (i, weight) in kept.iter().zip(&weights) {
        if *weight == Nano(0) {
            unfit[*i] = Some(Unfit::Weightless);
        }
    }
    keep_within_limit(&mut unfit);
    let mut shares = vec![
        Share {
            weight: Nano(0),
            factors: Vec::new(),
        };
        count
    ];
    for ((i, factors), weight) in kept.iter().zip(factors).zip(&weights) {
        shares[*i] = Share {
            weight: *weight,
            factors,
        };
    }
    let reasons = candidates.iter().zip(&unfit);
    let unfit = reasons.filter_map(|(candidate, reason)| {
        reason.map(|reason| UnfitReplica {
            replica: candidate.replica,
            reason,
        })
    });
    Judged {
        shares,
        unfit: unfit.collect(),
        norm_micro: micro(median(kept.iter().map(|i| lengths[*i]).collect())),
        matrix: Matrix {
            replicas: kept.iter().map(|i| candidates[*i].replica).collect(),
            gram,
            weights,
        },
    }
}

/// The weights of contributions with these inner products: 1 is that of each where all count alike.
pub fn weigh(gram: &Gram, rules: &Robust) -> Vec<Nano> {
    let count = gram.size();
    let faulty = Robust::faulty(count);
    let rule = match rules.rule {
        // of fewer than four nothing can be told
        _ if faulty == 0 => Rule::Mean,
        Weighing::Mean => Rule::Mean,
        Weighing::CenteredClipping => Rule::CenteredClipping {
            start: Start::Median,
            radius: Radius::OfDistances(1.0),
            steps: 3,
        },
        Weighing::GeometricMedian => Rule::GeometricMedian {
            floor: Radius::OfNorms(0.1),
            steps: 8,
        },
        Weighing::Krum => Rule::Krum,
        Weighing::MultiKrum => Rule::MultiKrum,
        Weighing::MinimumDiameter => Rule::MinimumDiameter,
    };
    let weights = match rules.mixing && faulty > 0 {
        true => {
            let mixing = Mixing::new(gram, faulty);
            mixing.weights(&weights(&mixing.gram(gram), faulty, rule))
        }
        false => weights(gram, faulty, rule),
    };
    let scale = count as f64 * Nano::ONE.0 as f64;
    let nano = |weight: &f64| Nano((weight * scale).round() as u64); // a cast saturates
    weights.iter().map(nano).collect()
}

fn micro(length: f64) -> u64 {
    (length * 1e6).round() as u64 // a cast saturates
}

fn length_gate(lengths: &[f64], usual_micro: Option<u64>, rules: &Robust, unfit: &mut [Option<Unfit>]) {
    // where all grow at once, as when a codec gets denser, nobody is out of line
    let usual = usual_micro.map_or(0.0, |usual| usual as f64 / 1e6);
    let usual = usual.max(median(lengths.to_vec()));
    let most = rules.norm_max.0 as f64 / Nano::ONE.0 as f64;
    for (length, unfit) in lengths.iter().zip(unfit) {
        if *length == 0.0 {
            *unfit = Some(Unfit::Zero);
        } else if *length > most * usual {
            *unfit = Some(Unfit::Long {
                times_milli: (length / usual * 1e3).round() as u32, // a cast saturates
            });
        }
    }
}

fn likeness_gate(whole: &Gram, candidates: &[Candidate], rules: &Robust, unfit: &mut [Option<Unfit>]) {
    if rules.cosine_max >= Nano::ONE {
        return;
    }
    let most = rules.cosine_max.0 as f64 / Nano::ONE.0 as f64;
    let mut by_order: Vec<usize> = (0..candidates.len()).collect();
    by_order.sort_by_key(|i| candidates[*i].order);
    for (place, later) in by_order.iter().enumerate() {
        if unfit[*later].is_some() {
            continue;
        }
        let earlier = by_order[..place].iter().filter(|earlier| unfit[**earlier].is_none());
        let mut alike = earlier.map(|earlier| {
            let lengths = (whole.at(*earlier, *earlier) * whole.at(*later, *later)).sqrt();
            (*earlier, whole.at(*earlier, *later) / lengths)
        });
        if let Some((other, cosine)) = alike.find(|(_, cosine)| *cosine > most) {
            unfit[*later] = Some(Unfit::Alike {
                other: candidates[other].replica,
                cosine_myriad: (cosine * 1e4).round() as u16,
            });
        }
    }
}

/// More than can be written down is not kept out: the last ones are left to the rule.
fn keep_within_limit(unfit: &mut [Option<Unfit>]) {
    for surplus in unfit.iter_mut().filter(|reason| reason.is_some()).skip(UNFIT_MAX) {
        *surplus = None;
    }
}

/// For each of `kept`, a factor for each tensor; none where the charter shortens nothing.
fn shorten(grams: &[Gram], kept: &[usize], rules: &Robust) -> Vec<Vec<f64>> {
    let mut factors = vec![Vec::new(); kept.len()];
    if !rules.clip || Robust::faulty(kept.len()) == 0 {
        return factors;
    }
    for gram in grams {
        let lengths = norms(&gram.of(kept));
        let limit = median(lengths.clone());
        for (length, factors) in lengths.iter().zip(&mut factors) {
            factors.push(if *length > limit { limit / length } else { 1.0 });
        }
    }
    factors
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Robust = Robust {
        rule: Weighing::Mean,
        mixing: false,
        clip: false,
        norm_max: Nano(3 * Nano::ONE.0),
        cosine_max: Nano(990_000_000),
    };

    /// Inner products of vectors with one tensor.
    fn gram(vectors: &[&[f64]]) -> Gram {
        let mut gram = Gram::zero(vectors.len());
        for i in 0..vectors.len() {
            for j in 0..=i {
                gram.set(i, j, vectors[i].iter().zip(vectors[j]).map(|(a, b)| a * b).sum());
            }
        }
        gram
    }

    fn judged(vectors: &[&[f64]], usual_micro: Option<u64>, rules: &Robust) -> Judged {
        let candidates: Vec<Candidate> = (0..vectors.len())
            .map(|i| Candidate {
                replica: 10 + i as u16,
                order: (vectors.len() - i) as u32, // the last was committed to first
            })
            .collect();
        judge(&[gram(vectors)], &candidates, usual_micro, rules)
    }

    fn out(judged: &Judged) -> Vec<(u16, String)> {
        judged
            .unfit
            .iter()
            .map(|unfit| (unfit.replica, unfit.reason.to_string()))
            .collect()
    }

    #[test]
    fn zeros_giants_and_copies_are_kept_out_with_their_figures() {
        let vectors: [&[f64]; 6] = [
            &[1.0, 0.0, 0.0],
            &[0.0, 0.0, 0.0],
            &[0.0, 2.0, 0.0],
            &[0.0, 0.0, 7.0],
            &[1.001, 0.001, 0.0],
            &[0.0, 0.5, 1.5],
        ];
        let found = judged(&vectors, None, &RULES);
        let expected = [
            (10, "its cosine with the contribution of replica 14 is 1.0000"),
            (11, "all its values are 0"),
            (13, "it is 5.422 times as long as the median of late"),
        ];
        assert_eq!(out(&found), expected.map(|(replica, text)| (replica, text.to_string())));
        assert_eq!(found.matrix.replicas, [12, 14, 15]);
        let weights: Vec<u64> = found.shares.iter().map(|share| share.weight.0 / 1_000_000).collect();
        assert_eq!(weights, [0, 0, 1000, 0, 1000, 1000]);
        assert_eq!(found.norm_micro, 1_581_139);
    }

    #[test]
    fn where_all_are_longer_than_of_late_nobody_is_out_of_line() {
        let vectors: [&[f64]; 3] = [&[10.0, 0.0], &[0.0, 11.0], &[-40.0, 0.0]];
        assert_eq!(out(&judged(&vectors, Some(1_000_000), &RULES)).len(), 1);
        assert_eq!(out(&judged(&vectors, Some(20_000_000), &RULES)).len(), 0);
        let lenient = Robust::PLAIN;
        assert_eq!(out(&judged(&[&[1.0], &[1.0], &[1e5]], None, &lenient)).len(), 0);
        assert_eq!(judged(&[], None, &RULES).shares.len(), 0);
    }

    #[test]
    fn what_a_rule_gives_no_weight_is_kept_out() {
        let vectors: [&[f64]; 5] = [&[1.0, 0.0], &[0.9, 0.4], &[0.8, 0.6], &[-1.0, 0.1], &[0.0, -1.0]];
        for rule in Weighing::ALL {
            let found = judged(&vectors, None, &Robust { rule, ..RULES });
            let (weighed, out): (Vec<_>, Vec<_>) = (0..5).partition(|i| found.shares[*i].weight > Nano(0));
            let named: Vec<usize> = found.unfit.iter().map(|out| usize::from(out.replica) - 10).collect();
            assert_eq!(named, out, "{rule}");
            let expected = match rule {
                Weighing::Krum => 1,
                Weighing::MultiKrum | Weighing::MinimumDiameter => 4,
                _ => 5,
            };
            assert_eq!(weighed.len(), expected, "{rule}");
            assert!(found.unfit.iter().all(|out| out.reason == Unfit::Weightless));
        }
    }

    #[test]
    fn nothing_but_zeros_is_merged_to_zero() {
        let zero: &[f64] = &[0.0, 0.0];
        for rule in Weighing::ALL {
            let rules = Robust {
                rule,
                mixing: true,
                clip: true,
                ..RULES
            };
            let found = judged(&[zero; 5], None, &rules);
            let weight: u64 = found.shares.iter().map(|share| share.weight.0).sum();
            assert!(weight > 0, "{rule}");
        }
    }

    #[test]
    fn tensors_are_shortened_to_their_median() {
        let rules = Robust { clip: true, ..RULES };
        let (a, b) = (
            gram(&[&[1.0, 0.0], &[0.0, 2.0], &[3.0, 0.0], &[0.0, 2.0]]),
            gram(&[&[0.0], &[0.0], &[1.0], &[0.0]]),
        );
        let candidates = [0, 1, 2, 3].map(|i| Candidate {
            replica: i,
            order: i.into(),
        });
        let lenient = Robust {
            cosine_max: Nano::ONE,
            ..rules
        };
        let found = judge(&[a, b], &candidates, None, &lenient);
        let factors: Vec<_> = found.shares.iter().map(|share| share.factors.clone()).collect();
        assert_eq!(factors, [[1.0, 1.0], [1.0, 1.0], [2.0 / 3.0, 0.0], [1.0, 1.0]]);
        assert_eq!(found.matrix.gram.at(2, 2), 4.0);
    }
}
