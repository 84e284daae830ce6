//! A node's data folder: which file is what, one owner at a time, writes that are whole or not there.

use crate::contents::{Kind, shown, taken};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use thiserror::Error;

/// A look at whether a folder is in use holds its lock for a moment, so a node that starts tries more than once.
const LOCK_TRIES: u32 = 20;
const LOCK_RETRY: Duration = Duration::from_millis(15);

/// What can go wrong with a folder.
#[derive(Debug, Error)]
pub enum FolderError {
    /// A file could not be read or written.
    #[error("cannot {what} {path}: {cause}{hint}", path = shown(path), hint = hint(cause))]
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
    /// A pipe, a folder, a socket or a device stands where a file is to be read; it is not opened.
    #[error("{path} is {kind}, not a file; move it away", path = shown(path))]
    NotAFile {
        /// Where.
        path: PathBuf,
        /// What it is.
        kind: Kind,
    },
    /// It is not a node's folder.
    #[error("{path} is not a node's folder ({missing} is missing); {remedy}", path = shown(path), remedy = remedy(path))]
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
        io::ErrorKind::PermissionDenied => ". Check who owns it and who may read it",
        _ => "",
    }
}

fn remedy(folder: &Path) -> &'static str {
    match taken(folder).is_empty() {
        true => "`atoll init` makes one",
        false => "what else is here is of a node: put the file back, or take another folder",
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

    /// There while the blob store's index is made again.
    pub(crate) fn index_marker(&self) -> PathBuf {
        self.0.join("blobs.rebuilding")
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

    /// Checks that a node can run in this folder: it has a key and a charter.
    pub fn expect_node(&self) -> Result<(), FolderError> {
        self.expect(&[(self.key(), "key"), (self.charter(), "charter.toml")])
    }

    /// Checks that this folder can be read as a node's, such as one that `atoll export` wrote: that needs no key.
    pub fn expect_readable(&self) -> Result<(), FolderError> {
        self.expect(&[(self.charter(), "charter.toml")])
    }

    fn expect(&self, files: &[(PathBuf, &'static str)]) -> Result<(), FolderError> {
        for (file, missing) in files {
            match fs::metadata(file) {
                Ok(found) if found.is_file() => {}
                Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(FolderError::io("read", file)(cause));
                }
                _ => {
                    return Err(FolderError::NotANode {
                        path: self.0.clone(),
                        missing,
                    });
                }
            }
        }
        Ok(())
    }

    /// Takes the folder for this process until the lock is dropped.
    pub fn lock(&self) -> Result<FolderLock, FolderError> {
        let path = self.lock_file();
        refuse_odd(&path)?;
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(FolderError::io("open", &path))?;
        for left in (0..LOCK_TRIES).rev() {
            match file.try_lock() {
                Ok(()) => return Ok(FolderLock { _file: file }),
                Err(fs::TryLockError::WouldBlock) if left == 0 => {}
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_RETRY),
                Err(fs::TryLockError::Error(cause)) => {
                    return Err(FolderError::Io {
                        what: "lock",
                        path,
                        cause,
                    });
                }
            }
        }
        Err(FolderError::InUse(self.0.clone()))
    }

    /// Whether a node runs in this folder, as far as can be seen: nothing is written, and a lock that is missing,
    /// or cannot be read or locked, tells of none.
    pub fn in_use(&self) -> bool {
        matches!(self.lock_to_read(), Err(FolderError::InUse(_)))
    }

    /// Keeps nodes from starting in this folder while it is read; refused while one runs. Nothing is written, so
    /// there is nothing to keep where the folder has no lock, or not one for this user.
    pub fn lock_to_read(&self) -> Result<Option<FolderLock>, FolderError> {
        let path = self.lock_file();
        if refuse_odd(&path).is_err() {
            return Ok(None);
        }
        let Ok(file) = File::open(&path) else { return Ok(None) };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(FolderLock { _file: file })),
            Err(fs::TryLockError::WouldBlock) => Err(FolderError::InUse(self.0.clone())),
            Err(fs::TryLockError::Error(_)) => Ok(None), // a file system without locks
        }
    }
}

/// Holds a folder for this process.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// A path beside `path` that only this process uses: `.NAME.partial-PROCESS-NUMBER`.
pub(crate) fn beside(path: &Path) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.partial-{}-{number}", std::process::id()))
}

/// Writes `bytes` to `path` so that after a crash either the old file or the new one is there, whole.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    replace(path, bytes, true)
}

/// The same without waiting for the disk: for what is of no use after a crash.
pub fn write_whole_unsynced(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    replace(path, bytes, false)
}

fn replace(path: &Path, bytes: &[u8], synced: bool) -> Result<(), FolderError> {
    let temporary = beside(path);
    let mut file = OpenOptions::new()
        .create_new(true) // whatever has that name is somebody else's
        .write(true)
        .open(&temporary)
        .map_err(FolderError::io("write", path))?;
    let written = file.write_all(bytes).and_then(|()| match synced {
        true => file.sync_all(),
        false => Ok(()),
    });
    if let Err(cause) = written.and_then(|()| fs::rename(&temporary, path)) {
        let _ = fs::remove_file(&temporary); // what is half written is of no use
        return Err(FolderError::io("write", path)(cause));
    }
    match synced {
        true => sync_parent(path),
        false => Ok(()),
    }
}

/// Writes a secret: readable by its owner alone, and never over an existing file.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(FolderError::io("create", path))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(cause) = written {
        let _ = fs::remove_file(path); // made just now; half a secret is in the way of a whole one
        return Err(FolderError::io("write", path)(cause));
    }
    sync_parent(path)
}

fn sync_parent(path: &Path) -> Result<(), FolderError> {
    #[cfg(unix)]
    if let Some(parent) = path.parent() {
        let parent = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
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

/// Refuses what is no file, through links too: opening a pipe would wait for ever.
pub(crate) fn refuse_odd(path: &Path) -> Result<(), FolderError> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(FolderError::NotAFile {
            path: path.to_path_buf(),
            kind: Kind::of(found.file_type()),
        }),
        _ => Ok(()), // what is not there, or not for this user, is told by opening it
    }
}

/// Opens a file to read, and nothing that is no file.
pub(crate) fn open_file(path: &Path) -> Result<File, FolderError> {
    refuse_odd(path)?;
    File::open(path).map_err(FolderError::io("read", path))
}

/// Reads a file of at most `bytes_max`.
pub fn read_limited(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FolderError> {
    let file = open_file(path)?;
    let mut bytes = Vec::new();
    // one more than is allowed, so that a file that grows meanwhile is refused too
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(FolderError::io("read", path))?;
    match bytes.len() as u64 <= bytes_max {
        true => Ok(bytes),
        false => {
            let cause = io::Error::other(format!("it has more than the {bytes_max} bytes that are allowed"));
            Err(FolderError::io("read", path)(cause))
        }
    }
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
        assert!(folder.in_use() && matches!(folder.lock_to_read(), Err(FolderError::InUse(_))));
        drop(lock);
        folder.lock().unwrap();
    }

    #[test]
    fn a_look_at_a_folder_writes_nothing_and_is_in_nobodys_way() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::at(temporary.path());
        assert!(!folder.in_use(), "no lock, no node");
        assert!(!folder.lock_file().exists(), "and a look makes none");
        drop(folder.lock().unwrap());
        // whoever looks again and again never makes a starting node believe that the folder is in use
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    folder.in_use();
                }
            });
            for _ in 0..200 {
                if let Err(error) = folder.lock() {
                    done.store(true, Ordering::Relaxed);
                    panic!("{error}");
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        // several may read at a time, and a node waits for none of them but refuses
        let (one, two) = (folder.lock_to_read().unwrap(), folder.lock_to_read().unwrap());
        assert!(one.is_some() && two.is_some());
        assert!(matches!(folder.lock(), Err(FolderError::InUse(_))));
        drop((one, two));
        fs::remove_file(folder.lock_file()).unwrap();
        fs::create_dir(folder.lock_file()).unwrap();
        assert!(!folder.in_use(), "what is no lock tells of no node");
        assert!(
            folder
                .lock()
                .unwrap_err()
                .to_string()
                .contains("is a folder, not a file")
        );
    }

    #[test]
    fn writing_whole_touches_nothing_beside_it() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("charter.toml");
        let beside = ["charter.toml.new", "charter.new", "charter.toml~"];
        let beside = beside.map(|name| temporary.path().join(name));
        beside.iter().for_each(|path| fs::write(path, b"theirs").unwrap());
        write_whole(&path, b"one").unwrap();
        write_whole_unsynced(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        for path in &beside {
            assert_eq!(fs::read(path).unwrap(), b"theirs", "{}", path.display());
        }
        assert_eq!(
            fs::read_dir(temporary.path()).unwrap().count(),
            4,
            "nothing is left over"
        );
        let folder = temporary.path().join("folder");
        fs::create_dir_all(folder.join("full")).unwrap();
        assert!(write_whole(&folder, b"x").is_err());
        assert_eq!(
            fs::read_dir(temporary.path()).unwrap().count(),
            5,
            "nor after a failure"
        );
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
    fn a_full_disk_is_named() {
        let error = File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
            .write_all(b"x")
            .unwrap_err();
        let text = FolderError::io("write", Path::new("ledger"))(error).to_string();
        assert!(text.contains("The disk is full"), "{text}");
        let text = read_limited(Path::new("/dev/full"), 10).unwrap_err().to_string();
        assert_eq!(text, "/dev/full is a device, not a file; move it away");
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("f");
        fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read_limited(&path, 10).unwrap(), [7; 10]);
        let text = read_limited(&path, 9).unwrap_err().to_string();
        assert!(text.contains("more than the 9 bytes"), "{text}");
    }
}
