//! Which folders are nodes', and which of them are of one node.

use crate::{
    contents::{Entry, Kind, shown},
    folder::{Folder, FolderError},
    identity,
};
use atoll_protocol::PeerId;
use std::{collections::BTreeMap, fs, io, path::Path};

/// What makes a folder look like a node's: a damaged or missing file must not make it look like something else.
const PARTS: [&str; 5] = ["key", "charter.toml", "ledger.redb", "seal", "node.toml"];

/// What is in a folder of nodes.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) nodes: Vec<Folder>,
    /// Everything else.
    pub(super) others: Vec<Entry>,
    /// Folders that may be nodes', and why nobody can tell.
    pub(super) unreadable: Vec<FolderError>,
}

/// The folders of nodes in `path`: itself, or those directly below it, in order.
///
/// # Errors
/// Where a folder cannot be looked into, so that it may be one.
pub fn node_folders(path: &Path) -> Result<Vec<Folder>, FolderError> {
    let found = look(path)?;
    match found.unreadable.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(found.nodes),
    }
}

pub(super) fn look(path: &Path) -> Result<Found, FolderError> {
    let mut found = Found::default();
    if !path.is_dir() {
        return Ok(found);
    }
    if looks_like_one(path)? {
        found.nodes.push(Folder::at(path));
        return Ok(found);
    }
    let read = FolderError::io("read", path);
    let entries = fs::read_dir(path)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(read)?;
    let mut below: Vec<_> = entries.iter().map(fs::DirEntry::path).collect();
    below.sort();
    for path in below {
        let name = path.file_name().map(|name| shown(Path::new(name))).unwrap_or_default();
        // half of an export or of a demo that was killed is no node's
        let hidden = name.starts_with('.');
        match looks_like_one(&path) {
            Ok(true) if !hidden => found.nodes.push(Folder::at(path)),
            // what a file system or a desktop keeps for itself is no node's
            Err(error) if name != "lost+found" && !hidden => found.unreadable.push(error),
            Ok(_) | Err(_) => {
                let kind = path
                    .symlink_metadata()
                    .map_or(Kind::Unknown, |of| Kind::of(of.file_type()));
                found.others.push(Entry { name, path, kind });
            }
        }
    }
    Ok(found)
}

fn looks_like_one(path: &Path) -> Result<bool, FolderError> {
    if !path.is_dir() {
        return Ok(false);
    }
    for part in PARTS {
        match fs::metadata(path.join(part)) {
            Ok(part) if part.is_file() => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(FolderError::io("look into", path)(error));
            }
            _ => {}
        }
    }
    Ok(false)
}

/// Two of these folders that hold the same key, which only one node may have. A folder without a key that can be
/// read is nobody's twin.
pub fn twins(folders: &[Folder]) -> Option<(Folder, Folder, PeerId)> {
    let mut seen: BTreeMap<PeerId, &Folder> = BTreeMap::new();
    folders.iter().find_map(|folder| {
        let key = identity::read_whoever_may(&folder.key()).ok()?.peer();
        let twin = seen.insert(key, folder)?;
        Some((twin.clone(), folder.clone(), key))
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    #[test]
    fn a_copy_of_a_nodes_folder_is_its_twin() {
        let temporary = tempfile::tempdir().unwrap();
        let folders = ["a", "b", "c"].map(|name| Folder::at(temporary.path().join(name)));
        folders.iter().for_each(|folder| fs::create_dir(folder.path()).unwrap());
        let key = identity::create(&folders[0].key()).unwrap().peer();
        identity::create(&folders[1].key()).unwrap();
        assert!(twins(&folders).is_none());
        fs::copy(folders[0].key(), folders[2].key()).unwrap();
        fs::set_permissions(folders[2].key(), Permissions::from_mode(0o644)).unwrap();
        let (one, two, twin) = twins(&folders).unwrap();
        assert_eq!(
            (one.path(), two.path(), twin),
            (folders[0].path(), folders[2].path(), key)
        );
    }

    #[test]
    fn a_folder_that_cannot_be_looked_into_is_not_passed_over() {
        let temporary = tempfile::tempdir().unwrap();
        for name in ["node-1", "node-2", "lost+found", "notes"] {
            fs::create_dir(temporary.path().join(name)).unwrap();
        }
        for name in ["node-1", "node-2"] {
            fs::write(temporary.path().join(name).join("key"), b"").unwrap();
        }
        let names = || -> Vec<String> {
            let found = node_folders(temporary.path()).unwrap();
            found
                .iter()
                .map(|node| node.path().file_name().unwrap().to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(names(), ["node-1", "node-2"]);
        let close = |name: &str, mode| fs::set_permissions(temporary.path().join(name), Permissions::from_mode(mode));
        close("lost+found", 0o000).unwrap();
        assert_eq!(names(), ["node-1", "node-2"]);
        close("node-2", 0o000).unwrap();
        // whoever may read everything, such as root, reads this too
        if fs::read_dir(temporary.path().join("node-2")).is_err() {
            let said = node_folders(temporary.path()).unwrap_err().to_string();
            assert!(said.contains("node-2") && said.contains("Permission denied"), "{said}");
        }
        close("node-2", 0o755).unwrap();
        close("lost+found", 0o755).unwrap();
    }
}
