//! `atoll export`.

use crate::{paths::pasted, say, signals, size};
use atoll_host::export::{Exported, Interrupted, export};
use serde_json::json;
use std::{
    io::stderr,
    ops::ControlFlow,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

/// Between two words of progress.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Writes what others may have of a node's folder: everything that `atoll audit` needs, without the secret key,
/// votes, error feedback, addresses and logs.
///
/// The new folder is signed with the key in the old one; without a key its list of files is not signed. Its node
/// must not be running.
#[derive(clap::Args)]
#[command(
    after_help = "Exit status: 0 if the folder is written, 130 if Ctrl-C stopped it: then nothing is.\n\nExamples:\n  atoll export my-node for-others\n  atoll export atoll-demo demo-for-others --json | jq '.nodes[].kept_back'\n  atoll audit for-others"
)]
pub(crate) struct Arguments {
    /// A node's folder, or a folder of such folders
    dir: PathBuf,
    /// The folder to write; it must not exist
    out: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let gentle = signals::gentle()?;
    let watched = say::is_drawable(&stderr());
    let mut told: Option<Instant> = None;
    let exported = export(&arguments.dir, &arguments.out, &mut |what, done, of| {
        if watched && told.is_none_or(|at| at.elapsed() > TELL_EVERY) {
            told = Some(Instant::now());
            let text = format_args!("{what}, {} of {}", size(done as f64), size(of as f64));
            say::write_error(format_args!("\r\x1b[K{text}"));
        }
        match gentle.asked() {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    });
    if watched {
        say::write_error(format_args!("\r\x1b[K"));
    }
    let exported = match exported {
        Err(error) if error.is::<Interrupted>() => {
            complain!("atoll: {Interrupted}");
            return Ok(ExitCode::from(gentle.asked().unwrap_or(130)));
        }
        exported => exported?,
    };
    match arguments.json {
        true => {
            let nodes: Vec<_> = exported.iter().map(Exported::to_json).collect();
            say!(
                "{}",
                json!({ "out": arguments.out.display().to_string(), "nodes": nodes })
            );
        }
        false => print(arguments, &exported),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(arguments: &Arguments, exported: &[Exported]) {
    for node in exported {
        let name = node.node.as_deref().unwrap_or("a node that nothing names");
        let signed = match &node.unsigned {
            None => format!("signed by {name}"),
            Some(why) => format!("of {name}, not signed: {why}"),
        };
        say!(
            "{}  {} files ({}), {signed}",
            node.from.display(),
            node.files,
            size(node.bytes as f64)
        );
        if !node.kept_back.is_empty() {
            say!("  kept back    {}", node.kept_back.join(", "));
        }
        let (shown, more) = node.lacks.split_at(node.lacks.len().min(10));
        shown.iter().for_each(|lack| say!("  not there    {lack}"));
        if !more.is_empty() {
            say!("  not there    {} more; --json has all", more.len());
        }
    }
    let (out, command) = (arguments.out.display(), pasted(&arguments.out));
    say!("{out} holds no secret; whoever gets it checks it with\n  atoll audit {command}");
}
