//! From a plan and its blobs to the next θ: what a trainer computes, and an auditor computes again.

use anyhow::Context as _;
use atoll_ledger::{Planned, Terms};
use atoll_outer::{
    Contribution, Input, Merged, Merging, OuterRule, OuterState, replica, robust::judge::Candidate, theta_from_bytes,
};
use atoll_protocol::{
    Charter, Hash, Layout,
    charter::{Codec, OuterOptimizer},
};
use bytes::Bytes;

/// θ and momentum from their blobs. No momentum blob stands for an all-zero one.
pub fn state_of(
    charter: &Charter,
    layout: &Layout,
    theta: &[u8],
    momentum: Option<&[u8]>,
) -> anyhow::Result<OuterState> {
    let theta = theta_from_bytes(theta, layout.parameters)?;
    let mut state = OuterState::new(theta, &charter.outer);
    if let (Some(bytes), OuterOptimizer::Nesterov { .. }) = (momentum, &charter.outer) {
        state.momentum = Some(theta_from_bytes(bytes, layout.parameters)?);
    }
    Ok(state)
}

/// Reads and checks the blobs of a plan, in this codec, made from the θ with root `base`.
pub fn read_plan(
    plan: &[Planned],
    blobs: Vec<Bytes>,
    charter: &Charter,
    layout: &Layout,
    (codec, base): (&Codec, &Hash),
) -> anyhow::Result<Vec<Contribution>> {
    let read = |(entry, blob): (&Planned, Bytes)| {
        Contribution::read(blob, layout, codec, base)
            .with_context(|| format!("the contribution of {}", charter.name_of(&entry.peer)))
    };
    plan.iter().zip(blobs).map(read).collect()
}

/// `contributions`, which belong to `plan`, judged and merged, and one outer step.
pub fn apply_plan(
    outer: &OuterState,
    plan: &[Planned],
    contributions: &[Contribution],
    (charter, layout, terms): (&Charter, &Layout, &Terms),
) -> anyhow::Result<Merged> {
    let inputs = plan.iter().zip(contributions).map(|(entry, contribution)| Input {
        peer: entry.peer,
        tokens: entry.tokens,
        candidate: Candidate {
            replica: entry.replica,
            order: entry.order,
        },
        contribution,
    });
    let merging = Merging {
        layout,
        robust: &charter.robust,
        usual_norm_micro: terms.usual_norm_micro,
        rule: OuterRule::of(charter, terms.momentum, terms.steps),
    };
    Ok(replica::merged(outer, &inputs.collect::<Vec<_>>(), merging)?)
}
