//! `atoll audit`.

use crate::{grouped, say, size};
use atoll_host::audit::{FolderReport, Report, audit, node_folders};
use std::{io::stderr, path::PathBuf, process::ExitCode};

/// Checks genesis, finality certificates, transactions, blobs, merges, outer steps and checkpoints.
///
/// It needs no secret and changes nothing. What lies in a folder and is not a node's is noted, not opened.
#[derive(clap::Args)]
#[command(
    after_help = "Exit status: 0 if nothing is wrong, 1 otherwise.\n\nExamples:\n  atoll audit atoll-demo\n  atoll audit atoll-demo/node-2 --json"
)]
pub(crate) struct Arguments {
    /// A node's folder, or a folder of such folders
    dir: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(node) = node_folders(&arguments.dir).iter().flatten().find(|node| node.in_use()) {
        anyhow::bail!(
            "{} is in use: its node runs, and its ledger can be read when it has ended; stop it first, or audit the \
             folder of another member",
            node.path().display()
        );
    }
    let report = checked(&arguments.dir);
    match arguments.json {
        true => say!("{}", report.to_json()),
        false => print(&report),
    }
    Ok(if report.ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Audits with a line of progress, where somebody watches.
pub(crate) fn checked(dir: &std::path::Path) -> Report {
    let watched = say::is_drawable(&stderr());
    let report = audit(dir, |what| {
        if watched {
            say::write_error(format_args!("\r\x1b[Kchecking {what}"));
        }
    });
    if watched {
        say::write_error(format_args!("\r\x1b[K"));
    }
    report
}

pub(crate) fn print(report: &Report) {
    for folder in &report.folders {
        print_folder(folder);
    }
    print_outs(report);
    report.notes.iter().for_each(|note| say!("note  {note}"));
    let problems: Vec<_> = report.all_problems().collect();
    for problem in &problems {
        say!("WRONG  {}\n       {}", problem.place, problem.what);
    }
    match problems.len() {
        0 => say!("audit passed: every check holds"),
        n => say!("audit FAILED: {n} problem{}", if n == 1 { "" } else { "s" }),
    }
}

/// The longest ledger's: all have the same.
fn print_outs(report: &Report) {
    let longest = report.folders.iter().max_by_key(|folder| folder.height);
    let outs = longest.map_or(&[][..], |folder| &folder.outs);
    if outs.is_empty() {
        return;
    }
    say!("what did not count, and who was put out, by the ledger alone");
    for out in outs {
        say!(
            "  round {:<5} {:<10} {:<12} {}",
            out.round,
            out.what,
            out.peer,
            out.reason
        );
    }
}

fn print_folder(folder: &FolderReport) {
    say!(
        "{} ({})",
        folder.path.display(),
        if folder.node.is_empty() {
            "unknown node"
        } else {
            &folder.node
        }
    );
    if let (Some(genesis), Some(theta)) = (folder.genesis, folder.theta) {
        say!("  genesis       {genesis}");
        say!(
            "  ledger        {} blocks ({}), {} transactions, {} finality certificates, proven up to block {}",
            folder.height,
            size(folder.block_bytes as f64),
            grouped(folder.transactions),
            grouped(folder.certificates),
            folder.proven
        );
        say!(
            "  rounds        {} closed, {} void; {} merges and outer steps computed again{}",
            folder.rounds_closed,
            folder.rounds_void,
            folder.computed.len(),
            [
                (folder.collected as usize, "older than the charter keeps"),
                (folder.gaps.len(), "not all of which is here"),
            ]
            .iter()
            .filter(|(rounds, _)| *rounds > 0)
            .map(|(rounds, why)| format!("; {rounds} {why}"))
            .collect::<String>()
        );
        say!(
            "  blobs         {} ({}) hashed",
            folder.blobs,
            size(folder.blob_bytes as f64)
        );
        say!("  checkpoints   {} compared with θ", folder.checkpoints.len());
        say!("  θ             {theta}");
    }
    let seal = match (folder.sealed, folder.export) {
        (false, _) => "none".into(),
        (true, None) => "every file compared".to_string(),
        (true, Some(true)) => format!("every file compared; an export, signed by {}", folder.node),
        (true, Some(false)) => "every file compared; an export that nobody signed".into(),
    };
    say!("  seal          {seal}");
    folder.notes.iter().for_each(|note| say!("  note          {note}"));
}
