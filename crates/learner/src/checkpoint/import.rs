//! A checkpoint folder to θ: our own, or a Llama model of somebody else.

use super::{
    CheckpointError,
    export::shape,
    hugging_face::{
        CONFIG, GENERATION_CONFIG, INDEX, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS, check_sizes, is_surplus, model_of,
        tensor_name,
    },
    names::Said,
};
use crate::{
    data::{GIT_LFS_REMEDY, MARK, TOKENIZER_BYTES_MAX, Tokenizer, is_git_lfs},
    init::theta_hash,
};
use atoll_protocol::{Layout, charter::Model, limits::BLOB_BYTES_MAX};
use burn::tensor::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use std::{
    fs,
    io::{ErrorKind, Read},
    path::Path,
};

/// Bytes of a `config.json`, and of the files that may stand beside it.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// What a checkpoint folder holds.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Sizes, and the hashes of θ and of the tokenizer.
    pub model: Model,
    /// θ in layout order; f16 and bf16 weights are widened.
    pub theta: Vec<f32>,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Tokens that end a text: at least one.
    pub ends: Vec<u32>,
    /// The token that the model wants before a text.
    pub begin: Option<u32>,
}

/// Whether `dir` has every file that a checkpoint needs.
pub fn is_complete(dir: &Path) -> bool {
    [CONFIG, WEIGHTS, TOKENIZER].iter().all(|file| dir.join(file).is_file())
}

/// Name and value of the parameter with the greatest magnitude, under the name that it has in the file.
pub fn greatest(model: &Model, theta: &[f32]) -> Option<(String, f32)> {
    let (place, value) = theta
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))?;
    let tensors = Layout::of(model).tensors;
    let tensor = tensors.iter().find(|tensor| tensor.range().contains(&place))?;
    Some((tensor_name(&tensor.name), *value))
}

/// Reads `config.json`, `model.safetensors` and `tokenizer.json` of `dir`, and what
/// `generation_config.json` and `tokenizer_config.json` say about ends and beginnings if they are there.
///
/// # Errors
/// Names the file, what is wrong with it, and what to do.
pub fn import(dir: &Path) -> Result<Imported, CheckpointError> {
    let config = read(dir, CONFIG, CONFIG_BYTES_MAX)?;
    let mut model = model_of(&config)?;
    check_sizes(&model)?;
    if !dir.join(WEIGHTS).exists() && dir.join(INDEX).exists() {
        return Err(CheckpointError::Foreign {
            file: INDEX,
            reason: "weights in several files are not read; save them as one model.safetensors".into(),
        });
    }
    let said = Said {
        generation: companion(dir, GENERATION_CONFIG)?,
        config: json(CONFIG, &config)?,
        tokenizer: companion(dir, TOKENIZER_CONFIG)?,
    };
    let (tokenizer, ends) = tokenizer_of(dir, &said, model.vocab)?;
    if tokenizer.vocab() > model.vocab {
        return Err(CheckpointError::Vocab {
            tokenizer: tokenizer.vocab(),
            model: model.vocab,
        });
    }
    let theta = theta_of(&model, &read(dir, WEIGHTS, BLOB_BYTES_MAX)?)?;
    model.theta = theta_hash(&theta);
    model.tokenizer = tokenizer.hash();
    Ok(Imported {
        begin: said.begin(&tokenizer, model.vocab)?,
        model,
        theta,
        tokenizer,
        ends,
    })
}

/// The tokenizer, and the tokens that end a text: by number, else by the name that
/// `tokenizer_config.json` gives, else by a name that is known.
fn tokenizer_of(dir: &Path, said: &Said, vocab: u32) -> Result<(Tokenizer, Vec<u32>), CheckpointError> {
    let json = read(dir, TOKENIZER, TOKENIZER_BYTES_MAX as u64)?;
    let ends = said.ends(vocab)?;
    if let Some(first) = ends.first() {
        return Ok((Tokenizer::with_end(&json, *first)?, ends));
    }
    let tokenizer = match said.end_name() {
        Some(name) => {
            // any end will do to look the name up
            let end = Tokenizer::with_end(&json, 0)?.id_of(name);
            let end = end.ok_or_else(|| CheckpointError::Foreign {
                file: TOKENIZER_CONFIG,
                reason: format!("eos_token = {name:?} is no token of tokenizer.json; set eos_token_id in config.json"),
            })?;
            Tokenizer::with_end(&json, end)?
        }
        None => Tokenizer::from_bytes(&json)?,
    };
    let ends = vec![tokenizer.eos()];
    Ok((tokenizer, ends))
}

fn json(file: &'static str, bytes: &[u8]) -> Result<Value, CheckpointError> {
    serde_json::from_slice(bytes).map_err(|error| CheckpointError::Foreign {
        file,
        reason: error.to_string(),
    })
}

/// A file that need not be there.
fn companion(dir: &Path, file: &'static str) -> Result<Value, CheckpointError> {
    match read(dir, file, CONFIG_BYTES_MAX) {
        Err(CheckpointError::Io { error, .. }) if error.kind() == ErrorKind::NotFound => Ok(Value::Null),
        bytes => json(file, &bytes?),
    }
}

/// At most `max` bytes of a file.
fn read(dir: &Path, file: &'static str, max: u64) -> Result<Vec<u8>, CheckpointError> {
    let path = dir.join(file);
    let mut bytes = Vec::new();
    let result = fs::File::open(&path).and_then(|opened| opened.take(max + 1).read_to_end(&mut bytes));
    if let Err(error) = result {
        return Err(CheckpointError::Io {
            doing: "read",
            path,
            error,
        });
    }
    if is_git_lfs(&bytes) {
        let reason = GIT_LFS_REMEDY.to_string();
        return Err(CheckpointError::Foreign { file, reason });
    }
    if file.ends_with(".json") && bytes.starts_with(MARK) {
        bytes.drain(..MARK.len()); // a byte order mark, which JSON has none of
    }
    match bytes.len() as u64 <= max {
        true => Ok(bytes),
        false => Err(CheckpointError::Foreign {
            file,
            reason: format!("more than {max} bytes"),
        }),
    }
}

fn theta_of(model: &Model, bytes: &[u8]) -> Result<Vec<f32>, CheckpointError> {
    let refuse = |reason: String| CheckpointError::Foreign { file: WEIGHTS, reason };
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| {
        refuse(format!(
            "{error} ({} bytes): it is cut short or damaged, copy it again",
            bytes.len()
        ))
    })?;
    let layout = Layout::of(model);
    let names: Vec<String> = layout.tensors.iter().map(|tensor| tensor_name(&tensor.name)).collect();
    let unknown = |name: &&str| !names.iter().any(|known| known == *name) && !is_surplus(name, model.tied);
    if let Some(name) = tensors.names().into_iter().filter(unknown).min() {
        return Err(refuse(format!(
            "tensor {name} has no place in a Llama model of these sizes"
        )));
    }
    let mut theta = Vec::new();
    for (place, name) in layout.tensors.iter().zip(&names) {
        let expected = shape(place);
        let wrong = |found: String| CheckpointError::Tensor {
            tensor: name.clone(),
            found,
            expected: format!("{expected:?}"),
        };
        let view = tensors.tensor(name).map_err(|_| wrong("missing".into()))?;
        if view.shape() != expected {
            return Err(wrong(format!("{:?}", view.shape())));
        }
        let start = theta.len();
        widen(&view, &mut theta).map_err(|found| wrong(format!("{found:?}: F32, F16 and BF16 are read")))?;
        if let Some(bad) = theta[start..].iter().find(|value| !value.is_finite()) {
            return Err(wrong(format!("not finite ({bad})")));
        }
    }
    Ok(theta)
}

/// Appends the tensor's values as f32.
fn widen(view: &TensorView<'_>, theta: &mut Vec<f32>) -> Result<(), Dtype> {
    let pairs = || view.data().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match view.dtype() {
        Dtype::F32 => {
            let words = view.data().chunks_exact(4);
            theta.extend(words.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        }
        Dtype::F16 => theta.extend(pairs().map(|bits| f16::from_bits(bits).to_f32())),
        Dtype::BF16 => theta.extend(pairs().map(|bits| bf16::from_bits(bits).to_f32())),
        other => return Err(other),
    }
    Ok(())
}
