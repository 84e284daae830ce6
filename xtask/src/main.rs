//! `cargo xtask check`: everything that CI checks, with no tool to install. `cargo xtask unify`: features that do
//! not differ. `cargo xtask soak`: a search for failures in simulated networks. `cargo xtask link-test`: real nodes
//! over links of a real limit.

mod check;
mod layers;
mod link_test;
mod manifest;
mod soak;
mod sources;
mod unify;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Lines about what is wrong, each to be read alone.
type Findings = Vec<String>;

fn usage() -> String {
    let all = [check::USAGE, unify::USAGE, soak::USAGE, link_test::USAGE];
    all.map(|text| format!("usage: {text}\n")).join("\n")
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["link-test", ref words @ ..] = words[..]
        && !words.contains(&"--help")
    {
        return link_test::run(&root(), words); // it has an exit code of its own
    }
    let done = match words[..] {
        ref words if words.contains(&"--help") => {
            print!("{}", usage());
            return ExitCode::SUCCESS;
        }
        ["check", ref words @ ..] => check::run(&root(), words),
        ["unify"] => unify::write(&root()),
        ["soak", ref words @ ..] => soak::run(&root(), words),
        _ => {
            eprint!("{}", usage());
            return ExitCode::FAILURE;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(findings) => {
            for line in findings {
                // what is indented belongs to the line above
                let head = if line.starts_with(' ') { "" } else { "error: " };
                eprintln!("{head}{line}");
            }
            ExitCode::FAILURE
        }
    }
}

/// The workspace's folder: the one above this crate's.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

fn cargo_command(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    // `cargo run` tells us of our own package; build scripts that watch these would all run again
    let ours = |name: &str| {
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    for name in env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| ours(name))
    {
        command.env_remove(name);
    }
    command
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<(), Findings> {
    let shown = format!("cargo {}", arguments.join(" "));
    match cargo_command(root).args(arguments).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(vec![format!("`{shown}` failed with {status}")]),
        Err(error) => Err(vec![format!("`{shown}` could not be started: {error}")]),
    }
}
