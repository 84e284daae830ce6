//! The manifest of a crate without code: what is asked for, for which targets, with which features.

use super::{
    TARGETS,
    tree::{Features, Unit},
};
use crate::Findings;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// What one of the crates without code asks for.
pub(super) struct Listing {
    /// The package's name.
    pub(super) name: &'static str,
    /// By unit and target: the features there.
    wants: BTreeMap<Unit, BTreeMap<&'static str, Features>>,
}

/// The manifest of the package `name`.
pub(super) fn place(root: &Path, name: &str) -> PathBuf {
    let folder = name.strip_prefix("atoll-").unwrap_or(name);
    root.join("crates").join(folder).join("Cargo.toml")
}

impl Listing {
    pub(super) fn new(name: &'static str) -> Self {
        let wants = BTreeMap::new();
        Self { name, wants }
    }

    /// Asks for `unit` on `target`; whether that is new.
    pub(super) fn add(&mut self, target: &'static str, unit: &Unit, features: Features) -> bool {
        let targets = self.wants.entry(unit.clone()).or_default();
        targets.insert(target, features).is_none()
    }

    pub(super) fn save(&self, root: &Path) -> Result<(), Findings> {
        let place = place(root, self.name);
        fs::write(&place, self.manifest()).map_err(|error| vec![format!("{}: {error}", place.display())])
    }

    fn manifest(&self) -> String {
        let mut text = format!(
            "# Written by `cargo xtask unify`. What stands here has other features when one crate is built alone.
[package]
name = \"{}\"
description = \"Gives every crate's dependencies the features of the whole workspace; has no code\"
version.workspace = true
edition.workspace = true
rust-version.workspace = true
license.workspace = true
publish.workspace = true

[lints]
workspace = true
",
            self.name
        );
        for (header, lines) in self.tables() {
            let _ = write!(text, "\n[{header}]\n");
            for (key, value) in lines {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        text
    }

    /// Tables by header, lines by key.
    fn tables(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut tables = BTreeMap::<_, BTreeMap<_, _>>::new();
        for (unit, targets) in &self.wants {
            for (places, features) in by_places(targets) {
                let kind = if unit.host {
                    "build-dependencies"
                } else {
                    "dependencies"
                };
                let header = format!("target.'{}'.{kind}", condition(&places));
                let (key, value) = self.line(unit, &features);
                tables.entry(header).or_default().insert(key, value);
            }
        }
        tables
    }

    fn line(&self, unit: &Unit, features: &Features) -> (String, String) {
        let other = |other: &&Unit| other.name == unit.name && other.version != unit.version;
        let version = compatible(&unit.version);
        let (key, package) = match self.wants.keys().any(|unit| other(&unit)) {
            true => (
                format!("{}-{}", unit.name, version.replace('.', "_")),
                format!("package = \"{}\", ", unit.name),
            ),
            false => (unit.name.clone(), String::new()),
        };
        let features: Vec<String> = features.iter().map(|feature| format!("\"{feature}\"")).collect();
        let features = match features.is_empty() {
            true => String::new(),
            false => format!(", features = [{}]", features.join(", ")),
        };
        (
            key,
            format!("{{ {package}version = \"{version}\", default-features = false{features} }}"),
        )
    }
}

/// Features by the targets that have them: first what all have, then what only some have besides.
fn by_places(targets: &BTreeMap<&'static str, Features>) -> BTreeMap<BTreeSet<&'static str>, Features> {
    let mut places = BTreeMap::<BTreeSet<&'static str>, Features>::new();
    places.insert(targets.keys().copied().collect(), Features::new());
    for feature in targets.values().flatten() {
        let have = targets.iter().filter(|(_, features)| features.contains(feature));
        let have = have.map(|(target, _)| *target).collect();
        places.entry(have).or_default().insert(feature.clone());
    }
    places
}

/// Cargo's condition for some of [`TARGETS`]. A target without an operating system gets nothing.
fn condition(places: &BTreeSet<&str>) -> String {
    let system = |target: &str| match target.split('-').nth(2) {
        Some("linux") => "target_os = \"linux\"",
        Some("darwin") => "target_os = \"macos\"",
        _ => "windows",
    };
    if places.len() == TARGETS.len() {
        return "cfg(any(unix, windows))".to_string();
    }
    let mut terms = BTreeSet::new();
    for target in places {
        let same = |other: &&&str| system(other) == system(target);
        let whole = TARGETS.iter().filter(same).all(|other| places.contains(other));
        let processor = target.split('-').next().unwrap_or_default();
        terms.insert(match whole {
            true => system(target).to_string(),
            false => format!("all({}, target_arch = \"{processor}\")", system(target)),
        });
    }
    let terms: Vec<String> = terms.into_iter().collect();
    match &terms[..] {
        [one] => format!("cfg({one})"),
        _ => format!("cfg(any({}))", terms.join(", ")),
    }
}

/// The shortest requirement that `version` and what is compatible with it fulfil, and nothing else.
fn compatible(version: &str) -> String {
    let version = version.split('+').next().unwrap_or_default();
    let parts: Vec<&str> = version.split('.').collect();
    let upto = match &parts[..] {
        _ if version.contains('-') => parts.len(), // a pre-release is meant alone
        ["0", "0", ..] => 3,
        ["0", ..] => 2,
        _ => 1,
    };
    parts[..upto.min(parts.len())].join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, version: &str, host: bool) -> Unit {
        let (name, version) = (name.to_string(), version.to_string());
        Unit { name, version, host }
    }

    fn features(names: &str) -> Features {
        names.split_whitespace().map(str::to_string).collect()
    }

    #[test]
    fn versions_and_what_is_asked_for() {
        for (version, asked) in [
            ("1.8.7", "1"),
            ("0.4.2", "0.4"),
            ("0.0.3", "0.0.3"),
            ("2.1.3+zstd.1.5.7", "2"),
            ("3.0.0-rc.1", "3.0.0-rc.1"),
        ] {
            assert_eq!(compatible(version), asked, "{version}");
        }
    }

    #[test]
    fn targets_and_their_conditions() {
        let [linux, arm_linux, mac, arm_mac, windows] = TARGETS else {
            unreachable!("five targets")
        };
        for (places, condition_) in [
            (
                &[linux, arm_linux, mac, arm_mac, windows][..],
                "cfg(any(unix, windows))",
            ),
            (&[linux, arm_linux], "cfg(target_os = \"linux\")"),
            (&[windows], "cfg(windows)"),
            (&[windows, mac, arm_mac], "cfg(any(target_os = \"macos\", windows))"),
            (&[arm_mac], "cfg(all(target_os = \"macos\", target_arch = \"aarch64\"))"),
        ] {
            let places = places.iter().copied().copied().collect();
            assert_eq!(condition(&places), condition_, "{places:?}");
        }
    }

    #[test]
    fn a_listing_says_what_differs_where() {
        let mut listing = Listing::new("atoll-unify");
        for target in TARGETS {
            let libc = if target.contains("windows") { "std" } else { "std extra" };
            assert!(listing.add(target, &unit("libc", "0.2.1", false), features(libc)));
            assert!(listing.add(target, &unit("syn", "2.0.1", true), features("full")));
        }
        assert!(!listing.add(TARGETS[0], &unit("libc", "0.2.1", false), features("std extra")));
        listing.add(TARGETS[4], &unit("syn", "3.0.1", true), features(""));
        let manifest = listing.manifest();
        let tables = manifest.split_once("workspace = true\n\n[target").unwrap().1;
        assert_eq!(
            tables,
            r#".'cfg(any(target_os = "linux", target_os = "macos"))'.dependencies]
libc = { version = "0.2", default-features = false, features = ["extra"] }

[target.'cfg(any(unix, windows))'.build-dependencies]
syn-2 = { package = "syn", version = "2", default-features = false, features = ["full"] }

[target.'cfg(any(unix, windows))'.dependencies]
libc = { version = "0.2", default-features = false, features = ["std"] }

[target.'cfg(windows)'.build-dependencies]
syn-3 = { package = "syn", version = "3", default-features = false }
"#
        );
    }
}
