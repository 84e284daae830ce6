//! How θ is cut into parts: each contiguous in θ, within one tensor, and decoded on its own; only the bands of
//! a low-rank matrix share a factor, which is a part without elements before them.
//!
//! Writer and reader derive the same plan from the layout and the charter's codec alone. Parts are
//! what threads share out, and what a merge holds in memory at a time.

use atoll_protocol::{
    charter::Codec,
    layout::{Layout, Role, Tensor},
};

use crate::codec::{block::BLOCK, lowrank::pays};

/// Elements of a part that is not made of tiles: a whole number of blocks.
const PART: usize = 1 << 14;
/// Rows and columns of a tile.
pub(crate) const TILE: usize = 64;

const _: () = assert!(PART.is_multiple_of(BLOCK));

/// How a part's values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Four bytes each.
    F32,
    /// Two bytes each.
    Bf16,
    /// Blocks of eight-bit codes.
    Int8,
    /// Blocks of four-bit codes.
    Int4,
    /// Q of a low-rank matrix, `rank` columns. Such a part has no element of θ.
    Factor { rank: usize },
    /// A band of a low-rank matrix, up to 64 rows: `rank` values of P a row. `factor` is the part that is Q.
    Band { rank: usize, factor: usize },
    /// A band of tiles, up to 64 rows of a matrix: `k` values of each 4096.
    Tiles { k: u32 },
}

/// A piece of θ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// Index of its tensor in the layout.
    pub(crate) tensor: usize,
    /// Its first element, counted in θ.
    pub(crate) start: usize,
    /// Elements.
    pub(crate) len: usize,
    /// Columns of its tensor.
    pub(crate) columns: usize,
    /// How it is written.
    pub(crate) coding: Coding,
}

/// All of θ, cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In order, without gaps; every tensor starts a part.
    pub(crate) parts: Vec<Part>,
    /// Elements in all: P.
    pub(crate) parameters: usize,
}

/// How a tensor's values are written; a factor, where there is one, is the part `next`.
fn coding(codec: &Codec, tensor: &Tensor, next: usize) -> Coding {
    match (codec, tensor.role) {
        (Codec::Dense, _) => Coding::F32,
        (_, Role::Vector) => Coding::Bf16,
        (Codec::Int8 { .. }, _) => Coding::Int8,
        (Codec::Int4 { .. }, _) => Coding::Int4,
        (Codec::Sparse { k, .. }, _) => Coding::Tiles { k: *k },
        (Codec::LowRank { rank, .. }, Role::Matrix) if pays(tensor.rows, tensor.columns, *rank as usize) => {
            Coding::Band {
                rank: *rank as usize,
                factor: next,
            }
        }
        (Codec::LowRank { .. }, _) => Coding::Int4,
    }
}

impl Plan {
    pub(crate) fn new(layout: &Layout, codec: &Codec) -> Self {
        let mut parts = Vec::new();
        let mut start = 0;
        for (index, tensor) in layout.tensors.iter().enumerate() {
            let (columns, factor) = (tensor.columns, parts.len());
            let coding = coding(codec, tensor, factor);
            let part = |start, len, coding| Part {
                tensor: index,
                start,
                len,
                columns,
                coding,
            };
            if let Coding::Band { rank, .. } = coding {
                parts.push(part(start, 0, Coding::Factor { rank }));
            }
            let most = match coding {
                Coding::Tiles { .. } | Coding::Band { .. } => TILE * columns,
                _ => PART,
            };
            let end = start + tensor.len();
            while start < end {
                let len = most.min(end - start);
                parts.push(part(start, len, coding));
                start += len;
            }
        }
        Self {
            parts,
            parameters: start,
        }
    }

    /// The rank of its low-rank matrices, or 0 where there are none.
    pub(crate) fn rank(&self) -> usize {
        let ranks = self.parts.iter().map(|part| match part.coding {
            Coding::Factor { rank } => rank,
            _ => 0,
        });
        ranks.max().unwrap_or(0)
    }

    /// Each part with its share of `values`, which must have P elements.
    pub(crate) fn split_mut<'a, T>(&'a self, mut values: &'a mut [T]) -> Vec<(usize, &'a Part, &'a mut [T])> {
        let mut shares = Vec::with_capacity(self.parts.len());
        for (index, part) in self.parts.iter().enumerate() {
            let (share, rest) = values.split_at_mut(part.len);
            shares.push((index, part, share));
            values = rest;
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_protocol::Nano;

    #[test]
    fn parts_fill_theta_and_keep_within_tensors() {
        let shapes = [
            (Role::Embedding, 300, 70),
            (Role::Vector, 70, 1),
            (Role::Matrix, 64, 40),
        ];
        let mut layout = Layout {
            tensors: vec![],
            parameters: 0,
        };
        for (role, rows, columns) in shapes {
            let offset = layout.parameters;
            layout.tensors.push(Tensor {
                name: "t".into(),
                rows,
                columns,
                role,
                offset,
            });
            layout.parameters += rows * columns;
        }
        let feedback = Nano::ONE;
        for (codec, count) in [
            (Codec::Dense, 2 + 1 + 1),
            (Codec::Int4 { feedback }, 2 + 1 + 1),
            (Codec::Int8 { feedback }, 2 + 1 + 1),
            (Codec::Sparse { k: 1, feedback }, 5 + 1 + 1),
            (Codec::LowRank { rank: 1, feedback }, 2 + 1 + 2),
            (Codec::LowRank { rank: 40, feedback }, 2 + 1 + 1),
        ] {
            let plan = Plan::new(&layout, &codec);
            assert_eq!((plan.parts.len(), plan.parameters), (count, layout.parameters));
            let mut end = 0;
            for part in &plan.parts {
                assert_eq!(part.start, end);
                end += part.len;
                let range = layout.tensors[part.tensor].range();
                assert!(range.start <= part.start && end <= range.end);
            }
            assert_eq!(end, plan.parameters);
        }
    }
}
