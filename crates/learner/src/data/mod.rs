//! From files to tokens: documents, tokenizer, shards, rows.
//!
//! Read in this order: [`ingest()`] → [`Tokenizer`] → [`build`] → [`Dataset`].

mod dataset;
mod hex;
mod ingest;
mod manifest;
mod parquet;
mod shards;
mod tokenizer;

pub use dataset::{Dataset, Split};
pub use ingest::{CORPUS_BYTES_MAX, Corpus, Document, IngestError, Skipped, Source, ingest};
pub use manifest::{DataError, MANIFEST_BYTES_MAX, Manifest, Shard, SourceEntry};
pub use shards::{Built, SHARD_BYTES_MAX, build};
pub use tokenizer::{END_OF_TEXT, TOKENIZER_BYTES_MAX, Tokenizer, TokenizerError};
