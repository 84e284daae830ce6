//! `atoll repair`.

use crate::paths::pasted;
use atoll_host::{
    folder::Folder,
    repair::{self, Finding, Remedy},
};
use std::{path::PathBuf, process::ExitCode};

/// Looks at everything in a node's folder, says what is damaged, what is lost by that and what comes again by itself,
/// and moves what is damaged to DIR/damaged-1, or the next number. Nothing is deleted.
///
/// The node must not run. Afterwards `atoll node DIR` goes on, and fetches from the others what it lacks.
#[derive(clap::Args)]
#[command(
    after_help = "Exit status: 0 if nothing is damaged or all of it is mended, 1 if something cannot be.\n\nExamples:\n  atoll repair my-node\n  atoll repair my-node --check          only look\n  atoll repair my-node --json | jq '.findings[].text'"
)]
pub(crate) struct Arguments {
    /// The node's folder
    dir: PathBuf,
    /// Only look, and change nothing
    #[arg(long)]
    check: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if !arguments.dir.is_dir() {
        anyhow::bail!("{} is no folder; name a node's folder", arguments.dir.display());
    }
    let folder = Folder::at(&arguments.dir);
    let report = repair::repair(&folder, arguments.check)?;
    if arguments.json {
        say!("{}", report.to_json());
    } else {
        report.findings.iter().for_each(|finding| say!("{}", line(finding)));
        say!("{}", conclusion(&report));
    }
    Ok(match report.ok() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn line(finding: &Finding) -> String {
    let moved = match &finding.moved {
        Some(to) => format!(". Moved to {}", to.display()),
        None => String::new(),
    };
    format!("{}: {}{moved}", finding.path.display(), finding.text)
}

fn conclusion(report: &repair::Report) -> String {
    let (dir, command) = (report.folder.display(), pasted(&report.folder));
    let to_move = report.findings.iter().any(|finding| finding.remedy == Remedy::Move);
    if report.findings.is_empty() {
        return format!(
            "{dir}: nothing is damaged, as far as can be seen while the node does not run; its consensus store is looked \
             at when it starts"
        );
    }
    if !report.ok() {
        return format!("{dir}: not all of this can be mended here");
    }
    match report.only_looked && to_move {
        true => format!("{dir}: only looked; `atoll repair {command}` moves what is damaged away"),
        false => format!("{dir}: `atoll node {command}` goes on from here"),
    }
}
