//! How long the contributions of a round take to be judged: inner products, gates, robust weights.

use crate::codec::{CodecError, values};
use atoll_outer::{
    Contribution, encode,
    robust::{
        grams,
        judge::{Candidate, judge},
    },
};
use atoll_protocol::{
    Hash, Layout, Robust,
    charter::Codec,
    layout::{Role, Tensor},
};
use serde::Serialize;
use std::time::Instant;

const COLUMNS: usize = 4096;

/// One round, weighed.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Contributions.
    pub replicas: usize,
    /// Values of each.
    pub parameters: usize,
    /// How they are encoded.
    pub codec: String,
    /// Bytes of all blobs.
    pub blob_bytes: u64,
    /// The most memory that reading, products and judging took, with the blobs themselves, in bytes; nothing where
    /// the system does not tell.
    pub peak_bytes: Option<u64>,
    /// Reading and checking them.
    pub read_s: f64,
    /// Their inner products.
    pub products_s: f64,
    /// Gates, rule and weights.
    pub judging_s: f64,
    /// Threads that worked.
    pub threads: usize,
}

/// Makes contributions of about `parameters` random values, in as many matrices as a model of that size might have,
/// and weighs them under `rules`. `told` hears what is done.
///
/// # Errors
/// Where a codec fails on its own bytes.
pub fn measure(
    (replicas, parameters): (u16, usize),
    codec: &Codec,
    rules: &Robust,
    mut told: impl FnMut(String),
) -> Result<Report, CodecError> {
    let layout = layout(parameters);
    let mut blobs = Vec::new();
    for replica in 1..=replicas {
        told(format!("contribution {replica} of {replicas}"));
        let values = values(layout.parameters, replica.into());
        blobs.push(encode(&values, codec, &layout, &Hash::ZERO)?);
    }
    let blob_bytes = blobs.iter().map(|blob| blob.len() as u64).sum();
    let before = memory::now();
    memory::forget_the_largest();
    told("reading".into());
    let began = Instant::now();
    let read = blobs
        .into_iter()
        .map(|blob| Contribution::read(blob, &layout, codec, &Hash::ZERO));
    let contributions = read.collect::<Result<Vec<_>, _>>()?;
    let read_s = began.elapsed().as_secs_f64();
    told("weighing".into());
    let all: Vec<&Contribution> = contributions.iter().collect();
    let began = Instant::now();
    let products = grams(&all)?;
    let products_s = began.elapsed().as_secs_f64();
    let candidates: Vec<Candidate> = (0..replicas)
        .map(|replica| Candidate {
            replica,
            order: replica.into(),
        })
        .collect();
    let began = Instant::now();
    let judged = judge(&products, &candidates, None, rules);
    let judging_s = began.elapsed().as_secs_f64();
    let peak_bytes = before.zip(memory::largest());
    let peak_bytes = peak_bytes.map(|(before, largest)| blob_bytes + largest.saturating_sub(before));
    debug_assert_eq!(judged.shares.len(), contributions.len());
    Ok(Report {
        replicas: replicas.into(),
        parameters: layout.parameters,
        codec: codec.to_string(),
        blob_bytes,
        peak_bytes,
        read_s,
        products_s,
        judging_s,
        threads: rayon::current_num_threads(),
    })
}

/// What this process occupies, as Linux tells it.
mod memory {
    use std::fs;

    /// Now, in bytes.
    pub(super) fn now() -> Option<u64> {
        line("VmRSS:")
    }

    /// The most since [`forget_the_largest`], or ever where that is not possible.
    pub(super) fn largest() -> Option<u64> {
        line("VmHWM:")
    }

    /// See proc(5), `clear_refs`. Where it is not allowed the most ever is told, which is more.
    pub(super) fn forget_the_largest() {
        let _ = fs::write("/proc/self/clear_refs", "5");
    }

    fn line(key: &str) -> Option<u64> {
        let text = fs::read_to_string("/proc/self/status").ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(1024 * line.split_whitespace().nth(1)?.parse::<u64>().ok()?)
    }
}

/// Sixteen matrices.
fn layout(parameters: usize) -> Layout {
    let rows = parameters.div_ceil(16 * COLUMNS).max(1);
    let tensors: Vec<Tensor> = (0..16)
        .map(|index| Tensor {
            name: format!("matrix-{index}"),
            rows,
            columns: COLUMNS,
            role: Role::Matrix,
            offset: index * rows * COLUMNS,
        })
        .collect();
    Layout {
        parameters: 16 * rows * COLUMNS,
        tensors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_protocol::Nano;

    #[test]
    fn a_round_is_weighed() {
        let codec = Codec::Sparse {
            k: 64,
            feedback: Nano::ONE,
        };
        let rules: Robust = "geometric-median clip gates".parse().unwrap();
        let mut told = 0;
        let report = measure((5, 100_000), &codec, &rules, |_| told += 1).unwrap();
        assert_eq!((report.replicas, told), (5, 7));
        assert!(report.parameters >= 100_000 && report.blob_bytes > 0, "{report:?}");
    }
}
