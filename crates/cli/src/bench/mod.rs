//! `atoll bench`.

mod all_reduce;
mod attacks;
mod codec;
mod convergence;
mod weigh;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    process::ExitCode,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
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
    let bar = ProgressBar::new(of as u64);
    bar.set_style(ProgressStyle::with_template(
        "{bar:30} {pos}/{len} runs, {elapsed} so far, about {eta} left  {msg}",
    )?);
    bar.set_position(done as u64);
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_millis(500));
    Ok(bar)
}

/// Set by Ctrl-C; a second one ends the program at once.
pub(crate) fn on_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let stop = STOP.get_or_init(Arc::default).clone();
    let seen = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if seen.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    })?;
    Ok(stop)
}
