//! `atoll generate` and `atoll eval`.

use crate::demo::corpus;
use atoll_host::checkpoints::{self, Sampling};
use serde_json::json;
use std::{path::PathBuf, process::ExitCode};

/// Continues a text with a checkpoint.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  atoll generate atoll-demo --prompt \"pub fn \"\n  atoll generate atoll-demo --prompt \"The ledger\" --max-tokens 60 --temperature 0 --json"
)]
pub(crate) struct GenerateArguments {
    /// A checkpoint, or a node's folder, or a folder of such folders (the newest checkpoint is used)
    dir: PathBuf,
    /// The text to continue
    #[arg(long, default_value = "")]
    prompt: String,
    /// Tokens at the most
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// 0 takes the likeliest token always
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// Only this many of the likeliest tokens; 0 is all
    #[arg(long, default_value_t = 40)]
    top_k: usize,
    /// Only the likeliest tokens with this much probability together; 1 is all
    #[arg(long, default_value_t = 0.95)]
    top_p: f32,
    /// The same seed gives the same text
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn generate(arguments: &GenerateArguments) -> anyhow::Result<ExitCode> {
    let mut checkpoint = checkpoints::open(&arguments.dir)?;
    let sampling = Sampling {
        max_tokens: arguments.max_tokens,
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        seed: arguments.seed,
    };
    if !arguments.json {
        say_part!("{}", arguments.prompt);
    }
    let (text, tokens) = checkpoint.generate(&arguments.prompt, &sampling, |piece| {
        if !arguments.json {
            say_part!("{piece}");
        }
    })?;
    match arguments.json {
        true => {
            let path = checkpoint.path.display().to_string();
            say!(
                "{}",
                json!({ "checkpoint": path, "prompt": arguments.prompt, "text": text, "tokens": tokens })
            );
        }
        false => say!(),
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures a checkpoint's loss on a text, in nats per token and perplexity.
///
/// Each document is cut into windows of the model's context; every token but a document's first is
/// predicted once.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  atoll eval atoll-demo --data README.md\n  atoll eval atoll-demo --data texts/ --json"
)]
pub(crate) struct EvalArguments {
    /// A checkpoint, or a node's folder, or a folder of such folders (the newest checkpoint is used)
    dir: PathBuf,
    /// Text file, folder, JSON lines or Parquet, also packed (.gz, .zst)
    #[arg(long)]
    data: PathBuf,
    #[command(flatten)]
    reading: corpus::Reading,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn eval(arguments: &EvalArguments) -> anyhow::Result<ExitCode> {
    let mut checkpoint = checkpoints::open(&arguments.dir)?;
    let corpus = corpus::read_copies(&arguments.data, &arguments.reading)?;
    let report = checkpoint.evaluate(&corpus)?;
    let path = checkpoint.path.display().to_string();
    match arguments.json {
        true => say!(
            "{}",
            json!({
                "checkpoint": path,
                "nats_per_token": report.nats_per_token,
                "perplexity": report.perplexity,
                "tokens": report.tokens,
                "corpus": corpus::to_json(&corpus),
            })
        ),
        false => say!(
            "{:.4} nats per token, perplexity {:.2}, over {} tokens ({path})",
            report.nats_per_token,
            report.perplexity,
            report.tokens
        ),
    }
    Ok(ExitCode::SUCCESS)
}
