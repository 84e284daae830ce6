//! What became of a peer's contributions, and why: from the ledger, and weights from the blobs beside it.

use crate::{
    audit::{Lack, blob},
    folder::Folder,
    report::{reason, sentence},
    status::History,
};
use anyhow::bail;
use atoll_ledger::{Outcome, RoundRecord, Scored};
use atoll_outer::robust::judge::Matrix;
use atoll_protocol::{Hash, PeerId, Round};
use serde_json::{Value, json};

/// What became of a peer in one round.
#[derive(Debug, Clone, PartialEq)]
pub struct Fate {
    /// The round.
    pub round: Round,
    /// In one word: `merged`, `kept-out`, `refused`, `withheld`, `absent`, `void`, `outside`.
    pub fate: &'static str,
    /// For people.
    pub text: String,
    /// How much it counted beside its tokens; 1 where all count alike. Only where it was weighed and the
    /// weights are still here.
    pub weight: Option<f64>,
    /// What it was found to do to the loss, if that was measured.
    pub score: Option<Scored>,
}

/// The key of a member, by its name, its key, or how its key begins.
///
/// # Errors
/// Where none or several fit.
pub fn peer_of(history: &History, text: &str) -> anyhow::Result<PeerId> {
    let members = &history.charter.members;
    if let Some(member) = members.iter().find(|member| member.name == text) {
        return Ok(member.key);
    }
    let mut fit = members.iter().filter(|member| member.key.to_string().starts_with(text));
    match (fit.next(), fit.next()) {
        (Some(member), None) if !text.is_empty() => Ok(member.key),
        (Some(_), Some(_)) => bail!("{text:?} fits several members' keys; give more of it"),
        _ => {
            let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
            bail!("{text} is no member of this run; its members are {}", names.join(", "))
        }
    }
}

/// What became of `peer` in each ended round, or in `round` alone.
pub fn fates(folder: &Folder, history: &History, peer: &PeerId, round: Option<Round>) -> Vec<Fate> {
    let wanted = history
        .rounds
        .iter()
        .filter(|record| round.is_none_or(|round| record.round == round));
    wanted.map(|record| fate(folder, history, record, peer)).collect()
}

/// Why the peer is excluded or suspended, if it is.
pub fn exclusion(history: &History, peer: &PeerId) -> Option<String> {
    let core = history.state.core();
    if !core.peers.get(peer)?.is_barred() {
        return None;
    }
    if let Some(evidence) = core.evidence.get(peer) {
        let kind = evidence.first.body.action.kind();
        return Some(format!(
            "it signed two different statements of the kind \"{kind}\" about one round; both are on the ledger"
        ));
    }
    let conviction = core.audits.convictions.get(peer)?;
    Some(sentence(&history.charter, peer, conviction))
}

fn fate(folder: &Folder, history: &History, record: &RoundRecord, peer: &PeerId) -> Fate {
    let fate = |fate, text: String| Fate {
        round: record.round,
        fate,
        text,
        weight: None,
        score: None,
    };
    let charter = &history.charter;
    if !record.roster.contains(peer) {
        return fate(
            "outside",
            "it was not in the roster: it joined later, left, was away or excluded".into(),
        );
    }
    if record.absent.contains(peer) {
        return fate("absent", "it committed to nothing before the phase ended".into());
    }
    if record.withheld.contains(peer) {
        return fate(
            "withheld",
            "it committed to a contribution and did not reveal it in time".into(),
        );
    }
    if let Some(refused) = record.refused.iter().find(|refused| refused.peer == *peer) {
        return fate("refused", refused.reason.to_string());
    }
    if let Some(out) = record.kept_out.iter().find(|out| out.planned.peer == *peer) {
        return fate("kept-out", reason(charter, record, &out.reason));
    }
    match record.merged.iter().find(|entry| entry.peer == *peer) {
        Some(entry) => {
            let weight = weight(folder, record.matrix, entry.replica);
            let weighed = match &weight {
                Ok(Some(weight)) => format!(", weight {weight:.3}"),
                Ok(None) => String::new(),
                Err(why) => format!(", weight not known: {why}"),
            };
            let weight = weight.ok().flatten();
            let mut scores = history.scores.iter();
            let score = scores
                .find(|scored| (scored.round, scored.peer) == (record.round, *peer))
                .copied();
            let measured = score.map_or(
                String::new(),
                |Scored {
                     change, by, harmful, ..
                 }| {
                    let out = if harmful {
                        ", which is harm: it is taken out"
                    } else {
                        ""
                    };
                    format!("; {by} measured: {change}{out}")
                },
            );
            Fate {
                weight,
                score,
                ..fate(
                    "merged",
                    format!("merged: {} tokens{weighed}{measured}", entry.tokens.0),
                )
            }
        }
        None => fate("void", format!("the round was void: {}", void(&record.outcome))),
    }
}

fn void(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Closed(_) => "it is closed",
        Outcome::NobodyRevealed => "nobody revealed in time",
        Outcome::NothingAccepted => "a quorum accepted no contribution",
        Outcome::RootsSplit => "no root found a quorum",
        Outcome::Outgrown => "its roster fell silent",
    }
}

/// What the peer says against the last verdict on it, if it says anything.
pub fn objection(history: &History, peer: &PeerId) -> Option<String> {
    let appeal = history.state.core().appeals.get(peer)?;
    Some(format!("to the verdict on round {}: {}", appeal.round, appeal.reason))
}

/// How much a replica counted, by the round's matrix; why that is not known, where the matrix is here and of no use.
fn weight(folder: &Folder, matrix: Hash, replica: u16) -> Result<Option<f64>, String> {
    if matrix == Hash::ZERO {
        return Ok(None);
    }
    let place = || folder.blob(&matrix).display().to_string();
    let bytes = match blob(folder, &matrix) {
        Ok(bytes) => bytes,
        Err(Lack::Missing) => return Ok(None), // rounds are collected
        Err(lack) => return Err(format!("{} {lack}", place())),
    };
    let matrix = Matrix::from_bytes(&bytes).map_err(|error| format!("{}: {error}", place()))?;
    let at = matrix.replicas.iter().position(|known| *known == replica);
    let weight = at.and_then(|at| matrix.weights.get(at));
    Ok(weight.map(|weight| weight.0 as f64 / 1e9))
}

impl Fate {
    /// For machines.
    pub fn to_json(&self) -> Value {
        json!({
            "round": self.round.0,
            "fate": self.fate,
            "reason": self.text,
            "weight": self.weight,
            "score": self.score.map(|scored| json!({
                "own_percent": f64::from(scored.change.own) / 1e4,
                "random_percent": f64::from(scored.change.random) / 1e4,
                "scorers": scored.by,
                "harmful": scored.harmful,
            })),
        })
    }
}
