//! One file to documents: which format it has, which of its texts are taken, and what is counted of the rest.

use super::{
    corpus::{Corpus, Document, Part, Skipped, Source},
    decode::{self, Encoding},
    ingest::Ingest,
    json::{self, Found, Reader},
    parquet,
    secret::secret_in_text,
    unpack::{BUFFER, Meter, Packing, Stream},
    walk::File,
};
use atoll_protocol::Hash;
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, BufRead, Cursor, Read},
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
enum Why {
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
struct Tally {
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
    tallies: BTreeMap<Why, Tally>,
    /// What the present file is made of.
    part: Part,
}

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

    fn count(&mut self, why: Why, at: u64, bytes: usize, example: impl FnOnce() -> String) {
        let tally = self.tallies.entry(why).or_default();
        if tally.count == 0 {
            (tally.first, tally.example) = (at, example());
        }
        tally.count += 1;
        tally.bytes += bytes as u64;
    }

    /// Takes a text, or counts why not. Says whether it was taken.
    fn push(&mut self, text: String, at: u64) -> bool {
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
    fn text(&mut self, text: String) -> Result<(), Fault> {
        if let Some(why) = secret_in_text(&text) {
            return Err(Fault::Secret(why.into()));
        }
        self.push(text, 0);
        Ok(())
    }

    /// JSON lines or an array of objects if that is what it is, else a text.
    fn json_or_text(&mut self, text: String, options: &Ingest<'_>) -> Result<(), Fault> {
        let mut reader = Reader::new(&text);
        match reader.peek() {
            Some(b'{') if is_json_lines(&text, options.field) => {
                self.part = Part::Line;
                self.json_lines(&mut Cursor::new(text), options)
            }
            Some(b'[') if is_array_of_objects(&text, options.field) => {
                self.part = Part::Element;
                self.array(&text, options)
            }
            _ => self.text(text),
        }
    }

    fn array(&mut self, text: &str, options: &Ingest<'_>) -> Result<(), Fault> {
        let mut reader = Reader::new(text);
        reader.take(b'[');
        let mut texts = Vec::new();
        for at in 0.. {
            reader.peek();
            let begin = reader.at();
            let picked = reader
                .object(options.field, &mut texts)
                .map_err(|wrong| Fault::Broken {
                    part: Part::Element,
                    at: Some(at),
                    reason: wrong.what,
                })?;
            let object = &text[begin..reader.at()];
            self.picked(picked, &mut texts, object, at, options)?;
            if reader.take(b']') {
                break;
            }
            if !reader.take(b',') {
                return Err(Fault::Broken {
                    part: Part::Element,
                    at: Some(at),
                    reason: "`,` is missing behind it, or the file is cut short".into(),
                });
            }
        }
        Ok(())
    }

    fn json_lines(&mut self, stream: &mut dyn BufRead, options: &Ingest<'_>) -> Result<(), Fault> {
        let mut start = Vec::new();
        stream.take(4).read_to_end(&mut start)?;
        if let Encoding::Utf16Le | Encoding::Utf16Be = Encoding::of(&start) {
            stream.read_to_end(&mut start)?;
            let (text, lone) = decode::text(start).map_err(Fault::NotText)?;
            for _ in 0..lone {
                self.count(Why::Lone, 1, 0, String::new);
            }
            return self.lines(&mut Cursor::new(text), options);
        }
        self.lines(&mut Cursor::new(start).chain(stream), options)
    }

    fn lines(&mut self, stream: &mut dyn BufRead, options: &Ingest<'_>) -> Result<(), Fault> {
        let (mut bytes, mut texts) = (Vec::new(), Vec::new());
        let (mut has_field, mut first_without) = (false, None);
        for number in 1.. {
            bytes.clear();
            if stream.read_until(b'\n', &mut bytes)? == 0 {
                break;
            }
            let line = bytes.strip_prefix(decode::MARK).unwrap_or(&bytes);
            let read = line_text(line, number).and_then(|line| match line.trim().is_empty() {
                true => Ok(None),
                false => match json::pick(line, options.field, &mut texts) {
                    Ok(picked) => Ok(Some((picked, line))),
                    Err(wrong) => Err(wrong.what),
                },
            });
            match read {
                Ok(None) => {}
                Ok(Some((picked, line))) => {
                    has_field |= picked.found != Found::Missing;
                    if picked.found == Found::Missing && first_without.is_none() {
                        first_without = Some((number, json::fields(line)));
                    }
                    self.picked(picked, &mut texts, line, number, options)?;
                }
                Err(reason) => self.broken(number, line.len(), reason, options)?,
            }
        }
        match first_without {
            Some((number, fields)) if !has_field => {
                self.tallies.remove(&Why::NoField);
                Err(Fault::Broken {
                    part: Part::Line,
                    at: Some(number),
                    reason: format!(
                        "missing field `{}`; {fields}: name the one that holds the text with --field",
                        json::shown(options.field)
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    /// Takes what was found in one object.
    fn picked(
        &mut self,
        picked: json::Picked,
        texts: &mut Vec<String>,
        object: &str,
        at: u64,
        options: &Ingest<'_>,
    ) -> Result<(), Fault> {
        for _ in 0..picked.nulls {
            self.count(Why::Blank, at, 0, String::new);
        }
        if picked.lone > 0 {
            self.count(Why::Lone, at, 0, String::new);
        }
        if picked.twice {
            self.count(Why::Twice, at, 0, String::new);
        }
        match picked.found {
            Found::Texts(_) => texts.drain(..).for_each(|text| {
                self.push(text, at);
            }),
            Found::Null => self.count(Why::Blank, at, 0, String::new),
            Found::Missing => self.count(Why::NoField, at, object.len(), || json::fields(object)),
            Found::Other(kind) => {
                let field = json::shown(options.field);
                let reason = format!("`{field}` is {kind}, not a string; name another field with --field, or mend it");
                self.broken(at, object.len(), reason, options)?;
            }
        }
        Ok(())
    }

    /// Counts what is broken, or ends where that is not wanted.
    fn broken(&mut self, at: u64, bytes: usize, reason: String, options: &Ingest<'_>) -> Result<(), Fault> {
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

/// A line of JSON as text.
fn line_text(line: &[u8], number: u64) -> Result<&str, String> {
    if number == 1
        && let (Some(_), Some(what)) = (
            decode::bad_utf8(line).or(line.iter().position(|byte| *byte == 0)),
            decode::other_format(line),
        )
    {
        return Err(format!("the file is {what}"));
    }
    if let Some(at) = line.iter().position(|byte| *byte == 0) {
        return Err(format!("byte {at} of the line is NUL"));
    }
    std::str::from_utf8(line).map_err(|error| {
        format!(
            "byte {} of the line is not UTF-8{}",
            error.valid_up_to(),
            decode::remedy(line)
        )
    })
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

/// Whether the first line is a whole object that has the field.
fn is_json_lines(text: &str, field: &str) -> bool {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    json::pick(line, field, &mut Vec::new())
        .is_ok_and(|picked| !matches!(picked.found, Found::Missing | Found::Other(_)))
}

/// Whether it is one array whose first element is an object that has the field.
fn is_array_of_objects(text: &str, field: &str) -> bool {
    let mut reader = Reader::new(text);
    let picked = reader.take(b'[').then(|| reader.object(field, &mut Vec::new()));
    picked.is_some_and(|picked| picked.is_ok_and(|picked| !matches!(picked.found, Found::Missing | Found::Other(_))))
}
