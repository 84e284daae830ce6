//! A contribution: a blob that has been checked in full and can be decoded part by part. What the bytes
//! mean is said in `blob/format.rs`.

mod error;
pub(crate) mod format;
#[cfg(test)]
mod tests;

pub use error::BlobError;

use crate::{
    codec::{
        self,
        sink::{Add, Set, Shift, Sink},
    },
    plan::{Coding, Plan},
    robust::grams,
    theta::{VectorError, check_len},
};
use atoll_protocol::{Hash, Layout, charter::Codec};
use rayon::prelude::*;
use std::{fmt, sync::Arc};

/// The most bytes that a contribution can have: what a fetch may be limited to.
pub fn blob_bytes_max(layout: &Layout, codec: &Codec) -> u64 {
    let head = format::head_bytes(layout) as u64;
    head + Plan::new(layout, codec).parts.iter().map(codec::bytes_max).sum::<u64>()
}

/// A contribution that has been checked in full; decoding it cannot fail, and gives finite values only.
#[derive(Clone)]
pub struct Contribution {
    bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
    pub(crate) plan: Plan,
    /// Where each part's bytes start, and where the last one's end.
    offsets: Vec<usize>,
}

impl fmt::Debug for Contribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes().len();
        write!(f, "Contribution({} parameters in {bytes} bytes)", self.plan.parameters)
    }
}

impl Contribution {
    /// Checks `bytes` against the charter's layout and codec and the root of θ^t. Keeps the bytes as
    /// they are; beside them it takes some 64 bytes for every 64 rows or 16384 values.
    ///
    /// # Errors
    /// The first thing that is wrong, from the start of the blob on; the same on every machine.
    pub fn read(
        bytes: impl AsRef<[u8]> + Send + Sync + 'static,
        layout: &Layout,
        codec: &Codec,
        base: &Hash,
    ) -> Result<Self, BlobError> {
        let given = bytes.as_ref();
        let payloads = format::read_head(given, layout, codec, base)?;
        let plan = Plan::new(layout, codec);
        let offsets = format::check_payloads(given, layout, &plan, &payloads)?;
        Ok(Self {
            bytes: Arc::new(bytes),
            plan,
            offsets,
        })
    }

    /// The blob.
    pub fn bytes(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    /// P, how many values it decodes to.
    pub fn parameters(&self) -> usize {
        self.plan.parameters
    }

    /// Decodes one part, by its index in the plan.
    pub(crate) fn read_part(&self, index: usize, sink: &mut impl Sink) {
        let part = &self.plan.parts[index];
        let factor = match part.coding {
            Coding::Band { factor, .. } => self.part_bytes(factor),
            _ => &[],
        };
        codec::read(part, self.part_bytes(index), factor, sink);
    }

    fn part_bytes(&self, index: usize) -> &[u8] {
        let range = self.offsets[index]..self.offsets[index + 1];
        // Empty only if the owner of the bytes changed them after the check.
        self.bytes().get(range).unwrap_or_default()
    }

    /// Calls `apply` with each part's index and its share of `values`, on all threads.
    fn for_parts<T: Send>(&self, values: &mut [T], apply: impl Fn(usize, &mut [T]) + Sync) -> Result<(), VectorError> {
        check_len("vector to decode into", values.len(), self.plan.parameters)?;
        let shares = self.plan.split_mut(values);
        shares.into_par_iter().for_each(|(index, _, share)| apply(index, share));
        Ok(())
    }

    /// ‖D(blob)‖, summed in f64 in a fixed order.
    pub fn length(&self) -> f64 {
        let grams = grams(&[self]).unwrap_or_default(); // one alone is like itself
        grams.iter().map(|gram| gram.at(0, 0)).sum::<f64>().sqrt()
    }

    /// The largest magnitude in D(blob). Holds one decoded part.
    pub fn largest(&self) -> f32 {
        let mut scratch = Vec::new();
        let mut largest = 0.0f32;
        let parts = self.plan.parts.iter().enumerate();
        for (index, part) in parts.filter(|(_, part)| part.len > 0) {
            scratch.clear();
            scratch.resize(part.len, 0.0);
            self.read_part(index, &mut Set(&mut scratch));
            largest = scratch.iter().fold(largest, |largest, value| largest.max(value.abs()));
        }
        largest
    }

    /// Overwrites `values` with the decoded contribution D(blob).
    ///
    /// # Errors
    /// Unless `values` has P elements.
    pub fn decode_into(&self, values: &mut [f32]) -> Result<(), VectorError> {
        self.for_parts(values, |index, share| {
            share.fill(0.0);
            self.read_part(index, &mut Set(share));
        })
    }

    /// `accumulator += weight · D(blob)`, each product and sum in f64. Touches only what was kept by
    /// the sparse codec.
    ///
    /// # Errors
    /// Unless `accumulator` has P elements.
    pub fn add_to(&self, weight: f64, accumulator: &mut [f64]) -> Result<(), VectorError> {
        self.for_parts(accumulator, |index, sums| {
            self.read_part(index, &mut Add { weight, sums })
        })
    }

    /// `values += sign · D(blob)` in f32; `sign` is 1 or −1.
    pub(crate) fn shift(&self, sign: f32, values: &mut [f32]) -> Result<(), VectorError> {
        self.for_parts(values, |index, values| {
            self.read_part(index, &mut Shift { sign, values })
        })
    }
}
