//! `cargo xtask check`: what must hold, step by step; where one fails, what shows it alone and what mends it.

use crate::{Findings, cargo, cargo_command, layers, sources, unify};
use std::{path::Path, process::Stdio, time::Instant};

pub(crate) const USAGE: &str = "cargo xtask check [--no-test] [STEP …]

Runs these steps in order, or those named, and stops at the first that fails:
  floors    who may use whom: dependencies point down
  sources   pure crates are pure, only the command prints
  features  one crate alone is built with the workspace's features
  format    cargo fmt
  lints     clippy, warnings forbidden
  licences  licences, sources and advisories, if cargo-deny is installed
  tests     all tests, unless --no-test is given";

/// One thing that must hold.
struct Step {
    /// What it is called on the command line.
    name: &'static str,
    /// What it makes sure of.
    about: &'static str,
    run: fn(&Path) -> Result<(), Findings>,
    /// The command that shows a failure alone.
    show: &'static str,
    /// What mends it.
    mend: &'static str,
}

const LINTS: &str = "cargo clippy --release --workspace --all-targets -- -D warnings";
const TESTS: &str = "cargo test --release --workspace";

const STEPS: &[Step] = &[
    Step {
        name: "floors",
        about: "dependencies point down",
        run: layers::check,
        show: "cargo xtask check floors",
        mend: "take the dependency out of that Cargo.toml; where the floors themselves change, write so in ARCHITECTURE.md and in MAY_USE of xtask/src/layers.rs",
    },
    Step {
        name: "sources",
        about: "pure crates are pure, only the command prints",
        run: sources::check,
        show: "cargo xtask check sources",
        mend: "give the value in as an input or hand the text out as a result, so that `host` or `cli` does it; ARCHITECTURE.md says what each crate must not know",
    },
    Step {
        name: "features",
        about: "one crate alone has the workspace's features",
        run: unify::check,
        show: "cargo xtask check features",
        mend: "`cargo xtask unify`, then commit crates/unify, crates/unify-small and both Cargo.lock",
    },
    Step {
        name: "format",
        about: "format",
        run: |root| cargo_line(root, "cargo fmt --all --check"),
        show: "cargo fmt --all --check",
        mend: "`cargo fmt --all`",
    },
    Step {
        name: "lints",
        about: "lints",
        run: |root| cargo_line(root, LINTS),
        show: LINTS,
        mend: "`cargo clippy --fix --allow-dirty --release --workspace --all-targets` mends some, the rest is by hand",
    },
    Step {
        name: "licences",
        about: "licences, sources and advisories",
        run: deny,
        show: "cargo deny --all-features check",
        mend: "`cargo update -p CRATE` where a newer version is without the fault; else another dependency, or a line with its reason in deny.toml",
    },
    Step {
        name: "tests",
        about: "tests",
        run: |root| cargo_line(root, TESTS),
        show: "cargo test --release -p CRATE NAME",
        mend: "by hand; CRATE and NAME of the test stand above, `-- --nocapture` shows what it prints",
    },
];

/// Runs the steps that `words` ask for, in order; stops at the first that finds something.
pub(crate) fn run(root: &Path, words: &[&str]) -> Result<(), Findings> {
    let steps = asked(words).map_err(|error| vec![format!("{error}\n\nusage: {USAGE}")])?;
    for (place, step) in steps.iter().enumerate() {
        println!("== {}", step.about);
        let began = Instant::now();
        if let Err(findings) = (step.run)(root) {
            return Err(told(step, findings, &steps[place + 1..]));
        }
        println!("   ok, {:.1} s", began.elapsed().as_secs_f64());
    }
    Ok(())
}

fn asked(words: &[&str]) -> Result<Vec<&'static Step>, String> {
    let (flags, names): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.starts_with('-'));
    if let Some(flag) = flags.iter().find(|flag| **flag != "--no-test") {
        return Err(format!("{flag} is unknown"));
    }
    if let Some(name) = names.iter().find(|name| STEPS.iter().all(|step| step.name != **name)) {
        return Err(format!("{name} is no step"));
    }
    let wanted = |step: &&Step| match (names.is_empty(), flags.is_empty()) {
        (true, all) => all || step.name != "tests",
        (false, _) => names.contains(&step.name),
    };
    Ok(STEPS.iter().filter(wanted).collect())
}

/// The findings of a step, and what to do about them.
fn told(step: &Step, mut findings: Findings, not_run: &[&Step]) -> Findings {
    findings.push(format!("the step `{}` failed ({})", step.name, step.about));
    findings.push(format!("  to see it alone: {}", step.show));
    findings.push(format!("  to mend it:      {}", step.mend));
    if !not_run.is_empty() {
        let names: Vec<&str> = not_run.iter().map(|step| step.name).collect();
        findings.push(format!("  not run yet:     {}", names.join(", ")));
    }
    findings
}

/// Runs a line of Cargo's as it would be typed.
fn cargo_line(root: &Path, line: &str) -> Result<(), Findings> {
    let words: Vec<&str> = line.split(' ').skip(1).collect();
    cargo(root, &words)
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
    cargo_line(root, "cargo deny --all-features check")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &[&str]) -> Result<Vec<&'static str>, String> {
        asked(words).map(|steps| steps.iter().map(|step| step.name).collect())
    }

    #[test]
    fn steps_and_how_they_are_asked_for() {
        let all = ["floors", "sources", "features", "format", "lints", "licences", "tests"];
        assert_eq!(names(&[]), Ok(all.to_vec()));
        assert_eq!(names(&["--no-test"]), Ok(all[..6].to_vec()));
        assert_eq!(names(&["lints", "floors"]), Ok(vec!["floors", "lints"]));
        assert_eq!(
            names(&["--no-test", "tests"]),
            Ok(vec!["tests"]),
            "what is named is run"
        );
        assert_eq!(names(&["--fast"]), Err("--fast is unknown".into()));
        assert_eq!(names(&["fmt"]), Err("fmt is no step".into()));
        assert!(all.iter().all(|name| USAGE.contains(&format!("\n  {name} "))));
    }

    #[test]
    fn a_failure_says_what_shows_it_and_what_mends_it() {
        let steps = asked(&["format", "lints", "tests"]).unwrap();
        let told = told(steps[0], vec!["`cargo fmt` failed".into()], &steps[1..]);
        assert_eq!(
            told,
            [
                "`cargo fmt` failed",
                "the step `format` failed (format)",
                "  to see it alone: cargo fmt --all --check",
                "  to mend it:      `cargo fmt --all`",
                "  not run yet:     lints, tests",
            ]
        );
        for step in STEPS {
            assert!(
                step.show.starts_with("cargo ") && !step.mend.is_empty(),
                "{}",
                step.name
            );
        }
    }
}
