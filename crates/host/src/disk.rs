//! What a node's folder takes on disk, how much is free, and when a node takes on no more work.

use crate::{cost, folder::Folder};
use atoll_protocol::Charter;
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Files that are looked at at most, to say what a folder takes.
const FILES_MAX: usize = 200_000;
/// A node takes on work while there is room for so many rounds and a checkpoint.
const ROUNDS: u64 = 3;
/// And for so much of ledger, consensus and logs.
const BESIDE: u64 = 16 << 20;

/// Bytes of a node's folder, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Corpus, θs, contributions, states.
    pub blobs: u64,
    /// Blocks and certificates.
    pub ledger: u64,
    /// The engine's storage.
    pub consensus: u64,
    /// Hugging Face folders.
    pub checkpoints: u64,
    /// Events, and the older ones.
    pub logs: u64,
    /// What was put aside because it was damaged.
    pub damaged: u64,
    /// The rest.
    pub other: u64,
    /// Whether there are more files than were looked at.
    pub more: bool,
}

impl Usage {
    /// All of it.
    pub fn total(&self) -> u64 {
        let Self {
            blobs,
            ledger,
            consensus,
            checkpoints,
            logs,
            damaged,
            other,
            more: _,
        } = self;
        blobs + ledger + consensus + checkpoints + logs + damaged + other
    }

    fn of(&mut self, name: &str) -> &mut u64 {
        match name {
            "blobs" => &mut self.blobs,
            "ledger.redb" => &mut self.ledger,
            "consensus" => &mut self.consensus,
            "checkpoints" => &mut self.checkpoints,
            _ if name.starts_with("events.") => &mut self.logs,
            _ if name.starts_with("damaged-") => &mut self.damaged,
            _ => &mut self.other,
        }
    }
}

/// What the files in `folder` take. What cannot be read counts nothing.
pub fn usage(folder: &Folder) -> Usage {
    let (mut usage, mut seen) = (Usage::default(), 0);
    for entry in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
        let bytes = taken(&entry.path(), &mut seen);
        *usage.of(&entry.file_name().to_string_lossy()) += bytes;
    }
    usage.more = seen >= FILES_MAX;
    usage
}

fn taken(path: &Path, seen: &mut usize) -> u64 {
    let (mut bytes, mut waiting) = (0, vec![path.to_path_buf()]);
    while let Some(path) = waiting.pop() {
        *seen += 1;
        if *seen >= FILES_MAX {
            break;
        }
        let Ok(about) = fs::symlink_metadata(&path) else {
            continue;
        };
        match about.is_dir() {
            true => waiting.extend(
                fs::read_dir(&path)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.path()),
            ),
            false => bytes += on_disk(&about),
        }
    }
    bytes
}

/// A file may have holes: what it takes, not how long it is.
#[cfg(unix)]
fn on_disk(about: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(about) * 512
}

#[cfg(not(unix))]
fn on_disk(about: &fs::Metadata) -> u64 {
    about.len()
}

/// Bytes that are free for us where `path` is; none if the system does not say.
#[cfg(unix)]
pub fn free(path: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(path).ok()?;
    about.f_bavail.checked_mul(about.f_frsize)
}

/// Bytes that are free for us where `path` is; none, since the system does not say.
#[cfg(not(unix))]
pub fn free(_path: &Path) -> Option<u64> {
    None
}

/// What the folder takes by kind, its growth over `rounds` rounds, and what is free, for people and programs.
pub fn describe(folder: &Folder, charter: &Charter, rounds: u32) -> Value {
    let usage = usage(folder);
    let grows = usage.blobs + usage.ledger + usage.consensus + usage.checkpoints;
    json!({
        "blobs": usage.blobs,
        "ledger": usage.ledger,
        "consensus": usage.consensus,
        "checkpoints": usage.checkpoints,
        "logs": usage.logs,
        "damaged": usage.damaged,
        "other": usage.other,
        "total": usage.total(),
        "more_files": usage.more,
        "per_round": (rounds > 0).then(|| grows / u64::from(rounds)),
        "run_up_to": cost::of(charter).run,
        "free": free(folder.path()),
        "needed_free": Room::of(charter).bound,
    })
}

/// Whether there is room for more work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// With less than this free, no work is taken on.
    bound: u64,
    short: bool,
}

/// That room has become short, or is there again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// So much is free, and so much is needed.
    Short(u64, u64),
    /// So much is free.
    Enough(u64),
}

impl Room {
    /// For a node of this run: three rounds, a checkpoint, and a little.
    pub fn of(charter: &Charter) -> Self {
        let cost = cost::of(charter);
        Self::with(ROUNDS * cost.round + cost.checkpoint + BESIDE)
    }

    /// With less than `bound` free, no work is taken on.
    pub fn with(bound: u64) -> Self {
        Self { bound, short: false }
    }

    /// Whether no work is taken on.
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// Looks at what is free; what is unknown is enough. A third more than the bound must be free before it is enough
    /// again, so that it does not go to and fro.
    pub fn look(&mut self, free: Option<u64>) -> Option<Change> {
        let free = free.unwrap_or(u64::MAX);
        let (was, bound) = (self.short, self.bound);
        self.short = match was {
            false => free < bound,
            true => free < bound.saturating_add(bound / 3),
        };
        match (was, self.short) {
            (false, true) => Some(Change::Short(free, bound)),
            (true, false) => Some(Change::Enough(free)),
            _ => None,
        }
    }
}

impl Change {
    /// As an event.
    pub fn event(&self) -> Value {
        let mega = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        match *self {
            Self::Short(free, needed) => json!({
                "event": "disk_short",
                "free": free,
                "needed": needed,
                "text": format!(
                    "only {} are free on this disk; below {} the node neither trains nor fetches, and follows the \
                     ledger: free some space, and it goes on",
                    mega(free), mega(needed),
                ),
            }),
            Self::Enough(free) => json!({
                "event": "disk_enough",
                "free": free,
                "text": format!("{} are free on this disk again: the node goes on with its work", mega(free)),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_taken_on_only_while_there_is_room_for_it() {
        use Change::{Enough, Short};
        let mut room = Room::with(900);
        for (free, expected, short) in [
            (Some(5_000), None, false),
            (None, None, false),
            (Some(900), None, false),
            (Some(899), Some(Short(899, 900)), true),
            (Some(0), None, true),
            (Some(1_199), None, true),
            (Some(1_200), Some(Enough(1_200)), false),
            (Some(900), None, false),
            (Some(10), Some(Short(10, 900)), true),
            (None, Some(Enough(u64::MAX)), false),
        ] {
            assert_eq!((room.look(free), room.is_short()), (expected, short), "{free:?}");
        }
    }

    #[test]
    fn a_folder_is_counted_by_kind() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::at(temporary.path());
        let write = |path: &str, bytes: usize| {
            let path = temporary.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![7; bytes]).unwrap();
        };
        for (path, bytes) in [
            ("blobs/data/aa.data", 65_536),
            ("blobs/blobs.db", 65_536),
            ("ledger.redb", 131_072),
            ("consensus/simplex/00", 196_608),
            ("checkpoints/round-000001/model.safetensors", 262_144),
            ("events.jsonl", 327_680),
            ("events.1.jsonl", 65_536),
            ("damaged-1/ledger.redb", 65_536),
            ("trainer.bin", 65_536),
        ] {
            write(path, bytes);
        }
        let found = usage(&folder);
        // a file system may take a little more than a file's length
        for (found, expected) in [
            (found.blobs, 131_072),
            (found.ledger, 131_072),
            (found.consensus, 196_608),
            (found.checkpoints, 262_144),
            (found.logs, 393_216),
            (found.damaged, 65_536),
            (found.other, 65_536),
        ] {
            assert!((expected..expected + 32_768).contains(&found), "{found} for {expected}");
        }
        assert!(!found.more);
        assert_eq!(usage(&Folder::at("/nowhere")), Usage::default());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_free_is_known_where_something_is() {
        let temporary = tempfile::tempdir().unwrap();
        assert!(free(temporary.path()).is_some_and(|free| free > 0));
        assert_eq!(free(Path::new("/nowhere/at/all")), None);
    }
}
