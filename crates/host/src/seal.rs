//! The seal: hashes of every file of a node in its folder, made when its owner ends cleanly, so that any byte that
//! changes later is found and placed.
//!
//! Hashes are taken per block of 4 KiB: the place of a change is named to within one. Only plain files that are
//! the node's are covered; what else lies in the folder, and what is no file, is never opened.

use crate::{
    contents::{Contents, Entry, Kind, scan},
    folder::{Folder, FolderError, open_file, read_limited, write_whole},
    identity,
};
use atoll_protocol::{Domain, Hash, Keypair, PeerId, Signed, decode, encode};
use borsh::{BorshDeserialize, BorshSerialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    ops::ControlFlow,
    path::{Path, PathBuf},
};
use thiserror::Error;

const VERSION: u16 = 2;
const BLOCK_BYTES: usize = 4096;
const SEAL_BYTES_MAX: u64 = 1 << 30;
const SEAL: &str = "seal";
const KEY: &str = "key";

/// Hears how many bytes were read, of how many; whoever breaks ends the work.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

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
    #[error("{} is damaged, or of another version", .0.display())]
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

/// What is sealed.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Content {
    version: u16,
    export: bool,
    /// Whose folder it is, if that is known; whoever signs is meant where it is signed.
    owner: Option<PeerId>,
    /// By path, ascending.
    files: Vec<Sealed>,
}

#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
enum Stored {
    Signed(Signed<Content>),
    /// A list of somebody without the key: it says what was there, not who says so.
    List(Content),
}

/// A seal whose signature, if it has one, was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// Whose folder it is: who signed, or, where nobody did, who is said to be the owner.
    pub owner: Option<PeerId>,
    /// Whether the owner signed it.
    pub signed: bool,
    /// Whether `atoll export` wrote it: for others, without the owner's secrets.
    pub export: bool,
    files: Vec<Sealed>,
}

/// A difference between a folder and its seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The file.
    pub path: PathBuf,
    /// What is different, and where.
    pub what: String,
    /// Whether nothing is wrong with that: a secret that its owner keeps.
    pub allowed: bool,
}

/// What became of sealing a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Whether there is a seal now; there is none where it was interrupted.
    pub sealed: bool,
    /// What the seal does not cover although its place is the node's, or because nobody may open it: path, and why.
    pub left_out: Vec<(PathBuf, String)>,
}

/// Removes the seal: the folder is about to change.
pub fn remove(folder: &Folder) -> Result<(), SealError> {
    match fs::remove_file(folder.seal()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FolderError::io("remove", &folder.seal())(error).into())
        }
        _ => Ok(()),
    }
}

/// Seals a node's folder with its key.
pub fn write(folder: &Folder, progress: Progress<'_>) -> Result<Written, SealError> {
    let keypair = identity::read(&folder.key())?;
    write_as(folder, (Some(&keypair), None), false, progress)
}

/// Seals an exported folder, signed if there is a key to do so; else `owner` is who is said to be its owner.
pub(crate) fn write_export(
    folder: &Folder,
    (keypair, owner): (Option<&Keypair>, Option<PeerId>),
    progress: Progress<'_>,
) -> Result<Written, SealError> {
    write_as(folder, (keypair, owner), true, progress)
}

fn write_as(
    folder: &Folder,
    (keypair, owner): (Option<&Keypair>, Option<PeerId>),
    export: bool,
    progress: Progress<'_>,
) -> Result<Written, SealError> {
    let contents = scan(folder.path()).map_err(FolderError::io("read", folder.path()))?;
    let mut left_out = not_covered(&contents);
    let Some(hashed) = hash_all(&contents.files, progress) else {
        return Ok(Written {
            sealed: false,
            left_out,
        });
    };
    let mut files = Vec::new();
    for (entry, hashed) in contents.files.iter().zip(hashed) {
        match hashed {
            Some(Ok(sealed)) => files.push(sealed),
            Some(Err(error)) if is_left_out(&error) => left_out.push((entry.path.clone(), error.to_string())),
            Some(Err(error)) => return Err(error.into()),
            None => {} // the seal itself
        }
    }
    let content = Content {
        version: VERSION,
        export,
        owner: keypair.map(Keypair::peer).or(owner),
        files,
    };
    let stored = match keypair {
        Some(keypair) => Stored::Signed(keypair.sign(Domain::Seal, content)),
        None => Stored::List(content),
    };
    write_whole(&folder.seal(), &encode(&stored))?;
    Ok(Written { sealed: true, left_out })
}

/// A file that is gone again, that became something else, or that is not for this user, is no reason to end badly.
fn is_left_out(error: &FolderError) -> bool {
    match error {
        FolderError::NotAFile { .. } => true,
        FolderError::Io { cause, .. } => {
            matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
        }
        _ => false,
    }
}

fn not_covered(contents: &Contents) -> Vec<(PathBuf, String)> {
    let special = contents
        .foreign
        .iter()
        .filter(|entry| !matches!(entry.kind, Kind::File | Kind::Folder));
    let odd = contents.odd.iter().chain(special);
    let odd = odd.map(|entry| (entry.path.clone(), format!("is {}", entry.kind)));
    let unreadable = contents.unreadable.iter();
    let unreadable = unreadable.map(|(entry, error)| (entry.path.clone(), format!("cannot be read: {error}")));
    odd.chain(unreadable).collect()
}

/// The hashes of each of these files but the seal; nothing if interrupted.
fn hash_all(files: &[Entry], progress: Progress<'_>) -> Option<Vec<Option<Result<Sealed, FolderError>>>> {
    let size = |entry: &Entry| fs::metadata(&entry.path).map_or(0, |found| found.len());
    let of: u64 = files.iter().map(size).sum();
    let mut done = 0;
    let mut all = Vec::with_capacity(files.len());
    for entry in files {
        if entry.name == SEAL {
            all.push(None);
            continue;
        }
        all.push(match hash_file(entry, (&mut done, of), progress) {
            Ok(Some(sealed)) => Some(Ok(sealed)),
            Ok(None) => return None,
            Err(error) => Some(Err(error)),
        });
    }
    Some(all)
}

fn hash_file(
    entry: &Entry,
    (done, of): (&mut u64, u64),
    progress: Progress<'_>,
) -> Result<Option<Sealed>, FolderError> {
    let mut file = open_file(&entry.path)?;
    let (mut blocks, mut bytes) = (Vec::new(), 0u64);
    let mut block = [0u8; BLOCK_BYTES];
    loop {
        let filled = fill(&mut file, &mut block).map_err(FolderError::io("read", &entry.path))?;
        if filled == 0 {
            return Ok(Some(Sealed {
                path: entry.name.clone(),
                bytes,
                blocks,
            }));
        }
        bytes += filled as u64;
        *done += filled as u64;
        blocks.push(Hash::of_blob(&block[..filled]));
        if progress(*done, of.max(*done)).is_break() {
            return Ok(None);
        }
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

/// Reads a folder's seal. Nothing if it has none, because its node runs or was killed.
pub fn read(folder: &Folder) -> Result<Option<Seal>, SealError> {
    let path = folder.seal();
    if matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let damaged = || SealError::Damaged(path.clone());
    let bytes = read_limited(&path, SEAL_BYTES_MAX)?;
    let stored: Stored = decode(&bytes, bytes.len()).map_err(|_| damaged())?;
    let (content, signer) = match stored {
        Stored::List(content) => (content, None),
        Stored::Signed(signed) => {
            let verified = signed.verify(Domain::Seal).map_err(|_| damaged())?;
            (verified.body().clone(), Some(verified.signer()))
        }
    };
    let owner = signer.or(content.owner);
    let list_of_a_node = signer.is_none() && !content.export; // a node signs always
    if content.version != VERSION || list_of_a_node || content.owner != owner {
        return Err(damaged());
    }
    Ok(Some(Seal {
        owner,
        signed: signer.is_some(),
        export: content.export,
        files: content.files,
    }))
}

impl Seal {
    /// What is different from `contents`, which is now in the folder at `root`.
    pub fn differences(&self, root: &Path, contents: &Contents) -> Vec<Difference> {
        let sealed: BTreeMap<&str, &Sealed> = self.files.iter().map(|file| (file.path.as_str(), file)).collect();
        let now: BTreeMap<&str, &Entry> = contents
            .files
            .iter()
            .map(|entry| (entry.name.as_str(), entry))
            .collect();
        let odd: BTreeMap<&str, Kind> = contents
            .odd
            .iter()
            .map(|entry| (entry.name.as_str(), entry.kind))
            .collect();
        let mut all = Vec::new();
        let mut differ = |name: &str, what: String, allowed: bool| {
            all.push(Difference {
                path: root.join(name),
                what,
                allowed,
            });
        };
        for (name, file) in &sealed {
            let is_key = *name == KEY;
            match (now.get(name), odd.get(name)) {
                (Some(entry), _) => match hash_file(entry, (&mut 0, 0), &mut |_, _| ControlFlow::Continue(())) {
                    Ok(Some(found)) if found == **file => {}
                    Ok(Some(found)) => differ(name, change(file, &found), false),
                    Ok(None) => {}
                    Err(error) => differ(name, error.to_string(), is_key && is_left_out(&error)),
                },
                (None, Some(kind)) => differ(name, format!("is {kind}; a file was sealed"), false),
                // said once, of the folder
                (None, None) if is_below_unreadable(name, contents) => {}
                (None, None) => differ(name, "is missing".into(), is_key),
            }
        }
        for name in now.keys().filter(|name| **name != SEAL && !sealed.contains_key(*name)) {
            differ(name, "was not there when the folder was sealed".into(), *name == KEY);
        }
        all
    }
}

fn is_below_unreadable(name: &str, contents: &Contents) -> bool {
    let below = |folder: &str| name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    contents.unreadable.iter().any(|(folder, _)| below(&folder.name))
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

#[cfg(all(test, unix))]
mod tests;
