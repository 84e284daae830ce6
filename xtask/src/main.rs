//! `cargo xtask check`: everything that CI checks, with no tool to install. `cargo xtask soak`: a search for
//! failures in simulated networks. `cargo xtask link-test`: real nodes over links of a real limit.

mod layers;
mod link_test;
mod manifest;
mod soak;
mod sources;
mod unify;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

/// Lines about what is wrong, each to be read alone.
type Findings = Vec<String>;

const USAGE: &str = "usage: cargo xtask check [--no-test]

Checks dependency direction, the rules of the pure crates, that one crate alone has the workspace's features,
format, lints, licences and advisories (if cargo-deny is installed), and runs the tests unless --no-test is given.

       cargo xtask unify

Writes crates/unify and crates/unify-small anew, after dependencies or their features have changed.

       ";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["link-test", ref words @ ..] = words[..]
        && !words.contains(&"--help")
    {
        return link_test::run(&root(), words); // it has an exit code of its own
    }
    let done = match words[..] {
        ["check"] => check(&root(), true),
        ["check", "--no-test"] => check(&root(), false),
        ["unify"] => unify::write(&root()),
        ["soak", ref words @ ..] if !words.contains(&"--help") => soak::run(&root(), words),
        _ => {
            eprintln!("{USAGE}{}\n\n       {}", soak::USAGE, link_test::USAGE);
            return ExitCode::FAILURE;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(findings) => {
            findings.iter().for_each(|line| eprintln!("error: {line}"));
            ExitCode::FAILURE
        }
    }
}

/// The workspace's folder: the one above this crate's.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// Runs every step in order; stops at the first that finds something.
fn check(root: &Path, tests: bool) -> Result<(), Findings> {
    step("dependencies point down", || layers::check(root))?;
    step("pure crates are pure, only the command prints", || sources::check(root))?;
    step("one crate alone has the workspace's features", || unify::check(root))?;
    step("format", || cargo(root, &["fmt", "--all", "--check"]))?;
    step("lints", || {
        let lints = [
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ];
        cargo(root, &lints)
    })?;
    step("licences, sources and advisories", || deny(root))?;
    if tests {
        step("tests", || cargo(root, &["test", "--release", "--workspace"]))?;
    }
    Ok(())
}

fn step(name: &str, run: impl FnOnce() -> Result<(), Findings>) -> Result<(), Findings> {
    println!("== {name}");
    let began = Instant::now();
    run()?;
    println!("   ok, {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
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

fn deny(root: &Path) -> Result<(), Findings> {
    let mut probe = cargo_command(root);
    let probe = probe
        .args(["deny", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        println!("   skipped: cargo-deny is not installed (`cargo install cargo-deny --locked`)");
        return Ok(());
    }
    cargo(root, &["deny", "--all-features", "check"])
}
