//! Merge: the contributions of a round become one Δ, the same bits for everyone.
//!
//! Sums run in f64. Addition of floats is not associative, so the order is fixed: ascending by peer. Rounding a sum
//! of a hundred products errs far below the last bit of an f32; where all count alike and weights are below 2^29
//! tokens, products are exact, and equal contributions merge to themselves.

use crate::{
    blob::Contribution,
    codec::sink::Add,
    theta::{VectorError, check_len},
};
use atoll_protocol::{Layout, Nano, PeerId, Tokens};
use rayon::prelude::*;
use thiserror::Error;

/// Why contributions cannot be merged.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum MergeError {
    /// There are none.
    #[error("there is no contribution to merge")]
    Empty,
    /// A peer stands twice.
    #[error("peer {0} has more than one contribution in this merge")]
    Repeated(PeerId),
    /// All weights are 0.
    #[error("the {0} contributions weigh 0 in all: a merge needs one of at least 1 token and some weight")]
    NoWeight(usize),
    /// Read with another codec or layout than the first one.
    #[error("the contribution of peer {0} was read with another codec or layout than the first peer's")]
    Mixed(PeerId),
    /// Made for another model.
    #[error(transparent)]
    Length(#[from] VectorError),
}

/// A contribution and how much it counts.
#[derive(Debug, Clone, Copy)]
pub struct Weighed<'a> {
    /// Whose.
    pub peer: PeerId,
    /// Tokens that it was made from.
    pub tokens: Tokens,
    /// Its weight beside them; 1 where all count alike.
    pub weight: Nano,
    /// By what each tensor is multiplied, in the layout's order; empty stands for 1.
    pub factors: &'a [f64],
    /// The contribution.
    pub contribution: &'a Contribution,
}

/// [`merge_weighed`] by tokens alone.
///
/// # Errors
/// As there.
pub fn merge(layout: &Layout, inputs: &[(PeerId, Tokens, &Contribution)]) -> Result<Vec<f32>, MergeError> {
    let weighed = inputs.iter().map(|(peer, tokens, contribution)| Weighed {
        peer: *peer,
        tokens: *tokens,
        weight: Nano::ONE,
        factors: &[],
        contribution,
    });
    merge_weighed(layout, &weighed.collect::<Vec<_>>())
}

/// Δ = Σ wᵢ · cᵢ · D(blobᵢ) / Σ wᵢ: P elements; w is tokens times weight, c a factor for each tensor. The sum
/// of *all* weights divides every coordinate, also those that only few peers sent: else one peer would own what
/// nobody else picked.
///
/// Inputs may come in any order. Beside Δ this holds one part of θ in f64 per thread, and no decoded
/// contribution. Δ is finite: it lies between finite f32 values, and no sum of up to 2^64 · 2^128 per
/// peer overflows an f64.
///
/// # Errors
/// Where there is nothing to merge, a peer stands twice, or a contribution was made for another model.
pub fn merge_weighed(layout: &Layout, inputs: &[Weighed<'_>]) -> Result<Vec<f32>, MergeError> {
    let mut inputs = inputs.to_vec();
    inputs.sort_by_key(|input| input.peer);
    let Some(first) = inputs.first().map(|input| input.contribution) else {
        return Err(MergeError::Empty);
    };
    if let Some(pair) = inputs.windows(2).find(|pair| pair[0].peer == pair[1].peer) {
        return Err(MergeError::Repeated(pair[0].peer));
    }
    if let Some(other) = inputs.iter().find(|input| input.contribution.plan != first.plan) {
        return Err(MergeError::Mixed(other.peer));
    }
    check_len("contribution", first.parameters(), layout.parameters)?;
    let weight = |input: &Weighed<'_>| input.tokens.0 as f64 * (input.weight.0 as f64 / Nano::ONE.0 as f64);
    let total: f64 = inputs.iter().map(weight).sum();
    if total == 0.0 {
        return Err(MergeError::NoWeight(inputs.len()));
    }
    let mut delta = vec![0.0; layout.parameters];
    let shares = first.plan.split_mut(&mut delta);
    shares
        .into_par_iter()
        .for_each_init(Vec::new, |sums, (index, part, share)| {
            sums.clear();
            sums.resize(part.len, 0.0);
            for input in inputs.iter().filter(|input| input.weight > Nano(0)) {
                let factor = input.factors.get(part.tensor).copied().unwrap_or(1.0);
                let weight = weight(input) * factor;
                input.contribution.read_part(index, &mut Add { weight, sums });
            }
            for (mean, sum) in share.iter_mut().zip(sums.iter()) {
                *mean = (sum / total) as f32;
            }
        });
    Ok(delta)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode;
    use atoll_protocol::{
        Hash,
        charter::Codec,
        layout::{Role, Tensor},
    };

    fn layout(rows: usize) -> Layout {
        Layout {
            tensors: vec![Tensor {
                name: "matrix".into(),
                rows,
                columns: 2,
                role: Role::Matrix,
                offset: 0,
            }],
            parameters: rows * 2,
        }
    }

    fn contribution(values: &[f32], codec: &Codec) -> Contribution {
        let layout = layout(values.len() / 2);
        let blob = encode(values, codec, &layout, &Hash::ZERO).expect("finite");
        Contribution::read(blob, &layout, codec, &Hash::ZERO).expect("own blob")
    }

    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);

    #[test]
    fn tokens_are_weights() {
        let (a, b) = (
            contribution(&[1.0, 0.0], &Codec::Dense),
            contribution(&[-3.0, 4.0], &Codec::Dense),
        );
        let mean = |a_tokens, b_tokens| merge(&layout(1), &[(B, Tokens(b_tokens), &b), (A, Tokens(a_tokens), &a)]);
        assert_eq!(mean(3, 1), Ok(vec![0.0, 1.0]));
        assert_eq!(mean(5, 0), Ok(vec![1.0, 0.0]));
        assert_eq!(mean(0, 0), Err(MergeError::NoWeight(2)));
    }

    #[test]
    fn a_coordinate_that_one_peer_sent_is_divided_by_all_weights() {
        let codec = Codec::Sparse {
            k: 1,
            feedback: Nano::ONE,
        };
        let (a, b) = (contribution(&[8.0, 0.0], &codec), contribution(&[0.0, 2.0], &codec));
        let delta = merge(&layout(1), &[(A, Tokens(1), &a), (B, Tokens(3), &b)]);
        assert_eq!(delta, Ok(vec![2.0, 1.5]));
    }

    #[test]
    fn equal_contributions_merge_to_themselves_at_the_ends_of_the_range() {
        let values = [f32::MAX, f32::MIN, f32::from_bits(1), 0.1];
        let all: Vec<Contribution> = (0..100).map(|_| contribution(&values, &Codec::Dense)).collect();
        for tokens in [1, 12_345, u64::MAX] {
            let peers = all
                .iter()
                .zip(0..)
                .map(|(c, peer)| (PeerId([peer; 32]), Tokens(tokens), c));
            assert_eq!(
                merge(&layout(2), &peers.collect::<Vec<_>>()),
                Ok(values.to_vec()),
                "{tokens}"
            );
        }
    }

    #[test]
    fn what_cannot_be_merged_is_refused() {
        let one = Tokens(1);
        let dense = contribution(&[1.0, 2.0], &Codec::Dense);
        let int4 = contribution(&[1.0, 2.0], &Codec::Int4 { feedback: Nano::ONE });
        assert_eq!(merge(&layout(1), &[]), Err(MergeError::Empty));
        let twice = [(A, one, &dense), (B, one, &dense), (A, one, &dense)];
        assert_eq!(merge(&layout(1), &twice), Err(MergeError::Repeated(A)));
        assert_eq!(
            merge(&layout(1), &[(B, one, &int4), (A, one, &dense)]),
            Err(MergeError::Mixed(B))
        );
        assert!(matches!(
            merge(&layout(2), &[(A, one, &dense)]),
            Err(MergeError::Length(_))
        ));
    }
}
