//! A checkpoint folder to θ: our own, or a Llama model of somebody else.

use super::{
    CheckpointError,
    export::shape,
    hugging_face::{CONFIG, INDEX, TOKENIZER, WEIGHTS, is_surplus, model_of, tensor_name},
};
use crate::{data::TOKENIZER_BYTES_MAX, data::Tokenizer, init::theta_hash};
use atoll_protocol::{
    Layout,
    charter::Model,
    layout,
    limits::{BLOB_BYTES_MAX, PARAMETERS_MAX},
};
use burn::tensor::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{fs, io::Read, path::Path};

/// Bytes of a `config.json`.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What a checkpoint folder holds.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Sizes, and the hashes of θ and of the tokenizer.
    pub model: Model,
    /// θ in layout order; f16 and bf16 weights are widened.
    pub theta: Vec<f32>,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
}

/// Reads `config.json`, `model.safetensors` and `tokenizer.json` of `dir`.
pub fn import(dir: &Path) -> Result<Imported, CheckpointError> {
    let mut model = model_of(&read(dir, CONFIG, CONFIG_BYTES_MAX)?)?;
    check_sizes(&model)?;
    if !dir.join(WEIGHTS).exists() && dir.join(INDEX).exists() {
        return Err(CheckpointError::Foreign {
            file: INDEX,
            reason: "weights in several files are not read; save them as one model.safetensors".into(),
        });
    }
    let tokenizer = Tokenizer::from_bytes(&read(dir, TOKENIZER, TOKENIZER_BYTES_MAX as u64)?)?;
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
        model,
        theta,
        tokenizer,
    })
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
    match bytes.len() as u64 <= max {
        true => Ok(bytes),
        false => Err(CheckpointError::Foreign {
            file,
            reason: format!("more than {max} bytes"),
        }),
    }
}

/// What a charter would refuse, before anything is allocated by these sizes.
fn check_sizes(model: &Model) -> Result<(), CheckpointError> {
    let refuse = |reason: String| Err(CheckpointError::Foreign { file: CONFIG, reason });
    if model.layers > 1024
        || model.kv_heads == 0
        || !model.heads.is_multiple_of(model.kv_heads)
        || !model.head_width.is_multiple_of(2)
    {
        return refuse(format!(
            "{} layers, {} heads, {} key-value heads of width {}: at most 1024 layers, key-value heads must divide \
             heads, and their width must be even",
            model.layers, model.heads, model.kv_heads, model.head_width
        ));
    }
    match layout::parameters(model) {
        Some(count) if count <= PARAMETERS_MAX => Ok(()),
        _ => refuse(format!("the model has more than {PARAMETERS_MAX} parameters")),
    }
}

fn theta_of(model: &Model, bytes: &[u8]) -> Result<Vec<f32>, CheckpointError> {
    let refuse = |reason: String| CheckpointError::Foreign { file: WEIGHTS, reason };
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| refuse(error.to_string()))?;
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
