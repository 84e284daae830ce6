//! What may be damaged in a node's folder, each with what is lost by it and what comes next.

use super::{
    Finding, Remedy,
    note::{self, Note, has_run},
};
use crate::{
    blobs::{fits_its_name, index_damage, named},
    charter_file,
    contents::is_checkpoint_name,
    folder::{Folder, read_limited},
    identity,
    network::Settings,
    owner::has_votes,
    panics::quietly,
    private::Private,
    record::{self, RecordError},
    seal,
    trainer::manifest_of,
};
use atoll_learner::data::Manifest;
use atoll_ledger::{Event, State};
use atoll_protocol::{Charter, Hash, Height, Keypair, Round, limits::BLOB_BYTES_MAX};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

fn finding(path: impl Into<PathBuf>, text: String, remedy: Remedy) -> Finding {
    Finding {
        path: path.into(),
        text,
        remedy,
        moved: None,
    }
}

/// Everything that is not as it must be.
pub(super) fn look(folder: &Folder) -> Vec<Finding> {
    let mut found = Vec::new();
    let keypair = key(folder, &mut found);
    let charter = charter(folder, keypair.as_ref(), &mut found);
    settings(folder, &mut found);
    if let Some(charter) = &charter {
        let ledger = ledger(folder, charter, &mut found);
        consensus(folder, ledger.as_ref(), &mut found);
        blobs(folder, charter, &mut found);
        trainer(folder, charter, keypair.as_ref(), &mut found);
        if let Some(ledger) = &ledger {
            checkpoints(folder, ledger, &mut found);
        }
    }
    logs(folder, &mut found);
    if let Err(seal::SealError::Damaged(path)) = seal::read(folder) {
        let text = "the seal is damaged. Nothing else is lost; the node makes a new one when it ends".to_string();
        found.push(finding(path, text, Remedy::Move));
    }
    found
}

fn key(folder: &Folder, found: &mut Vec<Finding>) -> Option<Keypair> {
    match identity::read(&folder.key()) {
        Ok(keypair) => Some(keypair),
        Err(error) => {
            let text = format!(
                "{error}. The key is this member's identity, and nobody else has it: put back your copy. Without one the \
                 member is lost to this run"
            );
            found.push(finding(folder.key(), text, Remedy::None));
            None
        }
    }
}

fn charter(folder: &Folder, keypair: Option<&Keypair>, found: &mut Vec<Finding>) -> Option<Arc<Charter>> {
    let path = folder.charter();
    let charter = match charter_file::read(&path) {
        Ok(charter) => charter,
        Err(error) => {
            let text = format!(
                "{error}. Every member has the same charter: move this one away and run `atoll init {} --charter \
                 charter.toml` with that of another member; the rest of the folder can be judged then",
                folder.path().display()
            );
            found.push(finding(path, text, Remedy::None));
            return None;
        }
    };
    if let Some(stranger) = keypair.filter(|keypair| charter.keys().all(|key| key != keypair.peer())) {
        let text = format!(
            "it does not name the key {} of this folder as a member: key and charter are of different runs. Put back \
             the one that belongs here",
            stranger.peer()
        );
        found.push(finding(path, text, Remedy::None));
    }
    Some(Arc::new(charter))
}

fn settings(folder: &Folder, found: &mut Vec<Finding>) {
    let path = folder.settings();
    if path.symlink_metadata().is_ok()
        && let Err(error) = Settings::read(&path)
    {
        let text = format!(
            "{error}. Where this node listens and where the others are is lost: give it again with `atoll node {} --bind \
             ADDRESS:PORT --peer KEY=ADDRESS:PORT`",
            folder.path().display()
        );
        found.push(finding(path, text, Remedy::Move));
    }
}

/// What a readable ledger says.
struct Ledger {
    height: Height,
    /// Hashes of the file lists of recorded checkpoints.
    checkpoints: BTreeMap<Round, Hash>,
}

fn ledger(folder: &Folder, charter: &Arc<Charter>, found: &mut Vec<Finding>) -> Option<Ledger> {
    let path = folder.ledger();
    let ran = has_run(folder, Height(0)) || votes_are_there(folder);
    if let Err(error) = fs::File::open(&path)
        && error.kind() == ErrorKind::PermissionDenied
    {
        let text = format!("the ledger may not be read: {error}. Check who owns it");
        found.push(finding(path, text, Remedy::None));
        return None;
    }
    let wrong = match (path.symlink_metadata().is_ok(), note::read(folder)) {
        (false, _) if !ran => return None, // it has not begun
        (false, _) => "the ledger is missing".to_string(),
        (true, Some(Note::LedgerBehind(_))) => {
            "the ledger is older than what was once written to it: the file was replaced by an older one".into()
        }
        (true, _) => match read(&path, charter) {
            Ok(ledger) => return Some(ledger),
            Err(error) => format!("the ledger is damaged, or of another run: {error}"),
        },
    };
    if charter.members.len() == 1 {
        let text = format!(
            "{wrong}. The run has no other member, so nobody else has its blocks: put back your copy. Without one the \
             run cannot go on; its checkpoints stay as they are, and `atoll found` in a new folder begins another"
        );
        found.push(finding(path, text, Remedy::None));
        return None;
    }
    let text = format!(
        "{wrong}. Nothing is lost that the others do not have: the node gets every block again from them. Its consensus \
         store, which goes on from this ledger, goes with it, so the node listens for a while before it votes again"
    );
    if path.symlink_metadata().is_err() && !votes_are_there(folder) {
        found.push(finding(path, text, Remedy::Leave)); // nothing is left to move away
        return None;
    }
    found.push(finding(path, text, Remedy::Move));
    let text = "it goes on from the ledger that is moved away".to_string();
    found.push(finding(folder.consensus(), text, Remedy::Move));
    None
}

/// Every page as it was written, and every block follows from the one before.
fn read(path: &Path, charter: &Arc<Charter>) -> Result<Ledger, String> {
    record::integrity(path)?;
    let walk = || -> Result<Ledger, RecordError> {
        if record::genesis_of(path)?.is_some_and(|bound| bound != charter.genesis().0) {
            return Err(RecordError::OtherRun(path.to_path_buf()));
        }
        let (mut state, mut checkpoints) = (State::genesis(charter.clone()), BTreeMap::new());
        record::read(path, |stored| {
            let height = stored.block.header.height;
            let (next, events) = state
                .apply(&stored.block)
                .map_err(|cause| RecordError::Refused { height, cause })?;
            state = next;
            for event in events {
                if let Event::CheckpointRecorded { round, manifest, .. } = event {
                    checkpoints.insert(round, manifest);
                }
            }
            Ok(())
        })?;
        Ok(Ledger {
            height: state.height(),
            checkpoints,
        })
    };
    quietly(walk)?.map_err(|error| error.to_string())
}

/// What cannot be looked at is taken to be there.
fn votes_are_there(folder: &Folder) -> bool {
    has_votes(folder).unwrap_or(true)
}

fn is_filled(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

fn consensus(folder: &Folder, ledger: Option<&Ledger>, found: &mut Vec<Finding>) {
    let path = folder.consensus();
    let next = "What this node has voted is lost, nothing else: when it starts it listens for a while before it votes \
                again";
    match (note::read(folder), votes_are_there(folder)) {
        (Some(Note::Consensus(why)), true) => {
            found.push(finding(path, format!("{why}. {next}"), Remedy::Move));
        }
        (_, false) if ledger.is_some_and(|ledger| ledger.height.0 > 0) => {
            let remedy = match path.exists() {
                true => Remedy::Move,
                false => Remedy::Leave,
            };
            found.push(finding(path, format!("the consensus store is missing. {next}"), remedy));
        }
        _ => {}
    }
}

fn blobs(folder: &Folder, charter: &Charter, found: &mut Vec<Finding>) {
    let index = folder.blobs().join("blobs.db");
    let data = folder.blobs().join("data");
    if let Some(cause) = index.exists().then(|| index_damage(&index)).flatten() {
        let text = format!(
            "the index of blobs is damaged ({cause}). Nothing is lost: it is made again from the files when the node \
             starts"
        );
        found.push(finding(index, text, Remedy::Move));
    } else if !index.exists() && is_filled(&data) {
        let text =
            "the index of blobs is missing. Nothing is lost: it is made again from the files when the node starts";
        found.push(finding(index, text.into(), Remedy::Leave));
    }
    let alone = charter.members.len() == 1;
    let mut files: Vec<PathBuf> = fs::read_dir(&data)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension() == Some(OsStr::new("data"))) {
        let is_partial = ["bitfield", "sizes4"]
            .iter()
            .any(|mark| path.with_extension(mark).exists());
        if is_partial || fits_its_name(path) {
            continue;
        }
        let text = match (named(path), alone) {
            (None, _) => "it is no blob: its name is no hash".to_string(),
            (Some(_), false) => {
                "its content does not have the hash in its name. The node fetches it again from the others when it \
                 needs it"
                    .into()
            }
            (Some(_), true) => {
                "its content does not have the hash in its name. The run has no other member who may have it: put back \
                 your copy, if you have one"
                    .into()
            }
        };
        found.push(finding(path.clone(), text, Remedy::Move));
    }
    for (hash, what) in needed(folder, charter) {
        let path = folder.blob(&hash);
        if path.exists() || !folder.trainer().exists() {
            continue; // judged above, or not fetched yet
        }
        let (text, remedy) = match alone {
            false => (
                "The node fetches it again from the others when it starts",
                Remedy::Leave,
            ),
            true => (
                "The run has no other member who may have it: put back your copy. Without it the run cannot go on",
                Remedy::None,
            ),
        };
        found.push(finding(path, format!("the {what} is missing. {text}"), remedy));
    }
}

/// What a run cannot do without.
fn needed(folder: &Folder, charter: &Charter) -> Vec<(Hash, &'static str)> {
    let mut needed = vec![
        (charter.data.manifest, "corpus' manifest"),
        (charter.model.tokenizer, "tokenizer"),
    ];
    let manifest = crate::audit::blob(folder, &charter.data.manifest).ok();
    let manifest = manifest.and_then(|bytes| Manifest::from_bytes(&bytes).ok());
    if let Some(manifest) = manifest {
        needed.extend(manifest.shards().map(|shard| (shard.blake3, "shard of the corpus")));
    }
    needed
}

fn trainer(folder: &Folder, charter: &Charter, keypair: Option<&Keypair>, found: &mut Vec<Finding>) {
    let Some(keypair) = keypair else { return }; // it belongs to a key, and which one is not known
    if let Err(error) = Private::read(&folder.trainer(), (charter.genesis(), keypair.peer())) {
        let text = format!(
            "{error}. What is lost is what error feedback held back, and the optimizer's moments: the node starts with \
             none, and its next contributions are a little worse"
        );
        found.push(finding(folder.trainer(), text, Remedy::Move));
    }
}

fn checkpoints(folder: &Folder, ledger: &Ledger, found: &mut Vec<Finding>) {
    let entries = fs::read_dir(folder.checkpoints()).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if let Some(of) = name.strip_prefix('.').and_then(|name| name.split_once(".partial-"))
            && is_checkpoint_name(of.0)
        {
            let text = "a checkpoint that was not finished when its node was killed. Nothing is lost";
            found.push(finding(path, text.into(), Remedy::Move));
            continue;
        }
        let round = name
            .strip_prefix("round-")
            .and_then(|number| number.parse().ok())
            .map(Round);
        let Some(expected) = round.and_then(|round| ledger.checkpoints.get(&round)) else {
            continue; // of no recorded round: somebody else's, or not agreed on yet
        };
        if manifest(&path) != Some(*expected) {
            let text = "its files are not those that the ledger records. The same checkpoint is in the folders of the \
                        other members; this node does not make it again";
            found.push(finding(path, text.into(), Remedy::Move));
        }
    }
}

/// The hash of the list of a checkpoint's files.
fn manifest(path: &Path) -> Option<Hash> {
    let mut listed = Vec::new();
    for entry in fs::read_dir(path).ok()? {
        let entry = entry.ok()?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_of_a_checkpoint(&name) {
            listed.push((name, Hash::of_blob(&read_limited(&entry.path(), BLOB_BYTES_MAX).ok()?)));
        }
    }
    listed.sort();
    Some(manifest_of(&listed))
}

/// What else is in the folder is somebody's own.
fn is_of_a_checkpoint(name: &str) -> bool {
    !name.starts_with('.') && (name.ends_with(".json") || name.ends_with(".safetensors"))
}

fn logs(folder: &Folder, found: &mut Vec<Finding>) {
    let status = folder.status();
    let is_json = |path: &Path| fs::read(path).is_ok_and(|bytes| serde_json::from_slice::<Value>(&bytes).is_ok());
    if status.symlink_metadata().is_ok() && !is_json(&status) {
        let text = "it is no JSON object. Nothing is lost: a running node writes it anew";
        found.push(finding(status, text.into(), Remedy::Move));
    }
    let log = folder.log();
    if log.is_dir() {
        let text = "a folder is where the log of events belongs. The node begins a new log";
        found.push(finding(log, text.into(), Remedy::Move));
    }
}
