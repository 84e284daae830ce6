//! How fast each codec encodes, is checked, is merged and decoded, in GB of f32 a second, the best of
//! several runs, beside a copy of as many bytes in the same run: on a busy machine compare with that. For
//! one core run with `RAYON_NUM_THREADS=1`; a number as argument is how often each is run.

use atoll_outer::{Contribution, encode, merge, root};
use atoll_protocol::{
    Hash, Layout, Nano, PeerId, Tokens,
    charter::Codec,
    layout::{Role, Tensor},
};
use std::{error::Error, time::Instant};

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

/// The last result, and the GB a second of the fastest of `runs`.
fn best<T>(runs: usize, gigabytes: f64, mut work: impl FnMut() -> T) -> (T, f64) {
    let mut timed = || {
        let start = Instant::now();
        let result = work();
        (result, gigabytes / start.elapsed().as_secs_f64())
    };
    let mut first = timed();
    for _ in 1..runs {
        let (result, speed) = timed();
        first = (result, speed.max(first.1));
    }
    first
}

fn measure(name: &str, codec: &Codec, values: &[f32], runs: usize) -> Result<(), Box<dyn Error>> {
    let (layout, size) = (layout(), values.len() as f64 * 4e-9);
    let mut copy = values.to_vec();
    let ((), copying) = best(runs, size, || copy.copy_from_slice(values));
    let (blob, encoding) = best(runs, size, || encode(values, codec, &layout, &Hash::ZERO));
    let blob = blob?;
    let bytes = blob.len();
    let (read, checking) = best(runs, size, || {
        Contribution::read(blob.clone(), &layout, codec, &Hash::ZERO)
    });
    let read = read?;
    let inputs: Vec<_> = (0..PEERS).map(|peer| (PeerId([peer; 32]), Tokens(1), &read)).collect();
    let (merged, merging) = best(runs, size * f64::from(PEERS), || merge(&layout, &inputs));
    merged?;
    let (decoded, decoding) = best(runs, size, || read.decode_into(&mut copy));
    decoded?;
    let lost: f64 = values.iter().zip(&copy).map(|(x, y)| f64::from(x - y).powi(2)).sum();
    let whole: f64 = values.iter().map(|x| f64::from(*x).powi(2)).sum();
    println!(
        "{name:<12} {copying:>8.2} {encoding:>8.2} {checking:>8.2} {merging:>8.2} {decoding:>8.2} {:>8.4} {:>8.4}",
        bytes as f64 / values.len() as f64,
        lost / whole
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let runs = std::env::args().nth(1).map_or(Ok(5), |runs| runs.parse())?;
    let (values, feedback) = (values(), Nano::ONE);
    let ((), hashing) = best(runs, values.len() as f64 * 4e-9, || {
        root(&values);
    });
    println!("{} values, best of {runs}, GB/s; root {hashing:.2}", values.len());
    println!("codec            copy   encode    check  merge 4   decode  bytes/P    error");
    measure("dense", &Codec::Dense, &values, runs)?;
    measure("int8", &Codec::Int8 { feedback }, &values, runs)?;
    measure("int4", &Codec::Int4 { feedback }, &values, runs)?;
    measure("sparse 64", &Codec::Sparse { k: 64, feedback }, &values, runs)?;
    measure("low rank 32", &Codec::LowRank { rank: 32, feedback }, &values, runs)
}
