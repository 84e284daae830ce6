//! Tokens to text as they come, in whole characters.

use super::{Tokenizer, TokenizerError};

/// Bytes of one character, and so the most tokens that one waits for.
const CHARACTER_BYTES_MAX: usize = 4;
/// Tokens that are looked at again for each new one, where they never end with a whole character.
const WINDOW_TOKENS_MAX: usize = 64;

/// Text of a row of tokens. What tokens mean may depend on those before them, so a few are kept.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens of the last text that was given, then those that came since.
    window: Vec<u32>,
    /// Bytes of the window's text that were given.
    given: usize,
    /// Tokens of the window whose text was given.
    settled: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            window: Vec::new(),
            given: 0,
            settled: 0,
        }
    }

    /// The text that `token` completes; empty while a character is incomplete. Bytes that are no
    /// UTF-8 are given as U+FFFD once it is certain.
    ///
    /// # Errors
    /// For a token that the tokenizer does not have.
    pub fn push(&mut self, token: u32) -> Result<String, TokenizerError> {
        self.window.push(token);
        let text = self.tokenizer.decode(&self.window)?;
        let whole = whole(&text);
        let new = whole.get(self.given..).unwrap_or_default().to_string();
        self.given = self.given.max(whole.len());
        let settled = whole.len() == text.len() && !new.is_empty();
        if settled || self.window.len() > WINDOW_TOKENS_MAX {
            let keep = if settled {
                self.settled
            } else {
                self.window.len() - CHARACTER_BYTES_MAX
            };
            self.window.drain(..keep);
            self.settled = self.window.len();
            self.given = self::whole(&self.tokenizer.decode(&self.window)?).len();
        }
        Ok(new)
    }
}

/// `text` without what may be the start of a character.
fn whole(text: &str) -> &str {
    let mut whole = text;
    for _ in 1..CHARACTER_BYTES_MAX {
        whole = whole.strip_suffix('\u{fffd}').unwrap_or(whole);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streamed(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<String> {
        let mut stream = tokenizer.stream();
        tokens.iter().map(|token| stream.push(*token).unwrap()).collect()
    }

    #[test]
    fn characters_come_whole() {
        let tokenizer = Tokenizer::bytes().unwrap();
        let bytes = |text: &[u8]| text.iter().map(|byte| u32::from(*byte)).collect::<Vec<_>>();
        assert_eq!(streamed(&tokenizer, &bytes("a€b".as_bytes())), ["a", "", "", "€", "b"]);
        assert_eq!(streamed(&tokenizer, &bytes("👍".as_bytes())), ["", "", "", "👍"]);
        assert_eq!(streamed(&tokenizer, &bytes(b"\x80a")), ["", "\u{fffd}a"]);
        assert_eq!(
            streamed(&tokenizer, &bytes(b"a\xe2\x82")),
            ["a", "", ""],
            "no half character at the end"
        );
        let text = "环礁 — größe, 👍🏽 & more. ".repeat(40);
        assert_eq!(streamed(&tokenizer, &bytes(text.as_bytes())).concat(), text);
    }

    #[test]
    fn what_is_no_text_is_not_looked_at_again_and_again() {
        let tokenizer = Tokenizer::bytes().unwrap();
        let mut stream = tokenizer.stream();
        for _ in 0..5000 {
            stream.push(0x80).unwrap();
            assert!(stream.window.len() <= WINDOW_TOKENS_MAX + 1);
        }
    }

    #[test]
    fn a_blank_before_the_first_word_only_is_kept_out() {
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "post_processor": null,
            "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": {"<unk>": 0, "▁this": 1, "▁is": 2, "</s>": 3}}
        });
        let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
        let tokens = tokenizer.encode("this is this").unwrap();
        assert_eq!(tokens, [1, 2, 1]);
        assert_eq!(streamed(&tokenizer, &tokens), ["this", " is", " this"]);
    }
}
