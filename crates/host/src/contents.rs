//! What lies in a node's folder: the paths that are the node's own, and everything else, which nobody opens.

use crate::folder::{Folder, FolderError};
use atoll_learner::checkpoint;
use atoll_protocol::Hash;
use std::{
    fmt,
    fs::{self, FileType},
    io,
    path::{Path, PathBuf},
};

/// Files at the top of a node's folder, but for the lock, which says nothing.
const FILES: [&str; 12] = [
    "blobs.rebuilding",
    "charter.toml",
    "consensus.lost",
    "damage.json",
    "events.1.jsonl",
    "events.jsonl",
    "key",
    "ledger.redb",
    "node.toml",
    "seal",
    "status.json",
    "trainer.bin",
];
const LOCK: &str = "lock";
const FOLDERS: [&str; 3] = ["blobs", "checkpoints", "consensus"];
/// What ends the names of the blob store's files; before it stands the hash.
const BLOB_PARTS: [&str; 4] = ["data", "obao4", "sizes4", "bitfield"];
/// What programs that open a checkpoint look for beside its files, by the ends of names.
const READ_WITH_CHECKPOINTS: [&str; 13] = [
    "safetensors",
    "json",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "h5",
    "msgpack",
    "pkl",
    "npz",
    "py",
    "jinja",
    "model",
];
const VOCABULARIES: [&str; 2] = ["vocab.txt", "merges.txt"];

/// What something in a folder is, itself: links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A plain file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, wherever it leads.
    Link,
    /// A named pipe: whoever opens it waits for somebody at its other end.
    Pipe,
    /// A socket.
    Socket,
    /// A block or character device.
    Device,
    /// Nothing of these.
    Unknown,
}

impl Kind {
    /// What the system says it is.
    pub fn of(kind: FileType) -> Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::FileTypeExt as _;
            if kind.is_fifo() {
                return Self::Pipe;
            }
            if kind.is_socket() {
                return Self::Socket;
            }
            if kind.is_block_device() || kind.is_char_device() {
                return Self::Device;
            }
        }
        match kind {
            kind if kind.is_symlink() => Self::Link,
            kind if kind.is_dir() => Self::Folder,
            kind if kind.is_file() => Self::File,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "a file",
            Self::Folder => "a folder",
            Self::Link => "a symbolic link",
            Self::Pipe => "a pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
            Self::Unknown => "neither a file nor a folder",
        })
    }
}

/// A path for people: as it is, or, where it is not text that a terminal may show, quoted and escaped, so that
/// two names never look the same.
pub fn shown(path: &Path) -> String {
    match path.to_str() {
        Some(text) if !text.contains(char::is_control) => text.to_string(),
        _ => format!("{path:?}"),
    }
}

/// Something in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Below the folder, with `/`.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
}

impl Entry {
    /// Where it is and what, for people.
    pub(crate) fn told(&self) -> (String, String) {
        (shown(&self.path), self.kind.to_string())
    }
}

/// Everything in a node's folder. What is inside of folders that are not the node's is nobody's business.
#[derive(Debug, Default)]
pub struct Contents {
    /// Plain files of the node, by name.
    pub files: Vec<Entry>,
    /// Where a file or folder of the node has its place, and stands something else.
    pub odd: Vec<Entry>,
    /// What has no place in a node's folder.
    pub foreign: Vec<Entry>,
    /// Folders of the node that cannot be looked into, and why.
    pub unreadable: Vec<(Entry, io::Error)>,
}

/// What has its place at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    File,
    Folder,
    /// The lock.
    Nothing,
    /// Of no concern to a node.
    Foreign,
}

fn place(path: &[&str]) -> Place {
    let file = |is: bool| if is { Place::File } else { Place::Foreign };
    let folder = |is: bool| if is { Place::Folder } else { Place::Foreign };
    match path {
        [LOCK] => Place::Nothing,
        [name] if FOLDERS.contains(name) => Place::Folder,
        [name] => file(FILES.contains(name)),
        ["blobs", "data" | "temp"] => Place::Folder,
        ["blobs", name] => file(*name == "blobs.db"),
        ["blobs", "data", name] => file(is_blob_file(name)),
        // the engine locks `.hold`; a folder of its own has no dot, and names files by numbers
        ["consensus", "owner" | ".hold"] => Place::File,
        ["consensus", name] => folder(name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))),
        ["consensus", _, name] => file(is_hex(name)),
        ["checkpoints", name] => folder(is_checkpoint_name(name)),
        ["checkpoints", _, name] => file(checkpoint::FILES.contains(name)),
        _ => Place::Foreign,
    }
}

fn is_hex(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}

/// Whether the blob store calls its files so: a hash and what it is of the blob.
pub(crate) fn is_blob_file(name: &str) -> bool {
    let parts = name.split_once('.');
    parts.is_some_and(|(hash, part)| hash.parse::<Hash>().is_ok() && BLOB_PARTS.contains(&part))
}

/// Whether a node calls the folder of a checkpoint so.
pub fn is_checkpoint_name(name: &str) -> bool {
    let number = name.strip_prefix("round-");
    number.is_some_and(|number| number.len() >= 6 && number.chars().all(|c| c.is_ascii_digit()))
}

/// Whether programs that open a checkpoint would read a file of this name as part of it. Hidden files are passed
/// over by all of them.
pub(crate) fn is_read_with_checkpoints(name: &str) -> bool {
    let end = Path::new(name).extension().and_then(|end| end.to_str());
    let end = end.map(str::to_ascii_lowercase);
    let ends_so = end.is_some_and(|end| READ_WITH_CHECKPOINTS.contains(&end.as_str()));
    !name.starts_with('.') && ends_so || VOCABULARIES.contains(&name)
}

/// The names at the top of `folder` that a node would use and that are taken already.
pub fn taken(folder: &Path) -> Vec<&'static str> {
    let names = FILES.iter().chain(&FOLDERS).chain([&LOCK]).copied();
    names
        .filter(|name| folder.join(name).symlink_metadata().is_ok())
        .collect()
}

/// Whether a node or an export that was killed left this behind: the name, and everything in it, is ours.
pub(crate) fn is_left_over(entry: &Entry) -> bool {
    let (folder, name) = entry.name.rsplit_once('/').unwrap_or(("", &entry.name));
    let Some((of, process)) = name.strip_prefix('.').and_then(|name| name.rsplit_once(".partial-")) else {
        return false;
    };
    let is_process = !process.is_empty() && process.chars().all(|c| c.is_ascii_digit() || c == '-');
    is_process
        && match (folder, entry.kind) {
            ("", Kind::File) => FILES.contains(&of),
            ("consensus", Kind::File) => of == "owner",
            ("checkpoints", Kind::Folder) => is_checkpoint_name(of) && holds_only_a_checkpoints_files(&entry.path),
            _ => false,
        }
}

fn holds_only_a_checkpoints_files(folder: &Path) -> bool {
    let is_ours = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let plain = entry.file_type().is_ok_and(|kind| kind.is_file());
        let known = entry
            .file_name()
            .to_str()
            .is_some_and(|name| checkpoint::FILES.contains(&name));
        (plain && known).then_some(())
    };
    fs::read_dir(folder).is_ok_and(|entries| entries.map(is_ours).all(|ours| ours.is_some()))
}

/// Removes what nodes that were killed left behind in a folder that is locked; gives what that was.
pub fn sweep(folder: &Folder) -> Result<Vec<PathBuf>, FolderError> {
    let contents = scan(folder.path()).map_err(FolderError::io("read", folder.path()))?;
    let left: Vec<Entry> = contents.foreign.into_iter().filter(is_left_over).collect();
    for entry in &left {
        let removed = match entry.kind {
            Kind::Folder => fs::remove_dir_all(&entry.path), // nothing in it but a checkpoint's files
            _ => fs::remove_file(&entry.path),
        };
        removed.map_err(FolderError::io("remove", &entry.path))?;
    }
    Ok(left.into_iter().map(|entry| entry.path).collect())
}

/// Looks at everything in a node's folder without opening a file.
///
/// # Errors
/// Where the folder itself cannot be read.
pub fn scan(root: &Path) -> io::Result<Contents> {
    let mut contents = Contents::default();
    look(root, &mut Vec::new(), &mut contents)?;
    for list in [&mut contents.files, &mut contents.odd, &mut contents.foreign] {
        list.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Ok(contents)
}

fn look(folder: &Path, below: &mut Vec<String>, contents: &mut Contents) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = match (entry.path(), entry.file_type()) {
            (path, Ok(kind)) => (path, Kind::of(kind)),
            (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => continue, // gone again
            (path, Err(_)) => (path, Kind::Unknown),
        };
        let name = entry.file_name();
        let text = shown(Path::new(&name));
        let known = match name.to_str() {
            Some(name) => {
                let path: Vec<&str> = below.iter().map(String::as_str).chain([name]).collect();
                place(&path)
            }
            None => Place::Foreign,
        };
        below.push(text);
        let found = Entry {
            name: below.join("/"),
            path,
            kind,
        };
        match (known, kind) {
            (Place::Nothing, _) => {}
            (Place::Foreign, _) => contents.foreign.push(found),
            (Place::File, Kind::File) => contents.files.push(found),
            (Place::Folder, Kind::Folder) => {
                if let Err(error) = look(&found.path, below, contents) {
                    contents.unreadable.push((found, error));
                }
            }
            _ => contents.odd.push(found),
        }
        below.pop();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_uses_has_its_place_and_nothing_else_has() {
        let hash = Hash::of_blob(b"x").to_string();
        let table = [
            ("key", Place::File),
            ("charter.toml", Place::File),
            ("lock", Place::Nothing),
            ("blobs", Place::Folder),
            ("blobs/data", Place::Folder),
            (&format!("blobs/data/{hash}.data"), Place::File),
            (&format!("blobs/data/{hash}.obao4"), Place::File),
            (&format!("blobs/data/{hash}.zip"), Place::Foreign),
            (&format!("blobs/data/._{hash}.data"), Place::Foreign),
            ("blobs/data/.DS_Store", Place::Foreign),
            ("consensus/owner", Place::File),
            ("consensus/simplex", Place::Folder),
            ("consensus/marshal-blocks/00ff", Place::File),
            ("consensus/marshal-blocks/.DS_Store", Place::Foreign),
            ("consensus/.Trash", Place::Foreign),
            ("checkpoints/round-000009", Place::Folder),
            ("checkpoints/round-000009/model.safetensors", Place::File),
            ("checkpoints/round-000009/ggml-model-f16.gguf", Place::Foreign),
            ("checkpoints/.round-000009.partial-4242", Place::Foreign),
            ("checkpoints/round-9", Place::Foreign),
            (".charter.toml.swp", Place::Foreign),
            (".#charter.toml", Place::Foreign),
            ("charter.toml~", Place::Foreign),
            ("lost+found", Place::Foreign),
            (".nfs00000001", Place::Foreign),
            ("._key", Place::Foreign),
            ("blobs/key", Place::Foreign),
        ];
        for (path, expected) in table {
            let parts: Vec<&str> = path.split('/').collect();
            assert_eq!(place(&parts), expected, "{path}");
        }
    }

    #[test]
    fn what_is_read_with_a_checkpoint() {
        for name in [
            "adapter_model.safetensors",
            "modeling_x.py",
            "chat_template.jinja",
            "A.BIN",
            "vocab.txt",
        ] {
            assert!(is_read_with_checkpoints(name), "{name}");
        }
        for name in [
            "README.md",
            "model.gguf",
            ".DS_Store",
            "._model.safetensors",
            "Thumbs.db",
            "desktop.ini",
            "a.txt",
        ] {
            assert!(!is_read_with_checkpoints(name), "{name}");
        }
    }

    #[test]
    fn only_what_is_certainly_ours_is_swept() {
        let temporary = tempfile::tempdir().unwrap();
        let at = |name: &str| temporary.path().join(name);
        let ours = [
            ".charter.toml.partial-42-0",
            ".trainer.bin.partial-42-17",
            "consensus/.owner.partial-1-0",
        ];
        let theirs = [
            ".notes.partial-42-0",
            "charter.toml.new",
            ".key.partial-x",
            ".trainer.bin.partial-",
            "status.new",
        ];
        fs::create_dir(at("consensus")).unwrap();
        let half =
            [".round-000009.partial-4242", ".round-000008.partial-4242-1"].map(|name| at("checkpoints").join(name));
        half.iter().for_each(|path| fs::create_dir_all(path).unwrap());
        fs::write(half[0].join(checkpoint::FILES[0]), b"{}").unwrap();
        fs::write(half[1].join("thesis.txt"), b"years of work").unwrap();
        for name in ours.iter().chain(&theirs) {
            fs::write(at(name), b"x").unwrap();
        }
        fs::create_dir(at(".seal.partial-1-1")).unwrap();
        let mut swept = sweep(&Folder::at(temporary.path())).unwrap();
        swept.sort();
        let mut expected: Vec<PathBuf> = ours.iter().map(|name| at(name)).chain([half[0].clone()]).collect();
        expected.sort();
        assert_eq!(swept, expected);
        assert!(swept.iter().all(|path| !path.exists()));
        assert!(theirs.iter().all(|name| at(name).exists()) && half[1].join("thesis.txt").exists());
        assert!(at(".seal.partial-1-1").exists(), "a folder is no half of a file");
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_no_text_never_look_the_same() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
        let of = |bytes| shown(Path::new(OsStr::from_bytes(bytes)));
        assert_ne!(of(b"a\xff"), of(b"a\xfe"));
        assert_eq!(of(b"\x1b[31m"), r#""\u{1b}[31m""#);
        assert_eq!(of("θ.txt".as_bytes()), "θ.txt");
    }
}
