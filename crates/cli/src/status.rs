//! `atoll status`.

use crate::{first_node, size};
use atoll_host::status::status;
use serde_json::Value;
use std::{path::PathBuf, process::ExitCode};

/// Says where a run stands: round, phase, peers, loss, checkpoint, and what a running node waits for.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  atoll status atoll-demo\n  atoll status atoll-demo/node-1 --json")]
pub(crate) struct Arguments {
    /// A node's folder, or a folder of such folders (the first is asked)
    dir: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let folder = first_node(&arguments.dir)?;
    let value = status(&folder)?;
    match arguments.json {
        true => say!("{value}"),
        false => print(&value),
    }
    Ok(ExitCode::SUCCESS)
}

/// What peers needed for each phase of late, and how long it may last.
fn phases(pace: &Value) -> String {
    let seconds = |of: &Value| of.as_f64().map_or("?".into(), |ms| format!("{:.1}", ms / 1000.0));
    let phase = |name: &str| {
        let phase = &pace[name];
        let limit = match phase["limit_ms"].is_number() {
            true => format!(", at most {} s", seconds(&phase["limit_ms"])),
            false => String::new(),
        };
        format!("{name} {} s{limit}", seconds(&phase["median_ms"]))
    };
    ["commit", "reveal", "check"].map(phase).join("; ")
}

/// What a peer's contributions do to the loss, if any was measured.
fn effect(loss: &Value) -> String {
    let Some(random) = loss["random_percent"].as_f64() else {
        return String::new();
    };
    let watched = if loss["watched"] == true {
        "; all is looked at"
    } else {
        ""
    };
    format!(
        ", loss {random:+.3} % on average over {} measured{watched}",
        loss["measured"]
    )
}

/// How long ago something was, for people.
fn ago(milliseconds: &Value) -> Option<String> {
    let seconds = milliseconds.as_u64()? / 1000;
    Some(match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    })
}

/// A node that has not written for so long hangs, or its machine sleeps.
const SILENT_MS: u64 = 15_000;

/// Whether the node runs, and whether it still says so.
fn standing(value: &Value) -> String {
    if value["running"] != true {
        return "stopped".into();
    }
    match ago(&value["word_age_ms"]).filter(|_| value["word_age_ms"].as_u64() > Some(SILENT_MS)) {
        Some(age) => format!("its process is there, but it has said nothing for {age}: it hangs, or its disk does"),
        None => "running".into(),
    }
}

/// What a running node says of the others, of its clock and of what it waits for.
fn print_live(value: &Value) {
    let list = |key: &str| value[key].as_array().map_or(&[][..], Vec::as_slice);
    if let Some(members) = value["members"].as_u64() {
        let names: Vec<&str> = list("connected").iter().filter_map(Value::as_str).collect();
        let names = match names.len() {
            0 => String::new(),
            _ => format!(" ({})", names.join(", ")),
        };
        say!(
            "  connected   {} of {} others{names}; {} members are needed for a block, this node included",
            list("connected").len(),
            members.saturating_sub(1),
            value["needed"]
        );
    }
    if let Some(clock) = value["clock"].as_str() {
        say!("  clock       {clock}");
    }
    if value["listens_only"] == true {
        say!(
            "  votes       none yet: what it has voted was lost, so it listens until no view is open in which it may have voted"
        );
    }
    if let Some(skipped) = value["skipped"].as_str() {
        say!("  not trained {skipped}");
    }
    for wait in list("waits") {
        say!("  waits       {}", wait["text"].as_str().unwrap_or("-"));
    }
}

/// What the folder takes, and whether there is room for more.
fn disk(disk: &Value) -> Option<String> {
    let bytes = |key: &str| disk[key].as_u64().map(|bytes| size(bytes as f64));
    let mut text = format!("{} ({} blobs", bytes("total")?, bytes("blobs")?);
    for (key, what) in [("checkpoints", "checkpoints"), ("damaged", "put aside")] {
        if disk[key].as_u64() > Some(0) {
            text.push_str(&format!(", {} {what}", bytes(key)?));
        }
    }
    text.push(')');
    if let Some(grows) = bytes("per_round") {
        text.push_str(&format!(", about {grows} a round"));
    }
    text.push_str(&format!("; the run takes up to {}", bytes("run_up_to")?));
    if let Some(free) = bytes("free") {
        text.push_str(&format!("; {free} free"));
        if disk["free"].as_u64() < disk["needed_free"].as_u64() {
            text.push_str(&format!(
                ", which is too little: with less than {} the node trains no more rounds",
                bytes("needed_free")?
            ));
        }
    }
    Some(text)
}

fn print(value: &Value) {
    let text = |key: &str| value[key].as_str().unwrap_or("-").to_string();
    say!("{}  (genesis {})", text("name"), text("genesis"));
    say!("  node        {}", standing(value));
    match ago(&value["block_age_ms"]) {
        Some(age) => say!("  block       {}, {age} ago", value["height"]),
        None => say!("  block       {}", value["height"]),
    }
    print_live(value);
    match (value["round"].as_u64(), value["rounds"].as_u64()) {
        (Some(_), Some(rounds)) if value["phase"] == "finished" => say!("  round       all {rounds} are done"),
        (Some(round), Some(rounds)) => say!("  round       {round} (from 0, of {rounds}), phase {}", text("phase")),
        _ => {}
    }
    let next = match value["inner_steps"].as_u64() {
        Some(0) | None => String::new(),
        Some(steps) => format!("; {steps} steps a round, contributions as {}", text("codec")),
    };
    say!(
        "  training    {} of {} steps done{next}",
        value["steps_done"],
        value["steps"]
    );
    say!("  phases      {}", phases(&value["pace"]));
    say!(
        "  this round  {} in the roster, {} committed, {} revealed, {} checked, {} roots",
        value["roster"],
        value["committed"],
        value["revealed"],
        value["checked"],
        value["roots_posted"]
    );
    say!("  θ           {}", text("theta_root"));
    if let Some(disk) = disk(&value["disk"]) {
        say!("  disk        {disk}");
    }
    for peer in value["peers"].as_array().into_iter().flatten() {
        let (name, standing) = (
            peer["name"].as_str().unwrap_or("-"),
            peer["standing"].as_str().unwrap_or("-"),
        );
        let back = peer["back_in_round"].as_u64();
        let back = back.map_or(String::new(), |round| format!(" until round {round}"));
        say!(
            "  {name:<11} {standing}{back}, merged in {} rounds, {} tokens{}",
            peer["rounds_merged"],
            peer["tokens"],
            effect(&peer["loss"])
        );
        if let Some(reason) = peer["objects"]["reason"].as_str() {
            say!(
                "              objects to the verdict on its round {}: {reason}",
                peer["objects"]["round"]
            );
        }
    }
    if value["checkpoint"].is_object() {
        let recorded = if value["checkpoint"]["recorded"].is_string() {
            "recorded"
        } else {
            "awaited"
        };
        say!("  checkpoint  of round {}: {recorded}", value["checkpoint"]["round"]);
    }
    for round in value["last_rounds"].as_array().into_iter().flatten() {
        say!(
            "  round {:<5} {}, train loss {:.4}, held-out before {:.4}",
            round["round"],
            round["outcome"].as_str().unwrap_or("-"),
            round["train_loss"].as_f64().unwrap_or(f64::NAN),
            round["held_out_before"].as_f64().unwrap_or(f64::NAN)
        );
    }
}
