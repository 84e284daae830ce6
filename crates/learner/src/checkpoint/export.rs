//! θ to a checkpoint folder: the same bytes on every machine, and never half a folder.

use super::hugging_face::{CONFIG, FILES, TOKENIZER, WEIGHTS, companions, config, tensor_name};
use super::partial;
use crate::{data::Tokenizer, data::TokenizerError, init::theta_bytes};
use atoll_protocol::{Hash, Layout, charter::Model, layout::Role};
use safetensors::{Dtype, tensor::TensorView};
use std::{
    collections::HashMap,
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// A checkpoint that cannot be written or read.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The file system refused.
    #[error("cannot {doing} {path}: {error}")]
    Io {
        /// Write or read.
        doing: &'static str,
        /// What.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Something else is already there.
    #[error("{path} exists and is another checkpoint: choose another folder, or remove it")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// θ of another model.
    #[error("θ has {got} values; the model has {expected}")]
    ThetaLength {
        /// Values given.
        got: usize,
        /// P.
        expected: usize,
    },
    /// A tokenizer with more tokens than the model.
    #[error("the tokenizer has {tokenizer} tokens, the model {model}")]
    Vocab {
        /// V of the tokenizer.
        tokenizer: u32,
        /// V of the model.
        model: u32,
    },
    /// A file that cannot be used.
    #[error("{file}: {reason}")]
    Foreign {
        /// Its name.
        file: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A tensor of another shape.
    #[error("model.safetensors: tensor {tensor} is {found}, not {expected}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// Shape and type found, or that it is missing.
        found: String,
        /// Shape needed.
        expected: String,
    },
    /// The tokenizer failed.
    #[error("tokenizer.json: {0}")]
    Tokenizer(#[from] TokenizerError),
}

/// The shape that Hugging Face gives a tensor.
pub(super) fn shape(tensor: &atoll_protocol::layout::Tensor) -> Vec<usize> {
    match tensor.role {
        Role::Vector => vec![tensor.rows],
        Role::Embedding | Role::Matrix => vec![tensor.rows, tensor.columns],
    }
}

/// Name and bytes of every file of the checkpoint folder, sorted by name. A pure function.
pub fn files(model: &Model, theta: &[f32], tokenizer: &Tokenizer) -> Result<Vec<(String, Vec<u8>)>, CheckpointError> {
    let layout = Layout::of(model);
    if theta.len() != layout.parameters {
        return Err(CheckpointError::ThetaLength {
            got: theta.len(),
            expected: layout.parameters,
        });
    }
    if tokenizer.vocab() > model.vocab {
        return Err(CheckpointError::Vocab {
            tokenizer: tokenizer.vocab(),
            model: model.vocab,
        });
    }
    let eos = tokenizer.eos();
    let mut files = vec![
        (CONFIG.to_string(), json_bytes(CONFIG, &config(model, eos))?),
        (WEIGHTS.to_string(), weights(&layout, theta)?),
        (TOKENIZER.to_string(), tokenizer.json().to_vec()),
    ];
    for (name, value) in companions(model, eos, &tokenizer.eos_text()) {
        files.push((name.to_string(), json_bytes(name, &value)?));
    }
    files.sort();
    Ok(files)
}

fn json_bytes(file: &'static str, value: &serde_json::Value) -> Result<Vec<u8>, CheckpointError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| CheckpointError::Foreign {
        file,
        reason: error.to_string(),
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A safetensors file. The library sorts tensors by name; one metadata entry leaves it no order to
/// choose.
fn weights(layout: &Layout, theta: &[f32]) -> Result<Vec<u8>, CheckpointError> {
    let refuse = |error: safetensors::SafeTensorError| CheckpointError::Foreign {
        file: WEIGHTS,
        reason: error.to_string(),
    };
    let bytes = theta_bytes(theta);
    let mut views = Vec::with_capacity(layout.tensors.len());
    for tensor in &layout.tensors {
        let range = tensor.range();
        let view =
            TensorView::new(Dtype::F32, shape(tensor), &bytes[4 * range.start..4 * range.end]).map_err(refuse)?;
        views.push((tensor_name(&tensor.name), view));
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(views, Some(metadata)).map_err(refuse)
}

/// Writes the folder `dir` and returns each file's name and BLAKE3. The files are written into a
/// folder beside it, which is then renamed: a crash leaves nothing half written. If `dir` already
/// holds the same bytes nothing is done; anything else there is left alone, with an error.
pub fn export(
    dir: &Path,
    model: &Model,
    theta: &[f32],
    tokenizer: &Tokenizer,
) -> Result<Vec<(String, Hash)>, CheckpointError> {
    let files = files(model, theta, tokenizer)?;
    let hashes = files
        .iter()
        .map(|(name, bytes)| (name.clone(), Hash::of_blob(bytes)))
        .collect();
    if dir.symlink_metadata().is_ok() {
        return match is_same(dir, &files)? {
            true => Ok(hashes),
            false => Err(CheckpointError::Exists {
                path: dir.to_path_buf(),
            }),
        };
    }
    partial::clear(dir, &FILES);
    let partial = partial::beside(dir);
    let written = write_all(&partial, &files).and_then(|()| rename(&partial, dir));
    if written.is_err() {
        partial::remove(&partial, &FILES); // what cannot be removed is found again next time
    }
    written.map(|()| hashes)
}

/// Whether `dir` holds these files with these bytes.
fn is_same(dir: &Path, files: &[(String, Vec<u8>)]) -> Result<bool, CheckpointError> {
    for (name, bytes) in files {
        let path = dir.join(name);
        match fs::read(&path) {
            Ok(found) if found == *bytes => {}
            Ok(_) => return Ok(false),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(false);
            }
            Err(error) => {
                return Err(CheckpointError::Io {
                    doing: "read",
                    path,
                    error,
                });
            }
        }
    }
    Ok(true)
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_path_buf();
    move |error| CheckpointError::Io {
        doing: "write",
        path,
        error,
    }
}

fn write_all(dir: &Path, files: &[(String, Vec<u8>)]) -> Result<(), CheckpointError> {
    debug_assert_eq!(files.len(), FILES.len());
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(write_error(parent))?;
    }
    // never into a folder that is there already: it is somebody else's
    fs::create_dir(dir).map_err(write_error(dir))?;
    let _held = partial::hold(dir);
    for (name, bytes) in files {
        let path = dir.join(name);
        let mut file = fs::File::create(&path).map_err(write_error(&path))?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(write_error(&path))?;
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<(), CheckpointError> {
    fs::rename(from, to).map_err(write_error(to))
}
