//! `cargo xtask soak`: builds the simulator's soak, if asked with a bug put in on purpose, and runs it.

use crate::{Findings, cargo};
use std::path::Path;

pub(crate) const USAGE: &str =
    "cargo xtask soak [--minutes M] [--seed FIRST] [--planted skip-restore|root-twice] [NAME …]

Runs fresh seeds over all scenarios, or those named, on all cores until the time is over (default: 5
minutes). Stops at the first violation, makes it small, and says how to see it again. `wild` is the scenario
of chance.

--planted puts in a bug that must be found: skip-restore does not add back what was not merged;
root-twice counts the first peer's merge root twice.

Examples:
  cargo xtask soak --minutes 60
  cargo xtask soak --minutes 5 --planted root-twice
  cargo xtask soak --minutes 10 crash-storm churn-20";

/// What the arguments ask for: the feature to build with, and what the soak is told.
fn plan<'a>(words: &[&'a str]) -> Result<(Option<&'static str>, Vec<&'a str>), String> {
    let (mut feature, mut told) = (None, Vec::new());
    let mut minutes = "5";
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = |name: &str| words.next().copied().ok_or(format!("{name} needs a value"));
        match *word {
            "--minutes" => {
                minutes = value("--minutes")?;
                let fits = minutes
                    .parse::<f64>()
                    .is_ok_and(|minutes| minutes > 0.0 && minutes <= 1e5);
                if !fits {
                    return Err(format!("--minutes {minutes}: a number of minutes above 0 is needed"));
                }
            }
            "--seed" => {
                let seed = value("--seed")?;
                if seed.parse::<u64>().is_err() {
                    return Err(format!("--seed {seed}: a whole number is needed"));
                }
                told.extend(["--seed", seed]);
            }
            "--planted" => match value("--planted")? {
                "skip-restore" => told.push("--skip-restore"),
                "root-twice" => feature = Some("planted-root-twice"),
                other => return Err(format!("--planted {other}: skip-restore or root-twice is allowed")),
            },
            flag if flag.starts_with('-') => return Err(format!("{flag} is unknown")),
            name => told.push(name),
        }
    }
    told.extend(["--minutes", minutes]);
    Ok((feature, told))
}

pub(crate) fn run(root: &Path, words: &[&str]) -> Result<(), Findings> {
    let (feature, told) = plan(words).map_err(|error| vec![format!("{error}\n\nusage: {USAGE}")])?;
    let mut arguments = vec![
        "run",
        "--release",
        "--quiet",
        "--package",
        "atoll-simulator",
        "--example",
        "soak",
    ];
    arguments.extend(feature.iter().flat_map(|feature| ["--features", feature]));
    arguments.push("--");
    arguments.extend(told);
    cargo(root, &arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_and_what_is_made_of_them() {
        assert_eq!(plan(&[]), Ok((None, vec!["--minutes", "5"])));
        assert_eq!(
            plan(&["--planted", "root-twice", "--minutes", "0.5", "calm"]),
            Ok((Some("planted-root-twice"), vec!["calm", "--minutes", "0.5"]))
        );
        assert_eq!(
            plan(&["--planted", "skip-restore", "--seed", "3"]),
            Ok((None, vec!["--skip-restore", "--seed", "3", "--minutes", "5"]))
        );
        for (words, part) in [
            (&["--minutes"][..], "needs a value"),
            (&["--minutes", "-1"][..], "above 0"),
            (&["--planted", "x"][..], "skip-restore or root-twice"),
            (&["--fast"][..], "unknown"),
            (&["--seed", "1.5"][..], "whole number"),
        ] {
            let error = plan(words).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }
}
