//! Inner products of a round's contributions with each other, tensor by tensor: all that robust rules need.
//!
//! Decoded values are multiplied and summed in f64, in an order that depends on the plan alone: within a part
//! by fixed lanes, parts in order, tensors in order. A contribution of the sparse codec is never densified:
//! what one keeps is laid out in one part of θ, and the others' kept values are looked up there.

use crate::{blob::Contribution, codec::sink::Sink, plan::Coding};
use rayon::prelude::*;
use thiserror::Error;

/// Parts whose products are held at a time.
const PARTS_AT_A_TIME: usize = 256;
/// Sums that run side by side within a part.
const LANES: usize = 8;

/// A symmetric matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Gram {
    size: usize,
    /// Row by row up to the diagonal.
    values: Vec<f64>,
}

impl Gram {
    /// All zero, `size` × `size`.
    pub fn zero(size: usize) -> Self {
        Self {
            size,
            values: vec![0.0; size * (size + 1) / 2],
        }
    }

    /// From its lower triangle, row by row. Nothing unless it has size (size + 1) / 2 finite values.
    pub fn from_lower(size: usize, values: Vec<f64>) -> Option<Self> {
        let right = values.len() == size * (size + 1) / 2 && values.iter().all(|value| value.is_finite());
        right.then_some(Self { size, values })
    }

    /// Rows.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The lower triangle, row by row.
    pub fn lower(&self) -> &[f64] {
        &self.values
    }

    /// ⟨xᵢ, xⱼ⟩.
    ///
    /// # Panics
    /// Where `i` or `j` is not below [`Gram::size`].
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.values[place(i, j)]
    }

    /// Rows and columns of `kept` alone.
    pub(crate) fn of(&self, kept: &[usize]) -> Self {
        let mut some = Self::zero(kept.len());
        for (i, row) in kept.iter().enumerate() {
            for (j, column) in kept[..=i].iter().enumerate() {
                some.set(i, j, self.at(*row, *column));
            }
        }
        some
    }

    pub(crate) fn set(&mut self, i: usize, j: usize, value: f64) {
        self.values[place(i, j)] = value;
    }

    /// ‖xᵢ − xⱼ‖², at least 0.
    pub(crate) fn distance2(&self, i: usize, j: usize) -> f64 {
        (self.at(i, i) - 2.0 * self.at(i, j) + self.at(j, j)).max(0.0)
    }

    /// Adds each other entry, times the factors of its row and column.
    pub(crate) fn add_scaled(&mut self, other: &Self, factors: &[f64]) {
        for i in 0..self.size {
            for j in 0..=i {
                self.values[place(i, j)] += factors[i] * factors[j] * other.at(i, j);
            }
        }
    }
}

fn place(i: usize, j: usize) -> usize {
    let (row, column) = if i < j { (j, i) } else { (i, j) };
    row * (row + 1) / 2 + column
}

/// Contributions that were read with different codecs or layouts.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("contribution {0} was read with another codec or layout than the first")]
pub struct Mixed(pub usize);

/// The values that a sparse part keeps.
#[derive(Default)]
struct Kept {
    places: Vec<u32>,
    values: Vec<f32>,
}

impl Sink for Kept {
    fn run(&mut self, at: usize, values: &[f32]) {
        for (offset, value) in values.iter().enumerate() {
            self.one(at + offset, *value);
        }
    }
    fn one(&mut self, at: usize, value: f32) {
        self.places.push(at as u32);
        self.values.push(value);
    }
}

#[derive(Default)]
struct Scratch {
    dense: Vec<f32>,
    kept: Vec<Kept>,
}

/// One [`Gram`] of D(blob) for each tensor of the layout.
///
/// Beside the result this holds, per thread, one part of θ and what the contributions keep of it: N · 16384
/// values where all are kept.
///
/// # Errors
/// Where contributions were not all read with the same codec and layout.
pub fn grams(contributions: &[&Contribution]) -> Result<Vec<Gram>, Mixed> {
    let Some(first) = contributions.first() else {
        return Ok(Vec::new());
    };
    if let Some(other) = contributions.iter().position(|other| other.plan != first.plan) {
        return Err(Mixed(other));
    }
    let count = contributions.len();
    let tensors = first.plan.parts.last().map_or(0, |part| part.tensor + 1);
    let mut grams = vec![Gram::zero(count); tensors];
    let parts: Vec<usize> = (0..first.plan.parts.len()).collect();
    for some in parts.chunks(PARTS_AT_A_TIME) {
        let products: Vec<Vec<f64>> = some
            .par_iter()
            .map_init(Scratch::default, |scratch, index| {
                products(contributions, *index, scratch)
            })
            .collect();
        for (index, products) in some.iter().zip(products) {
            let gram = &mut grams[first.plan.parts[*index].tensor];
            for (sum, product) in gram.values.iter_mut().zip(products) {
                *sum += product;
            }
        }
    }
    Ok(grams)
}

/// The lower triangle of one part's inner products; empty for a part without elements.
fn products(contributions: &[&Contribution], index: usize, scratch: &mut Scratch) -> Vec<f64> {
    let Some(part) = contributions.first().map(|first| first.plan.parts[index]) else {
        return Vec::new();
    };
    match part.coding {
        Coding::Factor { .. } => Vec::new(),
        Coding::Tiles { .. } => sparse(contributions, index, part.len, scratch),
        _ => dense(contributions, index, part.len, scratch),
    }
}

fn dense(contributions: &[&Contribution], index: usize, len: usize, scratch: &mut Scratch) -> Vec<f64> {
    let all = &mut scratch.dense;
    all.clear();
    all.resize(contributions.len() * len, 0.0);
    let rows = all.chunks_exact_mut(len.max(1));
    for (contribution, row) in contributions.iter().zip(rows) {
        contribution.read_part(index, &mut crate::codec::sink::Set(row));
    }
    let row = |i: usize| &all[i * len..(i + 1) * len];
    let mut products = Vec::with_capacity(contributions.len() * (contributions.len() + 1) / 2);
    for i in 0..contributions.len() {
        products.extend((0..=i).map(|j| dot(row(i), row(j))));
    }
    products
}

/// Σ aₖ bₖ: lane l sums k ≡ l (mod 8), then lanes are added in order.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (mut a, mut b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in a.by_ref().zip(b.by_ref()) {
        for lane in 0..LANES {
            lanes[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a.remainder()).zip(b.remainder()) {
        *lane += f64::from(*a) * f64::from(*b);
    }
    lanes.iter().sum()
}

fn sparse(contributions: &[&Contribution], index: usize, len: usize, scratch: &mut Scratch) -> Vec<f64> {
    let Scratch { dense, kept } = scratch;
    dense.clear();
    dense.resize(len, 0.0);
    kept.resize_with(contributions.len(), Kept::default);
    for (contribution, kept) in contributions.iter().zip(kept.iter_mut()) {
        kept.places.clear();
        kept.values.clear();
        contribution.read_part(index, kept);
    }
    let mut products = Vec::with_capacity(contributions.len() * (contributions.len() + 1) / 2);
    for i in 0..contributions.len() {
        for (place, value) in kept[i].places.iter().zip(&kept[i].values) {
            dense[*place as usize] = *value;
        }
        products.extend(kept[..=i].iter().map(|other| gather(other, dense)));
        for place in &kept[i].places {
            dense[*place as usize] = 0.0;
        }
    }
    products
}

/// Σ of kept values times what stands at their places; lanes as in [`dot`], over the kept values.
fn gather(kept: &Kept, dense: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    for (places, values) in kept.places.chunks(LANES).zip(kept.values.chunks(LANES)) {
        for ((lane, place), value) in lanes.iter_mut().zip(places).zip(values) {
            *lane += f64::from(*value) * f64::from(dense[*place as usize]);
        }
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode;
    use atoll_protocol::{
        Hash, Layout, Nano,
        charter::Codec,
        layout::{Role, Tensor},
    };

    fn layout() -> Layout {
        let mut layout = Layout {
            tensors: vec![],
            parameters: 0,
        };
        for (role, rows, columns) in [
            (Role::Embedding, 150, 40),
            (Role::Vector, 40, 1),
            (Role::Matrix, 130, 66),
        ] {
            layout.tensors.push(Tensor {
                name: "t".into(),
                rows,
                columns,
                role,
                offset: layout.parameters,
            });
            layout.parameters += rows * columns;
        }
        layout
    }

    #[test]
    fn products_are_those_of_what_is_decoded_for_every_codec() {
        let (layout, feedback) = (layout(), Nano::ONE);
        for codec in [
            Codec::Dense,
            Codec::Int8 { feedback },
            Codec::Int4 { feedback },
            Codec::Sparse { k: 50, feedback },
            Codec::LowRank { rank: 3, feedback },
        ] {
            let contributions: Vec<Contribution> = (0..5u64)
                .map(|peer| {
                    let value = |i: u64| {
                        let mixed = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) ^ (peer << 40);
                        (mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / 1e7 - 0.8
                    };
                    let values: Vec<f32> = (0..layout.parameters as u64).map(value).collect();
                    let blob = encode(&values, &codec, &layout, &Hash::ZERO).unwrap();
                    Contribution::read(blob, &layout, &codec, &Hash::ZERO).unwrap()
                })
                .collect();
            let all: Vec<&Contribution> = contributions.iter().collect();
            let grams = grams(&all).unwrap();
            assert_eq!(grams.len(), layout.tensors.len());
            let decoded = all.iter().map(|contribution| {
                let mut values = vec![0.0; layout.parameters];
                contribution.decode_into(&mut values).unwrap();
                values
            });
            let decoded: Vec<Vec<f32>> = decoded.collect();
            for (tensor, gram) in layout.tensors.iter().zip(&grams) {
                for i in 0..5 {
                    for j in 0..5 {
                        let pairs = decoded[i][tensor.range()].iter().zip(&decoded[j][tensor.range()]);
                        let expected: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                        let off = (gram.at(i, j) - expected).abs();
                        let scale = (gram.at(i, i) * gram.at(j, j)).sqrt();
                        assert!(off <= 1e-12 * scale, "{codec}: {i} {j}: {off}");
                    }
                }
            }
        }
    }

    #[test]
    fn other_codecs_are_not_compared() {
        let layout = layout();
        let values = vec![1.0; layout.parameters];
        let read = |codec: &Codec| {
            let blob = encode(&values, codec, &layout, &Hash::ZERO).unwrap();
            Contribution::read(blob, &layout, codec, &Hash::ZERO).unwrap()
        };
        let (a, b) = (read(&Codec::Dense), read(&Codec::Int4 { feedback: Nano::ONE }));
        assert_eq!(grams(&[&a, &a, &b]), Err(Mixed(2)));
        assert_eq!(grams(&[]), Ok(vec![]));
    }
}
