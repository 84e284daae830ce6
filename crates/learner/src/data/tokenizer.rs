//! Text to tokens and back: a `tokenizer.json`, trained here or imported.

use super::{Corpus, learn::Watch, learn::learn, pieces::pieces as cut, text_stream::TextStream};
use atoll_protocol::Hash;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
};
use thiserror::Error;

pub(super) use super::pieces::pieces;

/// Stands between documents.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Bytes of a `tokenizer.json`.
pub const TOKENIZER_BYTES_MAX: usize = 64 << 20;
/// How often a text is cut anew around what would be a special token.
const CUTS_MAX: usize = 16;
/// Every byte and the end of text.
const VOCAB_MIN: u32 = 257;
/// What the charter allows.
const VOCAB_MAX: u32 = 1 << 20;
/// Names under which an imported tokenizer may know the end of a text, the usual first.
const END_NAMES: [&str; 7] = [
    END_OF_TEXT,
    "</s>",
    "<eos>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|im_end|>",
    "<｜end▁of▁sentence｜>",
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
    /// A text that has no other tokens than a special one.
    #[error("the text holds {text:?}, which this tokenizer can only write as a special token; change the text")]
    Special {
        /// The part of the text.
        text: String,
    },
    /// Whoever watched said so.
    #[error("stopped")]
    Stopped,
}

/// How far the training of a tokenizer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainProgress {
    /// Words are counted.
    Counting {
        /// Bytes of text until now.
        bytes: u64,
        /// Bytes of text in all.
        of: u64,
    },
    /// Pairs become tokens; this begins, and is not heard of again.
    Merging {
        /// Tokens at the most.
        of: u32,
    },
}

pub(super) fn invalid(error: impl ToString) -> TokenizerError {
    TokenizerError::Invalid {
        reason: error.to_string(),
    }
}

/// The library panics on some files that it should refuse.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TokenizerError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(invalid),
        Err(_) => Err(invalid("the tokenizer library failed on it")),
    }
}

/// A tokenizer and the exact bytes it came from.
///
/// A text is a text: [`Self::encode`] never gives a special token, whatever the text says, and the
/// text comes back from [`Self::decode`]. Special tokens are put by code alone. (`transformers` makes
/// `<|endoftext|>` in a text the special token, unless it is told `split_special_tokens=True`.)
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// For what is not the start of a text, where a tokenizer puts a blank before the start.
    further: Option<Box<tokenizers::Tokenizer>>,
    json: Vec<u8>,
    vocab: u32,
    eos: u32,
    /// Tokens that no text becomes, ascending.
    special: Vec<u32>,
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
        Self::train_watched(corpus, vocab, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Self::train`]. `watch` hears how far it is, several times a second, and may end it with
    /// [`TokenizerError::Stopped`]. Time and memory grow with the text, whatever is in it.
    pub fn train_watched(corpus: &Corpus, vocab: u32, watch: &mut Watch<'_>) -> Result<Self, TokenizerError> {
        if !(VOCAB_MIN..=VOCAB_MAX).contains(&vocab) {
            return Err(TokenizerError::Vocab { got: vocab });
        }
        Self::from_bytes(&learn(corpus, vocab, watch)?)
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

    /// Reads a `tokenizer.json`; the end of a text is known by its name.
    pub fn from_bytes(json: &[u8]) -> Result<Self, TokenizerError> {
        Self::read(json, None)
    }

    /// As [`Self::from_bytes`], with `end` as the token between documents.
    pub fn with_end(json: &[u8], end: u32) -> Result<Self, TokenizerError> {
        Self::read(json, Some(end))
    }

    fn read(json: &[u8], end: Option<u32>) -> Result<Self, TokenizerError> {
        if json.len() > TOKENIZER_BYTES_MAX {
            return Err(TokenizerError::TooLarge { got: json.len() });
        }
        let value: Value = serde_json::from_slice(json).map_err(invalid)?;
        let inner = of_text(&value)?;
        let last = inner.get_vocab(true).into_values().max();
        let vocab = last.and_then(|last| last.checked_add(1)).unwrap_or(0);
        if !(2..=VOCAB_MAX).contains(&vocab) {
            return Err(invalid(format!(
                "its vocabulary has {vocab} tokens, 2 to {VOCAB_MAX} are possible"
            )));
        }
        let named = END_NAMES.iter().find_map(|name| inner.token_to_id(name));
        let Some(eos) = end.or(named) else {
            return Err(invalid(format!(
                "it has no end of text; known names are {}; a config.json may give another as eos_token_id",
                END_NAMES.join(" ")
            )));
        };
        let further = goes_on(&value).map(|value| of_text(&value)).transpose()?;
        Ok(Self {
            special: special(&inner, &value, [end, named]),
            inner,
            further: further.map(Box::new),
            json: json.to_vec(),
            vocab,
            eos,
        })
    }

    /// Tokens of `text`, without any added at its ends, and none of them special.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut tokens = Vec::new();
        for part in self.parts(text) {
            tokens.extend(part?.1);
        }
        Ok(tokens)
    }

    /// As [`Self::encode`], part by part with the part's bytes, so that a long text's tokens need not
    /// stand in memory together.
    pub fn parts<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Result<(usize, Vec<u32>), TokenizerError>> + 'a {
        let parts = cut(text).enumerate();
        parts.map(|(index, part)| Ok((part.len(), self.encode_part(part, index == 0, CUTS_MAX)?)))
    }

    /// A special token that the model itself finds in the text is cut in two, whose parts are written
    /// with other tokens.
    fn encode_part(&self, text: &str, first: bool, cuts: usize) -> Result<Vec<u32>, TokenizerError> {
        let inner = match &self.further {
            Some(further) if !first => further,
            _ => &self.inner,
        };
        let encoding = guarded(|| inner.encode_fast(text, false))?;
        let is_special = |token: &u32| self.special.binary_search(token).is_ok();
        if !encoding.get_ids().iter().any(is_special) {
            return Ok(encoding.get_ids().to_vec());
        }
        let encoding = guarded(|| inner.encode(text, false))?;
        let found = encoding.get_ids().iter().zip(encoding.get_offsets());
        let (mut tokens, mut from) = (Vec::new(), 0);
        for (_, (start, end)) in found.filter(|(token, _)| is_special(token)) {
            let name = text.get(*start..*end).unwrap_or_default();
            let within = name.char_indices().nth(1).map(|(length, _)| start + length);
            let Some(at) = within.filter(|at| *at > from && cuts > 0) else {
                return Err(TokenizerError::Special { text: name.to_string() });
            };
            tokens.extend(self.encode_part(&text[from..at], first && from == 0, cuts - 1)?);
            from = at;
        }
        tokens.extend(self.encode_part(&text[from..], first && from == 0, cuts.saturating_sub(1))?);
        Ok(tokens)
    }

    /// Text of `tokens`, without special tokens. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizerError> {
        if let Some(token) = tokens.iter().find(|token| **token >= self.vocab) {
            return Err(TokenizerError::Token {
                token: *token,
                vocab: self.vocab,
            });
        }
        guarded(|| self.inner.decode(tokens, true))
    }

    /// Text of tokens as they come.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// The token that the tokenizer itself puts before a text, if any.
    pub fn begin(&self) -> Result<Option<u32>, TokenizerError> {
        let ids =
            |special| guarded(|| self.inner.encode_fast("a", special)).map(|encoding| encoding.get_ids().to_vec());
        let (with, without) = (ids(true)?, ids(false)?);
        Ok(with.first().copied().filter(|first| without.first() != Some(first)))
    }

    /// The token with this text.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// The text of a token; none where no token has this id.
    pub fn text_of(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
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

/// A tokenizer that neither shortens nor pads nor varies what it is given.
fn of_text(value: &Value) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let mut value = value.clone();
    for part in ["truncation", "padding"] {
        if let Some(part) = value.get_mut(part) {
            *part = Value::Null;
        }
    }
    if let Some(dropout) = value.pointer_mut("/model/dropout") {
        *dropout = Value::Null;
    }
    let bytes = serde_json::to_vec(&value).map_err(invalid)?;
    let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(&bytes))?;
    inner.set_encode_special_tokens(true);
    Ok(inner)
}

/// The same tokenizer without the blank that it puts before a text, if it does.
fn goes_on(value: &Value) -> Option<Value> {
    let mut changed = value.clone();
    for part in ["normalizer", "pre_tokenizer"] {
        if let Some(part) = changed.get_mut(part) {
            without_prefix(part);
        }
    }
    (changed != *value).then_some(changed)
}

fn without_prefix(part: &mut Value) {
    for list in ["normalizers", "pretokenizers"] {
        if let Some(parts) = part.get_mut(list).and_then(Value::as_array_mut) {
            parts.retain(|part| part["type"] != "Prepend");
            parts.iter_mut().for_each(without_prefix);
        }
    }
    match part["type"].as_str() {
        Some("Prepend") => *part = Value::Null,
        Some("Metaspace") => {
            part["prepend_scheme"] = json!("never");
            if let Some(part) = part.as_object_mut() {
                part.remove("add_prefix_space"); // the older way to say the same
            }
        }
        Some("ByteLevel") => part["add_prefix_space"] = json!(false),
        _ => {}
    }
}

/// What no text becomes: tokens that are marked as special, and the end of text. What stands for
/// unknown characters is no special token of this kind.
fn special(inner: &tokenizers::Tokenizer, value: &Value, ends: [Option<u32>; 2]) -> Vec<u32> {
    let added = inner.get_added_tokens_decoder();
    let marked = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id);
    let [given, named] = ends;
    // an end that is an ordinary token, such as a newline, is still text
    let ends = given.filter(|id| added.contains_key(id)).into_iter().chain(named);
    let model = &value["model"];
    let unknown = match (&model["unk_token"], &model["unk_id"]) {
        (Value::String(text), _) => inner.token_to_id(text),
        (_, id) => id.as_u64().and_then(|id| u32::try_from(id).ok()),
    };
    let mut special: Vec<u32> = marked.chain(ends).filter(|id| Some(*id) != unknown).collect();
    special.sort_unstable();
    special.dedup();
    special
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
