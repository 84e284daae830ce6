//! How fast each codec encodes, is checked, decodes and merges, in GB of f32 a second, beside a copy of as
//! many bytes in the same run: on a busy machine compare with that. The best of several runs counts.

use atoll_outer::{BlobError, Contribution, EncodeError, MergeError, VectorError, encode, merge, robust::Mixed};
use atoll_protocol::{
    Hash, Layout, Nano, PeerId, Tokens,
    charter::Codec,
    layout::{Role, Tensor},
};
use serde::Serialize;
use std::time::Instant;
use thiserror::Error;

const COLUMNS: usize = 1024;
/// Contributions in a merge.
const PEERS: u8 = 4;

/// Why nothing was measured.
#[derive(Debug, Error)]
pub enum CodecError {
    /// The values cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A blob of ours cannot be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Blobs of ours cannot be merged.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// A vector of another length.
    #[error(transparent)]
    Vector(#[from] VectorError),
    /// Blobs of ours cannot be compared.
    #[error(transparent)]
    Mixed(#[from] Mixed),
}

/// One codec, measured.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Size of a contribution.
    pub bytes_per_param: f64,
    /// Encoding.
    pub encode_gb_s: f64,
    /// Decoding and merging: f32 values of contributions that went into a merge.
    pub decode_gb_s: f64,
    /// Checking what a stranger sent.
    pub check_gb_s: f64,
    /// Decoding alone.
    pub decode_alone_gb_s: f64,
    /// Squared error of the values that come back, as a share of the values' squares.
    pub error: f64,
}

/// All codecs, measured in one run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Codecs.
    pub codecs: Vec<Row>,
    /// A copy of as many bytes.
    pub memcpy_gb_s: f64,
    /// Values in the vector.
    pub parameters: usize,
    /// Threads that worked.
    pub threads: usize,
}

/// Sums of four uniform integers: nearly normal.
pub(crate) fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as i32 - (1 << 23)
    };
    (0..count)
        .map(|_| (next() + next() + next() + next()) as f32 * 1e-10)
        .collect()
}

/// The last result, and the GB a second of the fastest of `runs`.
fn best<T>(runs: u32, gigabytes: f64, mut work: impl FnMut() -> T) -> (T, f64) {
    let mut timed = || {
        let start = Instant::now();
        let result = work();
        (result, gigabytes / start.elapsed().as_secs_f64().max(1e-9))
    };
    let mut last = timed();
    for _ in 1..runs {
        let (result, speed) = timed();
        last = (result, speed.max(last.1));
    }
    last
}

fn codecs() -> [(&'static str, Codec); 7] {
    let feedback = Nano::ONE;
    [
        ("dense", Codec::Dense),
        ("int8", Codec::Int8 { feedback }),
        ("int4", Codec::Int4 { feedback }),
        ("sparse-512", Codec::Sparse { k: 512, feedback }),
        ("sparse-128", Codec::Sparse { k: 128, feedback }),
        ("sparse-64", Codec::Sparse { k: 64, feedback }),
        ("lowrank-32", Codec::LowRank { rank: 32, feedback }),
    ]
}

/// Measures every codec on a matrix of about `parameters` values, each `runs` times, on the threads of the
/// current pool. `told` hears the name of each codec before it is measured.
///
/// # Errors
/// Where a codec fails on its own bytes.
pub fn measure(parameters: usize, runs: u32, mut told: impl FnMut(&str)) -> Result<Report, CodecError> {
    let rows = parameters.div_ceil(COLUMNS).max(1);
    let matrix = Tensor {
        name: "matrix".into(),
        rows,
        columns: COLUMNS,
        role: Role::Matrix,
        offset: 0,
    };
    let layout = Layout {
        parameters: matrix.len(),
        tensors: vec![matrix],
    };
    let all: Vec<Vec<f32>> = (1..=PEERS).map(|peer| values(layout.parameters, peer.into())).collect();
    let values = &all[0];
    let mut copy = values.clone();
    let ((), memcpy_gb_s) = best(runs, values.len() as f64 * 4e-9, || copy.copy_from_slice(values));
    let mut measured = Vec::new();
    for (name, codec) in codecs() {
        told(name);
        measured.push(row(name, &codec, &layout, &all, (runs, &mut copy))?);
    }
    Ok(Report {
        codecs: measured,
        memcpy_gb_s,
        parameters: layout.parameters,
        threads: rayon::current_num_threads(),
    })
}

fn row(
    name: &'static str,
    codec: &Codec,
    layout: &Layout,
    all: &[Vec<f32>],
    (runs, copy): (u32, &mut [f32]),
) -> Result<Row, CodecError> {
    let values = &all[0];
    let size = values.len() as f64 * 4e-9;
    let (blob, encode_gb_s) = best(runs, size, || encode(values, codec, layout, &Hash::ZERO));
    let blob = blob?;
    let bytes = blob.len();
    let (read, check_gb_s) = best(runs, size, || {
        Contribution::read(blob.clone(), layout, codec, &Hash::ZERO)
    });
    let read = read?;
    // contributions of their own, so that a merge reads as much as a real one
    let blobs = all.iter().map(|values| {
        let blob = encode(values, codec, layout, &Hash::ZERO)?;
        Ok(Contribution::read(blob, layout, codec, &Hash::ZERO)?)
    });
    let blobs = blobs.collect::<Result<Vec<_>, CodecError>>()?;
    let peers = (0..PEERS).zip(&blobs);
    let inputs: Vec<_> = peers
        .map(|(peer, blob)| (PeerId([peer; 32]), Tokens(1), blob))
        .collect();
    let (merged, decode_gb_s) = best(runs, size * f64::from(PEERS), || merge(layout, &inputs));
    merged?;
    let (decoded, decode_alone_gb_s) = best(runs, size, || read.decode_into(copy));
    decoded?;
    let lost: f64 = values.iter().zip(&*copy).map(|(x, y)| f64::from(x - y).powi(2)).sum();
    let whole: f64 = values.iter().map(|x| f64::from(*x).powi(2)).sum();
    Ok(Row {
        name,
        bytes_per_param: bytes as f64 / values.len() as f64,
        encode_gb_s,
        decode_gb_s,
        check_gb_s,
        decode_alone_gb_s,
        error: lost / whole,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_is_measured() {
        let mut names = Vec::new();
        let report = measure(70_000, 1, |name| names.push(name.to_string())).unwrap();
        assert_eq!(report.codecs.len(), names.len());
        assert_eq!(report.parameters, 69 * COLUMNS);
        for row in &report.codecs {
            assert!(row.encode_gb_s > 0.0 && row.decode_gb_s > 0.0, "{row:?}");
            assert!(row.bytes_per_param > 0.0 && (0.0..=1.1).contains(&row.error), "{row:?}");
        }
        assert_eq!(report.codecs[0].error, 0.0);
    }
}
