//! Documents to shards: tokenized once, split, cut, named by hash.

use super::{
    Corpus, DataError, Manifest, Overlap, Shard, SourceEntry, Tokenizer, manifest::token_bytes, overlap::overlap,
    tokenizer::pieces,
};
use atoll_protocol::Hash;

/// Bytes of one shard.
pub const SHARD_BYTES_MAX: usize = 4 << 20;
/// Of so many blocks one is held out.
const HELD_OUT_EVERY: usize = 20;
/// Which of them.
const HELD_OUT_PHASE: usize = HELD_OUT_EVERY / 2;
/// Tokens of a block: long, so that few rows cross a seam; but a small corpus has blocks enough.
const BLOCK_TOKENS_MAX: usize = 4096;
/// Tokens of a block of the smallest corpus.
const BLOCK_TOKENS_MIN: usize = 16;
/// Blocks that a corpus is cut into, at least.
const BLOCKS_MIN: usize = 5 * HELD_OUT_EVERY;

/// A manifest and the shards that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// What to write into the charter, by hash.
    pub manifest: Manifest,
    /// Address and bytes, in the manifest's order.
    pub shards: Vec<(Hash, Vec<u8>)>,
    /// How much of what is held out is also trained on.
    pub overlap: Overlap,
}

/// Tokenizes `corpus` and splits it. Of every 20 blocks of up to 4096 tokens, one from the middle is
/// held out, so that what is held out comes from everywhere in the corpus.
pub fn build(corpus: &Corpus, tokenizer: &Tokenizer, licence: Option<&str>) -> Result<Built, DataError> {
    let tokens = tokenize(corpus, tokenizer)?;
    let min = BLOCKS_MIN * BLOCK_TOKENS_MIN;
    if tokens.len() < min {
        return Err(DataError::TooSmall {
            tokens: tokens.len() as u64,
            min: min as u64,
        });
    }
    let block = (tokens.len() / BLOCKS_MIN).min(BLOCK_TOKENS_MAX);
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for (index, block) in tokens.chunks(block).enumerate() {
        let split = match index % HELD_OUT_EVERY {
            HELD_OUT_PHASE => &mut held_out,
            _ => &mut train,
        };
        split.extend_from_slice(block);
    }
    let overlap = overlap(&train, &held_out);
    let mut shards = Vec::new();
    let width = token_bytes(tokenizer.vocab());
    let train = cut(&train, width, &mut shards);
    let held_out = cut(&held_out, width, &mut shards);
    let sources = corpus.sources.iter().map(|source| SourceEntry {
        path: source.path.clone(),
        licence: licence.map(str::to_string),
        bytes: source.bytes,
        blake3: source.hash,
    });
    let manifest = Manifest {
        version: Manifest::VERSION,
        sources: sources.collect(),
        tokenizer: tokenizer.hash(),
        vocab: tokenizer.vocab(),
        token_bytes: width,
        train,
        held_out,
    };
    Ok(Built {
        manifest,
        shards,
        overlap,
    })
}

/// All documents, each with the end of text behind it.
fn tokenize(corpus: &Corpus, tokenizer: &Tokenizer) -> Result<Vec<u32>, DataError> {
    let mut tokens = Vec::new();
    for document in &corpus.documents {
        for piece in pieces(&document.text) {
            tokens.extend(tokenizer.encode(piece)?);
        }
        tokens.push(tokenizer.eos());
    }
    Ok(tokens)
}

fn cut(tokens: &[u32], width: u32, shards: &mut Vec<(Hash, Vec<u8>)>) -> Vec<Shard> {
    let width = width as usize;
    let named = tokens.chunks(SHARD_BYTES_MAX / width).map(|tokens| {
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| token.to_le_bytes().into_iter().take(width))
            .collect();
        let blake3 = Hash::of_blob(&bytes);
        shards.push((blake3, bytes));
        Shard {
            blake3,
            tokens: tokens.len() as u64,
        }
    });
    named.collect()
}
