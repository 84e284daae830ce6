//! Files to documents: text, JSONL, Parquet, or a folder of them.

use super::parquet::texts_of_parquet;
use atoll_protocol::Hash;
use serde::Deserialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Bytes of all files of one corpus; they are held in memory.
pub const CORPUS_BYTES_MAX: u64 = 4 << 30;
/// Files of one corpus.
const FILES_MAX: usize = 100_000;
/// Folders within folders.
const DEPTH_MAX: usize = 32;

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
    #[error("{path} has {got} {unit}; at most {max} are taken: train on a part of it")]
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
    #[error("{path} is not UTF-8 text (byte {at}); text, .jsonl and .parquet are read")]
    NotText {
        /// The file.
        path: PathBuf,
        /// The first byte that is not UTF-8.
        at: usize,
    },
    /// A line of JSONL.
    #[error("{path}, line {line}: {reason}; each line must be an object with a string `text`")]
    Jsonl {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A Parquet file.
    #[error("{path}: {reason}; a Parquet file must have a string column `text`")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No text at all.
    #[error("{path} holds no text ({skipped} files were skipped)")]
    Empty {
        /// What was read.
        path: PathBuf,
        /// Files that are not text.
        skipped: usize,
    },
}

/// One text; the end-of-text token stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Index of its source in [`Corpus::sources`].
    pub source: usize,
    /// The text.
    pub text: String,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Relative to what was named, with `/`.
    pub path: String,
    /// Size of the file.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub hash: Hash,
}

/// A file of a folder that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Relative to the folder, with `/`.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Everything that was read, in the order of the paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corpus {
    /// Files, by path.
    pub sources: Vec<Source>,
    /// Texts, in the order of the files and within them.
    pub documents: Vec<Document>,
    /// Files of the folder that are not text.
    pub skipped: Vec<Skipped>,
}

impl Corpus {
    /// Bytes of text.
    pub fn text_bytes(&self) -> u64 {
        self.documents.iter().map(|document| document.text.len() as u64).sum()
    }
}

/// Reads a file or a folder. In a folder, files that are not UTF-8 are skipped and named; a broken
/// JSONL or Parquet file is an error, because it was meant to be read.
pub fn ingest(path: &Path) -> Result<Corpus, IngestError> {
    let is_folder = metadata(path)?.is_dir();
    let mut files = Vec::new();
    match is_folder {
        true => walk(path, String::new(), 0, &mut files)?,
        false => files.push((name_of(path), path.to_path_buf())),
    }
    files.sort();
    let mut corpus = Corpus::default();
    let mut total = 0u64;
    for (name, file) in files {
        total = total.saturating_add(metadata(&file)?.len());
        if total > CORPUS_BYTES_MAX {
            return Err(IngestError::TooLarge {
                path: path.to_path_buf(),
                got: total,
                unit: "bytes",
                max: CORPUS_BYTES_MAX,
            });
        }
        match read(&file, &name, &mut corpus) {
            Err(IngestError::NotText { at, .. }) if is_folder => corpus.skipped.push(Skipped {
                path: name,
                reason: format!("not UTF-8 text (byte {at})"),
            }),
            result => result?,
        }
    }
    match corpus.documents.is_empty() {
        false => Ok(corpus),
        true => Err(IngestError::Empty {
            path: path.to_path_buf(),
            skipped: corpus.skipped.len(),
        }),
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> IngestError {
    let path = path.to_path_buf();
    move |error| IngestError::Io { path, error }
}

fn metadata(path: &Path) -> Result<fs::Metadata, IngestError> {
    fs::metadata(path).map_err(io_error(path))
}

fn name_of(path: &Path) -> String {
    match path.file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => String::new(),
    }
}

/// Collects files below `folder`; hidden names and symbolic links are not followed.
fn walk(folder: &Path, prefix: String, depth: usize, files: &mut Vec<(String, PathBuf)>) -> Result<(), IngestError> {
    let too_large = |got, unit, max| IngestError::TooLarge {
        path: folder.to_path_buf(),
        got,
        unit,
        max,
    };
    if depth > DEPTH_MAX {
        return Err(too_large(depth as u64, "folders within folders", DEPTH_MAX as u64));
    }
    for entry in fs::read_dir(folder).map_err(io_error(folder))? {
        let entry = entry.map_err(io_error(folder))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(io_error(folder))?);
        let name = name_of(&path);
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{name}");
        if kind.is_dir() {
            walk(&path, format!("{name}/"), depth + 1, files)?;
        } else if kind.is_file() {
            files.push((name, path));
        }
        if files.len() > FILES_MAX {
            return Err(too_large(files.len() as u64, "files", FILES_MAX as u64));
        }
    }
    Ok(())
}

/// Appends one file. Nothing is appended on an error.
fn read(path: &Path, name: &str, corpus: &mut Corpus) -> Result<(), IngestError> {
    let bytes = fs::read(path).map_err(io_error(path))?;
    let source = Source {
        path: name.to_string(),
        bytes: bytes.len() as u64,
        hash: Hash::of_blob(&bytes),
    };
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    let texts = match extension.as_ref().and_then(|extension| extension.to_str()) {
        Some("parquet") => texts_of_parquet(path).map_err(|reason| IngestError::Parquet {
            path: path.to_path_buf(),
            reason,
        })?,
        Some("jsonl" | "ndjson") => texts_of_jsonl(path, &text(path, bytes)?)?,
        _ => vec![text(path, bytes)?],
    };
    let index = corpus.sources.len();
    corpus.sources.push(source);
    let full = texts.into_iter().filter(|text| !text.is_empty());
    corpus
        .documents
        .extend(full.map(|text| Document { source: index, text }));
    Ok(())
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, IngestError> {
    let refuse = |at| IngestError::NotText {
        path: path.to_path_buf(),
        at,
    };
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(refuse(at));
    }
    String::from_utf8(bytes).map_err(|error| refuse(error.utf8_error().valid_up_to()))
}

/// The only field that is read; a line may have others.
#[derive(Deserialize)]
struct Line {
    text: String,
}

fn texts_of_jsonl(path: &Path, file: &str) -> Result<Vec<String>, IngestError> {
    let full = (1..).zip(file.lines()).filter(|(_, line)| !line.trim().is_empty());
    full.map(|(number, line)| match serde_json::from_str::<Line>(line) {
        Ok(line) => Ok(line.text),
        Err(error) => Err(IngestError::Jsonl {
            path: path.to_path_buf(),
            line: number,
            reason: error.to_string(),
        }),
    })
    .collect()
}
