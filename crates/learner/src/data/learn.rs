//! A byte-level BPE tokenizer from a corpus.

use super::{
    Corpus, TokenizerError, TrainProgress,
    bpe::{Learning, Watch},
    pieces::pieces,
    tokenizer::{END_OF_TEXT, invalid},
};
use rayon::prelude::*;
use std::{collections::HashMap, ops::ControlFlow};
use tokenizers::{
    AddedToken, NormalizerWrapper, OffsetReferential, OffsetType, PostProcessorWrapper, PreTokenizedString,
    PreTokenizer, TokenizerBuilder,
    models::bpe::{BPE, Vocab},
    pre_tokenizers::byte_level::ByteLevel,
};

/// Pieces that are counted between two looks at whether to go on.
const PIECES_PER_LOOK: usize = 64;

type Counts = HashMap<String, u64>;

fn byte_level() -> ByteLevel {
    ByteLevel::default().add_prefix_space(false)
}

/// A `tokenizer.json` of up to `vocab` tokens.
pub(super) fn learn(corpus: &Corpus, vocab: u32, watch: &mut Watch<'_>) -> Result<Vec<u8>, TokenizerError> {
    let words = count(corpus, watch)?;
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    let alphabet = std::iter::once(END_OF_TEXT.to_string()).chain(bytes.into_iter().map(String::from));
    let (vocab, merges) = Learning::new(words, alphabet.collect(), vocab, watch)?.merge_all(watch)?;
    let text = |token: u32| vocab[token as usize].clone();
    let merges = merges.iter().map(|(left, right)| (text(*left), text(*right))).collect();
    let ids: Vocab = vocab.iter().cloned().zip(0..).collect();
    let model = BPE::builder().vocab_and_merges(ids, merges).build().map_err(invalid)?;
    let mut tokenizer = TokenizerBuilder::<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, ByteLevel>::new()
        .with_model(model)
        .with_pre_tokenizer(Some(byte_level()))
        .with_decoder(Some(byte_level()))
        .build()
        .map_err(invalid)?;
    let end = AddedToken::from(END_OF_TEXT, true);
    tokenizer.add_special_tokens([end]).map_err(invalid)?;
    Ok(tokenizer.to_string(true).map_err(invalid)?.into_bytes())
}

/// How often each word stands in the corpus, its bytes as printable characters. A special token's
/// name is text like any other.
fn count(corpus: &Corpus, watch: &mut Watch<'_>) -> Result<Counts, TokenizerError> {
    let (mut counts, mut bytes) = (Counts::new(), 0);
    let of = corpus.text_bytes();
    let mut texts = corpus.documents.iter().flat_map(|document| pieces(&document.text));
    loop {
        let some: Vec<&str> = texts.by_ref().take(PIECES_PER_LOOK).collect();
        if some.is_empty() {
            return Ok(counts);
        }
        let words: Result<Vec<Counts>, TokenizerError> = some.par_iter().map(|piece| words(piece)).collect();
        for (word, times) in words?.into_iter().flatten() {
            *counts.entry(word).or_default() += times;
        }
        bytes += some.iter().map(|piece| piece.len() as u64).sum::<u64>();
        if watch(TrainProgress::Counting { bytes, of }) == ControlFlow::Break(()) {
            return Err(TokenizerError::Stopped);
        }
    }
}

fn words(piece: &str) -> Result<Counts, TokenizerError> {
    let mut text = PreTokenizedString::from(piece);
    byte_level().pre_tokenize(&mut text).map_err(invalid)?;
    let mut counts = Counts::new();
    for (word, _, _) in text.get_splits(OffsetReferential::Original, OffsetType::Byte) {
        match counts.get_mut(word) {
            Some(times) => *times += 1,
            None => drop(counts.insert(word.to_string(), 1)),
        }
    }
    Ok(counts)
}
