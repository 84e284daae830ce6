//! Whose a folder's private state is. Key, run and state belong together: with another's votes or error feedback a
//! node says things twice or spoils what it trained, so nothing starts where they do not fit.

use crate::{
    contents::{Entry, Kind, scan, shown},
    folder::{Folder, FolderError, make, read_limited, write_whole},
    private::{Private, PrivateError},
};
use atoll_protocol::{Charter, Hash, PeerId};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use thiserror::Error;

const FIRST_LINE: &str = "atoll owner v1: whose votes are in this folder";
const WAY_OUT: &str = "put back what belongs together, or start this key in a folder of its own; nothing was changed";

/// Why a node does not start in a folder.
#[derive(Debug, Error)]
pub enum OwnerError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The private state cannot be used at all.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// The state is of another node.
    #[error("{} is of {theirs}, the key in this folder is of {ours}: {}", shown(path), WAY_OUT)]
    OtherNode {
        /// The state.
        path: PathBuf,
        /// Whose it is: name and key.
        theirs: String,
        /// Whose the key is.
        ours: String,
    },
    /// The state is of another run.
    #[error(
        "{} is of another run (genesis {}) than charter.toml (genesis {}): {}",
        shown(path), theirs.short(), ours.short(), WAY_OUT
    )]
    OtherRun {
        /// The state.
        path: PathBuf,
        /// Its genesis hash.
        theirs: Hash,
        /// The charter's.
        ours: Hash,
    },
    /// Nothing says whose the votes are.
    #[error(
        "{} does not say whose it is ({what}): votes of another node may be in it. Put back the file from a \
         copy of this folder; nothing was changed",
        shown(path)
    )]
    Unknown {
        /// The file that says it.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Something stands where the node, or the consensus engine, would take it for its own.
    #[error("{} is {kind} {why}: move it away", shown(path))]
    InTheWay {
        /// What is in the way.
        path: PathBuf,
        /// What it is.
        kind: Kind,
        /// In whose way.
        why: &'static str,
    },
}

/// Checks that everything private in the folder is of this peer and run. Nothing is written.
pub fn check(folder: &Folder, charter: &Charter, me: PeerId) -> Result<(), OwnerError> {
    if let Some(private) = Private::read_anyones(&folder.trainer())? {
        fits(&folder.trainer(), private.bound_to(), (charter, me))?;
    }
    if let Some(bound) = read(folder)? {
        fits(&file(folder), bound, (charter, me))?;
    }
    in_the_way(folder)
}

/// Writes down whose votes the folder holds, before the first; what is there already was checked.
pub fn claim(folder: &Folder, charter: &Charter, me: PeerId) -> Result<(), OwnerError> {
    if read(folder)?.is_some() {
        return Ok(());
    }
    make(&folder.consensus())?;
    let text = format!("{FIRST_LINE}\nkey {me}\ngenesis {}\n", charter.genesis());
    Ok(write_whole(&file(folder), text.as_bytes())?)
}

/// The run and the peer whose votes the folder holds; nothing where there are none.
pub(crate) fn read(folder: &Folder) -> Result<Option<(Hash, PeerId)>, OwnerError> {
    let path = file(folder);
    let refuse = |what| OwnerError::Unknown {
        path: path.clone(),
        what,
    };
    if matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        return match has_votes(folder)? {
            true => Err(refuse("it is missing; earlier versions of this program wrote none")),
            false => Ok(None),
        };
    }
    let bytes = read_limited(&path, 1024)?;
    let text = String::from_utf8(bytes).map_err(|_| refuse("it is damaged"))?;
    let parsed = || {
        let rest = text.strip_prefix(FIRST_LINE)?.strip_prefix("\nkey ")?;
        let (key, genesis) = rest.strip_suffix('\n')?.split_once("\ngenesis ")?;
        Some((genesis.parse().ok()?, key.parse().ok()?))
    };
    parsed().map(Some).ok_or_else(|| refuse("it is damaged"))
}

fn file(folder: &Folder) -> PathBuf {
    folder.consensus().join("owner")
}

/// Whether the engine's storage is there, which holds what this node has voted: it makes folders.
pub(crate) fn has_votes(folder: &Folder) -> Result<bool, FolderError> {
    let path = folder.consensus();
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(FolderError::io("read", &path)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(FolderError::io("read", &path))?;
        if entry.file_type().map_err(FolderError::io("read", &path))?.is_dir() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn fits(path: &Path, (genesis, peer): (Hash, PeerId), (charter, me): (&Charter, PeerId)) -> Result<(), OwnerError> {
    let ours = charter.genesis();
    if genesis != ours {
        return Err(OwnerError::OtherRun {
            path: path.to_path_buf(),
            theirs: genesis,
            ours,
        });
    }
    let named = |peer: &PeerId| match charter.keys().any(|key| key == *peer) {
        true => format!("{} (key {})", charter.name_of(peer), peer.short()),
        false => format!("the key {}, which is no member's", peer.short()),
    };
    match peer == me {
        true => Ok(()),
        false => Err(OwnerError::OtherNode {
            path: path.to_path_buf(),
            theirs: named(&peer),
            ours: named(&me),
        }),
    }
}

/// A node that opens a pipe waits for ever, and the engine stops at any file in its folders that is not its own.
fn in_the_way(folder: &Folder) -> Result<(), OwnerError> {
    let contents = scan(folder.path()).map_err(FolderError::io("read", folder.path()))?;
    // a link may lead to a file or folder elsewhere, such as on a larger disk
    let leads = |path: &Path| fs::metadata(path).is_ok_and(|found| found.is_file() || found.is_dir());
    let odd = contents
        .odd
        .into_iter()
        .filter(|entry| entry.kind != Kind::Link || !leads(&entry.path));
    let odd = odd.map(|entry| (entry, "where the node has a file or folder of its own"));
    let strange = contents
        .foreign
        .into_iter()
        .filter(|entry| is_in_engines_way(&entry.name));
    let strange = strange.map(|entry| (entry, "that is not the node's, and consensus stops at it"));
    match odd.chain(strange).next() {
        Some((Entry { path, kind, .. }, why)) => Err(OwnerError::InTheWay { path, kind, why }),
        None => Ok(()),
    }
}

/// Whether the engine would stop at something of this name below a node's folder.
pub(crate) fn is_in_engines_way(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    matches!(parts[..], ["consensus", _, _])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::tests::charter_of;

    const ME: PeerId = PeerId([1; 32]);
    const OTHER: PeerId = PeerId([2; 32]);

    fn folder() -> (tempfile::TempDir, Folder, Charter) {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::at(temporary.path());
        (temporary, folder, charter_of(&[ME, OTHER]))
    }

    fn refused(folder: &Folder, charter: &Charter, me: PeerId) -> String {
        check(folder, charter, me).unwrap_err().to_string()
    }

    #[test]
    fn what_was_claimed_is_its_owners_alone() {
        let (_temporary, folder, charter) = folder();
        check(&folder, &charter, ME).unwrap();
        assert!(!folder.consensus().exists(), "a check writes nothing");
        claim(&folder, &charter, ME).unwrap();
        check(&folder, &charter, ME).unwrap();
        claim(&folder, &charter, ME).unwrap();
        let said = refused(&folder, &charter, OTHER);
        assert!(
            said.contains("consensus/owner is of m0 (key 01010101), the key in this folder is of m1 (key 02020202)"),
            "{said}"
        );
        let other = Charter {
            seed: 9,
            ..charter.clone()
        };
        assert!(refused(&folder, &other, ME).contains("consensus/owner is of another run"));
        let good = fs::read(file(&folder)).unwrap();
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 1;
            fs::write(file(&folder), bad).unwrap();
            assert!(check(&folder, &charter, ME).is_err(), "byte {place}");
        }
    }

    #[test]
    fn error_feedback_is_its_owners_alone() {
        let (_temporary, folder, charter) = folder();
        Private::new((charter.genesis(), OTHER), vec![], vec![])
            .write(&folder.trainer())
            .unwrap();
        let said = refused(&folder, &charter, ME);
        assert!(said.contains("trainer.bin is of m1 (key 02020202)"), "{said}");
        check(&folder, &charter, OTHER).unwrap();
    }

    #[test]
    fn votes_of_nobody_and_files_of_others_among_them_are_refused() {
        let (_temporary, folder, charter) = folder();
        let partition = folder.consensus().join("simplex");
        fs::create_dir_all(&partition).unwrap();
        assert!(refused(&folder, &charter, ME).contains("does not say whose it is (it is missing;"));
        let finder = partition.join(".DS_Store");
        fs::remove_dir(&partition).unwrap();
        claim(&folder, &charter, ME).unwrap();
        fs::create_dir(&partition).unwrap();
        fs::write(partition.join("00ff"), b"").unwrap();
        fs::write(folder.consensus().join(".DS_Store"), b"").unwrap();
        check(&folder, &charter, ME).unwrap();
        fs::write(&finder, b"").unwrap();
        let said = refused(&folder, &charter, ME);
        fs::remove_file(&finder).unwrap();
        assert!(
            said.contains(".DS_Store is a file that is not the node's, and consensus stops at it: move it away"),
            "{said}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn what_a_node_would_wait_for_is_refused_and_a_link_is_followed() {
        let (temporary, folder, charter) = folder();
        let elsewhere = tempfile::tempdir().unwrap();
        let link = |to: &Path| std::os::unix::fs::symlink(to, folder.blobs()).unwrap();
        link(elsewhere.path());
        check(&folder, &charter, ME).unwrap();
        fs::remove_file(folder.blobs()).unwrap();
        link(&temporary.path().join("nowhere"));
        assert!(refused(&folder, &charter, ME).contains("blobs is a symbolic link where the node has"));
        fs::remove_file(folder.blobs()).unwrap();
        assert!(
            std::process::Command::new("mkfifo")
                .arg(folder.log())
                .status()
                .unwrap()
                .success()
        );
        let said = refused(&folder, &charter, ME);
        assert!(
            said.contains("events.jsonl is a pipe where the node has a file or folder of its own: move it away"),
            "{said}"
        );
    }
}
