//! Files to documents: text, JSON lines, Parquet, packed or not, or a folder of them.
//!
//! Whatever is named is read or said: see [`Corpus::skipped`]. Texts stay as they are, line ends too; only a byte
//! order mark is taken off.

use super::{
    corpus::{Corpus, Part, Skipped},
    gather::{self, Fault, Gather},
    secret::secret_by_name,
    unpack::{Halt, Meter},
    walk::{self, File},
};
use std::{
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Bytes of all files of one corpus, as they lie on the disk.
pub const CORPUS_BYTES_MAX: u64 = 4 << 30;
/// Bytes of all texts of one corpus, unpacked; they are held in memory.
pub const TEXT_BYTES_MAX: u64 = 8 << 30;
/// Reasons that an error lists.
const REASONS_MAX: usize = 3;

/// Why nothing was read.
#[derive(Debug, Error)]
pub enum IngestError {
    /// The file system refused.
    #[error("cannot read {path}: {error}")]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// More than fits.
    #[error("{path} has {got} {unit} at least; at most {max} are taken: train on a part of it")]
    TooLarge {
        /// What was read.
        path: PathBuf,
        /// How much there is, at least.
        got: u64,
        /// Of what.
        unit: &'static str,
        /// The limit.
        max: u64,
    },
    /// The one file that was named is not text.
    #[error("{path} is {reason}; text, .json, .jsonl, .parquet are read, and .gz and .zst of text and JSON")]
    NotText {
        /// The file.
        path: PathBuf,
        /// What it is, and what to do.
        reason: String,
    },
    /// A file that was meant to be read and cannot be.
    #[error("{path}{place}: {reason}", place = place(*part, *at))]
    Broken {
        /// The file.
        path: PathBuf,
        /// Of what `at` is the number.
        part: Part,
        /// Lines from 1, elements and rows from 0; none for the whole file.
        at: Option<u64>,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// What was named must not be in a corpus.
    #[error("{path} is not read: {reason}, and a corpus is given to everybody; name other data")]
    Secret {
        /// What was named.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// No text at all.
    #[error("{path} holds no text{}", reasons(skipped))]
    Empty {
        /// What was read.
        path: PathBuf,
        /// What was left out of it.
        skipped: Vec<Skipped>,
    },
    /// The caller wanted no more.
    #[error("reading {0} was stopped")]
    Stopped(PathBuf),
}

fn place(part: Part, at: Option<u64>) -> String {
    at.map(|at| format!(", {} {at}", part.name())).unwrap_or_default()
}

fn reasons(skipped: &[Skipped]) -> String {
    let mut named: Vec<String> = skipped.iter().take(REASONS_MAX).map(ToString::to_string).collect();
    match skipped.len().saturating_sub(REASONS_MAX) {
        _ if skipped.is_empty() => return String::new(),
        0 => {}
        more => named.push(format!("and {more} more")),
    }
    format!("; left out: {}", named.join("; "))
}

/// How far reading is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files read.
    pub files: u64,
    /// Files to read.
    pub files_all: u64,
    /// Bytes read, as they lie on the disk.
    pub bytes: u64,
    /// Bytes to read; less than `bytes` where a file has no size of its own.
    pub bytes_all: u64,
}

/// How a corpus is read.
#[derive(Clone, Copy)]
pub struct Ingest<'a> {
    /// Field of JSON and column of Parquet that holds the text; `a.b` is a field of a field.
    pub field: &'a str,
    /// Lines, rows and files that are broken are left out and named, and are no error.
    pub skip_broken: bool,
    /// A text that stands there twice is read twice: what is trained on is kept apart from what is held out only
    /// where each text stands once.
    pub keep_copies: bool,
    /// Files and folders that are left out wherever they are, such as the founder's own.
    pub leave_out: &'a [PathBuf],
    /// Bytes of all files; [`CORPUS_BYTES_MAX`].
    pub bytes_max: u64,
    /// Bytes of all texts; [`TEXT_BYTES_MAX`].
    pub text_bytes_max: u64,
    /// Called for every file and megabyte; reading ends with [`IngestError::Stopped`] when it breaks.
    pub progress: &'a dyn Fn(&Progress) -> ControlFlow<()>,
}

fn go_on(_: &Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

impl Default for Ingest<'_> {
    fn default() -> Self {
        Self {
            field: "text",
            skip_broken: false,
            keep_copies: false,
            leave_out: &[],
            bytes_max: CORPUS_BYTES_MAX,
            text_bytes_max: TEXT_BYTES_MAX,
            progress: &go_on,
        }
    }
}

/// Reads a file or a folder with the usual settings.
///
/// # Errors
/// See [`Ingest::read`].
pub fn ingest(path: &Path) -> Result<Corpus, IngestError> {
    Ingest::default().read(path)
}

impl Ingest<'_> {
    /// Reads a file or a folder. In a folder, what is no text is left out and named; what was meant to be read and
    /// is broken (JSON lines, Parquet, anything packed) is an error unless `skip_broken`.
    ///
    /// # Errors
    /// Where a file that was named is no text or must not be read, where something is broken, or too much, and
    /// where no text is left.
    pub fn read(&self, path: &Path) -> Result<Corpus, IngestError> {
        let found = walk::walk(path, self)?;
        let mut meter = Meter::new(self);
        meter.progress.files_all = found.files.len() as u64;
        meter.progress.bytes_all = found.files.iter().map(|file| file.bytes).sum();
        let mut gather = Gather::new(self.keep_copies);
        gather.corpus.skipped = found.skipped;
        for file in &found.files {
            self.one(file, found.is_folder, &mut gather, &mut meter)
                .map_err(|fault| {
                    let shown = if found.is_folder {
                        path.join(&file.name)
                    } else {
                        path.to_path_buf()
                    };
                    self.error(fault, shown, path, &meter)
                })?;
            meter.progress.files += 1;
        }
        let mut corpus = gather.corpus;
        corpus.skipped.sort_by(|a, b| (&a.path, a.part).cmp(&(&b.path, b.part)));
        if found.hidden > 0 {
            corpus.skipped.push(Skipped {
                count: found.hidden,
                ..Skipped::one("", Part::Hidden, 0, "names that begin with a dot are not read")
            });
        }
        match corpus.documents.is_empty() {
            false => Ok(corpus),
            true => Err(IngestError::Empty {
                path: path.to_path_buf(),
                skipped: corpus.skipped,
            }),
        }
    }

    /// Reads one file, or says why not.
    fn one(&self, file: &File, in_folder: bool, gather: &mut Gather, meter: &mut Meter<'_>) -> Result<(), Fault> {
        meter.tell()?;
        let by_name = file
            .path
            .file_name()
            .and_then(|name| secret_by_name(&name.to_string_lossy()));
        let read = match by_name {
            Some(reason) => Err(Fault::Secret(reason.into())),
            None => gather::file(file, self, gather, meter),
        };
        let reason = match read {
            Ok(()) => return Ok(()),
            Err(Fault::NotText(reason) | Fault::Secret(reason)) if in_folder => reason,
            Err(Fault::Io(error)) if in_folder && is_about_one(&error) => format!("it cannot be read: {error}"),
            Err(Fault::Broken { part, at, reason }) if self.skip_broken => match at {
                Some(at) => format!("{} {at}: {reason}", part.name()),
                None => reason,
            },
            Err(fault) => return Err(fault),
        };
        let skipped = Skipped::one(&file.name, Part::File, file.bytes, reason);
        gather.corpus.skipped.push(skipped);
        Ok(())
    }

    fn error(&self, fault: Fault, path: PathBuf, named: &Path, meter: &Meter<'_>) -> IngestError {
        let too_large = |got, unit, max| IngestError::TooLarge {
            path: named.to_path_buf(),
            got,
            unit,
            max,
        };
        match fault {
            Fault::NotText(reason) => IngestError::NotText { path, reason },
            Fault::Secret(reason) => IngestError::Secret { path, reason },
            Fault::Broken { part, at, reason } => IngestError::Broken { path, part, at, reason },
            Fault::Io(error) => match Halt::of(&error) {
                Some(Halt::TooManyBytes) => too_large(meter.progress.bytes, "bytes", self.bytes_max),
                Some(Halt::TooMuchText) => too_large(meter.unpacked, "bytes of text", self.text_bytes_max),
                Some(Halt::Stopped) => IngestError::Stopped(named.to_path_buf()),
                None => IngestError::Io { path, error },
            },
        }
    }
}

/// Whether the file alone is in trouble, and not the disk.
fn is_about_one(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound)
}

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> IngestError {
    let path = path.to_path_buf();
    move |error| IngestError::Io { path, error }
}

pub(super) fn metadata(path: &Path) -> Result<fs::Metadata, IngestError> {
    fs::metadata(path).map_err(io_error(path))
}
