//! The blob's format, version 1.
//!
//! All numbers are little-endian and unsigned.
//!
//! | At | Bytes | What |
//! | --- | --- | --- |
//! | 0 | 4 | `ATPG` |
//! | 4 | 2 | version, 1 |
//! | 6 | 1 | codec: 0 dense, 1 int4, 2 sparse, 3 int8, 4 low rank |
//! | 7 | 1 | 0 |
//! | 8 | 4 | the codec's parameter: dense 0, int4 and int8 their block length 128, sparse k, low rank r |
//! | 12 | 4 | n, the number of tensors |
//! | 16 | 32 | root of the θ from which the contribution was made |
//! | 48 | 16 · n | per tensor: rows (4), columns (4), bytes of its payload (8) |
//! | 48 + 16 · n | | the payloads, in the same order, as [`crate::codec`] describes them |
//!
//! Everything but the payloads' bytes follows from the charter and θ, and is compared with it: nothing
//! is allocated by a length that stands in a blob. No two blobs hold the same fields.

use super::BlobError;
use crate::{
    codec::{self, block::BLOCK},
    plan::Plan,
};
use atoll_protocol::{Hash, Layout, charter::Codec};
use rayon::prelude::*;
use std::ops::Range;

const MAGIC: [u8; 4] = *b"ATPG";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 48;
const ROW_BYTES: usize = 16;

fn codec_fields(codec: &Codec) -> (u8, u32) {
    match codec {
        Codec::Dense => (0, 0),
        Codec::Int4 { .. } => (1, BLOCK as u32),
        Codec::Sparse { k, .. } => (2, *k),
        Codec::Int8 { .. } => (3, BLOCK as u32),
        Codec::LowRank { rank, .. } => (4, *rank),
    }
}

/// A count as the table has it; layouts of charters never exceed it.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Everything before the payloads.
fn head(layout: &Layout, codec: &Codec, base: &Hash, payloads: &[u64]) -> Vec<u8> {
    let (id, parameter) = codec_fields(codec);
    let mut out = Vec::with_capacity(HEADER_BYTES + ROW_BYTES * payloads.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[id, 0]);
    out.extend_from_slice(&parameter.to_le_bytes());
    out.extend_from_slice(&narrow(layout.tensors.len()).to_le_bytes());
    out.extend_from_slice(base.as_bytes());
    for (tensor, bytes) in layout.tensors.iter().zip(payloads) {
        out.extend_from_slice(&narrow(tensor.rows).to_le_bytes());
        out.extend_from_slice(&narrow(tensor.columns).to_le_bytes());
        out.extend_from_slice(&bytes.to_le_bytes());
    }
    out
}

/// A blob of `pieces`, one for each part of `plan`.
pub(crate) fn write(layout: &Layout, codec: &Codec, base: &Hash, plan: &Plan, pieces: Vec<Vec<u8>>) -> Vec<u8> {
    let mut payloads = vec![0; layout.tensors.len()];
    for (part, piece) in plan.parts.iter().zip(&pieces) {
        payloads[part.tensor] += piece.len() as u64;
    }
    let mut out = head(layout, codec, base, &payloads);
    out.reserve_exact(pieces.iter().map(Vec::len).sum());
    for piece in pieces {
        out.extend_from_slice(&piece);
    }
    out
}

/// Bytes before the payloads.
pub(super) fn head_bytes(layout: &Layout) -> usize {
    HEADER_BYTES + ROW_BYTES * layout.tensors.len()
}

fn at_least(what: &'static str, got: usize, needed: usize) -> Result<(), BlobError> {
    match got >= needed {
        true => Ok(()),
        false => Err(BlobError::Length {
            what,
            got: got as u64,
            needed: needed as u64,
        }),
    }
}

/// The number in up to eight bytes.
pub(crate) fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The header's fields before the base: name, and where it stands.
const FIELDS: [(&str, Range<usize>); 6] = [
    ("magic", 0..4),
    ("version", 4..6),
    ("codec", 6..7),
    ("reserved byte", 7..8),
    ("codec parameter", 8..12),
    ("number of tensors", 12..16),
];

/// Checks everything before the payloads; returns their lengths, which together with the head are the blob's.
pub(super) fn read_head(bytes: &[u8], layout: &Layout, codec: &Codec, base: &Hash) -> Result<Vec<u64>, BlobError> {
    let needed = head(layout, codec, base, &vec![0; layout.tensors.len()]);
    at_least("header", bytes.len(), HEADER_BYTES)?;
    for (field, place) in FIELDS {
        let (got, needed) = (number(&bytes[place.clone()]), number(&needed[place]));
        if got != needed {
            return Err(BlobError::Header { field, got, needed });
        }
    }
    let mut got = Hash::ZERO;
    got.0.copy_from_slice(&bytes[16..HEADER_BYTES]);
    if got != *base {
        return Err(BlobError::OtherBase { got, needed: *base });
    }
    at_least("table of tensors", bytes.len(), needed.len())?;
    let rows = bytes[HEADER_BYTES..].chunks_exact(ROW_BYTES);
    let rows = rows.zip(needed[HEADER_BYTES..].chunks_exact(ROW_BYTES));
    let mut payloads = Vec::with_capacity(layout.tensors.len());
    let mut end = needed.len() as u64;
    for (tensor, (got, needed)) in layout.tensors.iter().zip(rows) {
        for (field, place) in [("rows", 0..4), ("columns", 4..8)] {
            let (got, needed) = (number(&got[place.clone()]), number(&needed[place]));
            if got != needed {
                return Err(BlobError::Table {
                    tensor: tensor.name.clone(),
                    field,
                    got,
                    needed,
                });
            }
        }
        payloads.push(number(&got[8..]));
        end = end.saturating_add(number(&got[8..]));
    }
    match end == bytes.len() as u64 {
        true => Ok(payloads),
        false => Err(BlobError::Length {
            what: "table of tensors",
            got: bytes.len() as u64,
            needed: end,
        }),
    }
}

/// Checks every payload; returns where each part starts, and the blob's end. `bytes` and `payloads` must
/// have passed [`read_head`].
pub(super) fn check_payloads(
    bytes: &[u8],
    layout: &Layout,
    plan: &Plan,
    payloads: &[u64],
) -> Result<Vec<usize>, BlobError> {
    let mut work = Vec::with_capacity(payloads.len());
    let (mut start, mut first) = (head_bytes(layout), 0);
    for (tensor, length) in payloads.iter().enumerate() {
        // No overflow: the lengths sum to the blob's.
        let end = start + *length as usize;
        let count = plan.parts[first..]
            .iter()
            .take_while(|part| part.tensor == tensor)
            .count();
        work.push((tensor, start..end, first..first + count));
        (start, first) = (end, first + count);
    }
    // Every result is kept, so that the first error does not depend on threads.
    let checked: Vec<Result<Vec<usize>, BlobError>> = work
        .into_par_iter()
        .map(|(tensor, place, parts)| check_payload(bytes, layout, plan, tensor, place, parts))
        .collect();
    let mut offsets = Vec::with_capacity(plan.parts.len() + 1);
    for starts in checked {
        offsets.extend(starts?);
    }
    offsets.push(bytes.len());
    Ok(offsets)
}

fn check_payload(
    bytes: &[u8],
    layout: &Layout,
    plan: &Plan,
    tensor: usize,
    place: Range<usize>,
    parts: Range<usize>,
) -> Result<Vec<usize>, BlobError> {
    let name = || layout.tensors[tensor].name.clone();
    let mut at = place.start;
    let mut starts = Vec::with_capacity(parts.len());
    let first = plan.parts.get(parts.start).map_or(0, |part| part.start);
    for part in &plan.parts[parts] {
        starts.push(at);
        at += codec::check(part, &bytes[at..place.end]).map_err(|flaw| BlobError::Payload {
            tensor: name(),
            element: part.start - first,
            flaw,
        })?;
    }
    match at == place.end {
        true => Ok(starts),
        false => Err(BlobError::Table {
            tensor: name(),
            field: "payload bytes",
            got: place.len() as u64,
            needed: (at - place.start) as u64,
        }),
    }
}
