//! Text to tokens and back: a `tokenizer.json`, trained here or imported.

use super::Corpus;
use atoll_protocol::Hash;
use serde_json::json;
use std::collections::BTreeMap;
use thiserror::Error;
use tokenizers::{
    AddedToken, NormalizerWrapper, PostProcessorWrapper, TokenizerBuilder,
    models::bpe::{BPE, BpeTrainerBuilder},
    pre_tokenizers::byte_level::ByteLevel,
};

/// Stands between documents.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Bytes of a `tokenizer.json`.
pub const TOKENIZER_BYTES_MAX: usize = 64 << 20;
/// Every byte and the end of text.
const VOCAB_MIN: u32 = 257;
/// What the charter allows.
const VOCAB_MAX: u32 = 1 << 20;
/// Names under which an imported tokenizer may know the end of a text, the usual first.
const END_NAMES: [&str; 6] = [
    END_OF_TEXT,
    "</s>",
    "<eos>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|im_end|>",
];

/// A tokenizer that cannot be made or used.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// No vocabulary of that size.
    #[error("vocabulary of {got}: from {VOCAB_MIN} (every byte and the end of text) to {VOCAB_MAX} is possible")]
    Vocab {
        /// What was asked for.
        got: u32,
    },
    /// Too many bytes.
    #[error("a tokenizer of {got} bytes; at most {TOKENIZER_BYTES_MAX} are read")]
    TooLarge {
        /// Its size.
        got: usize,
    },
    /// Not a `tokenizer.json`, or one that cannot be used.
    #[error("this is no usable tokenizer.json: {reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// A token outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocab}")]
    Token {
        /// The token.
        token: u32,
        /// V.
        vocab: u32,
    },
}

fn invalid(error: impl ToString) -> TokenizerError {
    TokenizerError::Invalid {
        reason: error.to_string(),
    }
}

/// A tokenizer and the exact bytes it came from.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: Vec<u8>,
    vocab: u32,
    eos: u32,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens, {})", self.vocab, self.hash().short())
    }
}

impl Tokenizer {
    /// Trains byte-level BPE on `corpus`, up to `vocab` tokens; fewer if the text has too few
    /// repeated pairs. Pairs of equal count are merged in the order of their ids.
    pub fn train(corpus: &Corpus, vocab: u32) -> Result<Self, TokenizerError> {
        if !(VOCAB_MIN..=VOCAB_MAX).contains(&vocab) {
            return Err(TokenizerError::Vocab { got: vocab });
        }
        let mut trainer = BpeTrainerBuilder::new()
            .show_progress(false)
            .vocab_size(vocab as usize)
            .min_frequency(2)
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let mut tokenizer =
            TokenizerBuilder::<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, ByteLevel>::new()
                .with_model(BPE::default())
                .with_pre_tokenizer(Some(byte_level()))
                .with_decoder(Some(byte_level()))
                .build()
                .map_err(invalid)?;
        let texts = corpus.documents.iter().flat_map(|document| pieces(&document.text));
        tokenizer.train(&mut trainer, texts).map_err(invalid)?;
        Self::from_bytes(tokenizer.to_string(true).map_err(invalid)?.as_bytes())
    }

    /// One token per byte, with the byte's value as its id; the end of text is 256.
    pub fn bytes() -> Result<Self, TokenizerError> {
        let vocab: BTreeMap<String, u32> = byte_characters().zip(0..).map(|(c, id)| (c.to_string(), id)).collect();
        let mut tokenizer: serde_json::Value = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [{
                "id": 256, "content": END_OF_TEXT, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true
            }],
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": []
            }
        });
        tokenizer["model"]["vocab"][END_OF_TEXT] = json!(256);
        Self::from_bytes(&serde_json::to_vec_pretty(&tokenizer).map_err(invalid)?)
    }

    /// Reads a `tokenizer.json`.
    pub fn from_bytes(json: &[u8]) -> Result<Self, TokenizerError> {
        if json.len() > TOKENIZER_BYTES_MAX {
            return Err(TokenizerError::TooLarge { got: json.len() });
        }
        let inner = tokenizers::Tokenizer::from_bytes(json).map_err(invalid)?;
        let last = inner.get_vocab(true).into_values().max();
        let vocab = last.and_then(|last| last.checked_add(1)).unwrap_or(0);
        if !(2..=VOCAB_MAX).contains(&vocab) {
            return Err(invalid(format!(
                "its vocabulary has {vocab} tokens, 2 to {VOCAB_MAX} are possible"
            )));
        }
        let Some(eos) = END_NAMES.iter().find_map(|name| inner.token_to_id(name)) else {
            return Err(invalid(format!(
                "it has no end of text; known names are {}",
                END_NAMES.join(" ")
            )));
        };
        Ok(Self {
            inner,
            json: json.to_vec(),
            vocab,
            eos,
        })
    }

    /// Tokens of `text`, without any added at its ends.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false).map_err(invalid)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `tokens`, without special tokens. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizerError> {
        if let Some(token) = tokens.iter().find(|token| **token >= self.vocab) {
            return Err(TokenizerError::Token {
                token: *token,
                vocab: self.vocab,
            });
        }
        self.inner.decode(tokens, true).map_err(invalid)
    }

    /// V: one more than the greatest id.
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// The token between documents.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The text of [`Self::eos`].
    pub fn eos_text(&self) -> String {
        self.inner.id_to_token(self.eos).unwrap_or_default()
    }

    /// The bytes of `tokenizer.json`, unchanged.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// BLAKE3 of [`Self::json`].
    pub fn hash(&self) -> Hash {
        Hash::of_blob(&self.json)
    }
}

fn byte_level() -> ByteLevel {
    ByteLevel::default().add_prefix_space(false)
}

/// The printable character that stands for each byte in GPT-2's byte-level alphabet.
fn byte_characters() -> impl Iterator<Item = char> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100u32;
    (0..=255u8).map(move |byte| {
        if printable(byte) {
            return char::from(byte);
        }
        let stand_in = char::from_u32(next).unwrap_or(char::REPLACEMENT_CHARACTER);
        next += 1;
        stand_in
    })
}

/// Bytes that are tokenized at once, about: the library needs some 100 bytes per token.
const PIECE_BYTES: usize = 256 * 1024;

/// `text` cut behind newlines into parts that are tokenized by themselves.
pub(super) fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let mut end = text.len().min(PIECE_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        if end < text.len() {
            end = text[..end].rfind('\n').map_or(end, |newline| newline + 1);
        }
        let (piece, rest) = text.split_at(end);
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}
