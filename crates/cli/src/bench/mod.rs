//! `atoll bench`.

mod all_reduce;
mod codec;
mod convergence;

use clap::Subcommand;
use std::process::ExitCode;

/// Measures methods of training together, and codecs, in one process.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  atoll bench convergence --preset smoke\n  atoll bench convergence --preset table --data texts.txt --out results/\n  atoll bench codec --json"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Loss against bytes of every method at equal tokens
    Convergence(convergence::Arguments),
    /// How fast codecs encode, decode and merge
    Codec(codec::Arguments),
    /// One node of per-step all-reduce, for `cargo xtask link-test`
    #[command(hide = true)]
    AllReduce(all_reduce::Arguments),
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.what {
        What::Convergence(arguments) => convergence::run(arguments),
        What::Codec(arguments) => codec::run(arguments),
        What::AllReduce(arguments) => all_reduce::run(arguments),
    }
}
