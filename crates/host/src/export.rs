//! A folder to give away: everything that an audit needs, and nothing that is its owner's alone.
//!
//! Nothing is taken because it lies in the folder, only what the charter or the ledger names: their own files, the
//! blobs of the corpus and of what was merged, each compared with its hash, and checkpoints. Links are followed for
//! blobs alone, whose content nobody can choose.

use crate::{
    audit::node_folders,
    charter_file,
    contents::{Contents, Kind, scan, shown},
    folder::{Folder, FolderError, beside, make, open_file},
    identity,
    merging::plan_of,
    owner, seal,
    status::{History, history},
};
use anyhow::{Context as _, bail};
use atoll_learner::{checkpoint, data::Manifest};
use atoll_ledger::Outcome;
use atoll_protocol::{Hash, Keypair, PeerId};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    ops::ControlFlow,
    path::{Path, PathBuf},
};
use thiserror::Error;

const CHUNK_BYTES: usize = 1 << 20;
/// What stays with its owner: secrets, votes, addresses, and what is for its owner to read.
const KEPT_BACK: [&str; 9] = [
    "key",
    "trainer.bin",
    "consensus",
    "consensus.lost",
    "damage.json",
    "node.toml",
    "events.jsonl",
    "events.1.jsonl",
    "status.json",
];

/// Hears what is being done, and how many bytes of it are done, of how many; whoever breaks ends the work.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64) -> ControlFlow<()>;

/// Somebody broke off; nothing was written.
#[derive(Debug, Error)]
#[error("stopped; nothing was written")]
pub struct Interrupted;

/// What was written of one node's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The node's folder.
    pub from: PathBuf,
    /// Its node's name in the charter, if anything says whose the folder is.
    pub node: Option<String>,
    /// Why its owner's key did not sign the list of files, if it did not.
    pub unsigned: Option<String>,
    /// Files, with the list.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was there and stays with its owner.
    pub kept_back: Vec<String>,
    /// What the ledger names and was not there, or not whole.
    pub lacks: Vec<String>,
}

impl Exported {
    /// For machines.
    pub fn to_json(&self) -> Value {
        json!({
            "from": self.from.display().to_string(),
            "node": self.node,
            "signed": self.unsigned.is_none(),
            "unsigned_because": self.unsigned,
            "files": self.files,
            "bytes": self.bytes,
            "kept_back": self.kept_back,
            "lacks": self.lacks,
        })
    }
}

/// Writes what others may have of the node's folder `dir`, or of those in it, to `out`, which must not exist. All
/// of it is there in the end, or nothing.
///
/// # Errors
/// [`Interrupted`] among others; where a node runs, or something is in the way.
pub fn export(dir: &Path, out: &Path, progress: Progress<'_>) -> anyhow::Result<Vec<Exported>> {
    let nodes = node_folders(dir)?;
    if nodes.is_empty() {
        bail!(
            "{} holds no node's folder; name the folder of a node, or one with nodes' folders in it",
            shown(dir)
        );
    }
    may_write(dir, out)?;
    let mut held = Vec::new();
    for node in &nodes {
        held.push(node.lock_to_read()?);
    }
    let partial = Partial::make(out)?;
    let mut all = Vec::new();
    for node in &nodes {
        let target = match node.path() == dir {
            true => partial.0.clone(),
            false => partial.0.join(node.path().file_name().unwrap_or_default()),
        };
        let exported = export_node(node, &Folder::at(target), progress);
        all.push(exported.with_context(|| format!("cannot export {}", shown(node.path())))?);
    }
    free(out)?;
    fs::rename(&partial.0, out).map_err(FolderError::io("write", out))?;
    Ok(all)
}

/// Nothing may be there, and what is written may not become part of what is read.
fn may_write(dir: &Path, out: &Path) -> anyhow::Result<()> {
    if out.file_name().is_none() {
        bail!(
            "{} names no folder that could be made; give one that does not exist yet",
            shown(out)
        );
    }
    free(out)?;
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let real = |path: &Path| fs::canonicalize(path).map_err(FolderError::io("find", path));
    if real(parent)?.starts_with(real(dir)?) {
        bail!(
            "{} is inside of {}, and would become part of it; choose another place",
            shown(out),
            shown(dir)
        );
    }
    Ok(())
}

fn free(out: &Path) -> anyhow::Result<()> {
    match out.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FolderError::io("look at", out)(error).into()),
        Ok(_) => bail!("{} exists; nothing is written over it: choose another name", shown(out)),
    }
}

/// A folder beside, of a name that is only ours; it goes away with what is in it, unless it was renamed.
struct Partial(PathBuf);

impl Partial {
    fn make(out: &Path) -> Result<Self, FolderError> {
        let path = beside(out);
        fs::create_dir(&path).map_err(FolderError::io("make the folder", &path))?;
        Ok(Self(path))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // renamed, or of no use; the first error is the one to tell
    }
}

fn export_node(from: &Folder, to: &Folder, progress: Progress<'_>) -> anyhow::Result<Exported> {
    let place = shown(from.path());
    let tell = &mut |done, of, what: &str| progress(&format!("{place}: {what}"), done, of);
    if tell(0, 0, "ledger").is_break() {
        bail!(Interrupted);
    }
    let history = history(from)?;
    let blobs = named_blobs(from, &history);
    let contents = scan(from.path()).map_err(FolderError::io("read", from.path()))?;
    let mut work = Work {
        done: 0,
        of: sizes(from, &blobs),
        tell,
        lacks: Vec::new(),
    };
    make(&to.blobs().join("data"))?;
    let text = charter_file::to_text(&history.charter)?;
    fs::write(to.charter(), text).map_err(FolderError::io("write", &to.charter()))?;
    work.copy(&from.ledger(), &to.ledger(), None)?;
    for hash in &blobs {
        work.blob(from, to, hash)?;
    }
    for record in &history.rounds {
        work.checkpoint(&from.checkpoint(record.round), &to.checkpoint(record.round))?;
    }
    let lacks = std::mem::take(&mut work.lacks);
    let (keypair, owner) = (signer(from, &history), said_owner(from, &history));
    let unsigned = keypair.as_ref().err().cloned();
    let keypair = keypair.ok();
    let mut hashing = |done, of| (work.tell)(done, of, "seal");
    if !seal::write_export(to, (keypair.as_ref(), owner), &mut hashing)?.sealed {
        bail!(Interrupted);
    }
    let (files, bytes) = written(to)?;
    let owner = keypair.as_ref().map(Keypair::peer).or(owner);
    Ok(Exported {
        from: from.path().to_path_buf(),
        node: owner.map(|owner| history.charter.name_of(&owner)),
        unsigned,
        files,
        bytes,
        kept_back: kept_back(from, &contents, &blobs),
        lacks,
    })
}

/// The blobs that an audit reads: corpus, tokenizer, and what the rounds that moved θ were computed from and gave.
fn named_blobs(folder: &Folder, history: &History) -> BTreeSet<Hash> {
    let (model, manifest) = (&history.charter.model, history.charter.data.manifest);
    let mut named = BTreeSet::from([manifest, model.tokenizer, model.theta]);
    // without a manifest its shards have no names; that it is missing is told with the blobs
    let manifest = crate::audit::blob(folder, &manifest).ok();
    if let Some(manifest) = manifest.and_then(|bytes| Manifest::from_bytes(&bytes).ok()) {
        named.extend(manifest.shards().map(|shard| shard.blake3));
    }
    for record in &history.rounds {
        let Outcome::Closed(roots) = record.outcome else {
            continue;
        };
        named.insert(roots.theta);
        named.extend(roots.momentum);
        named.insert(record.matrix);
        let taken_out = record.excisions.iter().flat_map(plan_of);
        named.extend(record.plan().into_iter().chain(taken_out).map(|planned| planned.blob));
    }
    named.remove(&Hash::ZERO);
    named
}

fn sizes(folder: &Folder, blobs: &BTreeSet<Hash>) -> u64 {
    let paths = blobs.iter().map(|hash| folder.blob(hash)).chain([folder.ledger()]);
    let sizes = paths.map(|path| fs::metadata(path).map_or(0, |found| found.len())); // what is not there is told later
    sizes.sum()
}

/// The key that signs: the one in the folder, if it is a member's; else why none does.
fn signer(folder: &Folder, history: &History) -> Result<Keypair, String> {
    let path = folder.key();
    if matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        return Err("its key is not in the folder".into());
    }
    let keypair = identity::read_whoever_may(&path).map_err(|error| error.to_string())?;
    match history.charter.keys().any(|key| key == keypair.peer()) {
        true => Ok(keypair),
        false => Err(format!("{} is no member's key", shown(&path))),
    }
}

/// Who is said to be the owner where no key says so: only a hint, so what is damaged says nothing.
fn said_owner(folder: &Folder, history: &History) -> Option<PeerId> {
    let sealed = seal::read(folder).ok().flatten().and_then(|seal| seal.owner);
    let votes = || owner::read(folder).ok().flatten().map(|(_, peer)| peer);
    let owner = sealed.or_else(votes);
    owner.filter(|owner| history.charter.keys().any(|key| key == *owner))
}

fn kept_back(folder: &Folder, contents: &Contents, named: &BTreeSet<Hash>) -> Vec<String> {
    let there = |name: &&&str| folder.path().join(name).symlink_metadata().is_ok();
    let mut kept: Vec<String> = KEPT_BACK.iter().filter(there).map(ToString::to_string).collect();
    let is_other = |name: &str| {
        let hash = name
            .strip_prefix("blobs/data/")
            .and_then(|name| name.strip_suffix(".data"));
        hash.is_some_and(|hash| hash.parse().is_ok_and(|hash| !named.contains(&hash)))
    };
    let blobs = contents.files.iter().filter(|entry| is_other(&entry.name)).count();
    if blobs > 0 {
        kept.push(format!("blobs that no audit needs: {blobs}"));
    }
    if !contents.foreign.is_empty() {
        kept.push(format!("what is not the node's: {}", contents.foreign.len()));
    }
    kept
}

fn written(folder: &Folder) -> Result<(u64, u64), FolderError> {
    let contents = scan(folder.path()).map_err(FolderError::io("read", folder.path()))?;
    let mut bytes = 0;
    for entry in &contents.files {
        bytes += fs::metadata(&entry.path)
            .map_err(FolderError::io("read", &entry.path))?
            .len();
    }
    Ok((contents.files.len() as u64, bytes))
}

/// Copying, with how far it is.
struct Work<'a> {
    done: u64,
    of: u64,
    tell: &'a mut dyn FnMut(u64, u64, &str) -> ControlFlow<()>,
    lacks: Vec<String>,
}

impl Work<'_> {
    fn blob(&mut self, from: &Folder, to: &Folder, hash: &Hash) -> anyhow::Result<()> {
        let (path, target) = (from.blob(hash), to.blob(hash));
        let what = match self.copy(&path, &target, Some(hash)) {
            Ok(true) => return Ok(()),
            Ok(false) => "is not whole".to_string(),
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => match error.downcast::<FolderError>()? {
                FolderError::Io {
                    what: "read", cause, ..
                } if cause.kind() == io::ErrorKind::NotFound => "is not here".to_string(),
                error @ (FolderError::Io { what: "read", .. } | FolderError::NotAFile { .. }) => error.to_string(),
                error => return Err(error.into()),
            },
        };
        self.lacks.push(format!("blob {hash} {what}"));
        Ok(())
    }

    /// A checkpoint that is whole; other files in its folder are somebody else's.
    fn checkpoint(&mut self, from: &Path, to: &Path) -> anyhow::Result<()> {
        let kind_of = |path: &Path| path.symlink_metadata().map(|found| Kind::of(found.file_type()));
        match kind_of(from) {
            Err(_) => return Ok(()), // not every round has one
            Ok(Kind::Folder) => {}
            Ok(kind) => {
                self.lacks
                    .push(format!("{} is {kind}, which is not followed", shown(from)));
                return Ok(());
            }
        }
        let is_file = |name: &&str| kind_of(&from.join(name)).is_ok_and(|kind| kind == Kind::File);
        if let Some(missing) = checkpoint::FILES.iter().find(|name| !is_file(name)) {
            self.lacks.push(format!("{} has no file {missing}", shown(from)));
            return Ok(());
        }
        make(to)?;
        for name in checkpoint::FILES {
            self.copy(&from.join(name), &to.join(name), None)?;
        }
        Ok(())
    }

    /// Whether the file was copied: what does not have the hash that it must have is not.
    fn copy(&mut self, from: &Path, to: &Path, hash: Option<&Hash>) -> anyhow::Result<bool> {
        let source = open_file(from)?;
        let target = File::create_new(to).map_err(FolderError::io("write", to))?;
        let copied = self.pour((source, from), (target, to));
        let whole = copied.as_ref().is_ok_and(|found| hash.is_none_or(|hash| hash == found));
        if !whole {
            fs::remove_file(to).map_err(FolderError::io("remove", to))?; // made just now
        }
        copied.map(|_| whole)
    }

    /// Copies to the end; gives the hash of everything.
    fn pour(&mut self, (mut source, from): (File, &Path), (mut target, to): (File, &Path)) -> anyhow::Result<Hash> {
        let (mut hasher, mut chunk) = (blake3::Hasher::new(), vec![0; CHUNK_BYTES]);
        loop {
            let read = match source.read(&mut chunk) {
                Ok(0) => return Ok(Hash(*hasher.finalize().as_bytes())),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(FolderError::io("read", from)(error).into()),
            };
            hasher.update(&chunk[..read]);
            target.write_all(&chunk[..read]).map_err(FolderError::io("write", to))?;
            self.done += read as u64;
            if (self.tell)(self.done, self.of.max(self.done), "files").is_break() {
                bail!(Interrupted);
            }
        }
    }
}
