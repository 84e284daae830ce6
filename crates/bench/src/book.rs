//! Results on disk: a line of JSON a run, appended when it ends, so that a campaign goes on where it was
//! stopped.

use atoll_protocol::Hash;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};
use thiserror::Error;

/// Why results cannot be read or written.
#[derive(Debug, Error)]
pub enum BookError {
    /// The file.
    #[error("cannot use the results file {}: {cause}", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Another process works with it.
    #[error("{} is in use by another process: wait until it ends, or give another folder", .0.display())]
    InUse(PathBuf),
    /// A line that is none of ours.
    #[error("{}:{line}: this is not a result: {reason}; move the file away or mend the line", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

/// A line.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry<S, R> {
    /// Hash of corpus, version and spec.
    key: String,
    /// What was run.
    spec: S,
    /// What it gave.
    result: R,
}

/// How each line begins, by which one that was cut off is known.
const BEGINS: &[u8] = b"{\"key\":\"";

/// A results file, open: what a run `S` gave is an `R`.
pub struct Book<S, R> {
    path: PathBuf,
    corpus: Hash,
    version: u32,
    inner: Mutex<Inner<R>>,
    specs: PhantomData<fn(S)>,
}

struct Inner<R> {
    file: File,
    results: BTreeMap<String, R>,
}

impl<S: Serialize + DeserializeOwned + Clone, R: Serialize + DeserializeOwned + Clone> Book<S, R> {
    /// Opens or makes the file at `path`. A last line that a crash cut off is dropped. `version` is raised whenever
    /// the same spec gives another result: older lines are of another method then.
    ///
    /// # Errors
    /// Where the file cannot be used, or a whole line is not a result.
    pub fn open(path: &Path, corpus: Hash, version: u32) -> Result<Self, BookError> {
        let failed = |cause| BookError::Io {
            path: path.to_path_buf(),
            cause,
        };
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        if file.try_lock().is_err() {
            return Err(BookError::InUse(path.to_path_buf()));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        // a crash may have cut the last line within a character
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let cut = bytes.split_off(whole);
        let begins = cut.iter().zip(BEGINS).all(|(byte, ours)| byte == ours);
        if !begins {
            return Err(BookError::Line {
                path: path.to_path_buf(),
                line: bytes.split(|byte| *byte == b'\n').count(),
                reason: "it has no end, and does not begin like one".into(),
            });
        }
        let text = String::from_utf8(bytes).map_err(|error| BookError::Line {
            path: path.to_path_buf(),
            line: error.as_bytes()[..error.utf8_error().valid_up_to()]
                .split(|byte| *byte == b'\n')
                .count(),
            reason: error.to_string(),
        })?;
        let mut results = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let entry: Entry<S, R> = serde_json::from_str(line).map_err(|error| BookError::Line {
                path: path.to_path_buf(),
                line: number + 1,
                reason: error.to_string(),
            })?;
            results.insert(entry.key, entry.result);
        }
        // only now that all of it is known to be ours
        file.set_len(whole as u64).map_err(failed)?;
        file.seek(io::SeekFrom::Start(whole as u64)).map_err(failed)?;
        Ok(Self {
            path: path.to_path_buf(),
            corpus,
            version,
            inner: Mutex::new(Inner { file, results }),
            specs: PhantomData,
        })
    }

    /// A panic elsewhere leaves nothing half done here.
    fn inner(&self) -> MutexGuard<'_, Inner<R>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, spec: &S) -> String {
        let text = serde_json::json!([self.version, self.corpus.to_string(), spec]).to_string();
        Hash::of_blob(text.as_bytes()).to_string().chars().take(16).collect()
    }

    /// The result of `spec`, if it is there.
    pub fn get(&self, spec: &S) -> Option<R> {
        self.inner().results.get(&self.key(spec)).cloned()
    }

    /// Appends a result; it is on disk when this returns.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn put(&self, spec: &S, result: R) -> Result<(), BookError> {
        let key = self.key(spec);
        let entry = Entry {
            key: key.clone(),
            spec: spec.clone(),
            result: result.clone(),
        };
        let failed = |cause| BookError::Io {
            path: self.path.clone(),
            cause,
        };
        let mut line = serde_json::to_string(&entry).map_err(|error| failed(error.into()))?;
        line.push('\n');
        let mut inner = self.inner();
        inner.file.write_all(line.as_bytes()).map_err(failed)?;
        inner.file.sync_data().map_err(failed)?;
        inner.results.insert(key, result);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convergence::{RunResult, Spec, spec::tests::sample};

    type Book = super::Book<Spec, RunResult>;

    #[test]
    fn lines_outlive_a_crash_and_wrong_ones_are_named() {
        let path = std::env::temp_dir().join(format!("atoll-book-{}", std::process::id()));
        let corpus = Hash([1; 32]);
        let result = RunResult {
            loss: 1.5,
            ..RunResult::default()
        };
        let book = Book::open(&path, corpus, 2).unwrap();
        book.put(&sample(), result.clone()).unwrap();
        drop(book);
        let whole = std::fs::read(&path).unwrap();
        let cut = [&whole[..], &whole[..whole.len() / 2]].concat();
        std::fs::write(&path, &cut).unwrap();
        let book = Book::open(&path, corpus, 2).unwrap();
        assert_eq!(book.get(&sample()), Some(result.clone()));
        let other = Spec { seed: 2, ..sample() };
        assert_eq!(book.get(&other), None);
        book.put(&other, result).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
        let second = Book::open(&path, corpus, 2).map(drop).unwrap_err();
        assert!(matches!(second, BookError::InUse(_)), "{second}");
        drop(book);
        let mut within_a_character = std::fs::read(&path).unwrap();
        within_a_character.extend(BEGINS.iter().copied().chain("ρ".bytes().take(1)));
        std::fs::write(&path, &within_a_character).unwrap();
        assert_eq!(
            Book::open(&path, Hash([2; 32]), 2).unwrap().get(&other),
            None,
            "another corpus"
        );
        std::fs::write(&path, b"one\n\xcf\n").unwrap();
        let refused = Book::open(&path, corpus, 2).map(drop).unwrap_err().to_string();
        assert!(refused.contains(":2: this is not a result"), "{refused}");
        // somebody else's file is as it was, be its last line without an end
        for foreign in ["dear reader", "{\"text\": \"one\"}", "{}\n{\"ke: cut"] {
            std::fs::write(&path, foreign).unwrap();
            let refused = Book::open(&path, corpus, 2).map(drop).unwrap_err().to_string();
            assert!(refused.contains("this is not a result"), "{refused}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), foreign);
        }
        std::fs::write(&path, "{}\n").unwrap();
        let refused = Book::open(&path, corpus, 2).map(drop).unwrap_err().to_string();
        assert!(refused.contains(":1: this is not a result"), "{refused}");
        std::fs::remove_file(&path).unwrap();
    }
}
