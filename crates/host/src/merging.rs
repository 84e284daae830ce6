//! From a plan and its blobs to the next θ: what a trainer computes, and an auditor computes again.

use anyhow::Context as _;
use atoll_ledger::{Excision, Planned, Terms};
use atoll_outer::{
    Contribution, Input, Merged, Merging, OuterRule, OuterState, TakenBack, replica, robust::judge::Candidate,
    theta_from_bytes,
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

fn inputs<'a>(plan: &[Planned], contributions: &'a [Contribution]) -> Vec<Input<'a>> {
    let inputs = plan.iter().zip(contributions).map(|(entry, contribution)| Input {
        peer: entry.peer,
        tokens: entry.tokens,
        candidate: Candidate {
            replica: entry.replica,
            order: entry.order,
        },
        contribution,
    });
    inputs.collect()
}

fn merging<'a>(charter: &'a Charter, layout: &'a Layout, terms: &Terms) -> Merging<'a> {
    Merging {
        layout,
        robust: &charter.robust,
        usual_norm_micro: terms.usual_norm_micro,
        rule: OuterRule::of(charter, terms.momentum, terms.steps),
    }
}

/// `contributions`, which belong to `plan`, judged and merged, and one outer step.
pub fn apply_plan(
    outer: &OuterState,
    plan: &[Planned],
    contributions: &[Contribution],
    (charter, layout, terms): (&Charter, &Layout, &Terms),
) -> anyhow::Result<Merged> {
    let inputs = inputs(plan, contributions);
    Ok(replica::merged(outer, &inputs, merging(charter, layout, terms))?)
}

/// The plan of the merge that `excision` is about, less what was taken out of it before.
pub fn plan_of(excision: &Excision) -> Vec<Planned> {
    let plan = excision.of.plan.iter();
    let left = plan.filter(|entry| !excision.of.excised.contains(&entry.peer));
    left.cloned().collect()
}

/// `outer` without what `excision` takes out of it; `blobs` belong to [`plan_of`] it.
pub fn take_out(
    outer: &OuterState,
    excision: &Excision,
    blobs: Vec<Bytes>,
    (charter, layout): (&Charter, &Layout),
) -> anyhow::Result<OuterState> {
    let (of, plan) = (&excision.of, plan_of(excision));
    let read = read_plan(&plan, blobs, charter, layout, (&of.terms.codec, &of.base.theta))?;
    let since = excision.since.iter();
    let since: Vec<OuterRule> = since
        .map(|(momentum, steps)| OuterRule::of(charter, *momentum, *steps))
        .collect();
    let taken = TakenBack {
        inputs: &inputs(&plan, &read),
        peers: &excision.peers,
        merging: merging(charter, layout, &of.terms),
        since: &since,
    };
    Ok(replica::take_back(outer, taken)?)
}
