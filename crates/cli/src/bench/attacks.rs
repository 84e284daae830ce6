//! `atoll bench attacks`.

use super::{progress, results_file, results_folder};
use crate::{demo::corpus, signals};
use atoll_bench::attacks::{
    self, Preset, RunResult, Spec,
    campaign::{CampaignError, RULES},
    table::{self, Row},
};
use atoll_simulator::Text;
use clap::ValueEnum;
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Runs networks with liars and compares every liar with the honest run under every robust rule.
///
/// Whole networks in the simulator, with a real model: ledger, gates, weights and audits are those of a real run.
/// Results are kept after every run: the same command goes on where it was stopped.
#[derive(clap::Args)]
#[command(
    after_help = "Writes results.jsonl and table.md into atoll-bench/attacks-PRESET of the working folder, or where --out says, and into nothing else. smoke takes about a minute, table hours on two cores.\n\nExamples:\n  atoll bench attacks\n  atoll bench attacks --preset table --data texts.txt --out results/attacks\n  atoll bench attacks --json | tail -1"
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
    /// Where results are kept [default: atoll-bench/attacks-PRESET]
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
    /// Four liars, two rules, a tiny model
    Smoke,
    /// Every liar against every rule, and against the default with 1M parameters
    Table,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let preset = match arguments.preset {
        Which::Smoke => Preset::Smoke,
        Which::Table => Preset::Table,
    };
    let out = results_folder(arguments.out.as_deref(), &format!("attacks-{}", preset.name()))?;
    let page = results_file(&out, "table.md", "attacks")?;
    let corpus = corpus::read(arguments.data.as_deref(), &arguments.reading, &[&out])?;
    let text = Text::of(&corpus)?;
    let book = attacks::open(&out.join("results.jsonl"), &text)?;
    let campaign = preset.campaign();
    let gentle = signals::gentle()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.map_or(cores, usize::from);
    let bar = progress((campaign.done(&book), campaign.specs.len()), arguments.json)?;
    let ended = |spec: &Spec, result: &RunResult| {
        bar.inc(1);
        match (arguments.json, bar.is_hidden()) {
            (true, _) => say!("{}", json!({ "spec": spec, "result": result })),
            (false, true) => say!("{}", line(spec, result)),
            (false, false) => bar.println(line(spec, result)),
        }
    };
    let done = campaign.run(&text, &book, threads, &|| gentle.asked().is_some(), &ended);
    bar.finish_and_clear();
    let rows = table::rows(&campaign, &book);
    page.write((head(preset, arguments.data.as_deref(), &text) + &table::markdown(&rows)).as_bytes())?;
    match done {
        Ok(()) => {}
        Err(CampaignError::Stopped) => {
            let (done, of) = (campaign.done(&book), campaign.specs.len());
            complain!("atoll: stopped after {done} of {of} runs; the same command goes on where it was");
            return Ok(ExitCode::from(gentle.asked().unwrap_or(1)));
        }
        Err(error) => return Err(error.into()),
    }
    match arguments.json {
        true => {
            let mut summary = summary(&rows, &out);
            summary["corpus"] = corpus::to_json(&corpus);
            say!("{summary}");
        }
        false => {
            say!("{}", table::markdown(&rows));
            say!("results and table are in {}", out.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn line(spec: &Spec, result: &RunResult) -> String {
    let liar = if spec.liars == 0 { "nobody" } else { &spec.liar };
    format!(
        "{:<4} {:<34}{} {:<14} {} of {:<2}  loss {:.4}  caught {}  {:.0} s",
        spec.size,
        spec.rule,
        if spec.audits { ", audits" } else { "        " },
        liar,
        spec.liars,
        spec.replicas,
        result.loss,
        result.caught,
        result.wall_s
    )
}

fn head(preset: Preset, data: Option<&Path>, text: &Text) -> String {
    format!(
        "# `atoll bench attacks --preset {}`\n\natoll {}, corpus {}, manifest {}. Losses are held-out nats per byte; extra loss is relative to the run of the same seed in which nobody lies, ± half the range where there are three seeds, and of the mean loss to that of all honest runs, of which there are more. Caught: refused, kept out by a gate, excluded, or found guilty by those who made its work again; rounds are until then.\n\n",
        preset.name(),
        env!("CARGO_PKG_VERSION"),
        data.map_or("the project's sources".to_string(), |path| path.display().to_string()),
        text.hash().short(),
    )
}

fn summary(rows: &[Row], out: &Path) -> serde_json::Value {
    let of = |rule: &str, audits: bool| {
        let rows = rows
            .iter()
            .filter(move |row| row.spec.rule == rule && row.spec.audits == audits);
        rows.filter(|row| row.spec.liars > 0).collect::<Vec<_>>()
    };
    let rules = RULES.into_iter().map(|(rule, audits)| (rule, audits, of(rule, audits)));
    let rules = rules.filter(|(.., rows)| !rows.is_empty()).map(|(rule, audits, rows)| {
        let worst = rows
            .iter()
            .filter_map(|row| row.extra_percent)
            .fold(f64::NEG_INFINITY, f64::max);
        let caught: u32 = rows.iter().map(|row| row.caught).sum();
        let liars: u32 = rows.iter().map(|row| row.spec.liars * row.seeds).sum();
        json!({ "rule": rule, "audits": audits, "worst_extra_percent": worst, "caught": caught, "liars": liars })
    });
    let rules: Vec<_> = rules.collect();
    json!({ "rules": rules, "runs": rows, "out": out.display().to_string() })
}
