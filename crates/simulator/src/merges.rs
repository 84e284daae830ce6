//! Merges: computed by a node, or taken from whoever computed the same before.

use crate::world::World;
use atoll_ledger::{Excision, Merged, Planned, Roots, Terms};
use atoll_outer::{Input, Merging, OuterRule, OuterState, TakenBack, replica, robust::judge::Candidate};
use atoll_protocol::Round;
use std::sync::Arc;

/// A merge that somebody has computed: who starts from the same and merges the same gets the same.
pub(crate) struct Computed {
    round: Round,
    base: Roots,
    plan: Vec<Planned>,
    excisions: Vec<Excision>,
    state: Arc<OuterState>,
    merged: Merged,
}

impl World {
    /// θ and momentum after a node's merge: computed by it, or by whoever did so before from the same.
    pub(crate) fn merged(
        &mut self,
        node: u32,
        round: Round,
        (plan, terms, excisions): (&[Planned], &Terms, &[Excision]),
    ) -> Result<(Arc<OuterState>, Merged), String> {
        let Some(life) = self.peers[node as usize].life.as_ref() else {
            return Err("the node is down".into());
        };
        let (theta, momentum) = life.replica.roots();
        let base = Roots { theta, momentum };
        let same = |known: &&Computed| {
            known.round == round && known.base == base && known.plan == plan && known.excisions == excisions
        };
        let known = self
            .computed
            .iter()
            .find(same)
            .map(|known| (known.state.clone(), known.merged.clone()));
        if let Some(known) = known
            .as_ref()
            .filter(|_| !self.computes(node, u64::from(round.0) << 32 | 1))
        {
            return Ok(known.clone());
        }
        let inputs = self.inputs(plan, base)?;
        let rule = OuterRule::of(&self.charter, terms.momentum, terms.steps);
        let done = life.replica.merged(&inputs, terms.usual_norm_micro, rule);
        let mut done = done.map_err(|error| error.to_string())?;
        for excision in excisions {
            done.state = self.without(&done.state, excision)?;
        }
        let (theta, momentum) = done.state.roots();
        let merged = Merged {
            roots: Roots { theta, momentum },
            judgement: done.judgement,
        };
        if known.is_some_and(|(_, known)| known != merged) {
            self.violated(
                "merge",
                format!("round {round}: node {node} merges the same to another root"),
            );
        }
        let state = Arc::new(done.state);
        self.remember_outer(merged.roots, round, &state);
        self.computed.retain(|known| known.round.0 + 2 > round.0);
        self.computed.push_back(Computed {
            round,
            base,
            plan: plan.to_vec(),
            excisions: excisions.to_vec(),
            state: state.clone(),
            merged: merged.clone(),
        });
        Ok((state, merged))
    }
    /// A plan's contributions, made from θ with these roots.
    fn inputs(&self, plan: &[Planned], base: Roots) -> Result<Vec<Input<'_>>, String> {
        let input = |entry: &Planned| {
            let id = self.blobs.find(&entry.blob).ok_or("a planned blob does not exist")?;
            let blob = self.blobs.get(id);
            let contribution = blob.read.as_ref().map_err(ToString::to_string)?;
            if blob.base != base.theta {
                return Err(format!("blob {} was made from other parameters", entry.blob.short()));
            }
            Ok(Input {
                peer: entry.peer,
                tokens: entry.tokens,
                candidate: Candidate {
                    replica: entry.replica,
                    order: entry.order,
                },
                contribution,
            })
        };
        plan.iter().map(input).collect()
    }

    /// `outer` without what `excision` takes out of it.
    fn without(&self, outer: &OuterState, excision: &Excision) -> Result<OuterState, String> {
        let of = &excision.of;
        let inputs = self.inputs(&left_of(excision), of.base)?;
        let since = excision.since.iter();
        let since: Vec<OuterRule> = since
            .map(|(momentum, steps)| OuterRule::of(&self.charter, *momentum, *steps))
            .collect();
        let merging = Merging {
            layout: &self.layout,
            robust: &self.charter.robust,
            usual_norm_micro: of.terms.usual_norm_micro,
            rule: OuterRule::of(&self.charter, of.terms.momentum, of.terms.steps),
        };
        let taken = TakenBack {
            inputs: &inputs,
            peers: &excision.peers,
            merging,
            since: &since,
        };
        replica::take_back(outer, taken).map_err(|error| error.to_string())
    }
}

/// The plan of the merge that `excision` is about, less what was taken out of it before.
pub(crate) fn left_of(excision: &Excision) -> Vec<Planned> {
    let left = excision.of.plan.iter();
    let left = left.filter(|entry| !excision.of.excised.contains(&entry.peer));
    left.cloned().collect()
}
