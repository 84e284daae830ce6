//! `atoll calibrate`.

use crate::output;
use anyhow::Context as _;
use atoll_host::{
    calibrate::{self, Compared},
    charter_file,
    folder::Folder,
};
use atoll_protocol::{Charter, Finding, encode};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

/// Measures how far apart two machines train the same, which `audit.tolerance` in a charter must let pass.
///
/// Each machine writes a sample; any machine compares the samples of others with what comes out there. On the same
/// build and kind of processor it is the same to the bit.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  atoll calibrate my-node --write here.sample        on every machine\n  atoll calibrate my-node there.sample other.sample   on one of them\n  atoll calibrate charter.toml there.sample --json"
)]
pub(crate) struct Arguments {
    /// A node's folder, or a charter file
    place: PathBuf,
    /// Samples of other machines to compare with
    samples: Vec<PathBuf>,
    /// Write this machine's sample into this file; only a sample of the same run is replaced
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Inner steps to take; a round's if left out
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: Option<u32>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What is let pass is so many times what was measured, and never less than this: a few samples do not show the
/// worst.
const MARGIN: f64 = 4.0;
const LEAST: f64 = 1e-3;

/// A sample begins with a version, and then the run's genesis.
fn claim(path: &Path, charter: &Charter) -> anyhow::Result<output::Output> {
    let genesis = charter.genesis();
    let ours = |head: &[u8]| head.get(4..).is_some_and(|rest| rest.starts_with(genesis.as_bytes()));
    output::claim(path, "sample of this run", ours)
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let path = match arguments.place.is_dir() {
        true => Folder::at(&arguments.place).charter(),
        false => arguments.place.clone(),
    };
    let charter = Arc::new(charter_file::read(&path)?);
    let written = arguments
        .write
        .as_deref()
        .map(|path| claim(path, &charter))
        .transpose()?;
    if let (Some(output), Some(path)) = (written, &arguments.write) {
        if arguments.samples.iter().any(|sample| output.is_at(sample)) {
            anyhow::bail!(
                "--write {} would replace a sample that is to be compared; name another file",
                path.display()
            );
        }
        let steps = arguments.steps.unwrap_or(charter.round.inner_steps.0);
        let machine = format!(
            "{} {}, atoll {}",
            std::env::consts::ARCH,
            std::env::consts::OS,
            env!("CARGO_PKG_VERSION")
        );
        let made = calibrate::sample(&charter, steps, machine)?;
        output.write(&encode(&made))?;
        if !arguments.json {
            say!("{steps} steps are in {}: compare it on another machine", path.display());
        }
    } else if arguments.samples.is_empty() {
        anyhow::bail!("nothing to do: give samples of other machines, or --write FILE for one of this");
    }
    let compared = arguments.samples.iter().map(|path| {
        let sample = calibrate::read(path, &charter)?;
        let compared = calibrate::compare(&charter, &sample);
        compared.with_context(|| format!("cannot compare {}", path.display()))
    });
    let compared = compared.collect::<anyhow::Result<Vec<Compared>>>()?;
    let far = |finding: &Finding| match finding {
        Finding::Same => 0.0,
        Finding::Apart { billionths } => *billionths as f64 / 1e9,
        Finding::Missing => f64::INFINITY, // a sample brings all that it was trained from
    };
    let largest = compared.iter().map(|found| far(&found.finding)).fold(0.0, f64::max);
    // a charter allows a share
    let tolerance = Some((MARGIN * largest).max(LEAST)).filter(|tolerance| *tolerance <= 1.0);
    if arguments.json {
        let samples = compared.iter().zip(&arguments.samples).map(|(found, path)| {
            json!({
                "file": path.display().to_string(),
                "machine": found.machine,
                "same": found.finding == Finding::Same,
                "apart": far(&found.finding),
            })
        });
        let (samples, written) = (samples.collect::<Vec<_>>(), &arguments.write);
        say!(
            "{}",
            json!({ "samples": samples, "tolerance": tolerance, "now": charter.audit.tolerance.0 as f64 / 1e9, "written": written })
        );
        return Ok(ExitCode::SUCCESS);
    }
    for (found, path) in compared.iter().zip(&arguments.samples) {
        say!("{}  ({}): {}", path.display(), found.machine, found.finding);
    }
    let now = charter.audit.tolerance.0 as f64 / 1e9;
    match tolerance {
        _ if compared.is_empty() => {}
        Some(tolerance) => {
            say!("audit.tolerance = {tolerance:.4} lets {MARGIN} times the farthest pass; the charter has {now:.4}")
        }
        None => say!("no audit.tolerance lets {MARGIN} times the farthest pass: these machines do not train the same"),
    }
    Ok(ExitCode::SUCCESS)
}
