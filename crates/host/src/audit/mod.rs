//! The audit: everything that a folder claims, checked from the folder alone.
//!
//! Genesis, finality certificates, every transition and signature, every blob's hash, every merge and
//! outer step recomputed, every checkpoint file compared. Nothing is changed on disk. A check that
//! finds something wrong names the place and goes on where it can.

mod chain;
mod files;
mod folders;
mod replay;
mod report;
mod whose;

pub(crate) use self::files::{Lack, blob};
pub use self::{
    folders::{node_folders, twins},
    report::{FolderReport, Out, Problem, Report},
};
use crate::{
    charter_file,
    contents::{Entry, scan, shown},
    folder::Folder,
};
use atoll_protocol::{Charter, Hash, PeerId, Round};
use std::{collections::BTreeSet, path::Path, sync::Arc};

/// Audits the node's folder at `path`, or all those below it. `progress` hears what is being checked.
pub fn audit(path: &Path, mut progress: impl FnMut(&str)) -> Report {
    let mut report = Report::default();
    let place = shown(path);
    let found = match folders::look(path) {
        Ok(found) => found,
        Err(error) => {
            let what = error.to_string();
            report.problems.push(Problem { place, what });
            return report;
        }
    };
    for error in found.unreadable {
        let (place, what) = (place.clone(), error.to_string());
        report.problems.push(Problem { place, what });
    }
    if found.nodes.is_empty() {
        let what = match path.is_dir() {
            true => "holds no node's folder; name the folder of a node, or one with nodes' folders in it",
            false if path.exists() => "is a file; name the folder of a node, or one with nodes' folders in it",
            false => "does not exist",
        };
        let what = what.into();
        report.problems.push(Problem { place, what });
    }
    for folder in &found.nodes {
        report.folders.push(audit_folder(folder, &mut progress));
    }
    if found.nodes.iter().any(|folder| folder.path() != path) {
        note_what_is_not_covered(path, &found.others, &mut report);
    }
    compare(&mut report);
    report
}

/// In a folder of nodes: members that have no folder in it, and what belongs to no node.
fn note_what_is_not_covered(path: &Path, others: &[Entry], report: &mut Report) {
    let names: Vec<String> = report.folders.iter().map(|folder| folder.node.clone()).collect();
    let charter = report
        .folders
        .first()
        .and_then(|first| charter_file::read(&Folder::at(&first.path).charter()).ok()); // else a fault of that folder
    let absent: Vec<String> = charter
        .iter()
        .flat_map(|charter| charter.members.iter().map(|member| member.name.clone()))
        .filter(|name| !names.contains(name))
        .collect();
    if !absent.is_empty() {
        let note = format!("members without a folder in {}: {}", shown(path), absent.join(", "));
        report.notes.push(note);
    }
    // a demo's folder has one, because it holds keys
    let others: Vec<&Entry> = others.iter().filter(|entry| entry.name != ".gitignore").collect();
    report.foreign = others.iter().map(|entry| entry.told()).collect();
    let others = others.iter().map(|entry| {
        let (place, kind) = (shown(&entry.path), entry.kind);
        format!("{place} is {kind} that belongs to no node and is not checked")
    });
    report::note_each(&mut report.notes, "things that belong to no node", others);
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
    note_twins(report);
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

/// Two folders of one node are a folder and its copy. Where their ledgers differ, that is a fault of its own.
fn note_twins(report: &mut Report) {
    let twins = report.folders.iter().enumerate().filter_map(|(index, folder)| {
        let whose = |folder: &FolderReport| Some((folder.genesis?, folder.owner?));
        let mine = whose(folder)?;
        let twin = report.folders[..index]
            .iter()
            .find(|other| whose(other) == Some(mine))?;
        let (this, that, node) = (shown(&folder.path), shown(&twin.path), &folder.node);
        Some(format!(
            "{this} and {that} are both {node}'s: one is a copy. Never run both: two nodes with one key say different \
             things, for which the key is put out for good"
        ))
    });
    let twins: Vec<String> = twins.collect();
    report.notes.extend(twins);
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
    let name = shown(folder.path());
    progress(&format!("{name}: files"));
    let contents = match scan(folder.path()) {
        Ok(contents) => contents,
        Err(error) => {
            report.problem(name, format!("cannot be read: {error}"));
            return report;
        }
    };
    let owner = whose::owner_of(folder, &contents, &mut report);
    whose::note_what_lies_beside(&contents, &mut report);
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
    report.owner = owner;
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
    use atoll_protocol::Height;

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
