//! One file to documents: which format it has, which of its texts are taken, and what is counted of the rest.

use super::{
    corpus::{Corpus, Document, Part, Skipped, Source},
    decode::{self, Encoding},
    ingest::Ingest,
    json, parquet,
    secret::secret_in_text,
    unpack::{BUFFER, Meter, Packing, Stream},
    walk::File,
};
use atoll_protocol::Hash;
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, BufRead, Read},
};

/// Why a file, or a part of it, cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// No text: what it is, and what to do.
    NotText(String),
    /// It must not be read.
    Secret(String),
    /// It was meant to be read.
    Broken {
        /// Of what `at` is the number.
        part: Part,
        /// None for the whole file.
        at: Option<u64>,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The file system refused, or more is there than is taken.
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Why texts of a file are not taken, or not as they stand there, in the order in which it is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    Broken,
    NoField,
    Blank,
    Secret(&'static str),
    Copy,
    Lone,
    Twice,
}

/// What is counted for one reason.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    count: u64,
    first: u64,
    bytes: u64,
    /// What is wrong with the first.
    example: String,
}

/// The corpus while it grows.
pub(super) struct Gather {
    pub(super) corpus: Corpus,
    /// Which texts there are, and the number of their file; none where copies are kept.
    seen: Option<HashMap<[u8; 16], usize>>,
    pub(super) tallies: BTreeMap<Why, Tally>,
    /// What the present file is made of.
    pub(super) part: Part,
}

/// Bytes of what Git keeps in place of a large file.
const POINTER_BYTES_MAX: u64 = 1024;

/// Reads one file; nothing of it is taken on a fault.
pub(super) fn file(file: &File, options: &Ingest<'_>, gather: &mut Gather, meter: &mut Meter<'_>) -> Result<(), Fault> {
    let before = gather.corpus.documents.len();
    let read = gather.read(file, options, meter);
    match read {
        Ok((bytes, hash)) => gather.end(file, before, bytes, hash, options.field),
        Err(fault) => {
            gather.take_back(before);
            return Err(fault);
        }
    }
    Ok(())
}

impl Gather {
    pub(super) fn new(keep_copies: bool) -> Self {
        Self {
            corpus: Corpus::default(),
            seen: (!keep_copies).then(HashMap::new),
            tallies: BTreeMap::new(),
            part: Part::File,
        }
    }

    fn read(&mut self, file: &File, options: &Ingest<'_>, meter: &mut Meter<'_>) -> Result<(u64, Hash), Fault> {
        if !file.is_stream && file.bytes <= POINTER_BYTES_MAX && decode::is_git_lfs(&fs::read(&file.path)?) {
            return Err(Fault::NotText(decode::GIT_LFS_REMEDY.into()));
        }
        let (packing, inner) = Packing::of(&file.kind);
        let ending = inner.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
        let ending = ending.as_deref();
        if packing != Packing::None {
            let reason = match ending {
                Some("parquet") => format!(
                    "Parquet inside of {}; unpack it, Parquet is packed by itself",
                    packing.name()
                ),
                _ => decode::unread_by_name(inner).map(str::to_string).unwrap_or_default(),
            };
            if !reason.is_empty() {
                return Err(Fault::NotText(reason));
            }
        }
        match (ending, file.is_stream) {
            (Some("parquet"), false) => self.parquet(file, options, meter),
            (Some("jsonl" | "ndjson"), _) => self.stream(file, packing, meter, |gather, stream| {
                gather.part = Part::Line;
                gather.json_lines(stream, options)
            }),
            (Some("json"), _) | (_, true) => self.stream(file, packing, meter, |gather, stream| {
                let text = gather.whole(stream, packing)?;
                gather.json_or_text(text, options)
            }),
            _ => self.stream(file, packing, meter, |gather, stream| {
                let text = gather.whole(stream, packing)?;
                gather.text(text)
            }),
        }
    }

    /// Forgets the texts from the one of number `before` on, and what was counted with them.
    fn take_back(&mut self, before: usize) {
        self.tallies.clear();
        for document in self.corpus.documents.drain(before..) {
            if let Some(seen) = &mut self.seen {
                seen.remove(&short(&document.text));
            }
        }
    }

    pub(super) fn count(&mut self, why: Why, at: u64, bytes: usize, example: impl FnOnce() -> String) {
        let tally = self.tallies.entry(why).or_default();
        if tally.count == 0 {
            (tally.first, tally.example) = (at, example());
        }
        tally.count += 1;
        tally.bytes += bytes as u64;
    }

    /// Takes a text, or counts why not. Says whether it was taken.
    pub(super) fn push(&mut self, text: String, at: u64) -> bool {
        let (source, none) = (self.corpus.sources.len(), String::new);
        if text.trim().is_empty() {
            self.count(Why::Blank, at, text.len(), none);
            return false;
        }
        if let Some(why) = secret_in_text(&text) {
            self.count(Why::Secret(why), at, text.len(), none);
            return false;
        }
        if let Some(seen) = &mut self.seen {
            let short = short(&text);
            if let Some(other) = seen.get(&short) {
                let other = self.corpus.sources.get(*other).map(|source| source.path.clone());
                self.count(Why::Copy, at, text.len(), || other.unwrap_or_default());
                return false;
            }
            seen.insert(short, source);
        }
        self.corpus.documents.push(Document { source, text });
        true
    }

    /// Writes down what was counted, and the file if any of its texts was taken.
    fn end(&mut self, file: &File, before: usize, bytes: u64, hash: Hash, field: &str) {
        let path = &file.name;
        let any = self.corpus.documents.len() > before;
        if any {
            let path = path.clone();
            self.corpus.sources.push(Source { path, bytes, hash });
        } else if self.tallies.is_empty() {
            let skipped = Skipped::one(path, Part::File, bytes, "it is empty");
            self.corpus.skipped.push(skipped);
        }
        for (why, tally) in std::mem::take(&mut self.tallies) {
            let whole = self.part == Part::File;
            let (one, field) = (tally.count == 1, json::shown(field));
            let reason = match &why {
                Why::Broken if one => tally.example.clone(),
                Why::Broken => format!("broken; the first: {}", tally.example),
                Why::NoField => format!("without `{field}`; of the first {}", tally.example),
                Why::Blank if whole => "it is empty or all blanks".into(),
                Why::Blank => "without text: null, empty or blanks".into(),
                Why::Secret(reason) => (*reason).into(),
                Why::Copy if whole => format!("a copy of {}", tally.example),
                Why::Copy => "copies of texts that were read before: each is taken once".into(),
                Why::Lone => "what is half a character in UTF-16 became U+FFFD".into(),
                Why::Twice => format!("`{field}` stands there more than once; the last is taken"),
            };
            let entry = Skipped {
                path: path.clone(),
                part: self.part,
                count: tally.count,
                first: (!whole).then_some(tally.first),
                bytes: tally.bytes,
                reason,
            };
            match why {
                Why::Lone | Why::Twice => self.corpus.changed.push(entry),
                _ => self.corpus.skipped.push(entry),
            }
        }
    }

    /// Opens the file as a stream and gives it to `read`; what is packed and ends before its end is broken.
    fn stream(
        &mut self,
        file: &File,
        packing: Packing,
        meter: &mut Meter<'_>,
        read: impl FnOnce(&mut Self, &mut dyn BufRead) -> Result<(), Fault>,
    ) -> Result<(u64, Hash), Fault> {
        self.part = Part::File;
        let mut stream = Stream::new(fs::File::open(&file.path)?, packing, meter)?;
        let done = read(self, &mut stream.text).and_then(|()| Ok(stream.end()?));
        done.map_err(|fault| match fault {
            Fault::Io(error) if packing != Packing::None && is_damage(&error) => Fault::Broken {
                part: Part::File,
                at: None,
                reason: format!(
                    "it is damaged or cut short as {}: {error}; get it again, or leave it out with --skip-broken",
                    packing.name()
                ),
            },
            fault => fault,
        })
    }

    /// The whole text; gives up at the first bytes if they are none.
    fn whole(&mut self, stream: &mut dyn BufRead, packing: Packing) -> Result<String, Fault> {
        let inside = |reason: String| match packing {
            Packing::None => Fault::NotText(reason),
            _ => Fault::NotText(format!("{}, inside of {}", reason, packing.name())),
        };
        let mut bytes = Vec::new();
        stream.take(BUFFER as u64).read_to_end(&mut bytes)?;
        let start = &bytes[..bytes.len() - unfinished(&bytes)];
        if let (Encoding::Utf8(_), Some(reason)) = (Encoding::of(start), decode::not_text(start)) {
            return Err(inside(reason));
        }
        stream.read_to_end(&mut bytes)?;
        let (text, lone) = decode::text(bytes).map_err(inside)?;
        for _ in 0..lone {
            self.count(Why::Lone, 0, 0, String::new);
        }
        Ok(text)
    }

    /// A text that is one document.
    pub(super) fn text(&mut self, text: String) -> Result<(), Fault> {
        if let Some(why) = secret_in_text(&text) {
            return Err(Fault::Secret(why.into()));
        }
        self.push(text, 0);
        Ok(())
    }

    /// Counts what is broken, or ends where that is not wanted.
    pub(super) fn broken(&mut self, at: u64, bytes: usize, reason: String, options: &Ingest<'_>) -> Result<(), Fault> {
        if options.skip_broken {
            self.count(Why::Broken, at, bytes, || reason);
            return Ok(());
        }
        Err(Fault::Broken {
            part: self.part,
            at: Some(at),
            reason: format!("{reason} (--skip-broken leaves out what is broken, and counts it)"),
        })
    }

    fn parquet(&mut self, file: &File, options: &Ingest<'_>, meter: &mut Meter<'_>) -> Result<(u64, Hash), Fault> {
        self.part = Part::Row;
        // the format is read from its end, so its hash takes a pass of its own
        let mut read = fs::File::open(&file.path)?;
        let (mut hasher, mut bytes, mut buffer) = (blake3::Hasher::new(), 0, vec![0; BUFFER]);
        loop {
            let count = read.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            meter.read(count as u64)?;
            hasher.update(&buffer[..count]);
            bytes += count as u64;
        }
        parquet::texts(read, options, meter, &mut |row, value| match value {
            Ok(Some(text)) => {
                self.push(text, row);
                Ok(())
            }
            Ok(None) => {
                self.count(Why::Blank, row, 0, String::new);
                Ok(())
            }
            Err(reason) => self.broken(row, 0, reason, options),
        })?;
        Ok((bytes, Hash(*hasher.finalize().as_bytes())))
    }
}

/// Tells texts apart: two that are not the same never have the same.
fn short(text: &str) -> [u8; 16] {
    let hash = Hash::of_blob(text.as_bytes()).0;
    std::array::from_fn(|at| hash[at])
}

/// Bytes at the end of a part of a text that may be the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() && bytes.len() >= BUFFER => bytes.len() - error.valid_up_to(),
        _ => 0,
    }
}

/// Whether an error tells of the bytes and not of the disk.
fn is_damage(error: &io::Error) -> bool {
    let about_bytes = [
        io::ErrorKind::InvalidData,
        io::ErrorKind::InvalidInput,
        io::ErrorKind::UnexpectedEof,
    ];
    about_bytes.contains(&error.kind())
        || error.kind() == io::ErrorKind::Other && super::unpack::Halt::of(error).is_none()
}
