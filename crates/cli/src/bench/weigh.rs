//! `atoll bench weigh`.

use crate::found::compression;
use anyhow::{Context as _, bail};
use atoll_bench::weigh;
use atoll_protocol::{Robust, charter::Compression, robust::Weighing};
use indicatif::ProgressStyle;
use std::process::ExitCode;

/// Times how a round's contributions are judged: their inner products, the gates and the robust weights.
#[derive(clap::Args)]
#[command(
    after_help = "Contributions are random values; making them takes longer than weighing them and is not timed.\n\nExamples:\n  atoll bench weigh\n  atoll bench weigh --replicas 32 --parameters 100000000 --codec sparse-64 --json"
)]
pub(crate) struct Arguments {
    /// Contributions
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    replicas: u16,
    /// Values of each
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(65536..=1_000_000_000))]
    parameters: u32,
    /// How they are encoded: dense, int8, int4, sparse-K or lowrank-R
    #[arg(long, default_value = "sparse-64", value_parser = compression)]
    codec: Compression,
    #[arg(long, default_value = "geometric-median clip gates", help = rules())]
    robust: Robust,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn rules() -> String {
    let rules = Weighing::ALL.map(Weighing::name).join(", ");
    format!("How they are judged: one of {rules}; with mixing, clip and gates where wanted")
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Compression::Fixed(codec) = &arguments.codec else {
        bail!("--codec auto follows a run's links; name one codec");
    };
    let spinner = crate::say::spinner().with_style(ProgressStyle::with_template("{spinner} {msg}")?);
    let size = (arguments.replicas, arguments.parameters as usize);
    let report = weigh::measure(size, codec, &arguments.robust, |what| spinner.set_message(what));
    spinner.finish_and_clear();
    let report = report.context("contributions that were made here cannot be weighed")?;
    match arguments.json {
        true => say!("{}", serde_json::to_string(&report)?),
        false => say!(
            "{} contributions of {} values in {}, {} bytes in all, {} threads{}\nread and checked in {:.2} s, inner products in {:.2} s, judged in {:.4} s",
            report.replicas,
            crate::grouped(report.parameters as u64),
            report.codec,
            crate::grouped(report.blob_bytes),
            report.threads,
            report.peak_bytes.map_or(String::new(), |peak| {
                let times = peak as f64 / report.blob_bytes as f64;
                format!(
                    "\nat the most {} bytes, {times:.2} times the blobs",
                    crate::grouped(peak)
                )
            }),
            report.read_s,
            report.products_s,
            report.judging_s
        ),
    }
    Ok(ExitCode::SUCCESS)
}
