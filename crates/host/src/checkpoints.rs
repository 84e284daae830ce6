//! Using a checkpoint: find it, generate from it, evaluate it.

use crate::{audit::node_folders, contents::is_checkpoint_name};
use anyhow::{Context as _, bail};
use atoll_learner::{
    BurnLearner, DeviceChoice, EvalReport, GenerateOptions, Learner as _, checkpoint,
    data::{Tokenizer, ingest},
    evaluate_text, generate,
};
use atoll_protocol::{
    InnerSteps, Nano,
    charter::{InnerOptimizer, Matrices},
};
use std::{
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// A checkpoint in memory.
pub struct Opened {
    /// Where it was found.
    pub path: PathBuf,
    learner: BurnLearner,
    tokenizer: Tokenizer,
}

/// How to generate.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// Tokens at the most.
    pub max_tokens: usize,
    /// 0 takes the likeliest token always.
    pub temperature: f32,
    /// Only this many of the likeliest tokens; 0 is all.
    pub top_k: usize,
    /// Only the likeliest tokens with this much probability together; 1 is all.
    pub top_p: f32,
    /// The same seed gives the same text.
    pub seed: u64,
}

/// The checkpoint folder that `path` means: itself, or the newest one of the node or the nodes in it.
pub fn find(path: &Path) -> anyhow::Result<PathBuf> {
    if path.join("config.json").is_file() {
        return Ok(path.to_path_buf());
    }
    let mut complete = Vec::new();
    for folder in node_folders(path)? {
        let checkpoints = folder.checkpoints();
        let entries = match fs::read_dir(&checkpoints) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // not one yet
            entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
        };
        let entries = entries.with_context(|| format!("cannot read {}", checkpoints.display()))?;
        let ours = entries
            .iter()
            .filter(|entry| entry.file_name().to_str().is_some_and(is_checkpoint_name));
        complete.extend(
            ours.map(|entry| entry.path())
                .filter(|path| path.join("config.json").is_file()),
        );
    }
    // the names end in the round's number, so the greatest name is the newest checkpoint
    let newest = complete
        .into_iter()
        .max_by_key(|path| path.file_name().map(|name| name.to_os_string()));
    newest.with_context(|| {
        format!(
            "{} holds no checkpoint yet; one is written when a run is done, see `atoll status`",
            path.display()
        )
    })
}

/// Reads the checkpoint that `path` means.
pub fn open(path: &Path) -> anyhow::Result<Opened> {
    let path = find(path)?;
    let imported =
        checkpoint::import(&path).with_context(|| format!("cannot read the checkpoint {}", path.display()))?;
    let mut learner = BurnLearner::new(&imported.model, &unused_optimizer(), DeviceChoice::default())?;
    learner.write(&imported.theta)?;
    Ok(Opened {
        path,
        learner,
        tokenizer: imported.tokenizer,
    })
}

/// A learner has an optimizer, which is not used here.
fn unused_optimizer() -> InnerOptimizer {
    InnerOptimizer {
        lr: Nano(1),
        lr_min_ratio: Nano(0),
        warmup: InnerSteps(0),
        weight_decay: Nano(0),
        beta1: Nano(0),
        beta2: Nano(0),
        eps: Nano(1),
        clip: Nano::ONE,
        matrices: Matrices::AdamW,
    }
}

impl Opened {
    /// Continues `prompt`; `each` gets the text as it grows. Gives the whole continuation.
    pub fn generate(
        &mut self,
        prompt: &str,
        sampling: &Sampling,
        mut each: impl FnMut(&str),
    ) -> anyhow::Result<(String, usize)> {
        let mut tokens = self.tokenizer.encode(prompt)?;
        if tokens.is_empty() {
            tokens.push(self.tokenizer.eos());
        }
        let options = GenerateOptions {
            max_tokens: sampling.max_tokens,
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            seed: sampling.seed,
            stop: Some(self.tokenizer.eos()),
        };
        let (mut made, mut shown) = (Vec::new(), String::new());
        let tokenizer = &self.tokenizer;
        let all = generate(&mut self.learner, &tokens, &options, |token| {
            made.push(token);
            let text = tokenizer.decode(&made).unwrap_or_default();
            // a character may still be incomplete: show it when it is whole
            if !text.ends_with('\u{fffd}') && text.starts_with(&shown) {
                each(&text[shown.len()..]);
                shown = text;
            }
            ControlFlow::Continue(())
        })?;
        Ok((self.tokenizer.decode(&all)?, all.len()))
    }

    /// Loss over the text of a file or folder, each document on its own.
    pub fn evaluate(&mut self, data: &Path) -> anyhow::Result<EvalReport> {
        let corpus = ingest(data)?;
        let (mut nats, mut tokens) = (0.0, 0u64);
        for document in &corpus.documents {
            let Ok(report) = evaluate_text(&mut self.learner, &self.tokenizer, &document.text) else {
                continue;
            };
            nats += report.nats_per_token * report.tokens as f64;
            tokens += report.tokens;
        }
        if tokens == 0 {
            bail!("{} has no text of at least two tokens", data.display());
        }
        let nats_per_token = nats / tokens as f64;
        Ok(EvalReport {
            nats_per_token,
            perplexity: nats_per_token.exp(),
            tokens,
        })
    }
}
