//! One crate built or tested alone (`-p CRATE`) has the dependencies' features of the whole workspace, so that
//! nothing is compiled twice.
//!
//! Cargo chooses features anew for what is named on its command line; its setting for this is not stable yet.
//! So two crates without code, [`HACKS`], ask for what differs: [`write`] finds it, [`check`] says if it is
//! out of date.

mod listing;
mod tree;

use crate::{Findings, layers};
use listing::Listing;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};
use tree::{Graph, Unit};

/// The crates without code. The first is for the crates of [`SMALL`], the second for all others.
pub(crate) const HACKS: [&str; 2] = ["atoll-unify-small", "atoll-unify"];
/// Crates that are built alone without hundreds of others.
const SMALL: &[&str] = &["atoll-protocol", "atoll-ledger", "atoll-outer", "atoll-node", "xtask"];
/// What the listings are made for: as in `deny.toml`.
const TARGETS: &[&str] = &[
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
];
/// Names that a finding gives in full.
const NAMED_MAX: usize = 8;

/// Compares each crate's features with the workspace's, on this machine's target.
pub(crate) fn check(root: &Path) -> Result<(), Findings> {
    let target = own_target(root)?;
    let whole = tree::of_workspace(root, &target)?;
    let mut findings = Findings::new();
    for member in members() {
        let differs = differing(&tree::of_crate(root, member, &target)?, &whole);
        if !differs.is_empty() {
            findings.push(finding(member, &differs));
        }
    }
    match findings.is_empty() {
        true => Ok(()),
        false => Err(findings),
    }
}

/// Writes both listings anew, for all of [`TARGETS`], and leaves them as they were if that fails.
pub(crate) fn write(root: &Path) -> Result<(), Findings> {
    let before: Vec<_> = HACKS.iter().map(|hack| read(root, hack)).collect::<Result<_, _>>()?;
    rewrite(root).inspect_err(|_| {
        for (hack, text) in HACKS.iter().zip(&before) {
            let _ = fs::write(listing::place(root, hack), text); // the first failure is the one to tell
        }
    })
}

fn rewrite(root: &Path) -> Result<(), Findings> {
    let mut listings = HACKS.map(Listing::new);
    for listing in &listings {
        listing.save(root)?;
    }
    let whole = everywhere(|target| tree::of_workspace(root, target))?;
    for member in members() {
        let listing = &mut listings[usize::from(!SMALL.contains(&member))];
        // What is asked for may bring more crates in, whose features may differ again.
        loop {
            let mut wants = Vec::new();
            for (target, graphs) in everywhere(|target| tree::of_crate(root, member, target))? {
                let differs = differing(&graphs, &whole[target]);
                wants.extend(differs.into_iter().map(|unit| (target, unit)));
            }
            if wants.is_empty() {
                break;
            }
            let more = wants.iter().filter(|(target, unit)| {
                let features = whole[target].get(unit).cloned().unwrap_or_default();
                listing.add(target, unit, features)
            });
            if more.count() == 0 {
                let differs: BTreeSet<Unit> = wants.into_iter().map(|(_, unit)| unit).collect();
                return Err(vec![format!(
                    "{}; `{}` lists them already: does `{member}` depend on it?",
                    finding(member, &differs),
                    listing.name
                )]);
            }
            listing.save(root)?;
        }
    }
    match everywhere(|target| tree::of_workspace(root, target))? == whole {
        true => Ok(()),
        false => Err(vec![
            "the listings change the whole workspace's features, which they may not".to_string(),
        ]),
    }
}

/// The same question for all of [`TARGETS`].
fn everywhere<T>(ask: impl Fn(&str) -> Result<T, Findings>) -> Result<BTreeMap<&'static str, T>, Findings> {
    TARGETS.iter().map(|target| Ok((*target, ask(target)?))).collect()
}

/// The workspace's crates, lowest floor first.
fn members() -> impl Iterator<Item = &'static str> {
    layers::crates().filter(|name| !HACKS.contains(name))
}

/// What one of `alone` has with other features than `whole`, ascending.
fn differing(alone: &[Graph], whole: &Graph) -> BTreeSet<Unit> {
    let differing = alone
        .iter()
        .flatten()
        .filter(|(unit, features)| whole.get(unit) != Some(features));
    differing.map(|(unit, _)| unit.clone()).collect()
}

fn finding(member: &str, differs: &BTreeSet<Unit>) -> String {
    let mut names: Vec<&str> = differs.iter().map(|unit| unit.name.as_str()).collect();
    names.dedup();
    let rest = match names.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.truncate(NAMED_MAX);
    format!(
        "`cargo build -p {member}` or its tests have {}{rest} with other features than the workspace",
        names.join(", ")
    )
}

fn read(root: &Path, hack: &str) -> Result<String, Findings> {
    let place = listing::place(root, hack);
    fs::read_to_string(&place).map_err(|error| vec![format!("{}: {error}", place.display())])
}

/// The target that this machine builds for.
fn own_target(root: &Path) -> Result<String, Findings> {
    let output = Command::new("rustc").current_dir(root).arg("-vV").output();
    let output = output.map_err(|error| vec![format!("`rustc -vV` could not be started: {error}")])?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_string)
        .ok_or_else(|| vec!["`rustc -vV` names no host".to_string()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(lines: &str) -> Graph {
        tree::parse(lines).unwrap()
    }

    #[test]
    fn only_what_has_other_features_differs() {
        let whole =
            graph("x v0.1.0 (/x)|\n|-- a v1.0.0|std\n|-- b v2.0.0|\n`-- c v1.0.0 (proc-macro)|\n    `-- a v1.0.0|");
        let alone =
            graph("x v0.1.0 (/x)|\n|-- a v1.0.0|\n|-- b v2.0.0|\n`-- c v1.0.0 (proc-macro)|\n    `-- a v1.0.0|");
        let differs = differing(&[whole.clone(), alone], &whole);
        let names: Vec<_> = differs.iter().map(|unit| (unit.name.as_str(), unit.host)).collect();
        assert_eq!(names, [("a", false)]);
        assert!(finding("atoll-node", &differs).contains("cargo build -p atoll-node` or its tests have a with"));
        assert!(differing(std::slice::from_ref(&whole), &whole).is_empty());
    }

    #[test]
    fn a_long_finding_counts_what_it_does_not_name() {
        let lines: String = (0..12).map(|n| format!("|-- a{n:02} v1.0.0|\n")).collect();
        let differs = differing(&[graph(&lines)], &Graph::new());
        let text = finding("atoll-learner", &differs);
        assert!(text.contains("a07 and 4 more with"), "{text}");
    }
}
