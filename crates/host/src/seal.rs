//! The seal: hashes of every file in a folder, made when its owner ends cleanly, so that any byte that
//! changes later is found and placed.
//!
//! Hashes are taken per block of 4 KiB: the place of a change is named to within one.

use crate::{
    folder::{Folder, FolderError, read_limited, write_whole},
    identity,
};
use atoll_protocol::{Domain, Hash, PeerId, Signed, decode, encode};
use borsh::{BorshDeserialize, BorshSerialize};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};
use thiserror::Error;

const BLOCK_BYTES: usize = 4096;
const SEAL_BYTES_MAX: u64 = 1 << 30;
/// Files that a seal does not cover: itself, and the lock that a running process holds.
const LEFT_OUT: [&str; 2] = ["seal", "lock"];

/// Why there is no seal.
#[derive(Debug, Error)]
pub enum SealError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// There is no key to sign with.
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    /// The seal itself is damaged.
    #[error("{} is damaged", .0.display())]
    Damaged(PathBuf),
}

/// One sealed file.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Sealed {
    /// Path below the folder, with `/`.
    path: String,
    bytes: u64,
    blocks: Vec<Hash>,
}

/// A difference between a folder and its seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The file.
    pub path: PathBuf,
    /// What is different, and where.
    pub what: String,
}

/// Removes the seal: the folder is about to change.
pub fn remove(folder: &Folder) -> Result<(), SealError> {
    match fs::remove_file(folder.seal()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FolderError::Io {
            what: "remove",
            path: folder.seal(),
            cause: error,
        }
        .into()),
        _ => Ok(()),
    }
}

/// Seals a node's folder with its key.
pub fn write(folder: &Folder) -> Result<(), SealError> {
    let keypair = identity::read(&folder.key())?;
    let signed = keypair.sign(Domain::Seal, scan(folder.path())?);
    Ok(write_whole(&folder.seal(), &encode(&signed))?)
}

/// Compares a folder with its seal. Nothing if it has none, because its node runs or was killed.
pub fn check(folder: &Folder, owner: PeerId) -> Result<Option<Vec<Difference>>, SealError> {
    let path = folder.seal();
    if !path.exists() {
        return Ok(None);
    }
    let damaged = || SealError::Damaged(path.clone());
    let bytes = read_limited(&path, SEAL_BYTES_MAX)?;
    let signed: Signed<Vec<Sealed>> = decode(&bytes, bytes.len()).map_err(|_| damaged())?;
    let verified = signed.verify(Domain::Seal).map_err(|_| damaged())?;
    if verified.signer() != owner {
        return Err(damaged());
    }
    Ok(Some(differences(folder.path(), verified.body(), &scan(folder.path())?)))
}

fn differences(root: &Path, sealed: &[Sealed], found: &[Sealed]) -> Vec<Difference> {
    let mut all = Vec::new();
    let mut differ = |path: &str, what: String| {
        all.push(Difference {
            path: root.join(path),
            what,
        })
    };
    for file in sealed {
        match found.iter().find(|other| other.path == file.path) {
            None => differ(&file.path, "is missing".into()),
            Some(other) if other != file => differ(&file.path, change(file, other)),
            Some(_) => {}
        }
    }
    for file in found
        .iter()
        .filter(|file| !sealed.iter().any(|other| other.path == file.path))
    {
        differ(&file.path, "was not there when the folder was sealed".into());
    }
    all
}

fn change(sealed: &Sealed, found: &Sealed) -> String {
    if sealed.bytes != found.bytes {
        return format!("has {} bytes, was sealed with {}", found.bytes, sealed.bytes);
    }
    let changed = sealed
        .blocks
        .iter()
        .zip(&found.blocks)
        .position(|(a, b)| a != b)
        .unwrap_or(0);
    let (from, to) = (
        changed * BLOCK_BYTES,
        ((changed + 1) * BLOCK_BYTES).min(found.bytes as usize),
    );
    format!("was changed between byte {from} and byte {}", to.saturating_sub(1))
}

fn scan(root: &Path) -> Result<Vec<Sealed>, FolderError> {
    let mut files = Vec::new();
    walk(root, root, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<Sealed>) -> Result<(), FolderError> {
    let entries = fs::read_dir(folder).map_err(FolderError::io("read", folder))?;
    for entry in entries {
        let entry = entry.map_err(FolderError::io("read", folder))?;
        let (path, kind) = (
            entry.path(),
            entry.file_type().map_err(FolderError::io("read", folder))?,
        );
        let relative = path.strip_prefix(root).unwrap_or(&path);
        let relative: Vec<String> = relative
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        let relative = relative.join("/");
        if kind.is_dir() {
            walk(root, &path, files)?;
        } else if !LEFT_OUT.contains(&relative.as_str()) {
            files.push(hash_file(&path, relative)?);
        }
    }
    Ok(())
}

fn hash_file(path: &Path, relative: String) -> Result<Sealed, FolderError> {
    let mut file = File::open(path).map_err(FolderError::io("read", path))?;
    let (mut blocks, mut bytes) = (Vec::new(), 0u64);
    let mut block = [0u8; BLOCK_BYTES];
    loop {
        let filled = fill(&mut file, &mut block).map_err(FolderError::io("read", path))?;
        if filled == 0 {
            return Ok(Sealed {
                path: relative,
                bytes,
                blocks,
            });
        }
        bytes += filled as u64;
        blocks.push(Hash::of_blob(&block[..filled]));
    }
}

fn fill(file: &mut File, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_byte_is_found_and_placed() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::at(temporary.path());
        let owner = identity::create(&folder.key()).unwrap().peer();
        fs::create_dir(folder.blobs()).unwrap();
        let data: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        let path = folder.blobs().join("blob");
        fs::write(&path, &data).unwrap();
        assert_eq!(check(&folder, owner).unwrap(), None);
        write(&folder).unwrap();
        assert_eq!(check(&folder, owner).unwrap(), Some(vec![]));
        for (place, range) in [
            (0, "byte 0 and byte 4095"),
            (5000, "byte 4096 and byte 8191"),
            (9999, "byte 8192 and byte 9999"),
        ] {
            let mut bad = data.clone();
            bad[place] ^= 1;
            fs::write(&path, &bad).unwrap();
            let found = check(&folder, owner).unwrap().unwrap();
            assert!(
                found.len() == 1 && found[0].path == path && found[0].what.contains(range),
                "{found:?}"
            );
        }
        fs::write(&path, &data[1..]).unwrap();
        assert!(check(&folder, owner).unwrap().unwrap()[0].what.contains("9999 bytes"));
        fs::remove_file(&path).unwrap();
        assert!(check(&folder, owner).unwrap().unwrap()[0].what.contains("missing"));
        fs::write(&path, &data).unwrap();
        let good = fs::read(folder.seal()).unwrap();
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 4;
            fs::write(folder.seal(), &bad).unwrap();
            let caught = check(&folder, owner).map_or(true, |found| found.is_none_or(|found| !found.is_empty()));
            assert!(caught, "byte {place} of the seal");
        }
    }
}
