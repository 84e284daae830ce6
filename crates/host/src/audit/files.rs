//! Blobs: every complete file's name must be the hash of its content.

use super::FolderReport;
use crate::folder::Folder;
use atoll_protocol::Hash;
use std::{fs, io, path::Path};

/// Hashes every blob in the store's folder.
pub(super) fn check_blobs(folder: &Folder, report: &mut FolderReport) {
    let data = folder.blobs().join("data");
    let entries = match fs::read_dir(&data) {
        Ok(entries) => entries,
        Err(error) => return report.problem(data.display(), error),
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "data"))
    {
        match check_blob(path) {
            Ok((true, bytes)) => {
                report.blobs += 1;
                report.blob_bytes += bytes;
            }
            Ok((false, _)) if is_partial(path) => {
                report.notes.push(format!("{} is still being fetched", path.display()));
            }
            Ok((false, _)) => report.problem(path.display(), "its content does not have the hash in its name"),
            Err(error) => report.problem(path.display(), error),
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

fn check_blob(path: &Path) -> io::Result<(bool, u64)> {
    let expected: Option<Hash> = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .and_then(|stem| stem.parse().ok());
    let mut hasher = blake3::Hasher::new();
    let bytes = io::copy(&mut fs::File::open(path)?, &mut hasher)?;
    Ok((expected == Some(Hash(*hasher.finalize().as_bytes())), bytes))
}

/// The bytes of a blob, if they are there and have that hash.
pub(super) fn blob(folder: &Folder, hash: &Hash) -> Option<Vec<u8>> {
    let bytes = fs::read(folder.blob(hash)).ok()?;
    (Hash::of_blob(&bytes) == *hash).then_some(bytes)
}
