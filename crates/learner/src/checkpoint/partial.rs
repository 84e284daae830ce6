//! The folder that a checkpoint is written into before it gets its name, and what is left of one after
//! a crash.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

/// What stands between a folder's name and the number of the process that writes it.
const INFIX: &str = ".partial-";

/// `.NAME.partial-PID` in the same folder, so that the rename stays within one file system.
pub(super) fn beside(dir: &Path) -> PathBuf {
    dir.with_file_name(format!("{}{}", prefix(dir), std::process::id()))
}

fn prefix(dir: &Path) -> String {
    let name = dir.file_name().map(|name| name.to_string_lossy());
    format!(".{}{INFIX}", name.unwrap_or_default())
}

/// A lock on the folder for as long as its writer lives: the system lets go of it when a process ends
/// in whatever way. `None` where folders cannot be locked.
pub(super) fn hold(partial: &Path) -> Option<File> {
    let folder = File::open(partial).ok()?;
    folder.try_lock().ok()?;
    Some(folder)
}

/// Removes what earlier processes left of writing `dir`: folders with our name, which nobody holds,
/// with nothing in them but `files`. Whatever is not certainly ours stays.
pub(super) fn clear(dir: &Path, files: &[&str]) {
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let Ok(entries) = fs::read_dir(parent) else {
        return; // it is not there yet, or writing will say what is wrong
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(&prefix(dir)));
        let is_ours = number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()));
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_ours && is_folder && hold(&entry.path()).is_some() {
            remove(&entry.path(), files);
        }
    }
}

/// Removes a folder if it holds plain files of these names and nothing else.
pub(super) fn remove(partial: &Path, files: &[&str]) {
    let Ok(entries) = fs::read_dir(partial) else {
        return;
    };
    let mut ours = Vec::new();
    for entry in entries {
        let Ok(entry) = entry else { return };
        let known = entry.file_name().to_str().is_some_and(|name| files.contains(&name));
        if !known || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            return;
        }
        ours.push(entry.path());
    }
    if ours.iter().all(|path| fs::remove_file(path).is_ok()) {
        let _ = fs::remove_dir(partial); // not empty any more: something came, and it stays
    }
}
