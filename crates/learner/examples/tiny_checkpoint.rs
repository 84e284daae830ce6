//! Writes the checkpoints that `golden/make_golden.py` reads: `tiny_checkpoint FOLDER`.

use atoll_learner::{checkpoint::export, data::Tokenizer};
use std::path::PathBuf;

#[path = "../tests/common/mod.rs"]
mod common;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("usage: tiny_checkpoint FOLDER")?);
    for (name, tied) in [("tied", true), ("untied", false)] {
        let model = common::tiny(tied);
        export(&folder.join(name), &model, &common::theta(&model), &Tokenizer::bytes()?)?;
    }
    let (model, tokenizer) = common::trained();
    export(&folder.join("bpe"), &model, &common::theta(&model), &tokenizer)?;
    Ok(())
}
