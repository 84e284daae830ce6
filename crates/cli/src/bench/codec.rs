//! `atoll bench codec`.

use anyhow::Context as _;
use atoll_bench::codec;
use indicatif::ProgressStyle;
use std::process::ExitCode;

/// Times every codec on the same values, beside a copy of as many bytes.
#[derive(clap::Args)]
#[command(
    after_help = "GB are of f32 values. A merge decodes every contribution and adds it in f64.\n\nExamples:\n  atoll bench codec\n  atoll bench codec --threads 1 --runs 9\n  atoll bench codec --parameters 100000000 --json"
)]
pub(crate) struct Arguments {
    /// Values in the vector
    #[arg(long, default_value_t = 16_777_216, value_parser = clap::value_parser!(u32).range(4096..=1_000_000_000))]
    parameters: u32,
    /// How often each is run; the fastest counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Threads; all cores if left out
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let threads = usize::from(arguments.threads.unwrap_or(0)); // 0: as many as there are cores
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.context("cannot start threads")?;
    let spinner = crate::say::spinner().with_style(ProgressStyle::with_template("{spinner} measuring {msg}")?);
    let report = pool.install(|| {
        codec::measure(arguments.parameters as usize, arguments.runs, |name| {
            spinner.set_message(name.to_string());
        })
    })?;
    spinner.finish_and_clear();
    match arguments.json {
        true => say!("{}", serde_json::to_string(&report)?),
        false => print(&report),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &codec::Report) {
    say!(
        "{} values, {} threads, GB/s of f32; a copy: {:.2}\n",
        crate::grouped(report.parameters as u64),
        report.threads,
        report.memcpy_gb_s
    );
    say!("codec        bytes/param   encode   of copy    check   decode  decode+merge   of copy    error");
    for row in &report.codecs {
        say!(
            "{:<12} {:>11.4} {:>8.2} {:>8.1}% {:>8.2} {:>8.2} {:>13.2} {:>8.1}% {:>8.4}",
            row.name,
            row.bytes_per_param,
            row.encode_gb_s,
            100.0 * row.encode_gb_s / report.memcpy_gb_s,
            row.check_gb_s,
            row.decode_alone_gb_s,
            row.decode_gb_s,
            100.0 * row.decode_gb_s / report.memcpy_gb_s,
            row.error
        );
    }
}
