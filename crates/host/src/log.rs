//! The node's log of events, an append-only file: its end is recovered, a line is one write, its size is bounded.

use crate::folder::FolderError;
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

/// Bytes of the log before it becomes the older one, of which one is kept: some days of a busy run.
const BYTES_MAX: u64 = 64 << 20;

/// Where the log at `path` goes when it is full.
pub(crate) fn older(path: &Path) -> PathBuf {
    path.with_extension("1.jsonl")
}

/// Events go to the log file and to whoever runs the node.
pub(crate) struct Log<T> {
    lines: Lines,
    tell: T,
}

impl<T: FnMut(&Value)> Log<T> {
    /// Opens the log at `path`, or makes it. A line that a crash has torn stays, and the next begins after it.
    pub(crate) fn open(path: &Path, tell: T) -> Result<Self, FolderError> {
        let lines = Lines::open(path, BYTES_MAX).map_err(FolderError::io("open", path))?;
        Ok(Self { lines, tell })
    }

    /// The log is for people: a full disk does not stop the node here, but where it writes its ledger. What is
    /// said every second is not kept.
    pub(crate) fn tell(&mut self, event: &Value) {
        if event["event"] != "traffic" {
            let _ = self.lines.push(&event.to_string());
        }
        (self.tell)(event);
    }

    /// For whoever runs the node alone: the file is about to be sealed.
    pub(crate) fn say(&mut self, event: &Value) {
        (self.tell)(event);
    }
}

/// A file of lines.
struct Lines {
    path: PathBuf,
    file: File,
    /// Bytes in the file; none for what is no plain file, such as /dev/null, which has neither end nor bound.
    bytes: Option<u64>,
    bytes_max: u64,
    /// Whether the last line has no end.
    torn: bool,
}

impl Lines {
    fn open(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let mut file = File::options().create(true).read(true).append(true).open(path)?;
        let about = file.metadata()?;
        let bytes = about.is_file().then_some(about.len());
        let torn = bytes.is_some_and(|bytes| bytes > 0) && {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            last != *b"\n"
        };
        Ok(Self {
            path: path.to_path_buf(),
            file,
            bytes,
            bytes_max,
            torn,
        })
    }

    /// Appends a line in one write. What fails half way is torn, and the next line begins after it.
    fn push(&mut self, line: &str) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(line.len() + 2);
        if self.torn {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        if self
            .bytes
            .is_some_and(|there| there > 0 && there + bytes.len() as u64 > self.bytes_max)
        {
            self.rotate()?;
        }
        let written = self.file.write_all(&bytes);
        self.torn = written.is_err();
        self.bytes = match (&written, self.bytes) {
            (Ok(()), Some(there)) => Some(there + bytes.len() as u64),
            (Err(_), Some(there)) => Some(self.file.metadata().map_or(there, |about| about.len())),
            (_, None) => None,
        };
        written
    }

    /// The full file becomes the older one.
    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(&self.path, older(&self.path))?;
        *self = Self::open(&self.path, self.bytes_max)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines_of(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
        text.lines().map(str::to_string).collect()
    }

    #[test]
    fn a_torn_line_stays_alone_and_swallows_nothing() {
        for (before, torn) in [
            ("", None),
            ("{\"event\":\"step\"}\n", None),
            ("{\"event\":\"step\",\"rou", Some("{\"event\":\"step\",\"rou")),
            (
                "{\"event\":\"step\"}\n{\"event\":\"done\"}",
                Some("{\"event\":\"done\"}"),
            ),
            ("\n{", Some("{")),
        ] {
            let temporary = tempfile::tempdir().unwrap();
            let path = temporary.path().join("events.jsonl");
            fs::write(&path, before).unwrap();
            let mut told = Vec::new();
            let mut log = Log::open(&path, |event: &Value| told.push(event.clone())).unwrap();
            log.tell(&json!({ "event": "started" }));
            log.tell(&json!({ "event": "traffic" }));
            log.tell(&json!({ "event": "stopped" }));
            drop(log);
            assert_eq!(told.len(), 3, "whoever runs the node hears all");
            let lines = lines_of(&path);
            assert_eq!(
                lines[lines.len() - 2..],
                [r#"{"event":"started"}"#, r#"{"event":"stopped"}"#]
            );
            assert_eq!(lines.len(), before.lines().count() + 2, "{before:?}");
            if let Some(torn) = torn {
                assert_eq!(lines[lines.len() - 3], torn);
            }
        }
    }

    #[test]
    fn a_full_log_becomes_the_older_one_and_one_is_kept() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("events.jsonl");
        let mut lines = Lines::open(&path, 40).unwrap();
        for number in 0..11 {
            lines.push(&format!("line {number:04}")).unwrap(); // ten bytes with its end: four fit
        }
        let of = |from: usize, to: usize| (from..to).map(|n| format!("line {n:04}")).collect::<Vec<_>>();
        assert_eq!(lines_of(&path), of(8, 11));
        assert_eq!(lines_of(&older(&path)), of(4, 8));
        assert_eq!(
            fs::read_dir(temporary.path()).unwrap().count(),
            2,
            "nothing else is kept"
        );
        drop(lines);
        let mut again = Lines::open(&path, 40).unwrap();
        again.push("line 0011").unwrap();
        again.push("line 0012").unwrap();
        assert_eq!(lines_of(&path), of(12, 13), "its size is known after a restart too");
        assert_eq!(lines_of(&older(&path)), of(8, 12));
        again.push(&"x".repeat(100)).unwrap();
        assert_eq!(lines_of(&path), ["x".repeat(100)], "a long line is a file of its own");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_no_plain_file_is_written_as_it_is_and_a_failed_write_is_told() {
        let mut nowhere = Lines::open(Path::new("/dev/null"), 4).unwrap();
        nowhere.push("longer than its bound").unwrap();
        let mut full = Lines::open(Path::new("/dev/full"), 4).unwrap();
        assert!(full.push("a").is_err() && full.torn);
    }
}
