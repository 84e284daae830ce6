//! Which files are read: those below a folder, links followed, and what is left out by what it is.

use super::{
    corpus::{Part, Skipped},
    decode,
    ingest::{Ingest, IngestError, Progress, io_error, metadata},
    secret::{KEY_BYTES, is_node_folder},
};
use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    fs::{self, FileType},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// Files of one corpus, and entries of one folder.
const FILES_MAX: usize = 100_000;
/// Folders within folders.
const DEPTH_MAX: usize = 32;
/// What the Arrow datasets of Hugging Face keep beside their data.
const ARROW_METADATA: [&str; 4] = [
    "dataset_info.json",
    "dataset_dict.json",
    "dataset_infos.json",
    "state.json",
];

/// A file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    /// Relative to what was named, with `/`; no two have the same.
    pub(super) name: String,
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its size, or 0 where it has none.
    pub(super) bytes: u64,
    /// The name whose end says what is in it.
    pub(super) kind: String,
    /// A pipe or the like: what is in it is not known by a name.
    pub(super) is_stream: bool,
}

/// What is there.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Whether a folder was named.
    pub(super) is_folder: bool,
    /// By name.
    pub(super) files: Vec<File>,
    /// What is left out by what it is.
    pub(super) skipped: Vec<Skipped>,
    /// Entries whose names begin with a dot.
    pub(super) hidden: u64,
}

/// Looks at what was named.
pub(super) fn walk(path: &Path, options: &Ingest<'_>) -> Result<Walked, IngestError> {
    let about = metadata(path)?;
    let mut walker = Walker {
        root: path.to_path_buf(),
        out: Walked {
            is_folder: about.is_dir(),
            ..Walked::default()
        },
        left_out: options
            .leave_out
            .iter()
            .filter_map(|path| fs::canonicalize(path).ok())
            .collect(),
        seen: BTreeMap::new(),
        links: VecDeque::new(),
        progress: options.progress,
    };
    if !about.is_dir() {
        let name = decode::name(path.file_name().unwrap_or_default().as_encoded_bytes()).into_owned();
        walker.out.files.push(File {
            kind: name.clone(),
            name,
            path: path.to_path_buf(),
            bytes: if about.is_file() { about.len() } else { 0 },
            is_stream: !about.is_file(),
        });
        return Ok(walker.out);
    }
    walker.root = fs::canonicalize(path).map_err(io_error(path))?;
    let refuse = |reason: &str| IngestError::Secret {
        path: path.to_path_buf(),
        reason: reason.into(),
    };
    if walker.is_left_out(&walker.root) {
        return Err(refuse("it is a folder that this command writes to"));
    }
    if looks_like_a_node(&walker.root) {
        return Err(refuse("it looks like a node's folder, with its secret key"));
    }
    walker.folder(walker.root.clone(), String::new(), 0)?;
    while let Some((path, name, depth)) = walker.links.pop_front() {
        walker.link(path, name, depth)?;
    }
    Ok(walker.end())
}

struct Walker<'a> {
    /// What was named, without links.
    root: PathBuf,
    out: Walked,
    /// Without links.
    left_out: Vec<PathBuf>,
    /// Files and folders without links, and their names.
    seen: BTreeMap<PathBuf, String>,
    /// Links, which come after what is really there: path, name and depth.
    links: VecDeque<(PathBuf, String, usize)>,
    progress: &'a dyn Fn(&Progress) -> std::ops::ControlFlow<()>,
}

impl Walker<'_> {
    fn is_left_out(&self, path: &Path) -> bool {
        self.left_out.iter().any(|left_out| path.starts_with(left_out))
    }

    fn skip(&mut self, name: &str, part: Part, reason: impl Into<String>) {
        self.out.skipped.push(Skipped::one(name, part, 0, reason));
    }

    fn bound(&self, got: usize, unit: &'static str, max: usize) -> Result<(), IngestError> {
        match got > max {
            false => Ok(()),
            true => Err(IngestError::TooLarge {
                path: self.root.clone(),
                got: got as u64,
                unit,
                max: max as u64,
            }),
        }
    }

    /// Everything in the folder `path`, which is free of links; `prefix` ends with `/` below the first.
    fn folder(&mut self, path: PathBuf, prefix: String, depth: usize) -> Result<(), IngestError> {
        self.bound(depth, "folders within folders", DEPTH_MAX)?;
        if (self.progress)(&Progress::default()).is_break() {
            return Err(IngestError::Stopped(self.root.clone()));
        }
        let name = prefix.trim_end_matches('/');
        if self.is_left_out(&path) {
            self.skip(name, Part::Folder, "this command writes to it");
            return Ok(());
        }
        if let Some(other) = self.seen.insert(path.clone(), name.to_string()) {
            self.skip(name, Part::Folder, format!("the same folder as {}", named(&other)));
            self.seen.insert(path, other);
            return Ok(());
        }
        let entries = match self.entries(&path) {
            Ok(entries) => entries,
            Err(IngestError::Io { error, .. }) if depth > 0 => {
                self.skip(name, Part::Folder, format!("it cannot be read: {error}"));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if looks_like_a_node(&path) {
            self.skip(name, Part::Folder, "it looks like a node's folder, with its secret key");
            return Ok(());
        }
        let is_cache = ["blobs", "snapshots"]
            .iter()
            .all(|part| entries.iter().any(|(name, _)| name == part));
        for (entry, kind) in entries {
            let text = decode::name(entry.as_encoded_bytes());
            let name = format!("{prefix}{text}");
            if text.starts_with('.') {
                self.out.hidden += 1;
            } else if is_cache && (text == "blobs" || text == "refs") {
                self.skip(
                    &name,
                    Part::Folder,
                    "of Hugging Face's cache, which is read through the links in snapshots",
                );
            } else {
                self.entry(path.join(&entry), name, kind, depth)?;
            }
        }
        Ok(())
    }

    /// Names and types in a folder, in the order of their bytes.
    fn entries(&self, path: &Path) -> Result<Vec<(OsString, FileType)>, IngestError> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(io_error(path))? {
            let entry = entry.map_err(io_error(path))?;
            entries.push((entry.file_name(), entry.file_type().map_err(io_error(path))?));
            self.bound(entries.len(), "files", FILES_MAX)?;
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(entries)
    }

    fn entry(&mut self, path: PathBuf, name: String, kind: FileType, depth: usize) -> Result<(), IngestError> {
        if kind.is_dir() {
            return self.folder(path, format!("{name}/"), depth + 1);
        }
        if kind.is_symlink() {
            self.links.push_back((path, name, depth));
        } else if !kind.is_file() {
            self.skip(&name, Part::File, special(kind));
        } else {
            self.file(path, name.clone(), name);
        }
        self.bound(
            self.out.files.len() + self.out.skipped.len() + self.links.len(),
            "files",
            FILES_MAX,
        )
    }

    /// A plain file at `path`, which is free of links.
    fn file(&mut self, path: PathBuf, name: String, kind: String) {
        if self.is_left_out(&path) {
            return self.skip(&name, Part::File, "this command writes to it");
        }
        if let Some(other) = self.seen.get(&path) {
            let reason = format!("the same file as {other}");
            return self.skip(&name, Part::Link, reason);
        }
        let bytes = fs::metadata(&path).map_or(0, |about| about.len()); // what cannot be read is said when it is read
        if let Some(reason) = decode::unread_by_name(&kind) {
            self.out.skipped.push(Skipped::one(name, Part::File, bytes, reason));
            return;
        }
        self.seen.insert(path.clone(), name.clone());
        self.out.files.push(File {
            name,
            path,
            bytes,
            kind,
            is_stream: false,
        });
    }

    /// Follows a link, also out of the folder, as into the blobs of Hugging Face's cache.
    fn link(&mut self, path: PathBuf, name: String, depth: usize) -> Result<(), IngestError> {
        let there = fs::canonicalize(&path).and_then(|target| Ok((fs::metadata(&target)?, target)));
        let (about, target) = match there {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.skip(&name, Part::Link, "a link to what is not there");
                return Ok(());
            }
            Err(error) => {
                self.skip(&name, Part::Link, format!("a link that cannot be followed: {error}"));
                return Ok(());
            }
        };
        if target
            .ancestors()
            .skip(1)
            .any(|folder| !self.root.starts_with(folder) && looks_like_a_node(folder))
        {
            self.skip(&name, Part::Link, "a link into what looks like a node's folder");
        } else if self.root.starts_with(&target) {
            self.skip(&name, Part::Link, "a link to a folder that holds this one");
        } else if about.is_dir() {
            self.folder(target, format!("{name}/"), depth + 1)?;
        } else if about.is_file() {
            let ending = name.rsplit('/').next().is_some_and(|name| name.contains('.'));
            let kind = match target.file_name().filter(|_| !ending) {
                Some(target) => decode::name(target.as_encoded_bytes()).into_owned(),
                None => name.clone(),
            };
            self.file(target, name, kind);
        } else {
            self.skip(&name, Part::Link, format!("a link to {}", special(about.file_type())));
        }
        self.bound(
            self.out.files.len() + self.out.skipped.len() + self.links.len(),
            "files",
            FILES_MAX,
        )
    }

    /// By name, each name once, and without what describes data that is not read.
    fn end(mut self) -> Walked {
        self.out.files.sort_by(|a, b| a.name.cmp(&b.name));
        if self.out.skipped.iter().any(|skipped| skipped.path.ends_with(".arrow")) {
            let skipped = &mut self.out.skipped;
            self.out.files.retain(|file| {
                let is_text = !file
                    .name
                    .rsplit('/')
                    .next()
                    .is_some_and(|name| ARROW_METADATA.contains(&name));
                if !is_text {
                    let reason = "it describes Arrow files, which are not read";
                    skipped.push(Skipped::one(&file.name, Part::File, file.bytes, reason));
                }
                is_text
            });
        }
        // names that are no UTF-8 could look like others
        let (mut last, mut twins) = (String::new(), 1);
        for file in &mut self.out.files {
            match file.name == last {
                true => {
                    twins += 1;
                    file.name = format!("{last} ({twins})");
                }
                false => (last, twins) = (file.name.clone(), 1),
            }
        }
        self.out
    }
}

fn named(folder: &str) -> &str {
    if folder.is_empty() {
        "the one that was named"
    } else {
        folder
    }
}

/// What is never opened in a folder: it might never end.
#[cfg(unix)]
fn special(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt as _;
    match () {
        () if kind.is_fifo() => "a named pipe; name it itself to read it",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}

#[cfg(not(unix))]
fn special(_: FileType) -> &'static str {
    "no plain file"
}

/// Whether a folder is a node's, by its names and by how a file `key` begins.
fn looks_like_a_node(folder: &Path) -> bool {
    let there = ["ledger.redb", "trainer.bin", "node.toml", "charter.toml"];
    let there = there
        .into_iter()
        .filter(|name| folder.join(name).symlink_metadata().is_ok());
    let key = folder.join("key");
    let is_plain = key.metadata().is_ok_and(|about| about.is_file());
    let mut start = Vec::new();
    if is_plain && let Ok(file) = fs::File::open(key) {
        let _ = file.take(KEY_BYTES).read_to_end(&mut start); // a key that cannot be read cannot be given away
    }
    is_node_folder(there, str::from_utf8(&start).ok())
}
