//! Who was made to lie, and what the ledger says of them.

use crate::{
    report::{reason, sentence},
    status::History,
};
use atoll_ledger::{Peer, RoundRecord};
pub use atoll_outer::attack::Liar;
use atoll_protocol::{CheckReason, PeerId, transaction::Unfit};
use serde_json::{Value, json};

/// How the node at `index` of so many lies: the last ones are the liars.
pub fn liar_of(index: usize, nodes: usize, liars: &[Liar]) -> Option<Liar> {
    let honest = nodes.saturating_sub(liars.len());
    index.checked_sub(honest).and_then(|at| liars.get(at)).copied()
}

/// The nodes by name, with how they lie.
fn nodes(history: &History, liars: &[Liar]) -> Vec<(String, PeerId, Option<Liar>)> {
    let members = &history.charter.members;
    let mut named: Vec<(String, PeerId)> = members.iter().map(|member| (member.name.clone(), member.key)).collect();
    named.sort();
    let count = named.len();
    let with_liar = |(index, (name, key)): (usize, (String, PeerId))| (name, key, liar_of(index, count, liars));
    named.into_iter().enumerate().map(with_liar).collect()
}

/// Why a peer's contribution to a round was not merged, if it was its own doing.
fn fault(history: &History, record: &RoundRecord, (peer, liar): (&PeerId, Liar)) -> Option<String> {
    // what arrives too late, or gets no weight, may be honest
    let late = |reason| reason == CheckReason::Missing && liar != Liar::Withhold;
    let refused = record
        .refused
        .iter()
        .find(|refused| refused.peer == *peer && !late(refused.reason));
    let out = record
        .kept_out
        .iter()
        .find(|out| out.planned.peer == *peer && out.reason != Unfit::Weightless);
    refused
        .map(|refused| refused.reason.to_string())
        .or_else(|| out.map(|out| reason(&history.charter, record, &out.reason)))
}

/// For each liar that was caught, the first time.
pub fn caught(history: &History, liars: &[Liar]) -> Vec<Value> {
    let all = nodes(history, liars);
    let caught = all.iter().filter_map(|(name, key, liar)| {
        let liar = (*liar)?;
        let faults = history.rounds.iter();
        let mut faults = faults.filter_map(|record| Some((record.round, fault(history, record, (key, liar))?)));
        let convictions = &history.state.core().audits.convictions;
        let conviction = convictions.get(key).filter(|conviction| conviction.judged == *key);
        let convicted = conviction.map(|found| (found.round, sentence(&history.charter, key, found)));
        let (round, reason) = faults.next().or(convicted.clone())?;
        Some(json!({
            "peer": name,
            "liar": liar.name(),
            "round": round.0,
            "reason": reason,
            "rounds": 1 + faults.count(),
            "convicted": convicted.map(|(_, sentence)| sentence),
        }))
    });
    caught.collect()
}

/// Honest nodes that are excluded or suspended: there should be none.
pub fn excluded_honest(history: &History, liars: &[Liar]) -> Vec<String> {
    let peers = &history.state.core().peers;
    let excluded = |key: &PeerId| peers.get(key).is_some_and(Peer::is_barred);
    let honest = nodes(history, liars)
        .into_iter()
        .filter(|(_, key, liar)| liar.is_none() && excluded(key));
    honest.map(|(name, ..)| name).collect()
}
