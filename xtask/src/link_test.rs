//! `cargo xtask link-test`: per-step all-reduce and Atoll, each over the same shaped links between network
//! namespaces, and how much of the time nodes train.
//!
//! 1. Nodes get a namespace each, joined by a bridge in one more ([`network`]).
//! 2. All nodes train at once without any exchange: T_step, the mean time of a step while all do.
//! 3. Every link is shaped, both ways, to the bandwidth at which a ring all-reduce of f32 gradients takes ρ
//!    times T_step ([`figures`]).
//! 4. All-reduce trains some steps, then `atoll node`s some rounds ([`arms`]).

mod arms;
mod figures;
mod network;
mod options;
mod processes;

use crate::cargo;
use arms::Bench;
use figures::{Link, Measured};
use network::Network;
use options::Options;
pub(crate) use options::USAGE;
use std::{path::Path, process::ExitCode};

/// Exit code where this machine cannot run the test; test runners read it as "skipped".
const CANNOT_RUN_HERE: u8 = 77;
/// Steps of the calibration, and the longest that one may take.
const CALIBRATION: (u32, f64) = (40, 60.0);

/// Why there is no result.
enum Failure {
    /// No root, no tools, no namespaces.
    Here(String),
    /// Anything else.
    Test(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Test(text)
    }
}

pub(crate) fn run(root: &Path, words: &[&str]) -> ExitCode {
    if let ["--janitor", run, folder] = words {
        return network::janitor(run, folder);
    }
    let done = Options::parse(words)
        .map_err(Failure::Test)
        .and_then(|options| test(root, &options));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Here(text)) => {
            eprintln!("link-test cannot run here: {text}");
            ExitCode::from(CANNOT_RUN_HERE)
        }
        Err(Failure::Test(text)) => {
            eprintln!("error: {text}");
            ExitCode::FAILURE
        }
    }
}

fn test(root: &Path, options: &Options) -> Result<(), Failure> {
    network::can_run_here().map_err(Failure::Here)?;
    eprintln!("building atoll");
    cargo(root, &["build", "--release", "--quiet", "--bin", "atoll"]).map_err(|lines| lines.join("\n"))?;
    network::sweep();
    let network = Network::make(options.nodes, options.keep).map_err(Failure::Here)?;
    let bench = Bench::found(&network, options)?;
    let calibration = bench.calibrate(CALIBRATION.0, CALIBRATION.1)?;
    let t_step_s = calibration.step_s_while_all_train();
    let link = Link {
        nodes: options.nodes,
        parameters: bench.parameters(),
        rho: options.rho,
        t_step_s,
    };
    network.shape(link.bandwidth_bit_s() as u64)?;
    eprintln!(
        "T_step {t_step_s:.3} s with {} nodes at once; links shaped to {:.3} Mbit/s: an all-reduce step should take {:.1} s",
        options.nodes,
        link.bandwidth_bit_s() / 1e6,
        t_step_s * (1.0 + options.rho)
    );
    let slowest_s = 4.0 * t_step_s * (1.0 + options.rho) + 10.0;
    let all_reduce = bench.all_reduce(options.steps, slowest_s)?;
    let atoll = bench.atoll(&link)?;
    tell(
        options,
        &Measured {
            link,
            all_reduce,
            atoll,
        },
    );
    if options.keep {
        eprintln!("the nodes' folders are kept in {}", network.folder().display());
    }
    Ok(network.remove()?)
}

fn tell(options: &Options, measured: &Measured) {
    print!("{}", figures::table(options, measured));
    if options.json {
        println!("{}", figures::json(options, measured));
    }
}

/// Where a node is reached.
fn address(node: usize, port: u16) -> String {
    format!("10.77.0.{}:{port}", node + 1)
}
