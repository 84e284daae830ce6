//! Whose a folder is, what its seal says, and what lies in it beside. None of this needs a secret.

use super::FolderReport;
use crate::{
    contents::{self, Contents, Entry, Kind, shown},
    folder::{Folder, FolderError},
    identity::{self, IdentityError},
    owner::{self, is_in_engines_way},
    seal::{self, Seal},
};
use atoll_protocol::PeerId;
use std::io::ErrorKind;

/// Whose folder it is, by the key in it, else by who sealed it, else by what its votes are said to be.
pub(super) fn owner_of(folder: &Folder, contents: &Contents, report: &mut FolderReport) -> Option<PeerId> {
    let key = by_key(folder, report);
    let seal = match seal::read(folder) {
        Ok(seal) => seal,
        Err(error) => {
            report.problem(folder.seal().display(), error);
            None
        }
    };
    let sealed_by = seal.as_ref().filter(|seal| seal.signed).and_then(|seal| seal.owner);
    if let (Some(key), Some(signer)) = (key, sealed_by)
        && key != signer
    {
        let what = format!("was signed by another key, {signer}, than the one in this folder, {key}");
        report.problem(folder.seal().display(), what);
    }
    match &seal {
        Some(seal) => check_seal(folder, contents, seal, report),
        None => report.notes.push(
            "not sealed, because its node is running or was killed: private files, logs and indices are not covered"
                .into(),
        ),
    }
    let said = || match owner::read(folder) {
        Ok(bound) => bound.map(|(_, peer)| peer),
        Err(error) => {
            report.notes.push(error.to_string());
            None
        }
    };
    let owner = key.or(sealed_by).or_else(said).or(seal.and_then(|seal| seal.owner));
    if owner.is_none() {
        let note = "neither a key nor a seal says whose folder this is: what its node said that it has is not checked";
        report.notes.push(note.into());
    }
    owner
}

/// Whose the key in the folder is. That there is none is no fault, nor that it is another's to read.
fn by_key(folder: &Folder, report: &mut FolderReport) -> Option<PeerId> {
    let path = folder.key();
    if matches!(path.symlink_metadata(), Err(error) if error.kind() == ErrorKind::NotFound) {
        return None;
    }
    let place = shown(&path);
    let key = match identity::read_whoever_may(&path) {
        Ok(keypair) => Some(keypair.peer()),
        Err(IdentityError::Folder(FolderError::Io { cause, .. })) if cause.kind() == ErrorKind::PermissionDenied => {
            report
                .notes
                .push(format!("{place} is its owner's alone and was not read"));
            return None;
        }
        Err(error) => {
            report.problem(&place, error);
            None
        }
    };
    report.holds_secret = true;
    let give = "holds the secret key: give away what `atoll export` writes instead";
    report.notes.push(format!("{} {give}", shown(folder.path())));
    if let Ok(Some(mode)) = identity::open_to(&path) {
        let note = format!("{place} can be read by others (mode {mode:o}): its node starts after `chmod 600 {place}`");
        report.notes.push(note);
    }
    key
}

fn check_seal(folder: &Folder, contents: &Contents, seal: &Seal, report: &mut FolderReport) {
    report.sealed = true;
    if seal.export {
        report.export = Some(seal.signed);
    }
    if !seal.signed {
        let note = "nobody signed the list of what was exported: it shows what changed since, and not who wrote it";
        report.notes.push(note.into());
    }
    for found in seal.differences(folder.path(), contents) {
        let place = shown(&found.path);
        match found.allowed {
            true if report.holds_secret => {} // said already
            true => report.notes.push(format!("{place} {}: its owner keeps it", found.what)),
            false => report.problem(place, found.what),
        }
    }
}

/// What is not the node's is named and not opened: it damages nothing. Nor does what stands in the place of a file
/// that the audit does not read; what it does read, it judges by itself.
pub(super) fn note_what_lies_beside(contents: &Contents, report: &mut FolderReport) {
    for (entry, error) in &contents.unreadable {
        report.problem(shown(&entry.path), format!("cannot be read: {error}"));
    }
    let odd = contents
        .odd
        .iter()
        .map(|entry| format!("{} is {}: no seal covers it", shown(&entry.path), entry.kind));
    report.notes_of("of this kind", odd);
    let foreign = contents.foreign.iter();
    report.foreign = foreign.clone().map(Entry::told).collect();
    report.notes_of("things that are not the node's", foreign.clone().map(describe));
    for entry in foreign.filter(|entry| is_a_second_checkpoint(entry)) {
        let what = "is read as a checkpoint and is not that of any round in the ledger";
        report.problem(shown(&entry.path), what);
    }
}

fn describe(entry: &Entry) -> String {
    let place = shown(&entry.path);
    if contents::is_left_over(entry) {
        return format!("{place} was left behind when a node was killed; it can be removed");
    }
    let kind = entry.kind;
    match is_in_engines_way(&entry.name) {
        true => format!("{place} is {kind} that is not the node's, which does not start before it is moved away"),
        false => format!("{place} is {kind} that is not the node's; it was not looked at"),
    }
}

/// Whoever looks for the newest checkpoint would take such a folder.
fn is_a_second_checkpoint(entry: &Entry) -> bool {
    let in_place = entry
        .name
        .strip_prefix("checkpoints/")
        .is_some_and(|name| !name.starts_with('.'));
    in_place && matches!(entry.kind, Kind::Folder | Kind::Link) && entry.path.join("config.json").is_file()
}
