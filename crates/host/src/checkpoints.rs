//! Using a checkpoint: find it, generate from it, evaluate it.

use crate::{audit::node_folders, contents::is_checkpoint_name};
use anyhow::{Context as _, bail};
use atoll_learner::{
    BurnLearner, DeviceChoice, EvalError, EvalReport, EvalSum, GenerateOptions, LearnError, Learner as _, checkpoint,
    data::{Corpus, Tokenizer},
    eval_window, evaluate_watched, generate,
};
use atoll_protocol::{
    InnerSteps, Nano,
    charter::{InnerOptimizer, Matrices, Model},
};
use std::{
    fs,
    io::ErrorKind,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// A checkpoint in memory.
pub struct Opened {
    /// Where it was found.
    pub path: PathBuf,
    model: Model,
    learner: BurnLearner,
    tokenizer: Tokenizer,
    ends: Vec<u32>,
    begin: Option<u32>,
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

/// A continuation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// Its text, in whole characters.
    pub text: String,
    /// Its tokens.
    pub tokens: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that the model sees: the last ones, where it does not see all.
    pub prompt_seen: usize,
    /// The token that was put before the prompt, where the model wants one.
    pub begin: Option<String>,
}

/// How far an evaluation is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvalProgress {
    /// Bytes of text that were read.
    pub bytes: u64,
    /// Bytes of text in all.
    pub of: u64,
    /// What they cost until now; documents before this one and this one.
    pub so_far: EvalSum,
}

/// A loss, and what it is of.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// The loss.
    pub report: EvalReport,
    /// Documents that it is of.
    pub documents: u64,
    /// Documents that have nothing to predict.
    pub too_short: u64,
    /// Tokens that the model sees at once.
    pub window: u32,
    /// The token before each window, where the model wants one.
    pub begin: Option<String>,
}

/// The checkpoint folder that `path` means: itself, or the newest complete one of the node or the
/// nodes in it.
pub fn find(path: &Path) -> anyhow::Result<PathBuf> {
    // one of the two may be missing, and that is said when it is read
    if ["config.json", "model.safetensors"]
        .iter()
        .any(|file| path.join(file).is_file())
    {
        return Ok(path.to_path_buf());
    }
    if !path.is_dir() {
        let what = if path.exists() {
            "is no folder"
        } else {
            "does not exist"
        };
        bail!(
            "{} {what}; name a checkpoint's folder, a node's, or one with nodes' folders in it",
            path.display()
        );
    }
    let mut newest: Option<(u64, PathBuf)> = None;
    for folder in node_folders(path)? {
        for (round, found) in checkpoints_in(&folder.checkpoints())? {
            if checkpoint::is_complete(&found) && newest.as_ref().is_none_or(|(known, _)| *known < round) {
                newest = Some((round, found));
            }
        }
    }
    let (_, newest) = newest.with_context(|| {
        format!(
            "{} holds no checkpoint yet; one is written when a run is done, see `atoll status`",
            path.display()
        )
    })?;
    Ok(newest)
}

/// Folders that are named as the checkpoint of a round, with the round. One under way has another name.
fn checkpoints_in(folder: &Path) -> anyhow::Result<Vec<(u64, PathBuf)>> {
    let cannot = || format!("cannot read {}", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(cannot)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(cannot)?;
        let name = entry.file_name();
        let name = name.to_str().filter(|name| is_checkpoint_name(name));
        let round = name.and_then(|name| name.strip_prefix("round-"));
        if let Some(round) = round.and_then(|round| round.parse().ok()) {
            found.push((round, entry.path()));
        }
    }
    found.sort();
    Ok(found)
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
        model: imported.model,
        learner,
        tokenizer: imported.tokenizer,
        ends: imported.ends,
        begin: imported.begin,
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
    /// Continues `prompt`; `each` gets the text as it grows, in whole characters. The prompt is text,
    /// whatever it says.
    ///
    /// # Errors
    /// For options that cannot be, and for a model that gives no numbers.
    pub fn generate(
        &mut self,
        prompt: &str,
        sampling: &Sampling,
        mut each: impl FnMut(&str),
    ) -> anyhow::Result<Generated> {
        let mut tokens = self.tokenizer.encode(prompt)?;
        let prompt_tokens = tokens.len();
        if tokens.is_empty() && self.begin.is_none() {
            tokens.push(self.tokenizer.eos()); // a new document begins behind the last one's end
        }
        let options = GenerateOptions {
            max_tokens: sampling.max_tokens,
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            seed: sampling.seed,
            stop: self.ends.clone(),
            begin: self.begin,
            drawable: (0..self.model.vocab)
                .map(|id| self.tokenizer.text_of(id).is_some())
                .collect(),
        };
        let (mut text, mut failed) = (String::new(), None);
        let mut stream = self.tokenizer.stream();
        let made = generate(&mut self.learner, &tokens, &options, |token| match stream.push(token) {
            Ok(new) => {
                each(&new);
                text.push_str(&new);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        let made = made.map_err(|error| self.explained(error))?;
        Ok(Generated {
            text,
            tokens: made.len(),
            prompt_tokens,
            prompt_seen: prompt_tokens.min(options.prompt_max(self.model.context)),
            begin: self.name_of(self.begin),
        })
    }

    /// Loss over the texts of a corpus, each document on its own. `watch` hears how far it is, after
    /// each batch of windows and each document, and may end it.
    ///
    /// # Errors
    /// Where nothing can be predicted, the model gives no numbers, or it was ended.
    pub fn evaluate(
        &mut self,
        corpus: &Corpus,
        watch: &mut dyn FnMut(EvalProgress) -> ControlFlow<()>,
    ) -> anyhow::Result<Evaluated> {
        let (mut sum, mut documents, mut too_short) = (EvalSum::default(), 0, 0);
        let (mut bytes, of) = (0, corpus.text_bytes());
        for document in &corpus.documents {
            let mut heard = |within: usize, part: &EvalSum| {
                watch(EvalProgress {
                    bytes: bytes + within as u64,
                    of,
                    so_far: added(&sum, part),
                })
            };
            let learner = &mut self.learner;
            match evaluate_watched(learner, &self.tokenizer, self.begin, &document.text, &mut heard) {
                Ok(part) => (sum, documents) = (added(&sum, &part), documents + 1),
                Err(EvalError::TooShort(_)) => too_short += 1,
                Err(error) => {
                    let source = corpus
                        .sources
                        .get(document.source)
                        .map_or("the text", |source| &source.path);
                    return Err(self.explained(error).context(format!("cannot evaluate {source}")));
                }
            }
            bytes += document.text.len() as u64;
            let so_far = sum;
            if watch(EvalProgress { bytes, of, so_far }).is_break() {
                return Err(EvalError::Stopped.into());
            }
        }
        if documents == 0 {
            bail!("nothing to evaluate: none of {too_short} documents has two tokens or more");
        }
        Ok(Evaluated {
            report: sum.report(),
            documents,
            too_short,
            window: eval_window(&self.learner),
            begin: self.name_of(self.begin),
        })
    }

    /// The tokens that end a text, as text.
    pub fn ends(&self) -> Vec<String> {
        self.ends
            .iter()
            .filter_map(|end| self.tokenizer.text_of(*end))
            .collect()
    }

    fn name_of(&self, token: Option<u32>) -> Option<String> {
        token.map(|token| self.tokenizer.text_of(token).unwrap_or_else(|| token.to_string()))
    }

    /// An error, and where a broken model's greatest number stands.
    fn explained<E: std::error::Error + Send + Sync + 'static>(&self, error: E) -> anyhow::Error {
        let error = anyhow::Error::new(error);
        let is_broken = matches!(error.downcast_ref(), Some(EvalError::Broken { .. }))
            || matches!(error.downcast_ref(), Some(LearnError::Broken { .. }));
        if !is_broken {
            return error;
        }
        match checkpoint::greatest(&self.model, &self.learner.read()) {
            Some((tensor, value)) => anyhow::anyhow!("{error}; the greatest, {value:e}, is in {tensor}"),
            None => error,
        }
    }
}

fn added(sum: &EvalSum, part: &EvalSum) -> EvalSum {
    EvalSum {
        nats: sum.nats + part.nats,
        tokens: sum.tokens + part.tokens,
    }
}
