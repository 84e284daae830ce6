//! What a node that ended badly leaves for `atoll repair`: the engine's storage can be judged by the engine alone.

use crate::folder::{Folder, FolderError, read_limited, write_whole};
use atoll_consensus::{StartError, says_damaged};
use atoll_protocol::Height;
use serde_json::{Value, json};
use std::{fs, io, path::PathBuf};

/// Bytes of a note.
const NOTE_BYTES_MAX: u64 = 64 * 1024;

/// What the last run found that only it could find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Note {
    /// The engine's storage is damaged.
    Consensus(String),
    /// The ledger is older than what the engine knows to have been written.
    LedgerBehind(String),
}

fn path(folder: &Folder) -> PathBuf {
    folder.path().join("damage.json")
}

/// Notes why consensus did not start, where that is damage.
pub fn note(folder: &Folder, error: &StartError) {
    match error {
        StartError::Behind { .. } => write(folder, "ledger", &error.to_string()),
        StartError::Engine(why) => note_stop(folder, why),
        StartError::NotAValidator(_) | StartError::OtherTransport | StartError::Used => {}
    }
}

/// Notes why consensus stopped, where that is damage.
pub fn note_stop(folder: &Folder, why: &str) {
    if says_damaged(why) {
        write(folder, "consensus", why);
    }
}

/// Who reads this is helped by it, and nothing depends on it: a disk that takes no more is told elsewhere.
fn write(folder: &Folder, what: &str, why: &str) {
    let note = json!({ "what": what, "why": why }).to_string();
    let _ = write_whole(&path(folder), note.as_bytes());
}

pub(super) fn read(folder: &Folder) -> Option<Note> {
    let value: Value = serde_json::from_slice(&read_limited(&path(folder), NOTE_BYTES_MAX).ok()?).ok()?;
    let why = value["why"].as_str()?.to_string();
    match value["what"].as_str()? {
        "consensus" => Some(Note::Consensus(why)),
        "ledger" => Some(Note::LedgerBehind(why)),
        _ => None,
    }
}

/// What was noted is not so any more.
pub fn forget(folder: &Folder) -> Result<(), FolderError> {
    match fs::remove_file(path(folder)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FolderError::io("remove", &path(folder))(error)),
        _ => Ok(()),
    }
}

/// Whether the node of this folder, whose ledger is at `height`, has followed its run before: then it may have voted. A
/// log alone says nothing: it is begun before the first vote, and a whole network that was stopped in its first second
/// must not wait for each other.
pub fn has_run(folder: &Folder, height: Height) -> bool {
    height.0 > 0 || folder.trainer().exists()
}

/// That the node only listens, or no more, as an event.
pub fn listening(listens: bool) -> Value {
    let text = match listens {
        true => {
            "what this node had voted was lost with its consensus store: it listens, and votes again when the others \
             have decided a few blocks without it; where they cannot, when all of them were connected for twenty \
             seconds. Until then it trains as always"
        }
        false => "this node has listened enough, and votes again",
    };
    json!({ "event": "listening", "listens": listens, "text": text })
}
