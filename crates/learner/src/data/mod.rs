//! From files to tokens: documents, tokenizer, shards, rows.
//!
//! Read in this order: [`ingest()`] → [`Tokenizer`] → [`build`] → [`Dataset`].

mod corpus;
mod dataset;
mod decode;
mod gather;
mod hex;
mod ingest;
mod json;
mod learn;
mod manifest;
mod overlap;
mod parquet;
mod pieces;
mod records;
mod secret;
mod shards;
mod text_stream;
mod tokenizer;
mod unpack;
mod walk;

pub use corpus::{Corpus, Document, Part, Skipped, Source};
pub(crate) use decode::{GIT_LFS_REMEDY, MARK, is_git_lfs};

pub use dataset::{Dataset, Split};
pub use ingest::{CORPUS_BYTES_MAX, Ingest, IngestError, Progress, TEXT_BYTES_MAX, ingest};
pub use manifest::{DataError, MANIFEST_BYTES_MAX, Manifest, Shard, SourceEntry};
pub use overlap::Overlap;
pub use secret::{secret_by_name, secret_in_text};
pub use shards::{Built, SHARD_BYTES_MAX, build};
pub use text_stream::TextStream;
pub use tokenizer::{END_OF_TEXT, TOKENIZER_BYTES_MAX, Tokenizer, TokenizerError, TrainProgress};
