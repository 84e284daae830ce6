//! What an audit has found: for people, and as JSON.

use atoll_protocol::{Hash, Height, PeerId, Round};
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::PathBuf};

/// Things of one kind that are named one by one to people.
const EACH_MAX: usize = 10;

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// File, block, round or blob.
    pub place: String,
    /// What is wrong with it.
    pub what: String,
}

/// What was checked in one node's folder, and what was found.
#[derive(Debug, Clone, Default)]
pub struct FolderReport {
    /// The folder.
    pub path: PathBuf,
    /// Its node's name in the charter.
    pub node: String,
    /// Its node's key, if anything says whose folder it is.
    pub owner: Option<PeerId>,
    /// The run.
    pub genesis: Option<Hash>,
    /// Last block.
    pub height: Height,
    /// Digests of all blocks, from height 1 on.
    pub digests: Vec<Hash>,
    /// Digest of the last block.
    pub tip: Option<Hash>,
    /// Transactions whose signature was checked.
    pub transactions: u64,
    /// Finality certificates checked.
    pub certificates: u64,
    /// Bytes of all blocks.
    pub block_bytes: u64,
    /// Last block that a certificate proves final.
    pub proven: Height,
    /// Rounds that moved θ.
    pub rounds_closed: u32,
    /// Rounds that left θ as it was.
    pub rounds_void: u32,
    /// Rounds whose merge and outer step, computed again, are the ledger's.
    pub computed: BTreeSet<Round>,
    /// Rounds for which something is not here, and what.
    pub gaps: Vec<(Round, String)>,
    /// Rounds that the node said, signed, to have merged: it had everything.
    pub merged: BTreeSet<Round>,
    /// Rounds whose blobs were collected by the charter's rule.
    pub collected: u32,
    /// Blobs whose hash was checked, and their bytes.
    pub blobs: u64,
    /// See `blobs`.
    pub blob_bytes: u64,
    /// Checkpoints compared with θ.
    pub checkpoints: Vec<Round>,
    /// θ after the last block.
    pub theta: Option<Hash>,
    /// Whether a seal covered every file.
    pub sealed: bool,
    /// Whether `atoll export` wrote the folder; then whether its owner signed that.
    pub export: Option<bool>,
    /// Whether the secret key is in it.
    pub holds_secret: bool,
    /// What has no place in a node's folder and was not looked at: path, and what it is.
    pub foreign: Vec<(String, String)>,
    /// Every contribution that did not count and every peer that was put out, as the ledger has it.
    pub outs: Vec<Out>,
    /// What an auditor should know and that is no fault.
    pub notes: Vec<String>,
    /// Faults.
    pub problems: Vec<Problem>,
}

impl FolderReport {
    pub(crate) fn problem(&mut self, place: impl ToString, what: impl ToString) {
        let found = Problem {
            place: place.to_string(),
            what: what.to_string(),
        };
        if !self.problems.contains(&found) {
            self.problems.push(found);
        }
    }

    /// Things of one kind, a note each up to ten, then how many more there are.
    pub(super) fn notes_of(&mut self, what: &str, each: impl ExactSizeIterator<Item = String>) {
        note_each(&mut self.notes, what, each);
    }

    fn to_json(&self) -> Value {
        let problems = self
            .problems
            .iter()
            .map(|found| json!({ "place": found.place, "what": found.what }));
        json!({
            "folder": self.path.display().to_string(),
            "node": self.node,
            "key": self.owner.map(|owner| owner.to_string()),
            "genesis": self.genesis.map(|hash| hash.to_string()),
            "height": self.height.0,
            "proven_height": self.proven.0,
            "tip": self.tip.map(|hash| hash.to_string()),
            "transactions": self.transactions,
            "certificates": self.certificates,
            "block_bytes": self.block_bytes,
            "rounds_closed": self.rounds_closed,
            "rounds_void": self.rounds_void,
            "merges_recomputed": self.computed.len(),
            "rounds_with_gaps": self.gaps.len(),
            "rounds_collected": self.collected,
            "blobs": self.blobs,
            "blob_bytes": self.blob_bytes,
            "checkpoints": self.checkpoints.iter().map(|round| round.0).collect::<Vec<_>>(),
            "theta_root": self.theta.map(|hash| hash.to_string()),
            "sealed": self.sealed,
            "export": self.export.is_some(),
            "export_signed": self.export,
            "holds_secret": self.holds_secret,
            "foreign": foreign_json(&self.foreign),
            "outs": self.outs.iter().map(Out::to_json).collect::<Vec<_>>(),
            "notes": self.notes,
            "foreign": foreign_json(&self.foreign),
            "problems": problems.collect::<Vec<_>>(),
        })
    }
}

fn foreign_json(foreign: &[(String, String)]) -> Vec<Value> {
    foreign
        .iter()
        .map(|(path, kind)| json!({ "path": path, "kind": kind }))
        .collect()
}

/// A note for each up to ten, then how many more there are.
pub(super) fn note_each(notes: &mut Vec<String>, what: &str, each: impl ExactSizeIterator<Item = String>) {
    let more = each.len().saturating_sub(EACH_MAX);
    notes.extend(each.take(EACH_MAX));
    if more > 0 {
        notes.push(format!("{more} more {what}; --json has all"));
    }
}

/// A contribution that did not count, or a peer that was put out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Out {
    /// The round under way.
    pub round: Round,
    /// Whose or who.
    pub peer: String,
    /// What became of it, in a word or two.
    pub what: &'static str,
    /// Why, with its figures.
    pub reason: String,
}

impl Out {
    fn to_json(&self) -> Value {
        json!({ "round": self.round.0, "peer": self.peer, "what": self.what, "reason": self.reason })
    }
}

/// The audit of one node's folder, or of a folder of such folders.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// One per node.
    pub folders: Vec<FolderReport>,
    /// What an auditor should know of the folder as a whole.
    pub notes: Vec<String>,
    /// What lies in the folder as a whole and belongs to no node: path, and what it is.
    pub foreign: Vec<(String, String)>,
    /// Faults between folders, or with the folder as a whole.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn ok(&self) -> bool {
        self.problems.is_empty() && !self.folders.is_empty() && self.folders.iter().all(|f| f.problems.is_empty())
    }

    /// Every fault.
    pub fn all_problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems
            .iter()
            .chain(self.folders.iter().flat_map(|folder| &folder.problems))
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        let problems = self
            .all_problems()
            .map(|found| json!({ "place": found.place, "what": found.what }));
        json!({
            "ok": self.ok(),
            "folders": self.folders.iter().map(FolderReport::to_json).collect::<Vec<_>>(),
            "notes": self.notes,
            "problems": problems.collect::<Vec<_>>(),
        })
    }
}
