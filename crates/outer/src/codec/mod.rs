//! How a pseudo-gradient becomes bytes: one file per way of writing a part of θ.
//!
//! | Codec | Matrices and embeddings | Vectors | Bytes per parameter |
//! | --- | --- | --- | --- |
//! | dense | f32 | f32 | 4 |
//! | int8 | blocks, see `int8.rs` | bf16 | 1.03 |
//! | int4 | blocks, see `int4.rs` | bf16 | 0.53 |
//! | sparse | tiles, see `sparse.rs` | bf16 | 0.021 at k = 64 |
//! | low rank | P · Qᵀ, see `lowrank.rs`; embeddings as int4 | bf16 | r (m + n / 2) / mn a matrix |
//!
//! Vectors are gains of norms, less than a thousandth of a model. They go as bf16 and not as fp16:
//! bf16 has the range of f32, so nothing overflows or vanishes, and its coarser rounding stays in the
//! error feedback.

mod bits;
pub(crate) mod block;
mod factor;
mod float;
mod int4;
mod int8;
pub(crate) mod lowrank;
mod panel;
mod select;
pub(crate) mod sink;
pub(crate) mod sparse;

use self::{
    factor::{Factored, Shape, factor},
    sink::Sink,
};
use crate::{
    blob::format,
    plan::{Coding, Part, Plan},
    real::first_non_finite,
    theta::{VectorError, check_len},
    warm::Warm,
};
use atoll_protocol::{Hash, Layout, charter::Codec, layout::Tensor, limits::RANK_MAX};
use rayon::prelude::*;
use thiserror::Error;

/// Steps of power iteration from pseudo-random columns; from those of the round before it is one.
const COLD_STEPS: usize = 2;

/// Why values cannot be encoded.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum EncodeError {
    /// The number of values is not the layout's.
    #[error(transparent)]
    Length(#[from] VectorError),
    /// NaN or infinite.
    #[error("tensor {tensor}[{index}] is {value}; only finite values can be encoded")]
    NonFinite {
        /// The tensor's name.
        tensor: String,
        /// Which of its elements, the first such.
        index: usize,
        /// Its value.
        value: f32,
    },
}

/// What is wrong with the bytes of a part.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
pub enum Flaw {
    /// They end too early.
    #[error("its bytes end early")]
    Short,
    /// NaN or infinite.
    #[error("value {0} is not finite")]
    NonFinite(f32),
    /// A scale that is negative, not finite or subnormal.
    #[error("scale {0} is not 0 or a positive normal number")]
    Scale(f32),
    /// Codes of a block that do not use its scale, or that use none.
    #[error("the codes of a block do not fit its scale {0}")]
    Codes(f32),
    /// A code of no value.
    #[error("code {0} is out of range; from -127 to 127 is allowed")]
    Code(i8),
    /// Bits that must be zero.
    #[error("padding is not zero")]
    Padding,
    /// More values than a tile of this size may keep.
    #[error("a tile keeps {got} values; at most {max} are allowed")]
    Count {
        /// Values kept.
        got: usize,
        /// Values allowed.
        max: usize,
    },
    /// A place outside the tile.
    #[error("a kept value stands outside its tile of {0} elements")]
    Index(usize),
    /// A scale of P above 1, though P's columns are of length 1.
    #[error("scale {0} of P is more than 1")]
    Length(f32),
    /// Factors whose product may leave the range of f32.
    #[error("the largest magnitudes of Q's columns sum to {0}; at most 2^127 is allowed")]
    Reach(f64),
    /// A level of a codebook that cannot be, or that none of the codes uses.
    #[error("level {0} of a codebook is out of order, out of range or unused")]
    Level(f32),
}

/// A contribution C(values) made from the parameters whose root is `base`: a blob, see [`crate::blob`].
///
/// # Errors
/// Where `values` has not the layout's length, or the first value that is not finite.
pub fn encode(values: &[f32], codec: &Codec, layout: &Layout, base: &Hash) -> Result<Vec<u8>, EncodeError> {
    encode_from(&Warm::default(), values, codec, layout, base).map(|made| made.blob)
}

/// A blob, and what making it left.
pub(crate) struct Made {
    pub(crate) blob: Vec<u8>,
    /// For the next round.
    pub(crate) warm: Warm,
    /// Mean effective rank of the matrices that went as P · Qᵀ, in thousandths.
    pub(crate) rank_milli: u32,
}

/// [`encode`], where the low-rank codec goes on from `warm`.
pub(crate) fn encode_from(
    warm: &Warm,
    values: &[f32],
    codec: &Codec,
    layout: &Layout,
    base: &Hash,
) -> Result<Made, EncodeError> {
    let plan = Plan::new(layout, codec);
    check_len("pseudo-gradient", values.len(), plan.parameters)?;
    if let Some((at, value)) = first_non_finite(values) {
        return Err(non_finite(layout, at, value));
    }
    let mut pieces: Vec<Vec<u8>> = plan
        .parts
        .par_iter()
        .map_init(sparse::Scratch::default, |scratch, part| {
            write(part, &values[part.start..part.start + part.len], scratch)
        })
        .collect();
    let found = factor_matrices(warm, values, layout, &plan);
    let ranks: f64 = found.iter().map(|(_, found)| found.effective_rank).sum();
    // A cast saturates; without matrices the quotient is NaN and becomes 0.
    let rank_milli = (1000.0 * ranks / found.len() as f64).round() as u32;
    let rank_milli = rank_milli.min(1000 * RANK_MAX);
    let mut factors = Vec::with_capacity(found.len());
    for (first, found) in found {
        for (slot, piece) in pieces[first..].iter_mut().zip(found.pieces) {
            *slot = piece;
        }
        factors.push((plan.parts[first].tensor, found.q));
    }
    let blob = format::write(layout, codec, base, &plan, pieces);
    let warm = Warm::new(plan.rank(), factors);
    Ok(Made { blob, warm, rank_milli })
}

/// Every matrix that goes as P · Qᵀ, with the index of the part that is its Q.
fn factor_matrices(warm: &Warm, values: &[f32], layout: &Layout, plan: &Plan) -> Vec<(usize, Factored)> {
    let factors = plan.parts.par_iter().enumerate();
    let factors = factors.filter_map(|(first, part)| {
        let Coding::Factor { rank } = part.coding else {
            return None;
        };
        let Tensor { rows, columns, .. } = layout.tensors[part.tensor];
        let (q, known) = warm.start(part.tensor, columns, rank);
        let steps = if known { 1 } else { COLD_STEPS };
        let matrix = &values[part.start..part.start + rows * columns];
        Some((first, factor(matrix, Shape { rows, columns, rank }, q, steps)))
    });
    factors.collect()
}

fn non_finite(layout: &Layout, at: usize, value: f32) -> EncodeError {
    let mut index = at;
    let mut name = "";
    for tensor in &layout.tensors {
        name = &tensor.name;
        if index < tensor.len() {
            break;
        }
        index -= tensor.len();
    }
    EncodeError::NonFinite {
        tensor: name.to_string(),
        index,
        value,
    }
}

fn write(part: &Part, values: &[f32], scratch: &mut sparse::Scratch) -> Vec<u8> {
    let mut out = Vec::new();
    match part.coding {
        Coding::F32 => return float::write_f32(values),
        Coding::Bf16 => return float::write_bf16(values),
        Coding::Int8 => int8::write(values, &mut out),
        Coding::Int4 => int4::write(values, &mut out),
        // Made for the whole matrix.
        Coding::Factor { .. } | Coding::Band { .. } => (),
        Coding::Tiles { k } => return sparse::write(values, part.columns, k, scratch),
    }
    out
}

/// Checks the part that starts `bytes` and returns how many of them it takes.
pub(crate) fn check(part: &Part, bytes: &[u8]) -> Result<usize, Flaw> {
    match part.coding {
        Coding::F32 => float::check_f32(bytes, part.len),
        Coding::Bf16 => float::check_bf16(bytes, part.len),
        Coding::Int8 => int8::check(bytes, part.len),
        Coding::Int4 => int4::check(bytes, part.len),
        Coding::Factor { rank } => lowrank::check_factor(bytes, part.columns, rank),
        Coding::Band { rank, .. } => lowrank::check_band(bytes, part.len / part.columns, rank),
        Coding::Tiles { k } => sparse::read(bytes, part.len, part.columns, k, |_, _| ()),
    }
}

/// Decodes a part; `factor` are the bytes of the part that it names. All must have passed [`check`]; of others, only what can be read is decoded.
pub(crate) fn read(part: &Part, bytes: &[u8], factor: &[u8], sink: &mut impl Sink) {
    match part.coding {
        Coding::F32 => float::read_f32(bytes, sink),
        Coding::Bf16 => float::read_bf16(bytes, sink),
        Coding::Int8 => int8::read(bytes, part.len, sink),
        Coding::Int4 => int4::read(bytes, part.len, sink),
        Coding::Factor { .. } => (),
        Coding::Band { rank, .. } => lowrank::read(bytes, factor, part.len, (part.columns, rank), sink),
        Coding::Tiles { k } => {
            // The same bytes gave no error when they were checked.
            let _ = sparse::read(bytes, part.len, part.columns, k, |at, value| sink.one(at, value));
        }
    }
}

/// The most bytes that a part can take.
pub(crate) fn bytes_max(part: &Part) -> u64 {
    match part.coding {
        Coding::F32 => part.len as u64 * 4,
        Coding::Bf16 => part.len as u64 * 2,
        Coding::Int8 => int8::bytes(part.len) as u64,
        Coding::Int4 => int4::bytes(part.len) as u64,
        Coding::Factor { rank } => lowrank::factor_bytes(part.columns, rank) as u64,
        Coding::Band { rank, .. } => lowrank::band_bytes(part.len / part.columns, rank) as u64,
        Coding::Tiles { k } => sparse::bytes_max(part.len, part.columns, k),
    }
}
