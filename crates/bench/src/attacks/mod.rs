//! Every liar against every rule: what it costs in loss, and whether it is known for what it is.
//!
//! Each run is a whole network of node machines in the simulator, with the ledger, the gates, the robust weights
//! and the audits of a real run, and a real model. Liars see what the others sent a round ago: who has committed
//! cannot look before it sends.
//!
//! In reading order: [`spec`] (what a run is), [`Preset`] (which runs there are), [`campaign`], [`table`].

pub mod campaign;
pub mod spec;
pub mod table;

pub use campaign::{Campaign, Preset};
pub use spec::{RunResult, Spec};

use crate::book::BookError;
use std::path::Path;

/// Results of this bench.
pub type Book = crate::book::Book<Spec, RunResult>;

/// See [`crate::book::Book::open`].
const RESULTS_VERSION: u32 = 1;

/// The results file at `path`, of a corpus.
///
/// # Errors
/// Where the file cannot be used, or a whole line is not a result.
pub fn open(path: &Path, text: &atoll_simulator::Text) -> Result<Book, BookError> {
    Book::open(path, text.hash(), RESULTS_VERSION)
}
