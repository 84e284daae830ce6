//! Which tokens end a text and which one begins it, as the files beside the weights say.

use super::{
    CheckpointError,
    hugging_face::{CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG},
};
use crate::data::Tokenizer;
use serde_json::Value;

/// What the three files say, in the order in which they are believed.
pub(super) struct Said {
    pub(super) generation: Value,
    pub(super) config: Value,
    pub(super) tokenizer: Value,
}

impl Said {
    /// Every token that ends a text: by number in `generation_config.json`, else in `config.json`.
    /// Empty where both are silent.
    pub(super) fn ends(&self, vocab: u32) -> Result<Vec<u32>, CheckpointError> {
        for (file, value) in [(GENERATION_CONFIG, &self.generation), (CONFIG, &self.config)] {
            let ids = ids(file, "eos_token_id", value, vocab)?;
            if !ids.is_empty() {
                return Ok(ids);
            }
        }
        Ok(Vec::new())
    }

    /// The text of the token that ends a text, where `tokenizer_config.json` names it.
    pub(super) fn end_name(&self) -> Option<&str> {
        name(&self.tokenizer["eos_token"])
    }

    /// The token that the model wants before a text: as `add_bos_token` says, else as the tokenizer
    /// itself does.
    pub(super) fn begin(&self, tokenizer: &Tokenizer, vocab: u32) -> Result<Option<u32>, CheckpointError> {
        match &self.tokenizer["add_bos_token"] {
            Value::Bool(false) => return Ok(None),
            Value::Bool(true) => {}
            _ => return Ok(tokenizer.begin()?),
        }
        let named = name(&self.tokenizer["bos_token"]).and_then(|name| tokenizer.id_of(name));
        let numbered = ids(CONFIG, "bos_token_id", &self.config, vocab)?.first().copied();
        match named.or(numbered) {
            Some(begin) => Ok(Some(begin)),
            None => Err(CheckpointError::Foreign {
                file: TOKENIZER_CONFIG,
                reason: "add_bos_token is true, but no bos_token is known: name it there, or set bos_token_id in \
                         config.json"
                    .into(),
            }),
        }
    }
}

/// A token's text: a string, or an object that has it as `content`.
fn name(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// A number, a list of them, or nothing.
fn ids(file: &'static str, field: &str, value: &Value, vocab: u32) -> Result<Vec<u32>, CheckpointError> {
    let all = match &value[field] {
        Value::Null => return Ok(Vec::new()),
        Value::Array(all) => all.as_slice(),
        one => std::slice::from_ref(one),
    };
    let id = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.filter(|id| *id < vocab).ok_or_else(|| CheckpointError::Foreign {
            file,
            reason: format!(
                "{field} = {value}: a token's number below vocab_size = {vocab}, or a list of them, is read"
            ),
        })
    };
    all.iter().map(id).collect()
}
