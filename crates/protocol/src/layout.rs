//! The flat parameter vector θ: which tensors stand in it, in which order and shape.
//!
//! Every weight is `[out, in]` row-major, so a checkpoint is θ cut into pieces. Shapes are in elements.

use crate::charter::Model;
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

/// One tensor's place in θ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Our name for it, such as `layers.3.attention.query`.
    pub name: String,
    /// Rows, or the length of a vector.
    pub rows: usize,
    /// Columns; 1 for a vector.
    pub columns: usize,
    /// What it is for: vectors and embeddings are treated differently by some codecs.
    pub role: Role,
    /// Where it starts in θ.
    pub offset: usize,
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The token embedding, or the output head: a row per token.
    Embedding,
    /// A matrix between two activations.
    Matrix,
    /// A gain of RMSNorm.
    Vector,
}

impl Tensor {
    /// Elements.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Whether there are none; a valid model has no such tensor.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its elements' indices in θ.
    pub fn range(&self) -> core::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// θ cut into tensors, in order, without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// In the order in which they stand.
    pub tensors: Vec<Tensor>,
    /// Elements in all: P.
    pub parameters: usize,
}

impl Layout {
    fn push(&mut self, name: impl ToString, role: Role, rows: u32, columns: u32) {
        let tensor = Tensor {
            name: name.to_string(),
            rows: rows as usize,
            columns: columns as usize,
            role,
            offset: self.parameters,
        };
        self.parameters += tensor.len();
        self.tensors.push(tensor);
    }

    /// The layout of `model`. The model must have passed [`crate::Charter::validate`] and
    /// [`parameters`] must have found it small enough.
    pub fn of(model: &Model) -> Self {
        let mut layout = Self {
            tensors: Vec::new(),
            parameters: 0,
        };
        let (width, ffn) = (model.width, model.ffn);
        let (queries, keys) = (model.heads * model.head_width, model.kv_heads * model.head_width);
        layout.push("embedding", Role::Embedding, model.vocab, width);
        for layer in 0..model.layers {
            let name = |part: &str| format!("layers.{layer}.{part}");
            layout.push(name("attention.norm"), Role::Vector, width, 1);
            layout.push(name("attention.query"), Role::Matrix, queries, width);
            layout.push(name("attention.key"), Role::Matrix, keys, width);
            layout.push(name("attention.value"), Role::Matrix, keys, width);
            layout.push(name("attention.output"), Role::Matrix, width, queries);
            layout.push(name("ffn.norm"), Role::Vector, width, 1);
            layout.push(name("ffn.gate"), Role::Matrix, ffn, width);
            layout.push(name("ffn.up"), Role::Matrix, ffn, width);
            layout.push(name("ffn.down"), Role::Matrix, width, ffn);
        }
        layout.push("norm", Role::Vector, width, 1);
        if !model.tied {
            layout.push("head", Role::Embedding, model.vocab, width);
        }
        layout
    }
}

/// P, or nothing where it does not fit 64 bits. Counts without building the layout.
pub fn parameters(model: &Model) -> Option<u64> {
    let wide = |n: u32| u64::from(n);
    let width = wide(model.width);
    let queries = wide(model.heads).checked_mul(wide(model.head_width))?;
    let keys = wide(model.kv_heads).checked_mul(wide(model.head_width))?;
    let attention = queries.checked_add(keys)?.checked_mul(2)?.checked_mul(width)?;
    let ffn = wide(model.ffn).checked_mul(width)?.checked_mul(3)?;
    let layer = attention.checked_add(ffn)?.checked_add(2 * width)?;
    let embeddings = wide(model.vocab)
        .checked_mul(width)?
        .checked_mul(if model.tied { 1 } else { 2 })?;
    layer
        .checked_mul(wide(model.layers))?
        .checked_add(embeddings)?
        .checked_add(width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charter::tests::sample;

    #[test]
    fn tensors_fill_theta_without_gaps() {
        let mut model = sample().model;
        for tied in [true, false] {
            model.tied = tied;
            let layout = Layout::of(&model);
            let mut end = 0;
            for tensor in &layout.tensors {
                assert_eq!(tensor.offset, end, "{}", tensor.name);
                end = tensor.range().end;
            }
            assert_eq!(end, layout.parameters);
            assert_eq!(parameters(&model), Some(end as u64));
        }
    }
}
