//! A node's data folder: which file is what, one owner at a time, writes that are whole or not there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// What can go wrong with a folder.
#[derive(Debug, Error)]
pub enum FolderError {
    /// A file could not be read or written.
    #[error("cannot {what} {path}: {cause}{hint}", path = path.display(), hint = hint(cause))]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Another process has it.
    #[error("{path} is in use by another atoll process; stop that one or choose another folder", path = .0.display())]
    InUse(PathBuf),
    /// It is not a node's folder.
    #[error("{path} is not a node's folder ({missing} is missing); `atoll init` makes one", path = path.display())]
    NotANode {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        missing: &'static str,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ". The disk is full: free some space and start again; what was written before is intact"
        }
        io::ErrorKind::PermissionDenied => ". Check who owns the file",
        _ => "",
    }
}

impl FolderError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |cause| Self::Io { what, path, cause }
    }
}

/// The paths of a node's folder.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at `path`, which need not exist.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The run's rules.
    pub fn charter(&self) -> PathBuf {
        self.0.join("charter.toml")
    }

    /// The node's secret.
    pub fn key(&self) -> PathBuf {
        self.0.join("key")
    }

    /// Where to listen and where the others are.
    pub fn settings(&self) -> PathBuf {
        self.0.join("node.toml")
    }

    /// Final blocks and certificates.
    pub fn ledger(&self) -> PathBuf {
        self.0.join("ledger.redb")
    }

    /// The blob store.
    pub fn blobs(&self) -> PathBuf {
        self.0.join("blobs")
    }

    /// Where the blob store keeps the bytes of `hash`.
    pub fn blob(&self, hash: &atoll_protocol::Hash) -> PathBuf {
        self.blobs().join("data").join(format!("{hash}.data"))
    }

    /// The consensus engine's own storage.
    pub fn consensus(&self) -> PathBuf {
        self.0.join("consensus")
    }

    /// What only this node knows: error feedback and inner optimizer.
    pub fn trainer(&self) -> PathBuf {
        self.0.join("trainer.bin")
    }

    /// Checkpoints, a folder each.
    pub fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }

    /// The checkpoint of the state after `round`.
    pub fn checkpoint(&self, round: atoll_protocol::Round) -> PathBuf {
        self.checkpoints().join(format!("round-{:06}", round.0))
    }

    /// Events, a JSON object a line.
    pub fn log(&self) -> PathBuf {
        self.0.join("events.jsonl")
    }

    /// Where the run stands, as the running node last wrote it.
    pub fn status(&self) -> PathBuf {
        self.0.join("status.json")
    }

    /// Hashes of every file here, made at a clean end.
    pub fn seal(&self) -> PathBuf {
        self.0.join("seal")
    }

    fn lock_file(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Checks that this is a node's folder.
    pub fn expect_node(&self) -> Result<(), FolderError> {
        for (file, missing) in [(self.key(), "key"), (self.charter(), "charter.toml")] {
            if !file.is_file() {
                return Err(FolderError::NotANode {
                    path: self.0.clone(),
                    missing,
                });
            }
        }
        Ok(())
    }

    /// Takes the folder for this process until the lock is dropped.
    pub fn lock(&self) -> Result<FolderLock, FolderError> {
        let path = self.lock_file();
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(FolderError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(FolderLock { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(FolderError::InUse(self.0.clone())),
            Err(fs::TryLockError::Error(cause)) => Err(FolderError::Io {
                what: "lock",
                path,
                cause,
            }),
        }
    }
}

/// Holds a folder for this process.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Writes `bytes` to `path` so that after a crash either the old file or the new one is there, whole.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    write_whole_with(path, bytes, OpenOptions::new().create(true).truncate(true).write(true))
}

fn write_whole_with(path: &Path, bytes: &[u8], options: &OpenOptions) -> Result<(), FolderError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(cause) = written {
        let _ = fs::remove_file(&temporary); // what is half written is of no use
        return Err(FolderError::Io {
            what: "write",
            path: path.to_path_buf(),
            cause,
        });
    }
    fs::rename(&temporary, path).map_err(FolderError::io("write", path))?;
    sync_parent(path)
}

/// Writes a secret: readable by its owner alone, and never over an existing file.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(FolderError::io("create", path))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(FolderError::io("write", path))?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> Result<(), FolderError> {
    #[cfg(unix)]
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        File::open(parent)
            .and_then(|folder| folder.sync_all())
            .map_err(FolderError::io("sync", parent))?;
    }
    Ok(())
}

/// Makes a folder and its parents.
pub fn make(path: &Path) -> Result<(), FolderError> {
    fs::create_dir_all(path).map_err(FolderError::io("make the folder", path))
}

/// Reads a file of at most `bytes_max`.
pub fn read_limited(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FolderError> {
    let length = fs::metadata(path).map_err(FolderError::io("read", path))?.len();
    if length > bytes_max {
        let cause = io::Error::other(format!("{length} bytes; at most {bytes_max} are allowed"));
        return Err(FolderError::Io {
            what: "read",
            path: path.to_path_buf(),
            cause,
        });
    }
    fs::read(path).map_err(FolderError::io("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::at(temporary.path());
        let lock = folder.lock().unwrap();
        assert!(matches!(folder.lock(), Err(FolderError::InUse(_))));
        drop(lock);
        folder.lock().unwrap();
    }

    #[test]
    fn a_secret_is_for_its_owner_and_never_overwritten() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("key");
        write_secret(&path, b"one").unwrap();
        assert!(write_secret(&path, b"two").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_and_the_old_file_stays() {
        let full = write_whole_with(Path::new("/dev/full"), b"x", OpenOptions::new().write(true));
        assert!(full.is_err(), "/dev/full.new cannot be made");
        let error = File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
            .write_all(b"x")
            .unwrap_err();
        let text = FolderError::io("write", Path::new("ledger"))(error).to_string();
        assert!(text.contains("The disk is full"), "{text}");
    }
}
