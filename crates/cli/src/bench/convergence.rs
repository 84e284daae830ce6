//! `atoll bench convergence`.

use super::{progress, results_file, results_folder};
use crate::{demo::corpus, signals};
use atoll_bench::convergence::{
    self, Book, Campaign, Preset, Progress, Task,
    campaign::CampaignError,
    plot,
    table::{self, Row},
};
use clap::ValueEnum;
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Trains every arm on the same tokens, N replicas in turn, and compares loss and bytes.
///
/// Each arm's settings are chosen on one seed; the best is run on further seeds. Results are kept after every
/// run: the same command goes on where it was stopped.
#[derive(clap::Args)]
#[command(
    after_help = "Writes results.jsonl, table.md and plot.svg into atoll-bench/PRESET of the working folder, or where --out says, and into nothing else. smoke takes under a minute, table hours, large about a day on two cores.\n\nExamples:\n  atoll bench convergence\n  atoll bench convergence --preset table --data texts.txt --out results/table\n  atoll bench convergence --json | tail -1"
)]
pub(crate) struct Arguments {
    /// What to run
    #[arg(long, value_enum, default_value_t = Which::Smoke)]
    preset: Which,
    /// Text, folder, JSONL or Parquet; the project's own sources if left out
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    #[command(flatten)]
    reading: corpus::Reading,
    /// Where results are kept [default: atoll-bench/PRESET]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Runs at a time, each on one thread; as many as there are cores if left out
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print JSON lines: one for each run, and one for the table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    /// A tiny model, the main arms
    Smoke,
    /// 1M parameters, all arms
    Table,
    /// 10M parameters, the main arms
    Large,
}

impl Which {
    fn preset(self) -> Preset {
        match self {
            Self::Smoke => Preset::Smoke,
            Self::Table => Preset::Table,
            Self::Large => Preset::Large,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let preset = arguments.preset.preset();
    let out = results_folder(arguments.out.as_deref(), preset.name())?;
    let (page, picture) = (
        results_file(&out, "table.md", "convergence")?,
        results_file(&out, "plot.svg", "convergence")?,
    );
    let corpus = corpus::read(arguments.data.as_deref(), &arguments.reading, &[&out])?;
    let task = Task::of(&corpus)?;
    let book = convergence::open(&out.join("results.jsonl"), &task)?;
    let campaign = preset.campaign();
    let stopped = campaign_run(&campaign, &task, &book, arguments)?;
    let rows = table::rows(&campaign, &book);
    page.write((head(preset, &task, arguments.data.as_deref()) + &table::markdown(&rows)).as_bytes())?;
    picture.write(plot::svg(&rows, &preset.main_column()).as_bytes())?;
    if let Some(status) = stopped {
        let (done, of) = (campaign.done(&book), campaign.runs());
        complain!("atoll: stopped after {done} of {of} runs; the same command goes on where it was");
        return Ok(ExitCode::from(status));
    }
    let column = preset.main_column();
    match arguments.json {
        true => {
            let mut summary = summary(&rows, &column, &out);
            summary["corpus"] = corpus::to_json(&corpus);
            say!("{summary}");
        }
        false => {
            say!("{}", table::markdown(&rows));
            say!("results, table and plot are in {}", out.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs what is missing. If it was stopped, the status to end with.
fn campaign_run(campaign: &Campaign, task: &Task, book: &Book, arguments: &Arguments) -> anyhow::Result<Option<u8>> {
    let gentle = signals::gentle()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.map_or(cores, usize::from);
    let bar = progress((campaign.done(book), campaign.runs()), arguments.json)?;
    let report = |progress: Progress| match progress {
        Progress::Begins(spec) => bar.set_message(format!("{}, seed {}", spec.arm, spec.seed)),
        Progress::Ends { spec, result, done, .. } => {
            bar.set_position(done as u64);
            if arguments.json {
                say!("{}", json!({ "spec": spec, "result": result }));
            } else {
                let text = format!(
                    "{:<26} lr {:<7} seed {}  loss {:.4}  {:.0} s",
                    spec.arm, spec.lr, spec.seed, result.loss, result.wall_s
                );
                match bar.is_hidden() {
                    true => say!("{text}"),
                    false => bar.println(text),
                }
            }
        }
    };
    let done = campaign.run(task, book, threads, &|| gentle.asked().is_some(), &report);
    bar.finish_and_clear();
    match done {
        Ok(()) => Ok(None),
        Err(CampaignError::Stopped) => Ok(Some(gentle.asked().unwrap_or(1))),
        Err(error) => Err(error.into()),
    }
}

fn head(preset: Preset, task: &Task, data: Option<&Path>) -> String {
    format!(
        "# `atoll bench convergence --preset {}`\n\natoll {}, corpus {} ({} training tokens, bytes), manifest {}. Losses are held-out nats per byte, mean ± half the range over the seeds; the gap is to all-reduce with AdamW. Learning rates are chosen from small grids, of three for all-reduce and CocktailSGD and of two for the others; outer optimizers are as the row says. Bytes are what a peer sends and receives per token that it trains on. Times are in inner steps of a peer.\n\n",
        preset.name(),
        env!("CARGO_PKG_VERSION"),
        data.map_or("the project's sources".to_string(), |path| path.display().to_string()),
        crate::grouped(task.tokens() as u64),
        task.hash().short(),
    )
}

fn summary(rows: &[Row], main: &str, out: &Path) -> serde_json::Value {
    let arm = |row: &Row| {
        json!({
            "name": row.name,
            "column": row.column,
            "loss": row.loss,
            "gap_percent": row.gap_percent,
            "bytes_per_token": row.bytes_per_token,
            "bytes_per_parameter": row.bytes_per_parameter,
            "spread": row.spread,
            "seeds": row.seeds,
            "utilisation": row.utilisation,
        })
    };
    let arms: Vec<_> = rows.iter().filter(|row| row.column == main).map(arm).collect();
    let others: Vec<_> = rows.iter().filter(|row| row.column != main).map(arm).collect();
    match others.is_empty() {
        true => json!({ "arms": arms, "out": out.display().to_string() }),
        false => json!({ "arms": arms, "other_columns": others, "out": out.display().to_string() }),
    }
}
