//! What a run will take on a node's disk and in traffic, from its charter alone.

use crate::{disk, keeping::Keeping};
use atoll_outer::{OwnState, blob_bytes_max};
use atoll_protocol::{Charter, Layout};
use serde_json::{Value, json};
use std::path::Path;

/// Of blocks, certificates and the engine's storage, what a member's part in a round takes.
const LEDGER_A_MEMBER: u64 = 6_000;
/// And what is there from the beginning: empty databases.
const LEDGER_BASE: u64 = 6 << 20;
/// Of what is said on the ledger, what a member sends and receives for each member and round.
const TALK_A_PAIR: u64 = 20_000;

/// Bytes that a run takes of one node. Upper bounds, but for contributions: where the charter chooses the codec of each
/// round by itself, that of the first round is taken, which is the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// A contribution.
    pub contribution: u64,
    /// What a round writes: contributions, θ and momentum, states, blocks.
    pub round: u64,
    /// What stays of a round for as long as contributions are kept.
    pub round_kept: u64,
    /// A checkpoint.
    pub checkpoint: u64,
    /// The run, at its largest, beside the corpus.
    pub run: u64,
    /// What a node receives in a round, and sends if each serves its own.
    pub traffic: u64,
}

/// What the run of this charter takes.
pub fn of(charter: &Charter) -> Cost {
    let (layout, rules) = (Layout::of(&charter.model), &charter.round);
    let members = charter.members.len() as u64;
    let contribution = blob_bytes_max(&layout, &charter.compression.first());
    let theta = 4 * layout.parameters as u64;
    let outer = 2 * theta; // θ and its momentum
    let state = match charter.audit.is_on() {
        true => OwnState::bytes_max(&layout),
        false => 0,
    };
    let matrix = 4 * members * members;
    // a contribution in so many is made again by two or three others, who fetch its states, and is open for some rounds
    let drawn = |share: u64| members * share.min(1_000_000_000) / 1_000_000_000;
    let again = drawn(charter.audit.share.0);
    let ledger = members * LEDGER_A_MEMBER;
    let round_kept = members * contribution + matrix + ledger;
    let round = round_kept + outer + state;
    let checkpoint = theta + (1 << 20);
    let (kept, thetas) = Keeping::new(rules.retention).most(rules.rounds);
    let checkpoints = u64::from(rules.rounds / rules.checkpoint_every.max(1)) + 1;
    // bases of what is looked at again are not older than an audit's window
    let looked_at = match charter.audit.is_on() || charter.score.is_on() {
        true => u64::from(charter.audit.window.min(rules.rounds)),
        false => 0,
    };
    let states = state * (2 + 2 * again.min(members) * u64::from(charter.audit.window.min(rules.rounds)));
    let run = LEDGER_BASE
        + u64::from(kept) * (members * contribution + matrix)
        + u64::from(rules.rounds) * ledger
        + (u64::from(thetas) + looked_at) * outer
        + states
        + checkpoints * checkpoint
        + 4 * theta; // error feedback and moments, and a copy while they are written
    Cost {
        contribution,
        round,
        round_kept,
        checkpoint,
        run,
        traffic: members.saturating_sub(1) * (contribution + TALK_A_PAIR) + again * 2 * state / members.max(1),
    }
}

impl Cost {
    /// For programs; `corpus` is the bytes of its shards, where they are known.
    pub fn to_json(self, corpus: Option<u64>, free: Option<u64>) -> Value {
        json!({
            "contribution": self.contribution,
            "round": self.round,
            "round_kept": self.round_kept,
            "checkpoint": self.checkpoint,
            "run": self.run + corpus.unwrap_or(0),
            "corpus": corpus,
            "traffic_a_round": self.traffic,
            "free": free,
        })
    }
}

/// What a run takes, in a sentence or two for whoever starts it in the folder at `place`.
pub fn sentence(charter: &Charter, corpus: Option<u64>, place: &Path) -> String {
    let cost = of(charter);
    let corpus_text = match corpus {
        Some(_) => "",
        None => ", and the corpus",
    };
    let kept = match charter.round.retention {
        0 => "contributions of all rounds are kept".to_string(),
        rounds => format!("contributions of {rounds} rounds are kept"),
    };
    let free = disk::free(place);
    let free_text = free.map_or(String::new(), |free| format!("; {} are free here", size(free)));
    let enough = free.is_none_or(|free| free >= cost.run + corpus.unwrap_or(0));
    let warning = match enough {
        true => "",
        false => ". That is not enough: a node that runs short neither trains nor fetches until there is space",
    };
    format!(
        "Each node will take up to {}{corpus_text} on its disk for {} rounds ({kept}), and receive and send up to {} \
         a round{free_text}{warning}",
        size(cost.run + corpus.unwrap_or(0)),
        charter.round.rounds,
        size(cost.traffic),
    )
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
