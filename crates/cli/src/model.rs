//! `atoll generate` and `atoll eval`.

use crate::{demo::corpus, grouped, say, signals, size};
use atoll_host::{
    checkpoints::{self, EvalProgress, Evaluated, Generated, Opened, Sampling},
    found::Corpus,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

/// How often a line says how far it is, where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Does what may take a while, with a word where somebody watches.
fn waiting<T>(what: String, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let spinner = say::spinner().with_message(what);
    let done = work();
    spinner.finish_and_clear();
    done
}

fn open(dir: &Path) -> anyhow::Result<Opened> {
    waiting(format!("reading the checkpoint in {}", dir.display()), || {
        checkpoints::open(dir)
    })
}

/// Continues a text with a checkpoint.
///
/// The prompt is text, whatever it says: the name of a special token does not become that token. The
/// continuation ends where the checkpoint's config says that a text ends.
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
    signals::start()?; // nothing is written that could be left half done
    let mut checkpoint = open(&arguments.dir)?;
    let sampling = Sampling {
        max_tokens: arguments.max_tokens,
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        seed: arguments.seed,
    };
    // an error that shows at once leaves nothing on standard output
    let mut before = Some(&arguments.prompt).filter(|_| !arguments.json);
    let made = checkpoint.generate(&arguments.prompt, &sampling, |piece| {
        if let Some(prompt) = before.take() {
            say_part!("{}", say::harmless(prompt));
        }
        if !arguments.json {
            say_part!("{}", say::harmless(piece));
        }
    })?;
    match arguments.json {
        true => say!("{}", generated_json(arguments, &checkpoint, &made)),
        false => say!("{}", before.map_or("", String::as_str)),
    }
    if made.prompt_seen < made.prompt_tokens {
        complain!(
            "atoll: the prompt has {} tokens; the model sees only the last {}",
            grouped(made.prompt_tokens as u64),
            grouped(made.prompt_seen as u64)
        );
    }
    if let Some(begin) = made.begin.filter(|_| !arguments.json) {
        complain!("atoll: {begin} was put before the prompt, as the checkpoint says");
    }
    Ok(ExitCode::SUCCESS)
}

fn generated_json(arguments: &GenerateArguments, checkpoint: &Opened, made: &Generated) -> serde_json::Value {
    json!({
        "checkpoint": checkpoint.path.display().to_string(),
        "prompt": arguments.prompt,
        "prompt_tokens": made.prompt_tokens,
        "prompt_tokens_seen": made.prompt_seen,
        "begin": made.begin,
        "ends": checkpoint.ends(),
        "text": made.text,
        "tokens": made.tokens,
    })
}

/// Measures a checkpoint's loss on a text, in nats per token and perplexity.
///
/// Each document is cut into windows of the model's context, at most 2048 tokens; every token but a
/// document's first is predicted once. Where the checkpoint says that a text begins with a token, each
/// window does. Texts are text: the name of a special token does not become that token.
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
    signals::start()?; // nothing is written that could be left half done
    let mut checkpoint = open(&arguments.dir)?;
    let corpus = corpus::read_copies(&arguments.data, &arguments.reading)?;
    let mut bar = Bar::new(corpus.text_bytes())?;
    let found = checkpoint.evaluate(&corpus, &mut |progress| bar.show(&progress));
    bar.bar.finish_and_clear();
    let found = found?;
    match arguments.json {
        true => say!("{}", evaluated_json(&checkpoint, &corpus, &found)),
        false => say_evaluated(&checkpoint, &found),
    }
    Ok(ExitCode::SUCCESS)
}

fn evaluated_json(checkpoint: &Opened, corpus: &Corpus, found: &Evaluated) -> serde_json::Value {
    json!({
        "checkpoint": checkpoint.path.display().to_string(),
        "nats_per_token": found.report.nats_per_token,
        "perplexity": found.report.perplexity,
        "tokens": found.report.tokens,
        "documents": found.documents,
        "documents_too_short": found.too_short,
        "window": found.window,
        "begin": found.begin,
        "corpus": corpus::to_json(corpus),
    })
}

fn say_evaluated(checkpoint: &Opened, found: &Evaluated) {
    say!(
        "{:.4} nats per token, perplexity {:.2}, over {} tokens ({})",
        found.report.nats_per_token,
        found.report.perplexity,
        found.report.tokens,
        checkpoint.path.display()
    );
    if let Some(begin) = &found.begin {
        say!(
            "each window of {} tokens begins with {begin}, as the checkpoint says",
            found.window
        );
    }
    if found.too_short > 0 {
        say!(
            "{} of {} documents have nothing to predict: less than two tokens",
            grouped(found.too_short),
            grouped(found.documents + found.too_short)
        );
    }
}

/// How far an evaluation is: a bar where somebody watches, else now and then a line.
struct Bar {
    bar: ProgressBar,
    said: Instant,
}

impl Bar {
    fn new(bytes: u64) -> anyhow::Result<Self> {
        let bar = say::bar(bytes);
        bar.set_style(ProgressStyle::with_template(
            "{bar:30} {bytes}/{total_bytes}, {elapsed} so far, about {eta} left  {msg}",
        )?);
        bar.enable_steady_tick(Duration::from_millis(200));
        Ok(Self {
            bar,
            said: Instant::now(),
        })
    }

    fn show(&mut self, progress: &EvalProgress) -> ControlFlow<()> {
        let nats = progress.so_far.report().nats_per_token;
        self.bar.set_position(progress.bytes);
        self.bar.set_message(format!("{nats:.4} nats per token"));
        if self.bar.is_hidden() && self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            let (read, of) = (size(progress.bytes as f64), size(progress.of as f64));
            complain!("atoll: {read} of {of} are evaluated, {nats:.4} nats per token so far");
        }
        ControlFlow::Continue(())
    }
}
