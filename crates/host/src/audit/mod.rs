//! The audit: everything that a folder claims, checked from the folder alone.
//!
//! Genesis, finality certificates, every transition and signature, every blob's hash, every merge and
//! outer step recomputed, every checkpoint file compared. Nothing is changed on disk. A check that
//! finds something wrong names the place and goes on where it can.

mod chain;
mod files;
mod replay;

use crate::{charter_file, folder::Folder, identity, seal};
use atoll_protocol::{Charter, Hash, Height, PeerId, Round};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

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

    fn to_json(&self) -> Value {
        let problems = self
            .problems
            .iter()
            .map(|found| json!({ "place": found.place, "what": found.what }));
        json!({
            "folder": self.path.display().to_string(),
            "node": self.node,
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
            "outs": self.outs.iter().map(Out::to_json).collect::<Vec<_>>(),
            "notes": self.notes,
            "problems": problems.collect::<Vec<_>>(),
        })
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
            "problems": problems.collect::<Vec<_>>(),
        })
    }
}

/// The folders of nodes in `path`: itself, or those directly below it, in order.
pub fn node_folders(path: &Path) -> Vec<Folder> {
    // a damaged or missing file must not make a node's folder look like something else
    let parts = ["key", "charter.toml", "ledger.redb", "seal", "node.toml"];
    let looks_like = |path: &Path| parts.iter().any(|name| path.join(name).is_file());
    if looks_like(path) {
        return vec![Folder::at(path)];
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut below: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| looks_like(path))
        .collect();
    below.sort();
    below.into_iter().map(Folder::at).collect()
}

/// Audits the node's folder at `path`, or all those below it. `progress` hears what is being checked.
pub fn audit(path: &Path, mut progress: impl FnMut(&str)) -> Report {
    let folders = node_folders(path);
    let mut report = Report::default();
    if folders.is_empty() {
        let what = match path.is_dir() {
            true => "holds no node's folder; name the folder of a node, or one with nodes' folders in it",
            false if path.exists() => "is a file; name the folder of a node, or one with nodes' folders in it",
            false => "does not exist",
        };
        let what = what.into();
        report.problems.push(Problem {
            place: path.display().to_string(),
            what,
        });
    }
    for folder in &folders {
        report.folders.push(audit_folder(folder, &mut progress));
    }
    if folders.iter().any(|folder| folder.path() != path) {
        note_what_is_not_covered(path, &mut report);
    }
    compare(&mut report);
    report
}

/// In a folder of nodes: members that have no folder in it, and files that belong to no node.
fn note_what_is_not_covered(path: &Path, report: &mut Report) {
    let names: Vec<String> = report.folders.iter().map(|folder| folder.node.clone()).collect();
    let charter = report
        .folders
        .first()
        .and_then(|first| charter_file::read(&Folder::at(&first.path).charter()).ok());
    let absent: Vec<String> = charter
        .iter()
        .flat_map(|charter| charter.members.iter().map(|member| member.name.clone()))
        .filter(|name| !names.contains(name))
        .collect();
    let Some(first) = report.folders.first_mut() else {
        return;
    };
    if !absent.is_empty() {
        first.notes.push(format!(
            "members without a folder in {}: {}",
            path.display(),
            absent.join(", ")
        ));
    }
    for entry in fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_file() && entry.file_name() != ".gitignore")
    {
        first.notes.push(format!(
            "{} belongs to no node and is not checked",
            entry.path().display()
        ));
    }
}

/// Nodes of one folder must be of one run.
fn compare(report: &mut Report) {
    let Some(first) = report.folders.first() else { return };
    let runs = report
        .folders
        .iter()
        .filter(|folder| folder.genesis.is_some() && folder.genesis != first.genesis);
    let other: Vec<Problem> = runs
        .map(|folder| Problem {
            place: folder.path.join("charter.toml").display().to_string(),
            what: format!("is the charter of another run than that of {}", first.path.display()),
        })
        .collect();
    report.problems.extend(other);
    fill_gaps(report);
    for (index, folder) in report.folders.iter().enumerate() {
        let of_run = |other: &&FolderReport| other.genesis == folder.genesis;
        let differ = |other: &FolderReport| folder.digests.iter().zip(&other.digests).position(|(a, b)| a != b);
        let others = report.folders[..index].iter().filter(of_run);
        let mut forks = others.filter_map(|other| Some((other, differ(other)? + 1)));
        if let Some((other, height)) = forks.next() {
            let what = format!("differs from block {height} of {}", other.path.display());
            let place = format!("{}: block {height}", folder.path.display());
            report.problems.push(Problem { place, what });
        }
    }
}

/// A node that was away may lack what others have: a round that is computed again from one of the folders is
/// proven for all of that run, since their ledgers are one (else that is a fault). What none can compute is a fault,
/// and so is what a node had and has not any more.
fn fill_gaps(report: &mut Report) {
    let proven: BTreeSet<(Option<Hash>, Round)> = report
        .folders
        .iter()
        .flat_map(|folder| folder.computed.iter().map(|round| (folder.genesis, *round)))
        .collect();
    for folder in &mut report.folders {
        for (round, what) in std::mem::take(&mut folder.gaps) {
            let place = format!("{}: round {round}", folder.path.display());
            let had = folder.merged.contains(&round);
            match proven.contains(&(folder.genesis, round)) {
                _ if had => folder.problem(place, format!("{what}; its node said that it merged the round")),
                true => folder.notes.push(format!("{place}: {what}")),
                false => folder.problem(place, &what),
            }
            folder.gaps.push((round, what));
        }
    }
}

fn audit_folder(folder: &Folder, progress: &mut impl FnMut(&str)) -> FolderReport {
    let mut report = FolderReport {
        path: folder.path().to_path_buf(),
        ..FolderReport::default()
    };
    let name = folder.path().display().to_string();
    progress(&format!("{name}: files"));
    let owner = check_identity(folder, &mut report);
    if let Some(owner) = owner {
        check_seal(folder, owner, &mut report);
    }
    let Some(charter) = check_charter(folder, owner, &mut report) else {
        return report;
    };
    progress(&format!("{name}: blobs"));
    files::check_blobs(folder, &mut report);
    progress(&format!("{name}: blocks and certificates"));
    let history = chain::check(folder, (&charter, owner), &mut report);
    progress(&format!("{name}: merges and checkpoints"));
    if let Some(history) = history {
        replay::check(folder, &charter, &history, &mut report);
    }
    report
}

fn check_identity(folder: &Folder, report: &mut FolderReport) -> Option<PeerId> {
    match identity::read(&folder.key()) {
        Ok(keypair) => Some(keypair.peer()),
        Err(error) => {
            report.problem(folder.key().display(), error);
            None
        }
    }
}

fn check_seal(folder: &Folder, owner: PeerId, report: &mut FolderReport) {
    match seal::check(folder, owner) {
        Ok(None) => report.notes.push(
            "not sealed, because its node is running or was killed: private files, logs and indices are not covered"
                .into(),
        ),
        Ok(Some(differences)) => {
            report.sealed = true;
            differences
                .into_iter()
                .for_each(|found| report.problem(found.path.display(), found.what));
        }
        Err(error) => report.problem(folder.seal().display(), error),
    }
}

fn check_charter(folder: &Folder, owner: Option<PeerId>, report: &mut FolderReport) -> Option<Arc<Charter>> {
    let path = folder.charter();
    let charter = match charter_file::read(&path) {
        Ok(charter) => charter,
        Err(error) => {
            report.problem(path.display(), error);
            return None;
        }
    };
    report.genesis = Some(charter.genesis());
    if let Some(owner) = owner {
        report.node = charter.name_of(&owner);
        if !charter.keys().any(|key| key == owner) {
            report.problem(path.display(), format!("does not name the folder's key {owner}"));
        }
    }
    Some(Arc::new(charter))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, blocks: &[u8]) -> FolderReport {
        FolderReport {
            path: name.into(),
            genesis: Some(Hash::ZERO),
            height: Height(blocks.len() as u64),
            digests: blocks.iter().map(|block| Hash([*block; 32])).collect(),
            ..FolderReport::default()
        }
    }

    fn compared(folders: Vec<FolderReport>) -> Report {
        let mut report = Report {
            folders,
            ..Report::default()
        };
        compare(&mut report);
        report
    }

    #[test]
    fn a_fork_is_found_wherever_the_folders_end() {
        assert!(compared(vec![folder("a", &[1, 2, 3]), folder("b", &[1, 2])]).ok());
        assert!(compared(vec![folder("a", &[]), folder("b", &[1, 2])]).ok());
        for other in [vec![1, 9], vec![1, 9, 3], vec![1, 9, 3, 4]] {
            let report = compared(vec![folder("a", &[1, 2, 3]), folder("b", &other)]);
            let [problem] = &report.problems[..] else {
                panic!("{report:?}")
            };
            assert_eq!(problem.place, "b: block 2");
        }
    }

    #[test]
    fn a_gap_is_a_fault_unless_another_folder_of_the_run_computed_the_round() {
        let lacks = || {
            let mut folder = folder("a", &[1]);
            folder.gaps = vec![(Round(0), "gone".into()), (Round(1), "gone".into())];
            folder
        };
        let mut had = lacks();
        had.merged = [Round(1)].into();
        let has = |rounds: &[u32], genesis| FolderReport {
            genesis,
            computed: rounds.iter().copied().map(Round).collect(),
            ..folder("b", &[1])
        };
        let faults = |report: Report| report.folders[0].problems.len();
        assert_eq!(faults(compared(vec![lacks()])), 2);
        assert_eq!(faults(compared(vec![lacks(), has(&[0], Some(Hash::ZERO))])), 1);
        assert_eq!(faults(compared(vec![lacks(), has(&[0, 1], Some(Hash::ZERO))])), 0);
        assert_eq!(faults(compared(vec![lacks(), has(&[0, 1], Some(Hash([1; 32])))])), 2);
        assert_eq!(faults(compared(vec![lacks(), lacks()])), 2);
        let report = compared(vec![had, has(&[0, 1], Some(Hash::ZERO))]);
        assert!(report.folders[0].notes[0].starts_with("a: round 0"), "{report:?}");
        assert_eq!(report.folders[0].problems.len(), 1, "it had round 1: {report:?}");
    }
}
