//! Values written one by one: f32 in four bytes, bf16 in two, little-endian. Only finite ones are read.

use super::{Flaw, sink::Sink};
use crate::{
    real::{from_bf16, to_bf16},
    theta,
};

/// Values decoded at a time.
const RUN: usize = 128;

pub(super) fn write_f32(values: &[f32]) -> Vec<u8> {
    theta::theta_bytes(values)
}

pub(super) fn write_bf16(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| to_bf16(*x).to_le_bytes()).collect()
}

fn bf16(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes
        .chunks_exact(2)
        .map(|two| from_bf16(u16::from_le_bytes([two[0], two[1]])))
}

fn finite(mut values: impl Iterator<Item = f32>) -> Result<(), Flaw> {
    match values.find(|x| !x.is_finite()) {
        None => Ok(()),
        Some(x) => Err(Flaw::NonFinite(x)),
    }
}

pub(super) fn check_f32(bytes: &[u8], len: usize) -> Result<usize, Flaw> {
    let bytes = bytes.get(..len * 4).ok_or(Flaw::Short)?;
    finite(theta::read_f32(bytes))?;
    Ok(bytes.len())
}

pub(super) fn check_bf16(bytes: &[u8], len: usize) -> Result<usize, Flaw> {
    let bytes = bytes.get(..len * 2).ok_or(Flaw::Short)?;
    finite(bf16(bytes))?;
    Ok(bytes.len())
}

pub(super) fn read_f32(bytes: &[u8], sink: &mut impl Sink) {
    read_runs(theta::read_f32(bytes), sink);
}

pub(super) fn read_bf16(bytes: &[u8], sink: &mut impl Sink) {
    read_runs(bf16(bytes), sink);
}

fn read_runs(mut values: impl Iterator<Item = f32>, sink: &mut impl Sink) {
    let mut buffer = [0.0; RUN];
    let mut at = 0;
    loop {
        let mut len = 0;
        for (slot, value) in buffer.iter_mut().zip(&mut values) {
            *slot = value;
            len += 1;
        }
        sink.run(at, &buffer[..len]);
        at += len;
        if len < RUN {
            return;
        }
    }
}
