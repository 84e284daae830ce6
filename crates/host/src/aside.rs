//! Where what is damaged goes: `damaged-1` in the node's folder, or the next number. Nothing is ever deleted.

use crate::folder::{Folder, FolderError, make};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// A folder for what is damaged, made when the first thing goes there.
#[derive(Debug)]
pub(crate) struct Aside {
    root: PathBuf,
    place: OnceLock<PathBuf>,
}

impl Aside {
    pub(crate) fn new(folder: &Folder) -> Self {
        Self {
            root: folder.path().to_path_buf(),
            place: OnceLock::new(),
        }
    }

    /// Moves a file or folder of the node's folder there, under the path that it had. Where it is now.
    pub(crate) fn take(&self, path: &Path) -> Result<PathBuf, FolderError> {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        let target = self.made()?.join(below);
        if let Some(parent) = target.parent() {
            make(parent)?;
        }
        fs::rename(path, &target).map_err(FolderError::io("move away", path))?;
        Ok(target)
    }

    fn made(&self) -> Result<&PathBuf, FolderError> {
        if let Some(place) = self.place.get() {
            return Ok(place);
        }
        for number in 1u32.. {
            let place = self.root.join(format!("damaged-{number}"));
            match fs::create_dir(&place) {
                Ok(()) => return Ok(self.place.get_or_init(|| place)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(FolderError::io("make the folder", &place)(error)),
            }
        }
        Err(FolderError::io("make a folder in", &self.root)(
            io::ErrorKind::AlreadyExists.into(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_goes_to_a_folder_of_its_own_and_earlier_ones_stay() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::at(temporary.path());
        fs::create_dir(temporary.path().join("damaged-1")).unwrap();
        fs::write(temporary.path().join("damaged-1/ledger.redb"), "earlier").unwrap();
        fs::create_dir_all(folder.consensus().join("simplex")).unwrap();
        fs::write(folder.ledger(), "bad").unwrap();
        fs::write(folder.consensus().join("simplex/00"), "bad too").unwrap();
        let aside = Aside::new(&folder);
        assert!(!temporary.path().join("damaged-2").exists(), "not before it is needed");
        let moved = aside.take(&folder.ledger()).unwrap();
        assert_eq!(moved, temporary.path().join("damaged-2/ledger.redb"));
        aside.take(&folder.consensus()).unwrap();
        let read = |path: &str| fs::read_to_string(temporary.path().join(path)).unwrap();
        assert_eq!(read("damaged-2/ledger.redb"), "bad");
        assert_eq!(read("damaged-2/consensus/simplex/00"), "bad too");
        assert_eq!(read("damaged-1/ledger.redb"), "earlier");
        assert!(!folder.ledger().exists() && !folder.consensus().exists());
    }
}
