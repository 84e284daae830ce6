//! Blobs: every complete file's name must be the hash of its content.

use super::FolderReport;
use crate::{
    contents::{is_blob_file, shown},
    folder::{Folder, FolderError, open_file},
};
use atoll_protocol::Hash;
use std::{
    fmt, fs,
    io::{self, Read as _},
    path::Path,
};

/// Why a blob cannot be used.
#[derive(Debug)]
pub(crate) enum Lack {
    /// There is none.
    Missing,
    /// Its content has not the hash in its name.
    Damaged,
    /// Nobody can tell.
    Unreadable(FolderError),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Damaged => f.write_str("is damaged: its content does not have the hash in its name"),
            Self::Unreadable(error) => write!(f, "cannot be used: {error}"),
        }
    }
}

/// Hashes every blob in the store's folder.
pub(super) fn check_blobs(folder: &Folder, report: &mut FolderReport) {
    let data = folder.blobs().join("data");
    let entries = fs::read_dir(&data).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) => return report.problem(shown(&data), error),
    };
    let ours = |name: &str| is_blob_file(name) && name.ends_with(".data");
    let mut paths: Vec<_> = entries
        .into_iter()
        .filter(|entry| entry.file_name().to_str().is_some_and(ours))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    for path in &paths {
        match check_blob(path) {
            Ok((true, bytes)) => {
                report.blobs += 1;
                report.blob_bytes += bytes;
            }
            Ok((false, _)) if is_partial(path) => {
                report.notes.push(format!("{} is still being fetched", shown(path)));
            }
            Ok((false, _)) => report.problem(shown(path), "its content does not have the hash in its name"),
            Err(error) => report.problem(shown(path), error),
        }
    }
}

/// Whether the store has marked the blob as not all there: with what it has of it, or, before it could write that
/// down, with its size.
pub(super) fn is_partial(path: &Path) -> bool {
    ["bitfield", "sizes4"]
        .iter()
        .any(|mark| path.with_extension(mark).exists())
}

fn check_blob(path: &Path) -> Result<(bool, u64), FolderError> {
    let expected: Option<Hash> = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .and_then(|stem| stem.parse().ok());
    let mut hasher = blake3::Hasher::new();
    let bytes = io::copy(&mut open_file(path)?, &mut hasher).map_err(FolderError::io("read", path))?;
    Ok((expected == Some(Hash(*hasher.finalize().as_bytes())), bytes))
}

/// The bytes of a blob that is here and has that hash.
pub(crate) fn blob(folder: &Folder, hash: &Hash) -> Result<Vec<u8>, Lack> {
    let path = folder.blob(hash);
    let read = || {
        let mut bytes = Vec::new();
        let read = open_file(&path)?.read_to_end(&mut bytes);
        read.map_err(FolderError::io("read", &path))?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if Hash::of_blob(&bytes) == *hash => Ok(bytes),
        Ok(_) => Err(Lack::Damaged),
        Err(FolderError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Err(Lack::Missing),
        Err(error) => Err(Lack::Unreadable(error)),
    }
}
