//! The `atoll` command: arguments, wiring, and the only printing.

#[macro_use]
mod say;

mod audit;
mod bench;
mod calibrate;
mod demo;
mod export;
mod found;
mod init;
mod log;
mod model;
mod node;
mod output;
mod paths;
mod plot;
mod repair;
mod signals;
mod sim;
mod status;
mod why;

use atoll_host::{audit::node_folders, folder::Folder};
use clap::{Parser, Subcommand};
use std::{io::Write as _, process::ExitCode};

/// Train, audit and use an open language model together, on your own computers.
#[derive(Parser)]
#[command(
    name = "atoll",
    version,
    after_help = "Examples:\n  atoll demo                         four nodes on this machine train a model, then audit it\n  atoll audit atoll-demo             check everything they did\n  atoll generate atoll-demo --prompt \"pub fn \"\n\nEach command has its own --help with examples. Rounds are counted from 0 everywhere."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start several nodes on this machine, train a small model together, audit the result
    Demo(demo::Arguments),
    /// Make a folder with a new key for a node
    Init(init::Arguments),
    /// Found a run for known members: corpus, tokenizer, model, charter
    Found(found::FoundArguments),
    /// Run the node in a folder
    Node(node::Arguments),
    /// Check everything that a folder claims, from the folder alone
    Audit(audit::Arguments),
    /// Write what others may have of a folder: all that an audit needs, and no secret
    Export(export::Arguments),
    /// Continue a text with a checkpoint
    Generate(model::GenerateArguments),
    /// Measure a checkpoint's loss on a text
    Eval(model::EvalArguments),
    /// Simulate a whole network in virtual time, and check what must hold
    Sim(sim::Arguments),
    /// Measure methods of training together, and codecs, in one process
    Bench(bench::Arguments),
    /// Measure how far apart machines train the same, for the tolerance of audits
    Calibrate(calibrate::Arguments),
    /// Say what is damaged in a node's folder, and move it away
    Repair(repair::Arguments),
    /// Say where a run stands
    Status(status::Arguments),
    /// Say what became of a peer's contributions, and why
    Why(why::Arguments),
}

fn main() -> ExitCode {
    log::start();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(answer) => return told(&answer),
    };
    let done = match arguments.command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Found(arguments) => found::found(&arguments),
        Command::Node(arguments) => node::run(&arguments),
        Command::Audit(arguments) => audit::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Generate(arguments) => model::generate(&arguments),
        Command::Eval(arguments) => model::eval(&arguments),
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Calibrate(arguments) => calibrate::run(&arguments),
        Command::Repair(arguments) => repair::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Why(arguments) => why::run(&arguments),
    };
    match done {
        Ok(_) if say::lost() => ExitCode::FAILURE,
        Ok(code) => code,
        Err(error) => {
            complain!("atoll: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints help, version, or what is wrong with the arguments.
fn told(answer: &clap::Error) -> ExitCode {
    let printed = answer.print();
    if answer.use_stderr() {
        return ExitCode::from(2);
    }
    say::written(printed.and_then(|()| std::io::stdout().flush()));
    if say::lost() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The first node's folder in `dir`, or `dir` itself.
fn first_node(dir: &std::path::Path) -> anyhow::Result<Folder> {
    let first = node_folders(dir)?.into_iter().next();
    first.ok_or_else(|| anyhow::anyhow!("{} holds no node's folder", dir.display()))
}

/// A number with thousands apart, for people.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size for people.
fn size(bytes: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 1000.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    match unit {
        0 => format!("{value:.0} B"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent_and_every_command_has_examples() {
        let command = Arguments::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", sub.get_name());
        }
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(
            [grouped(7), grouped(1234), grouped(1234567)],
            ["7", "1,234", "1,234,567"]
        );
        assert_eq!([size(999.0), size(1500.0), size(2.5e9)], ["999 B", "1.5 kB", "2.5 GB"]);
    }
}
