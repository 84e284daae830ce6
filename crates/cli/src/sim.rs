//! `atoll sim`.

use crate::{
    demo::corpus,
    grouped,
    output::{self, Output},
    say,
};
use anyhow::{Context as _, bail};
use atoll_host::found::Corpus;
use atoll_simulator::{Failure, Planted, Report, Scenario, Task, Text, Toy, World, finish};
use indicatif::ProgressStyle;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

/// Runs a whole network in virtual time and checks what must hold.
#[derive(clap::Args)]
#[command(
    after_help = "Exit status: 0 if everything held, 1 otherwise.\n\nExamples:\n  atoll sim --list\n  atoll sim calm --seed 7\n  atoll sim crash-storm --seed 3 --svg storm.svg\n  atoll sim my-network.toml --json\n  atoll sim wild --seed 42\n  atoll sim calm --data README.md        the real learner on a text instead of the toy\n\nScenarios are TOML; docs/scenarios.md has every setting."
)]
pub(crate) struct Arguments {
    /// A scenario: a file, or the name of one that comes with the program
    #[arg(required_unless_present = "list")]
    scenario: Option<String>,
    /// What chance draws from: the same scenario and seed give the same run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draw the waterfall of rounds into this file; only a picture of ours is replaced
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Train the real learner on this text, folder, JSONL or Parquet, instead of the toy
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    #[command(flatten)]
    reading: corpus::Reading,
    /// If something does not hold, write the smallest scenario in which it does not to this file
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    smallest: Option<PathBuf>,
    /// Name the scenarios that come with the program
    #[arg(long)]
    list: bool,
    /// Print JSON lines: one for each round, and one for the run
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (Some(name), false) = (&arguments.scenario, arguments.list) else {
        return list(arguments.json);
    };
    // what cannot be written is said before the run, not after it
    let (svg, smallest) = outputs(arguments, Path::new(name))?;
    let scenario = match name.as_str() {
        WILD if !Path::new(name).is_file() => Scenario::wild(arguments.seed),
        _ => read(name)?,
    };
    let began = Instant::now();
    let written: Vec<&Path> = arguments
        .svg
        .iter()
        .chain(&arguments.smallest)
        .map(PathBuf::as_path)
        .collect();
    let data = arguments.data.as_deref();
    let corpus = data
        .map(|data| corpus::read(Some(data), &arguments.reading, &written))
        .transpose()?;
    let report = simulate(&scenario, arguments, corpus.as_ref())?;
    let wall = began.elapsed();
    if let Some(svg) = svg {
        svg.write(report.svg().as_bytes())?;
    }
    match arguments.json {
        true => say_part!("{}", json_lines(&report, wall, corpus.as_ref())),
        false => say_part!("{}", text(&report, wall)),
    }
    if report.violations.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    // only the toy is quick enough to be run a hundred times
    let wanted = arguments.data.is_none() && (smallest.is_some() || !arguments.json);
    if wanted && let Some(failure) = smaller(&report) {
        if let Some(smallest) = smallest {
            smallest.write(format!("{SIGN}\n{}", failure.scenario.to_toml()?).as_bytes())?;
        }
        if !arguments.json {
            say!("\n{}", failure.text(name));
        }
    }
    Ok(ExitCode::FAILURE)
}

/// The first line of a scenario that was made smaller, by which it is known again.
const SIGN: &str = "# The smallest scenario that `atoll sim` found to fail.";

/// The files that are to be written: the picture, and the smallest scenario that fails.
fn outputs(arguments: &Arguments, scenario: &Path) -> anyhow::Result<(Option<Output>, Option<Output>)> {
    let svg = arguments.svg.as_deref();
    let drawn = |head: &[u8]| output::is_our_svg(head, &[", seed ", " nodes, ", " rounds</text>"]);
    let svg = svg.map(|path| output::claim(path, "picture that `atoll sim` drew", drawn));
    let svg = svg.transpose()?;
    let Some(path) = &arguments.smallest else {
        return Ok((svg, None));
    };
    let ours = |head: &[u8]| head.starts_with(SIGN.as_bytes());
    let smallest = output::claim(path, "scenario that `atoll sim --smallest` wrote", ours)?;
    if smallest.is_at(scenario) || svg.as_ref().is_some_and(|svg| svg.is_same(&smallest)) {
        bail!(
            "--smallest {} would replace what is read or drawn; name another file",
            path.display()
        );
    }
    Ok((svg, Some(smallest)))
}

/// Makes a failure smaller, with a word where somebody watches.
fn smaller(report: &Report) -> Option<Failure> {
    let spinner = say::spinner().with_message("making the failure smaller");
    let failure = Failure::of(report, Planted::default());
    spinner.finish_and_clear();
    failure
}

/// The name of the scenario that is all chance.
const WILD: &str = "wild";

fn list(json: bool) -> anyhow::Result<ExitCode> {
    for name in Scenario::names() {
        let scenario = read(name)?;
        match json {
            true => say!(
                "{}",
                json!({ "name": name, "nodes": scenario.nodes, "rounds": scenario.rounds, "about": scenario.about })
            ),
            false => say!(
                "{name:<15} {:>4} nodes, {:>2} rounds  {}",
                scenario.nodes,
                scenario.rounds,
                scenario.about
            ),
        }
    }
    if !json {
        say!("{WILD:<15} all chance: another network for every seed");
    }
    Ok(ExitCode::SUCCESS)
}

fn read(name: &str) -> anyhow::Result<Scenario> {
    let path = Path::new(name);
    let text = match Scenario::built_in(name).filter(|_| !path.is_file()) {
        Some(text) => text.to_string(),
        None if path.exists() => fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?,
        None => {
            bail!("{name} is no file and no scenario's name; `atoll sim --list` names those that come with the program")
        }
    };
    Scenario::from_toml(&text).map_err(|error| anyhow::anyhow!("{name}: {error}"))
}

fn simulate(scenario: &Scenario, arguments: &Arguments, corpus: Option<&Corpus>) -> anyhow::Result<Report> {
    let task: Box<dyn Task> = match corpus {
        Some(corpus) => Box::new(Text::of(corpus)?),
        None => Box::new(Toy {
            noise: scenario.learner.noise,
        }),
    };
    let world = World::new(scenario, arguments.seed, task).map_err(anyhow::Error::msg)?;
    let bar = say::bar(scenario.rounds.into());
    bar.set_style(ProgressStyle::with_template(
        "{bar:30} {pos} of {len} rounds, {elapsed}",
    )?);
    let report = finish(world, Planted::default(), |ended| bar.set_position(ended as u64));
    bar.finish_and_clear();
    Ok(report)
}

fn text(report: &Report, wall: Duration) -> String {
    let held = if report.violations.is_empty() {
        "everything held\n"
    } else {
        ""
    };
    let caught = report.caught();
    let caught = caught.iter().map(|caught| {
        format!(
            "caught in round {}: node {} ({}): {}\n",
            caught.round, caught.node, caught.liar, caught.reason
        )
    });
    format!(
        "{}\n{} nodes, {} rounds ({} closed), {} blocks, {} steps in {} ({:.1} s here)\n\
         {:.1} % of all contributions merged, loss {:.5} → {:.5}\n{}trace {}\n{held}",
        report.timeline(),
        report.rows.len(),
        report.records.len(),
        report.closed(),
        grouped(report.blocks),
        grouped(report.steps),
        report.virtual_time,
        wall.as_secs_f64(),
        100.0 * report.merged_share,
        report.losses.0,
        report.losses.1,
        caught.collect::<String>(),
        report.trace_hash
    )
}

/// A line for each round, and one for the run.
fn json_lines(report: &Report, wall: Duration, corpus: Option<&Corpus>) -> String {
    let rounds = report.records.iter().map(|record| {
        json!({
            "round": record.round.0,
            "outcome": format!("{:?}", record.outcome).split('(').next(),
            "time_ms": record.closed_at.0,
            "roster": record.roster.len(),
            "absent": record.absent.len(),
            "withheld": record.withheld.len(),
            "refused": record.refused.len(),
            "merged": record.merged.len(),
        })
    });
    let violations = report.violations.iter();
    let violations: Vec<Value> = violations
        .map(|violation| json!({ "at_s": violation.at.seconds(), "rule": violation.rule, "text": violation.text }))
        .collect();
    let run = json!({
        "scenario": report.scenario.name,
        "seed": report.seed,
        "trace_hash": report.trace_hash.to_string(),
        "nodes": report.rows.len(),
        "rounds": report.records.len(),
        "closed": report.closed(),
        "blocks": report.blocks,
        "steps": report.steps,
        "merged_share": report.merged_share,
        "loss_first": report.losses.0,
        "loss_last": report.losses.1,
        "wall_s": wall.as_secs_f64(),
        "virtual_s": report.virtual_time.seconds(),
        "caught": report.caught().iter().map(|caught| json!({
            "node": caught.node,
            "liar": caught.liar.name(),
            "round": caught.round.0,
            "reason": caught.reason,
        })).collect::<Vec<_>>(),
        "barred_honest": report.barred_honest(),
        "violations": violations,
        "corpus": corpus.map(corpus::to_json),
    });
    let scores = report.scores.iter().map(|scored| {
        json!({
            "scored": scored.node,
            "round": scored.round.0,
            "own_percent": f64::from(scored.change.own) / 1e4,
            "random_percent": f64::from(scored.change.random) / 1e4,
            "harmful": scored.harmful,
        })
    });
    rounds
        .chain(scores)
        .chain([run])
        .map(|value| format!("{value}\n"))
        .collect()
}
