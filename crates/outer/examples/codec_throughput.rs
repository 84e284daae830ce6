//! How fast each codec encodes, is checked, and merges, in GB of f32 a second. For one core run with
//! `RAYON_NUM_THREADS=1`.

use atoll_outer::{Contribution, encode, merge, root};
use atoll_protocol::{
    Hash, Layout, Nano, PeerId, Tokens,
    charter::Codec,
    layout::{Role, Tensor},
};
use std::time::Instant;

const ROWS: usize = 8192;
const COLUMNS: usize = 2048;
const PEERS: u8 = 4;

fn layout() -> Layout {
    let tensor = Tensor {
        name: "matrix".into(),
        rows: ROWS,
        columns: COLUMNS,
        role: Role::Matrix,
        offset: 0,
    };
    Layout {
        parameters: tensor.len(),
        tensors: vec![tensor],
    }
}

/// Sums of four uniform integers: nearly normal.
fn values() -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as i32 - (1 << 23)
    };
    (0..ROWS * COLUMNS)
        .map(|_| (next() + next() + next() + next()) as f32 * 1e-10)
        .collect()
}

fn timed<T>(what: &str, gigabytes: f64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("{what}: {:.2} GB/s", gigabytes / start.elapsed().as_secs_f64());
    result
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (layout, values) = (layout(), values());
    let size = values.len() as f64 * 4e-9;
    timed("root", size, || root(&values));
    let feedback = Nano::ONE;
    for codec in [
        Codec::Dense,
        Codec::Int4 { feedback },
        Codec::Sparse { k: 64, feedback },
    ] {
        println!("{codec:?}");
        let blob = timed("  encode", size, || encode(&values, &codec, &layout, &Hash::ZERO))?;
        println!("  {:.4} bytes a parameter", blob.len() as f64 / values.len() as f64);
        let contribution = timed("  check", size, || {
            Contribution::read(blob, &layout, &codec, &Hash::ZERO)
        })?;
        let inputs: Vec<_> = (0..PEERS)
            .map(|peer| (PeerId([peer; 32]), Tokens(1), &contribution))
            .collect();
        timed("  merge of 4", size * f64::from(PEERS), || merge(&layout, &inputs))?;
        // A vector whose memory has been touched.
        let mut decoded = values.clone();
        timed("  decode", size, || contribution.decode_into(&mut decoded))?;
        let lost: f64 = values.iter().zip(&decoded).map(|(x, y)| f64::from(x - y).powi(2)).sum();
        let whole: f64 = values.iter().map(|x| f64::from(*x).powi(2)).sum();
        println!("  squared error {:.4} of the input's square", lost / whole);
    }
    Ok(())
}
