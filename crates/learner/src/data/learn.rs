//! A byte-level BPE tokenizer from a corpus.

use super::{
    Corpus, TokenizerError, TrainProgress,
    pieces::pieces,
    tokenizer::{END_OF_TEXT, invalid},
};
use rayon::prelude::*;
use std::{collections::HashMap, ops::ControlFlow};
use tokenizers::{
    AddedToken, NormalizerWrapper, OffsetReferential, OffsetType, PostProcessorWrapper, PreTokenizedString,
    PreTokenizer, TokenizerBuilder,
    models::bpe::{BPE, BpeTrainerBuilder},
    pre_tokenizers::byte_level::ByteLevel,
};

/// Hears how far it is, and says whether to go on.
pub(super) type Watch<'a> = dyn FnMut(TrainProgress) -> ControlFlow<()> + 'a;

/// Pieces that are counted between two looks at whether to go on.
const PIECES_PER_LOOK: usize = 64;

type Counts = HashMap<String, u64>;

fn byte_level() -> ByteLevel {
    ByteLevel::default().add_prefix_space(false)
}

/// A `tokenizer.json` of up to `vocab` tokens. Words are counted here, piece by piece, because the library takes time in
/// the square of a word's length, and its trainer would look for special tokens in the text; pairs it merges.
pub(super) fn learn(corpus: &Corpus, vocab: u32, watch: &mut Watch<'_>) -> Result<Vec<u8>, TokenizerError> {
    let words = count(corpus, watch)?;
    if watch(TrainProgress::Merging { of: vocab }) == ControlFlow::Break(()) {
        return Err(TokenizerError::Stopped);
    }
    let end = AddedToken::from(END_OF_TEXT, true);
    let trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(vocab as usize)
        .min_frequency(2)
        .special_tokens(vec![end.clone()])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let words = words
        .iter()
        .map(|(word, times)| (word.as_str().into(), *times))
        .collect();
    let mut model = BPE::default();
    trainer.do_train(&words, &mut model).map_err(invalid)?;
    let mut tokenizer = TokenizerBuilder::<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, ByteLevel>::new()
        .with_model(model)
        .with_pre_tokenizer(Some(byte_level()))
        .with_decoder(Some(byte_level()))
        .build()
        .map_err(invalid)?;
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
