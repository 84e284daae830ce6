//! `atoll bench all-reduce`: one node of the baseline that `cargo xtask link-test` measures.

use atoll_bench::{
    all_reduce::{self, Exchange},
    ring::{Place, Ring},
};
use atoll_host::charter_file;
use serde_json::json;
use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

/// One node of per-step all-reduce. Prints a JSON object for each step, and one at the end.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  atoll bench all-reduce charter.toml --rank 0 --nodes 2 --listen 10.0.0.1:7701 --next 10.0.0.2:7701 --steps 5"
)]
pub(crate) struct Arguments {
    /// The charter whose model, batch and optimizer are used
    charter: PathBuf,
    /// This node's place in the ring, from 0
    #[arg(long)]
    rank: usize,
    /// Nodes in the ring
    #[arg(long)]
    nodes: usize,
    /// Where to listen for the node before
    #[arg(long)]
    listen: SocketAddr,
    /// Where the next node listens
    #[arg(long)]
    next: SocketAddr,
    /// Steps to train
    #[arg(long)]
    steps: u32,
    /// Exchange nothing: train alone, at the same time as the others
    #[arg(long)]
    alone: bool,
    /// Seconds for neighbours to come, and to be silent later
    #[arg(long, default_value_t = 60)]
    wait: u64,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let charter = charter_file::read(&arguments.charter)?;
    let ring = Ring::join(&Place {
        rank: arguments.rank,
        nodes: arguments.nodes,
        listen: arguments.listen,
        next: arguments.next,
        wait: Duration::from_secs(arguments.wait),
    })?;
    let place = (arguments.rank, ring);
    let exchange = if arguments.alone {
        Exchange::Never
    } else {
        Exchange::EveryStep
    };
    let (theta, sent) = all_reduce::run(&charter, place, (arguments.steps, exchange), |step| {
        let line = json!({
            "event": "step",
            "step": step.step,
            "loss": step.loss,
            "compute_s": step.compute_s,
            "wall_s": step.wall_s,
        });
        say!("{line}"); // whoever reads may have gone; the others need this node
    })?;
    say!(
        "{}",
        json!({ "event": "done", "theta": theta.to_string(), "sent": sent })
    );
    Ok(ExitCode::SUCCESS)
}
