//! What the source text itself must keep: pure crates have no `std`, and only the command prints.
//!
//! Lines are looked at one by one, in code as `cargo fmt` leaves it; comments and test modules do not
//! count.

use crate::Findings;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Crates in which a clock, a socket or a hash map does not exist.
const PURE: &[&str] = &["ledger", "node", "protocol"];
/// Crates that may print.
const PRINTS: &[&str] = &["cli"];
const PRINTING: &[&str] = &["println!", "eprintln!", "print!", "eprint!", "dbg!"];

pub(crate) fn check(root: &Path) -> Result<(), Findings> {
    let mut findings = Findings::new();
    for folder in read_folder(&root.join("crates"))? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for file in rust_files(&folder.join("src"))? {
            let text = fs::read_to_string(&file).map_err(|error| vec![format!("{}: {error}", file.display())])?;
            let place = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            findings.extend(of_file(&name, &place, &text));
        }
    }
    match findings.is_empty() {
        true => Ok(()),
        false => Err(findings),
    }
}

fn read_folder(folder: &Path) -> Result<Vec<PathBuf>, Findings> {
    let entries = fs::read_dir(folder).map_err(|error| vec![format!("{}: {error}", folder.display())])?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>, Findings> {
    let mut files = Vec::new();
    for path in read_folder(folder)? {
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// `name` is the crate's folder, `place` the file's path from the workspace.
fn of_file(name: &str, place: &str, text: &str) -> Findings {
    let pure = PURE.contains(&name);
    let mut findings = Findings::new();
    if pure && place.ends_with("src/lib.rs") && !text.lines().any(|line| line == "#![no_std]") {
        findings.push(format!("{place}: the crate is pure and must say `#![no_std]`"));
    }
    for (number, line) in code_lines(text) {
        if pure && uses_std(line) {
            findings.push(format!(
                "{place}:{number}: `std` does not exist here: use `core` or `alloc`"
            ));
        }
        if !PRINTS.contains(&name) && PRINTING.iter().any(|print| has_word(line, print)) {
            findings.push(format!("{place}:{number}: only the command prints: return or trace it"));
        }
    }
    findings
}

fn uses_std(line: &str) -> bool {
    has_word(line, "std::") || line.contains("extern crate std")
}

/// Whether `word` stands in `line` and is not the end of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].chars().next_back().is_some_and(inside))
}

/// Lines with their numbers, without comments and without items that exist in tests only.
fn code_lines(text: &str) -> Vec<(usize, &str)> {
    let mut code = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            code.push((index + 1, line.split("//").next().unwrap_or_default()));
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let mut item = lines
            .by_ref()
            .map(|(_, line)| line)
            .skip_while(|line| line.trim().starts_with("#["));
        let one_line = item
            .next()
            .is_none_or(|first| first.ends_with(';') || first.ends_with('}'));
        if !one_line {
            item.find(|line| line.strip_prefix(indent).is_some_and(|rest| rest.starts_with('}')));
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_what_is_made_of_them() {
        for (name, line, wrong) in [
            ("node", "use std::time::Instant;", true),
            ("node", "use core::fmt;", false),
            ("node", "// std::time would be wrong here", false),
            ("node", "let x = my_std::now();", false),
            ("node", "extern crate std;", true),
            ("host", "use std::time::Instant;", false),
            ("host", "println!(\"x\");", true),
            ("host", "eprintln!(\"x\");", true),
            ("host", "my_print!(\"x\");", false),
            ("cli", "println!(\"x\");", false),
        ] {
            let got = of_file(name, "crates/x/src/a.rs", line);
            assert_eq!(!got.is_empty(), wrong, "{name}: {line}: {got:?}");
        }
    }

    #[test]
    fn tests_may_use_what_they_need_and_what_follows_them_counts() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    use std::fmt;\n}\nuse std::time;\n";
        let got = of_file("ledger", "crates/ledger/src/a.rs", text);
        assert_eq!(
            got,
            ["crates/ledger/src/a.rs:6: `std` does not exist here: use `core` or `alloc`"]
        );
        let one = "#[cfg(test)]\nuse std::fmt;\nuse std::time;\n";
        assert_eq!(of_file("ledger", "a.rs", one).len(), 1);
    }

    #[test]
    fn a_pure_crate_says_so() {
        assert_eq!(
            of_file("node", "crates/node/src/lib.rs", "//! x\n#![no_std]\n"),
            Findings::new()
        );
        assert_eq!(of_file("node", "crates/node/src/lib.rs", "//! x\n").len(), 1);
        assert_eq!(of_file("node", "crates/node/src/other.rs", "//! x\n"), Findings::new());
    }
}
