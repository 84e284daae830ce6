//! Who may use whom: Cargo's edges against the floors of the architecture, arrows pointing down only.

use crate::{
    Findings,
    manifest::{self, Manifest},
    unify,
};
use std::path::Path;

/// What each crate may use of the workspace, floor by floor. A crate that is not here has no place yet.
const MAY_USE: &[(&str, &[&str])] = &[
    // Without code: what dependencies are built with (crate::unify).
    ("atoll-unify-small", &[]),
    ("atoll-unify", &[]),
    // 0
    ("atoll-protocol", &["atoll-unify-small"]),
    ("atoll-ledger", &["atoll-protocol"]),
    ("atoll-outer", &["atoll-protocol"]),
    // 1
    ("atoll-node", &["atoll-protocol", "atoll-ledger"]),
    ("atoll-learner", &["atoll-protocol", "atoll-outer", "atoll-unify"]),
    // 2
    ("atoll-consensus", &["atoll-protocol", "atoll-ledger", "atoll-unify"]),
    (
        "atoll-simulator",
        &[
            "atoll-protocol",
            "atoll-ledger",
            "atoll-outer",
            "atoll-node",
            "atoll-learner",
        ],
    ),
    // 3
    (
        "atoll-bench",
        &[
            "atoll-protocol",
            "atoll-ledger",
            "atoll-outer",
            "atoll-learner",
            "atoll-simulator",
        ],
    ),
    (
        "atoll-host",
        &[
            "atoll-protocol",
            "atoll-ledger",
            "atoll-outer",
            "atoll-node",
            "atoll-learner",
            "atoll-consensus",
        ],
    ),
    // 4
    (
        "atoll",
        &[
            "atoll-protocol",
            "atoll-ledger",
            "atoll-host",
            "atoll-simulator",
            "atoll-bench",
        ],
    ),
    ("xtask", &["atoll-unify-small"]),
];

/// Foreign crates that belong to certain crates only; a trailing `*` stands for anything. The first
/// line that fits decides.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("burn*", &["atoll-learner"]),
    ("tokenizers", &["atoll-learner"]),
    ("safetensors", &["atoll-learner"]),
    ("parquet", &["atoll-learner"]),
    ("commonware-*", &["atoll-consensus"]),
    ("iroh", &["atoll-consensus", "atoll-host"]),
    ("iroh-*", &["atoll-host"]),
    ("redb", &["atoll-host"]),
    ("clap*", &["atoll"]),
    ("indicatif", &["atoll"]),
];

/// Crates whose manifests may speak of bugs put in on purpose: the one that has them, and the one that looks
/// for them.
const MAY_PLANT: &[&str] = &["atoll-ledger", "atoll-simulator"];

/// All crates of the workspace, lowest floor first.
pub(crate) fn crates() -> impl Iterator<Item = &'static str> {
    MAY_USE.iter().map(|(name, _)| *name)
}

pub(crate) fn check(root: &Path) -> Result<(), Findings> {
    let findings = findings(&manifest::read_all(root)?);
    match findings.is_empty() {
        true => Ok(()),
        false => Err(findings),
    }
}

fn findings(manifests: &[Manifest]) -> Findings {
    manifests.iter().flat_map(of_crate).collect()
}

fn of_crate(manifest: &Manifest) -> Findings {
    let name = &manifest.name;
    let Some((_, allowed)) = MAY_USE.iter().find(|(of, _)| of == name) else {
        return vec![format!(
            "crate `{name}` has no floor: add it to MAY_USE in xtask/src/layers.rs"
        )];
    };
    let wrong = |dependency: &String| match is_ours(dependency) {
        true if !allowed.contains(&dependency.as_str()) => Some(format!(
            "`{name}` may not use `{dependency}`; it may use: {}",
            list(allowed)
        )),
        true => None,
        false if unify::HACKS.contains(&name.as_str()) => None,
        false => foreign(name, dependency),
    };
    let planted = manifest.plants && !MAY_PLANT.contains(&name.as_str());
    let planted = planted.then(|| format!("`{name}` turns on a bug that is put in on purpose; only soak may"));
    manifest.dependencies.iter().filter_map(wrong).chain(planted).collect()
}

fn is_ours(dependency: &str) -> bool {
    dependency.starts_with("atoll") || MAY_USE.iter().any(|(name, _)| *name == dependency)
}

fn foreign(name: &str, dependency: &str) -> Option<String> {
    let fits = |pattern: &str| match pattern.strip_suffix('*') {
        Some(start) => dependency.starts_with(start),
        None => dependency == pattern,
    };
    let (_, homes) = ONLY_IN.iter().find(|(pattern, _)| fits(pattern))?;
    let stray = !homes.contains(&name);
    stray.then(|| format!("`{name}` may not use `{dependency}`; it belongs to: {}", list(homes)))
}

fn list(names: &[&str]) -> String {
    match names {
        [] => "nothing of the workspace".to_string(),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, dependencies: &[&str]) -> Findings {
        findings(&[Manifest {
            name: name.to_string(),
            dependencies: dependencies.iter().map(ToString::to_string).collect(),
            plants: false,
        }])
    }

    #[test]
    fn edges_and_what_is_made_of_them() {
        for (name, dependency, finding) in [
            ("atoll-ledger", "atoll-protocol", None),
            ("atoll-ledger", "atoll-outer", Some("it may use: atoll-protocol")),
            ("atoll-ledger", "atoll-unify", Some("may not use `atoll-unify`")),
            ("atoll-learner", "atoll-unify", None),
            ("atoll-unify", "burn", None),
            ("atoll-unify", "atoll-outer", Some("nothing of the workspace")),
            ("atoll-protocol", "atoll-ledger", Some("it may use: atoll-unify-small")),
            ("atoll-node", "atoll-learner", Some("may not use `atoll-learner`")),
            ("atoll-learner", "atoll-ledger", Some("may not use `atoll-ledger`")),
            ("atoll-consensus", "atoll-node", Some("may not use `atoll-node`")),
            ("atoll", "atoll-node", Some("may not use `atoll-node`")),
            ("atoll", "atoll-host", None),
            ("atoll-host", "atoll-new", Some("may not use `atoll-new`")),
            ("atoll-gateway", "atoll-host", Some("has no floor")),
            ("atoll-learner", "burn", None),
            ("atoll-outer", "burn-tensor", Some("it belongs to: atoll-learner")),
            (
                "atoll-host",
                "commonware-runtime",
                Some("it belongs to: atoll-consensus"),
            ),
            ("atoll-consensus", "iroh", None),
            ("atoll-consensus", "iroh-blobs", Some("it belongs to: atoll-host")),
            ("atoll-host", "indicatif", Some("it belongs to: atoll")),
            ("atoll-host", "tokio", None),
        ] {
            let got = of(name, &[dependency]);
            match finding {
                None => assert_eq!(got, Vec::<String>::new(), "{name} → {dependency}"),
                Some(part) => assert!(
                    got.len() == 1 && got[0].contains(part),
                    "{name} → {dependency}: {got:?}"
                ),
            }
        }
    }

    #[test]
    fn the_table_itself_points_down() {
        for (place, (name, allowed)) in MAY_USE.iter().enumerate() {
            for dependency in *allowed {
                let below = MAY_USE[..place].iter().any(|(lower, _)| lower == dependency);
                assert!(below, "{name} → {dependency}");
            }
        }
    }
}
