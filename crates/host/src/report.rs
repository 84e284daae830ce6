//! What a node tells people and programs: one JSON object per event, the same to the log file and to
//! whoever runs the node.

use crate::trainer::Report;
use atoll_ledger::{Conviction, Event, Outcome, RoundRecord, Standing};
use atoll_node::Notice;
use atoll_protocol::{Charter, Finding, MicroNats, PeerId, transaction::Unfit};
use serde_json::{Value, json};

/// Nats per token of a loss as the ledger writes it.
pub fn nats(loss: MicroNats) -> f64 {
    loss.0 as f64 / 1e6
}

fn names(charter: &Charter, peers: &[PeerId]) -> Vec<String> {
    peers.iter().map(|peer| charter.name_of(peer)).collect()
}

/// A round that is over, for people: the same object in logs, `status` and `audit`.
pub fn round_record(charter: &Charter, record: &RoundRecord) -> Value {
    let (outcome, theta) = match &record.outcome {
        Outcome::Closed(roots) => ("closed", Some(roots.theta.to_string())),
        Outcome::NobodyRevealed => ("void: nobody revealed in time", None),
        Outcome::NothingAccepted => ("void: no contribution was accepted by a quorum", None),
        Outcome::RootsSplit => ("void: no root found a quorum", None),
        Outcome::Outgrown => (
            "void: its roster fell silent while a quorum of the members waited",
            None,
        ),
    };
    let refused = record
        .refused
        .iter()
        .map(|entry| json!({ "peer": charter.name_of(&entry.peer), "reason": entry.reason.to_string() }));
    let kept_out = record.kept_out.iter().map(
        |out| json!({ "peer": charter.name_of(&out.planned.peer), "reason": reason(charter, record, &out.reason) }),
    );
    let merged = record.merged.iter().map(|entry| {
        json!({
            "peer": charter.name_of(&entry.peer),
            "blob": entry.blob.to_string(),
            "bytes": entry.bytes.0,
            "tokens": entry.tokens.0,
        })
    });
    json!({
        "event": "round",
        "round": record.round.0,
        "outcome": outcome,
        "theta": theta,
        "time_ms": record.closed_at.0,
        "codec": record.terms.codec.to_string(),
        "inner_steps": record.terms.steps.0,
        "train_loss": nats(record.train_loss),
        "held_out_before": nats(record.held_out),
        "roster": names(charter, &record.roster),
        "absent": names(charter, &record.absent),
        "withheld": names(charter, &record.withheld),
        "refused": refused.collect::<Vec<_>>(),
        "kept_out": kept_out.collect::<Vec<_>>(),
        "merged": merged.collect::<Vec<_>>(),
    })
}

/// Why a contribution was kept out, with names.
pub fn reason(charter: &Charter, record: &RoundRecord, reason: &Unfit) -> String {
    match reason {
        Unfit::Alike { other, cosine_myriad } => {
            let other = record.roster.get(usize::from(*other));
            let name = other.map_or("another".to_string(), |peer| charter.name_of(peer));
            let cosine = f64::from(*cosine_myriad) / 1e4;
            format!("its cosine with the contribution of {name} is {cosine:.4}")
        }
        other => other.to_string(),
    }
}

/// What came out when a contribution was made again, for people.
fn found(finding: Finding) -> String {
    match finding {
        Finding::Apart { billionths: u64::MAX } => "what its author says of it cannot be".into(),
        other => other.to_string(),
    }
}

/// What a jury found a peer guilty of, for people.
pub fn sentence(charter: &Charter, peer: &PeerId, conviction: &Conviction) -> String {
    let Conviction {
        round,
        judged,
        findings,
        scores,
    } = conviction;
    if let Some((_, change)) = scores.iter().max_by_key(|(_, change)| change.random) {
        let (harm, all) = (
            scores.iter().filter(|(_, change)| charter.score.is_harm(*change)),
            scores.len(),
        );
        return format!(
            "its contribution to round {round} does harm, as those before that were measured: {} of {all} found so, at the \
             most {change}",
            harm.count()
        );
    }
    let against = findings.iter().filter(|(_, found)| charter.audit.fails(*found));
    let (count, all) = (against.clone().count(), findings.len());
    let what = against.map(|(_, finding)| found(*finding)).next().unwrap_or_default();
    if judged == peer {
        return format!("its contribution to round {round} was made again by {all}, of whom {count} found: {what}");
    }
    let author = charter.name_of(judged);
    match 2 * count > all {
        true => format!("it passed {author}'s contribution to round {round}, of which {count} of {all} found: {what}"),
        false => format!(
            "it accused {author} of its contribution to round {round}, which {} of {all} found right",
            all - count
        ),
    }
}

/// What a block changed; the small steps within a round are left out.
pub fn ledger_event(charter: &Charter, event: &Event) -> Option<Value> {
    let name = |peer: &PeerId| charter.name_of(peer);
    Some(match event {
        Event::Joined(peer) => json!({ "event": "joined", "peer": name(peer) }),
        Event::Left(peer) => json!({ "event": "left", "peer": name(peer) }),
        Event::Dormant(peer) => json!({ "event": "dormant", "peer": name(peer) }),
        Event::Excluded(peer, evidence) => json!({
            "event": "excluded",
            "peer": name(peer),
            "reason": "two different statements about one round",
            "kind": evidence.first.body.action.kind(),
        }),
        Event::Verified {
            round,
            peer,
            verifier,
            finding,
        } => json!({
            "event": "verified",
            "round": round.0,
            "peer": name(peer),
            "verifier": name(verifier),
            "finding": found(*finding),
        }),
        Event::JuryDrawn { round, peer, jury } => json!({
            "event": "jury_drawn",
            "round": round.0,
            "peer": name(peer),
            "jury": names(charter, jury),
        }),
        Event::Acquitted { round, peer } => json!({ "event": "acquitted", "round": round.0, "peer": name(peer) }),
        Event::Convicted {
            peer,
            standing,
            conviction,
        } => json!({
            "event": "convicted",
            "peer": name(peer),
            "for_good": *standing == Standing::Excluded,
            "back_in_round": match standing { Standing::Suspended(back) => Some(back.0), _ => None },
            "reason": sentence(charter, peer, conviction),
        }),
        Event::AuditLapsed { round, peer, verifier } => json!({
            "event": "audit_lapsed",
            "round": round.0,
            "peer": name(peer),
            "verifier": name(verifier),
        }),
        Event::Scored(scored) => json!({
            "event": "scored",
            "round": scored.round.0,
            "peer": name(&scored.peer),
            "own_percent": f64::from(scored.change.own) / 1e4,
            "random_percent": f64::from(scored.change.random) / 1e4,
            "scorers": scored.by,
            "harmful": scored.harmful,
        }),
        Event::Watched { peer, on } => json!({ "event": "watched", "peer": name(peer), "on": on }),
        Event::Appealed { peer, round, reason } => json!({
            "event": "appealed",
            "peer": name(peer),
            "round": round.0,
            "reason": reason,
        }),
        Event::RoundOpened { round, roster, .. } => {
            json!({ "event": "round_opened", "round": round.0, "roster": names(charter, roster) })
        }
        Event::RoundEnded(record) => round_record(charter, record),
        Event::CheckpointRecorded {
            round,
            manifest,
            held_out,
        } => json!({
            "event": "checkpoint_recorded",
            "round": round.0,
            "manifest": manifest.to_string(),
            "held_out": nats(*held_out),
        }),
        Event::Finished => json!({ "event": "finished" }),
        _ => return None,
    })
}

/// A notice of the node machine.
pub fn notice(notice: &Notice) -> Value {
    match notice {
        Notice::Diverged { round, ours, agreed } => json!({
            "event": "diverged",
            "round": round.0,
            "ours": ours.theta.to_string(),
            "agreed": agreed.theta.to_string(),
            "text": "our merged parameters are not those a quorum agreed on; fetching theirs",
        }),
        Notice::Broken(text) => json!({ "event": "broken", "text": text }),
        Notice::NoVerdict(_) => json!({
            "event": "no_verdict",
            "text": "there is no verdict on this node, or it has objected already: the objection is dropped",
        }),
        Notice::MergeFailed { round, reason } => {
            json!({ "event": "merge_failed", "round": round.0, "text": reason })
        }
    }
}

/// A report of the trainer.
pub fn training(report: &Report) -> Option<Value> {
    Some(match report {
        Report::HeldOut(round, loss) => json!({ "event": "held_out", "round": round.0, "loss": loss }),
        Report::Step {
            round,
            ahead,
            step,
            taken,
        } => json!({
            "event": "step",
            "ahead": ahead,
            "round": round.0,
            "step": step,
            "loss": taken.loss,
            "seconds": taken.seconds,
            "tokens_per_second": taken.tokens as f64 / taken.seconds,
        }),
        Report::Checkpointed(round, manifest, held_out) => json!({
            "event": "checkpoint",
            "round": round.0,
            "manifest": manifest.to_string(),
            "held_out": nats(*held_out),
        }),
        Report::Trained(done) => json!({
            "event": "trained",
            "round": done.round.0,
            "blob": done.blob.to_string(),
            "bytes": done.bytes.0,
            "tokens": done.tokens.0,
            "train_loss": nats(done.train_loss),
            "ahead": done.ahead.map_or(0, |ahead| ahead.steps.0),
            "residual": f64::from(done.measured.residual_milli) / 1e3,
        }),
        Report::Skipped(round, text) => json!({ "event": "skipped", "round": round.0, "text": text }),
        Report::Merged(..) | Report::MergeFailed(..) | Report::Adopted(..) | Report::Failed(..) => return None,
    })
}
