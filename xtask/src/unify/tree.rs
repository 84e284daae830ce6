//! What `cargo tree` says of a crate's dependencies and their features.

use crate::{Findings, cargo_command};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// One build of a dependency. Cargo chooses features for programs that run while building (build scripts,
/// procedural macros, and what they use) apart from those for the target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) version: String,
    /// Whether it is built for what runs while building.
    pub(super) host: bool,
}

pub(super) type Features = BTreeSet<String>;
/// Every dependency from a registry, with its features.
pub(super) type Graph = BTreeMap<Unit, Features>;

const WITH_TESTS: &str = "normal,build,dev";
const WITHOUT_TESTS: &str = "normal,build";
/// A column of the drawing: what stands before each level of depth.
const COLUMNS: [&str; 4] = ["|   ", "|-- ", "`-- ", "    "];

/// The whole workspace, with its tests.
pub(super) fn of_workspace(root: &Path, target: &str) -> Result<Graph, Findings> {
    ask(root, &["--workspace", "--edges", WITH_TESTS], target)
}

/// One crate as `cargo test -p` and as `cargo build -p` see it: tests may want features of their own.
pub(super) fn of_crate(root: &Path, member: &str, target: &str) -> Result<[Graph; 2], Findings> {
    let graph = |edges| ask(root, &["--package", member, "--edges", edges], target);
    Ok([graph(WITH_TESTS)?, graph(WITHOUT_TESTS)?])
}

fn ask(root: &Path, which: &[&str], target: &str) -> Result<Graph, Findings> {
    let mut command = cargo_command(root);
    command.args([
        "tree",
        "--quiet",
        "--charset",
        "ascii",
        "--format",
        "{p}|{f}",
        "--target",
        target,
    ]);
    command.args(which);
    let output = command
        .output()
        .map_err(|error| vec![format!("`cargo tree` could not be started: {error}")])?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(vec![format!("`cargo tree --target {target}` failed: {}", said.trim())]);
    }
    parse(&String::from_utf8_lossy(&output.stdout)).map_err(|what| vec![what])
}

/// Reads `cargo tree --charset ascii --format '{p}|{f}'`.
pub(super) fn parse(text: &str) -> Result<Graph, String> {
    let mut graph = Graph::new();
    // By depth: whether that node is built for the host, and whether what comes next there is a build dependency.
    let (mut hosts, mut builds) = (Vec::new(), vec![false]);
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (depth, rest) = without_columns(line);
        if rest.starts_with('[') {
            builds.resize(depth + 1, false);
            builds.push(rest == "[build-dependencies]");
            continue;
        }
        let (package, features) = rest
            .split_once('|')
            .ok_or_else(|| format!("`cargo tree` wrote `{line}`"))?;
        builds.resize(depth + 1, false);
        let parent = depth
            .checked_sub(1)
            .and_then(|above| hosts.get(above))
            .copied()
            .unwrap_or(false);
        let host = parent || builds[depth] || package.contains("(proc-macro)");
        hosts.truncate(depth);
        hosts.resize(depth, false);
        hosts.push(host);
        let ours = package.contains(" (/") || package.contains(":\\");
        if let (Some((name, version)), false) = (package.split_once(" v"), ours) {
            let version = version.split(' ').next().unwrap_or_default().to_string();
            let features = features.trim_end_matches(" (*)").split(',').map(str::trim);
            let features = features
                .filter(|feature| !feature.is_empty())
                .map(str::to_string)
                .collect();
            let name = name.to_string();
            graph.insert(Unit { name, version, host }, features);
        }
    }
    Ok(graph)
}

fn without_columns(mut line: &str) -> (usize, &str) {
    let mut depth = 0;
    while let Some(rest) = COLUMNS.iter().find_map(|column| line.strip_prefix(column)) {
        (depth, line) = (depth + 1, rest);
    }
    (depth, line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_read_with_what_is_built_for_the_host() {
        let text = "\
atoll-protocol v0.1.0 (/w/crates/protocol)|
|-- blake3 v1.8.7|std
|   |-- cfg-if v1.0.5|
|   [build-dependencies]
|   `-- cc v1.11.3|parallel
|       `-- shlex v2.0.1|default,std
|-- thiserror v2.0.21|
|   `-- thiserror-impl v2.0.21 (proc-macro)|
|       `-- cfg-if v1.0.5|core
`-- toml v1.1.3+spec-1.1.0|std
[dev-dependencies]
`-- proptest v1.12.0|std (*)

xtask v0.1.0 (/w/xtask)|
`-- memchr v2.8.3| (*)
";
        let graph = parse(text).unwrap();
        let lines: Vec<String> = graph
            .iter()
            .map(|(unit, features)| {
                let features: Vec<&str> = features.iter().map(String::as_str).collect();
                let host = if unit.host { " host" } else { "" };
                format!("{} {}{host} [{}]", unit.name, unit.version, features.join(","))
            })
            .collect();
        assert_eq!(
            lines,
            [
                "blake3 1.8.7 [std]",
                "cc 1.11.3 host [parallel]",
                "cfg-if 1.0.5 []",
                "cfg-if 1.0.5 host [core]",
                "memchr 2.8.3 []",
                "proptest 1.12.0 [std]",
                "shlex 2.0.1 host [default,std]",
                "thiserror 2.0.21 []",
                "thiserror-impl 2.0.21 host []",
                "toml 1.1.3+spec-1.1.0 [std]",
            ]
        );
        assert!(parse("what is this").is_err());
    }
}
