//! `atoll why`.

use crate::first_node;
use atoll_host::{
    status::history,
    why::{exclusion, fates, objection, peer_of},
};
use atoll_protocol::Round;
use serde_json::json;
use std::{path::PathBuf, process::ExitCode};

/// Says what became of a peer's contributions, and why, from the ledger alone.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  atoll why atoll-demo node-3\n  atoll why atoll-demo node-3 7\n  atoll why my-node 6fc2 --json | jq '.rounds[] | select(.fate != \"merged\")'"
)]
pub(crate) struct Arguments {
    /// A node's folder, or a folder of such folders (the first is asked); its node must not be running
    dir: PathBuf,
    /// The peer: its name, its key, or how its key begins
    peer: String,
    /// One round, from 0; all that have ended if not given
    round: Option<u32>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let folder = first_node(&arguments.dir)?;
    let history = history(&folder)?;
    let peer = peer_of(&history, &arguments.peer)?;
    let round = arguments.round.map(Round);
    let fates = fates(&folder, &history, &peer, round);
    if let (Some(round), []) = (round, &fates[..]) {
        anyhow::bail!("round {round} has not ended; {} rounds have", history.rounds.len());
    }
    let (name, excluded) = (history.charter.name_of(&peer), exclusion(&history, &peer));
    if arguments.json {
        let rounds: Vec<_> = fates.iter().map(|fate| fate.to_json()).collect();
        say!(
            "{}",
            json!({
                "peer": name,
                "key": peer.to_string(),
                "excluded": excluded,
                "objects": objection(&history, &peer),
                "rounds": rounds,
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    say!("{name}  ({peer})");
    if let Some(why) = excluded {
        say!("  excluded    {why}");
    }
    if let Some(objection) = objection(&history, &peer) {
        say!("  objects     {objection}");
    }
    for fate in &fates {
        say!("  round {:<5} {}", fate.round.0, fate.text);
    }
    Ok(ExitCode::SUCCESS)
}
