//! `atoll status`.

use atoll_host::{audit::node_folders, status::status};
use serde_json::Value;
use std::{path::PathBuf, process::ExitCode};

/// Says where a run stands: round, phase, peers, loss, checkpoint.
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
    let folders = node_folders(&arguments.dir);
    let Some(folder) = folders.first() else {
        anyhow::bail!("{} holds no node's folder", arguments.dir.display());
    };
    let value = status(folder)?;
    match arguments.json {
        true => println!("{value}"),
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

fn print(value: &Value) {
    let text = |key: &str| value[key].as_str().unwrap_or("-").to_string();
    println!("{}  (genesis {})", text("name"), text("genesis"));
    println!(
        "  node        {}",
        if value["running"] == true { "running" } else { "stopped" }
    );
    println!("  block       {}", value["height"]);
    println!(
        "  round       {} of {}, phase {}",
        value["round"],
        value["rounds"],
        text("phase")
    );
    println!(
        "  training    {} steps a round, {} of {} steps done; contributions as {}",
        value["inner_steps"],
        value["steps_done"],
        value["steps"],
        text("codec")
    );
    println!("  phases      {}", phases(&value["pace"]));
    println!(
        "  this round  {} in the roster, {} committed, {} revealed, {} checked, {} roots",
        value["roster"], value["committed"], value["revealed"], value["checked"], value["roots_posted"]
    );
    println!("  θ           {}", text("theta_root"));
    for peer in value["peers"].as_array().into_iter().flatten() {
        let (name, standing) = (
            peer["name"].as_str().unwrap_or("-"),
            peer["standing"].as_str().unwrap_or("-"),
        );
        println!(
            "  {name:<11} {standing}, merged in {} rounds, {} tokens",
            peer["rounds_merged"], peer["tokens"]
        );
    }
    if value["checkpoint"].is_object() {
        let recorded = if value["checkpoint"]["recorded"].is_string() {
            "recorded"
        } else {
            "awaited"
        };
        println!("  checkpoint  of round {}: {recorded}", value["checkpoint"]["round"]);
    }
    for round in value["last_rounds"].as_array().into_iter().flatten() {
        println!(
            "  round {:<5} {}, train loss {:.4}, held-out before {:.4}",
            round["round"],
            round["outcome"].as_str().unwrap_or("-"),
            round["train_loss"].as_f64().unwrap_or(f64::NAN),
            round["held_out_before"].as_f64().unwrap_or(f64::NAN)
        );
    }
}
