//! A small layout with every kind of edge, its codecs, and values from integers alone.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use atoll_protocol::{
    Hash, Layout, Nano,
    charter::Codec,
    layout::{Role, Tensor},
};
use proptest::prelude::*;

/// Tiles with edges on both sides, odd lengths, a vector in the middle and one at the end.
pub fn layout() -> Layout {
    layout_of(&[
        (Role::Embedding, 100, 70),
        (Role::Vector, 70, 1),
        (Role::Matrix, 129, 65),
        (Role::Matrix, 3, 201),
        (Role::Matrix, 70, 1),
        (Role::Matrix, 66, 150),
        (Role::Vector, 33, 1),
    ])
}

pub fn layout_of(shapes: &[(Role, usize, usize)]) -> Layout {
    let mut layout = Layout {
        tensors: vec![],
        parameters: 0,
    };
    for (index, (role, rows, columns)) in shapes.iter().enumerate() {
        layout.tensors.push(Tensor {
            name: format!("tensor.{index}"),
            rows: *rows,
            columns: *columns,
            role: *role,
            offset: layout.parameters,
        });
        layout.parameters += rows * columns;
    }
    layout
}

pub fn codecs() -> [(&'static str, Codec); 8] {
    let feedback = Nano(950_000_000);
    [
        ("dense", Codec::Dense),
        ("int8", Codec::Int8 { feedback: Nano::ONE }),
        ("int4", Codec::Int4 { feedback: Nano::ONE }),
        ("sparse-1", Codec::Sparse { k: 1, feedback }),
        ("sparse-64", Codec::Sparse { k: 64, feedback }),
        ("sparse-4096", Codec::Sparse { k: 4096, feedback }),
        ("lowrank-3", Codec::LowRank { rank: 3, feedback }),
        ("lowrank-20", Codec::LowRank { rank: 20, feedback }),
    ]
}

pub fn base() -> Hash {
    Hash([7; 32])
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct SplitMix(pub u64);

impl SplitMix {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Every value is a signed integer of 24 bits times 2^-24 … 2^-31, so exact in f32 everywhere. Every
/// 97th is 0, so that there are ties.
pub fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut random = SplitMix(seed);
    (0..count)
        .map(|index| {
            let z = random.next();
            let whole = (z >> 40) as i32 - (1 << 23);
            let scale = f32::from_bits((127 - 24 - (z & 7) as u32) << 23);
            if index % 97 == 0 { 0.0 } else { whole as f32 * scale }
        })
        .collect()
}

/// Finite values of every kind: any bits, ordinary ones, few distinct ones.
pub fn finite() -> impl Strategy<Value = f32> {
    prop_oneof![
        any::<u32>()
            .prop_map(f32::from_bits)
            .prop_filter("finite", |x| x.is_finite()),
        -1e-3f32..1e-3,
        (-3i8..=3).prop_map(f32::from),
        Just(-0.0),
        Just(f32::from_bits(1)),
        Just(f32::MAX),
        Just(f32::MIN),
    ]
}
