//! Loss against bytes for every method at equal tokens.
//!
//! In reading order: [`spec`] (what a run is), [`arms`] (which runs there are), [`task`] (what is learned),
//! [`outer_loop`] and [`baselines`] (the methods), [`crate::book`] (results on disk, resumable), [`campaign`]
//! (grid, then seeds), [`clock`] (links in virtual time), [`table`] and [`plot`].

pub mod arms;
mod baselines;
pub mod campaign;
pub mod clock;
mod outer_loop;
pub mod plot;
pub mod spec;
pub mod table;
pub mod task;

pub use crate::book::BookError;
pub use arms::Preset;
pub use campaign::{Campaign, Progress};
pub use spec::{Point, RunResult, Spec};
pub use task::{Task, TaskError};

use std::path::Path;
use thiserror::Error;

/// Results of this bench.
pub type Book = crate::book::Book<Spec, RunResult>;

/// See [`crate::book::Book::open`].
const RESULTS_VERSION: u32 = 2;

/// The results file at `path`, of a corpus.
///
/// # Errors
/// Where the file cannot be used, or a whole line is not a result.
pub fn open(path: &Path, task: &Task) -> Result<Book, BookError> {
    Book::open(path, task.hash(), RESULTS_VERSION)
}

/// Why a run did not end.
#[derive(Debug, Error)]
pub enum RunError {
    /// A setting that cannot be.
    #[error("{field} = {value}: {allowed}")]
    Spec {
        /// The setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The corpus cannot be used.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The learner failed.
    #[error(transparent)]
    Learn(#[from] atoll_learner::LearnError),
    /// A replica failed.
    #[error(transparent)]
    Replica(#[from] atoll_outer::ReplicaError),
    /// Its own contribution cannot be read back.
    #[error(transparent)]
    Blob(#[from] atoll_outer::BlobError),
    /// The run was told to stop.
    #[error("stopped")]
    Stopped,
}

/// Runs `spec` to its end. Same spec and build, same result, whatever runs beside it. A loss that is not
/// finite ends the run: its result says so with an infinite loss.
///
/// # Errors
/// Where a setting cannot be, the corpus is too short, or `stop` said so.
pub fn run(spec: &Spec, task: &Task, stop: &(dyn Fn() -> bool + Sync)) -> Result<RunResult, RunError> {
    let done = match spec.method {
        spec::Method::AllReduce => baselines::all_reduce(spec, task, stop),
        spec::Method::Cocktail => baselines::cocktail(spec, task, stop),
        spec::Method::OuterLoop => outer_loop::run(spec, task, stop),
    };
    match done {
        Err(RunError::Learn(atoll_learner::LearnError::NotFinite { .. })) => Ok(RunResult::diverged()),
        Err(RunError::Replica(error)) if error.is_numeric() => Ok(RunResult::diverged()),
        other => other,
    }
}
