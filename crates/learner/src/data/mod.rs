//! From files to tokens: documents, tokenizer, shards, rows.
//!
//! Read in this order: [`ingest()`] → [`Tokenizer`] → [`build`] → [`Dataset`].

mod bpe;
mod dataset;
mod hex;
mod ingest;
mod learn;
mod manifest;
mod parquet;
mod pieces;
mod shards;
mod text_stream;
mod tokenizer;

pub use dataset::{Dataset, Split};
pub use ingest::{CORPUS_BYTES_MAX, Corpus, Document, IngestError, Skipped, Source, ingest};
pub use manifest::{DataError, MANIFEST_BYTES_MAX, Manifest, Shard, SourceEntry};
pub use shards::{Built, SHARD_BYTES_MAX, build};
pub use text_stream::TextStream;
pub use tokenizer::{END_OF_TEXT, TOKENIZER_BYTES_MAX, Tokenizer, TokenizerError, TrainProgress};
