//! `atoll bench`.

mod all_reduce;
mod attacks;
mod codec;
mod convergence;
mod weigh;

use crate::{
    output::{self, Output},
    say,
};
use anyhow::Context as _;
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

/// Measures methods of training together, liars, and codecs, in one process.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  atoll bench convergence --preset smoke\n  atoll bench convergence --preset table --data texts.txt --out results/\n  atoll bench attacks --preset smoke\n  atoll bench codec --json"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Loss against bytes of every method at equal tokens
    Convergence(convergence::Arguments),
    /// What liars cost, under every robust rule, and whether they are caught
    Attacks(attacks::Arguments),
    /// How fast codecs encode, decode and merge
    Codec(codec::Arguments),
    /// How long a round's contributions take to be judged
    Weigh(weigh::Arguments),
    /// One node of per-step all-reduce, for `cargo xtask link-test`
    #[command(hide = true)]
    AllReduce(all_reduce::Arguments),
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.what {
        What::Convergence(arguments) => convergence::run(arguments),
        What::Attacks(arguments) => attacks::run(arguments),
        What::Codec(arguments) => codec::run(arguments),
        What::Weigh(arguments) => weigh::run(arguments),
        What::AllReduce(arguments) => all_reduce::run(arguments),
    }
}

/// So many runs done, of so many.
fn progress((done, of): (usize, usize), quiet: bool) -> anyhow::Result<ProgressBar> {
    if quiet {
        return Ok(ProgressBar::hidden());
    }
    let bar = say::bar(of as u64);
    bar.set_style(ProgressStyle::with_template(
        "{bar:30} {pos}/{len} runs, {elapsed} so far, about {eta} left  {msg}",
    )?);
    bar.set_position(done as u64);
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_millis(500));
    Ok(bar)
}

/// The folder where results are kept: the one that is named, or one in the working folder, which is kept out of git.
fn results_folder(named: Option<&Path>, usual: &str) -> anyhow::Result<PathBuf> {
    let out = named.map_or_else(|| Path::new(USUAL).join(usual), Path::to_path_buf);
    let made = fs::create_dir_all(&out);
    made.with_context(|| format!("cannot make the folder {}", out.display()))?;
    let ignore = Path::new(USUAL).join(".gitignore");
    if named.is_none() && !ignore.exists() {
        fs::write(&ignore, "*\n").with_context(|| format!("cannot write {}", ignore.display()))?;
    }
    let out = std::path::absolute(out)?;
    complain!("atoll: results are kept in {}", out.display());
    Ok(out)
}

/// Where results are kept if nobody names a folder.
const USUAL: &str = "atoll-bench";

/// What stands over every plot.
const PLOT: &str = "Held-out loss against bytes";

/// Takes a file in the results' folder, which must not be somebody else's.
fn results_file(out: &Path, name: &str, bench: &str) -> anyhow::Result<Output> {
    let title = format!("# `atoll bench {bench} ");
    output::claim(&out.join(name), &format!("result of `atoll bench {bench}`"), |head| {
        head.starts_with(title.as_bytes()) || output::is_our_svg(head, &[PLOT])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_known_again() {
        let svg = atoll_bench::convergence::plot::svg(&[], "a column");
        assert!(output::is_our_svg(
            svg.as_bytes().get(..4096).unwrap_or(svg.as_bytes()),
            &[PLOT]
        ));
    }
}
