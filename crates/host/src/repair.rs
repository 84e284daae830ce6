//! `atoll repair`: looks at everything in a node's folder, says what is damaged, what is lost by that and what comes
//! again by itself, and moves what is damaged away.

mod look;
mod note;

pub use self::note::{forget, has_run, listening, note, note_stop};
use crate::{
    aside::Aside,
    folder::{Folder, FolderError},
};
use serde_json::{Value, json};
use std::path::PathBuf;

/// What becomes of something damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// It is moved away.
    Move,
    /// Nothing here needs to change: what the node does when it runs is enough.
    Leave,
    /// Nothing here can mend it.
    None,
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it, what is lost by that, and what happens next: sentences.
    pub text: String,
    /// What is done.
    pub remedy: Remedy,
    /// Where it was moved.
    pub moved: Option<PathBuf>,
}

/// What was found in a folder.
#[derive(Debug, Clone)]
pub struct Report {
    /// The folder.
    pub folder: PathBuf,
    /// Whether it was only looked at.
    pub only_looked: bool,
    /// In the order of the folder's files in ARCHITECTURE.md.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing is damaged that stays so.
    pub fn ok(&self) -> bool {
        self.findings.iter().all(|finding| finding.remedy != Remedy::None)
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let findings = self.findings.iter().map(|finding| {
            json!({
                "path": finding.path.display().to_string(),
                "text": finding.text,
                "remedy": match finding.remedy {
                    Remedy::Move => "move",
                    Remedy::Leave => "leave",
                    Remedy::None => "none",
                },
                "moved_to": finding.moved.as_ref().map(|path| path.display().to_string()),
            })
        });
        json!({
            "folder": self.folder.display().to_string(),
            "only_looked": self.only_looked,
            "ok": self.ok(),
            "findings": findings.collect::<Vec<_>>(),
        })
    }
}

/// Looks at the folder, whose node must not run, and moves away what is damaged unless `only_look`.
pub fn repair(folder: &Folder, only_look: bool) -> anyhow::Result<Report> {
    let holds = |path: std::path::PathBuf| path.symlink_metadata().is_ok();
    if !holds(folder.key()) && !holds(folder.charter()) && !holds(folder.ledger()) {
        let nodes = crate::audit::node_folders(folder.path())?;
        let nodes: Vec<String> = nodes.iter().map(|node| node.path().display().to_string()).collect();
        match nodes.is_empty() {
            true => anyhow::bail!(
                "{} holds no node's folder; nothing was changed",
                folder.path().display()
            ),
            false => anyhow::bail!(
                "{} is no node's folder but holds some; name one of them: {}",
                folder.path().display(),
                nodes.join(", ")
            ),
        }
    }
    let lock = match only_look {
        // what a running node writes cannot be judged
        true if folder.in_use() => return Err(FolderError::InUse(folder.path().to_path_buf()).into()),
        true => None,
        false => Some(folder.lock()?),
    };
    let mut found = look::look(folder);
    if !only_look {
        mend(folder, &mut found)?;
    }
    drop(lock);
    found.dedup_by(|a, b| a.path == b.path);
    Ok(Report {
        folder: folder.path().to_path_buf(),
        only_looked: only_look,
        findings: found,
    })
}

fn mend(folder: &Folder, found: &mut [Finding]) -> Result<(), FolderError> {
    let aside = Aside::new(folder);
    let votes = folder.consensus();
    for finding in found.iter_mut().filter(|finding| finding.remedy == Remedy::Move) {
        if finding.path == votes {
            let marked = atoll_consensus::mark_lost(&votes);
            marked.map_err(FolderError::io("mark", &atoll_consensus::lost_marker(&votes)))?;
        }
        if finding.path.symlink_metadata().is_ok() {
            finding.moved = Some(aside.take(&finding.path)?);
        }
    }
    // the seal is of another folder than this now is; the node makes a new one
    let moved = found.iter().any(|finding| finding.moved.is_some());
    if moved && folder.seal().is_file() {
        aside.take(&folder.seal())?;
    }
    forget(folder)
}
