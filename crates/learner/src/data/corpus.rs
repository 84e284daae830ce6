//! What was read: documents and where they came from, and what was not read and why.

use atoll_protocol::Hash;
use std::fmt;

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

/// What a [`Skipped`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A file.
    File,
    /// A folder with all that is in it.
    Folder,
    /// A symbolic link.
    Link,
    /// Files and folders whose names begin with a dot.
    Hidden,
    /// Lines of a file.
    Line,
    /// Elements of an array.
    Element,
    /// Rows of a table.
    Row,
}

impl Part {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Folder => "folder",
            Self::Link => "link",
            Self::Hidden => "hidden",
            Self::Line => "line",
            Self::Element => "element",
            Self::Row => "row",
        }
    }

    /// `7 lines`.
    pub(super) fn counted(self, count: u64) -> String {
        let (name, end) = (self.name(), if count == 1 { "" } else { "s" });
        match self {
            Self::Hidden => format!("{count} hidden file{end} and folder{end}"),
            _ => format!("{count} {name}{end}"),
        }
    }
}

/// Something that was named and is not in the corpus, or not as it stood there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Relative to what was named, with `/`.
    pub path: String,
    /// What it is, or is a part of the file.
    pub part: Part,
    /// How many of them.
    pub count: u64,
    /// Place of the first of several in its file: lines from 1, elements and rows from 0.
    pub first: Option<u64>,
    /// Bytes of text that are not in the corpus, as far as they are known.
    pub bytes: u64,
    /// Why, as a person should read it.
    pub reason: String,
}

impl Skipped {
    pub(super) fn one(path: impl Into<String>, part: Part, bytes: u64, reason: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            part,
            count: 1,
            first: None,
            bytes,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, reason) = (&self.path, &self.reason);
        match (self.part, self.first) {
            (Part::Hidden, _) => write!(f, "{}: {reason}", self.part.counted(self.count)),
            (_, None) => write!(f, "{path}: {reason}"),
            (part, Some(first)) if self.count == 1 => write!(f, "{path}, {} {first}: {reason}", part.name()),
            (part, Some(first)) => {
                let first = format!("{} {first}", part.name());
                write!(f, "{path}, {} from {first}: {reason}", part.counted(self.count))
            }
        }
    }
}

/// Everything that was read, in the order of the paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corpus {
    /// Files that gave a text, by path.
    pub sources: Vec<Source>,
    /// Texts, in the order of the files and within them.
    pub documents: Vec<Document>,
    /// What is not in the corpus, by path; hidden files are one entry at the end.
    pub skipped: Vec<Skipped>,
    /// What is in the corpus otherwise than it stood in its file, by path.
    pub changed: Vec<Skipped>,
}

impl Corpus {
    /// Bytes of text.
    pub fn text_bytes(&self) -> u64 {
        self.documents.iter().map(|document| document.text.len() as u64).sum()
    }
}
