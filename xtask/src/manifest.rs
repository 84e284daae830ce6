//! The little of `Cargo.toml` that the checks need: the package's name and what it depends on.

use crate::unify;
use std::{fs, path::Path};

/// One crate's manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The package's name.
    pub(crate) name: String,
    /// Names of dependencies of every kind, for building, running and testing, on any target.
    pub(crate) dependencies: Vec<String>,
    /// Whether it speaks of a feature `planted-…`.
    pub(crate) plants: bool,
}

/// Manifests of all workspace members, ascending by name.
pub(crate) fn read_all(root: &Path) -> Result<Vec<Manifest>, Vec<String>> {
    let crates = root.join("crates");
    let entries = fs::read_dir(&crates).map_err(|error| vec![format!("{}: {error}", crates.display())])?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path().join("Cargo.toml")).collect();
    paths.push(root.join("xtask/Cargo.toml"));
    let mut manifests = Vec::new();
    for path in paths.iter().filter(|path| path.exists()) {
        let text = fs::read_to_string(path).map_err(|error| vec![format!("{}: {error}", path.display())])?;
        manifests.push(parse(&text).map_err(|what| vec![format!("{}: {what}", path.display())])?);
    }
    manifests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(manifests)
}

/// Reads a manifest. A renamed dependency is refused: it would hide what is used. Only the crates without code
/// may rename, since they ask for several versions of one crate.
pub(crate) fn parse(text: &str) -> Result<Manifest, String> {
    let (mut name, mut dependencies) = (None, Vec::new());
    let mut section = String::new();
    for line in text.lines().map(without_comment).filter(|line| !line.is_empty()) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').trim().to_string();
            if let Some((_, of)) = section.rsplit_once("dependencies.") {
                dependencies.push(unquoted(of));
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        if section == "package" && key.trim() == "name" {
            name = Some(unquoted(value));
        }
        if section.ends_with("dependencies") {
            let key = key.trim().split('.').next().unwrap_or_default();
            dependencies.push(unquoted(key));
        }
        let may = name.as_deref().is_some_and(|name| unify::HACKS.contains(&name));
        let renames = !may && section.contains("dependencies") && format!("{key}={value}").contains("package");
        if renames {
            return Err(format!("`{line}` renames a dependency; use its own name"));
        }
    }
    let name = name.ok_or("it has no package name")?;
    let plants = text.lines().any(|line| without_comment(line).contains("planted-"));
    Ok(Manifest {
        name,
        dependencies,
        plants,
    })
}

fn without_comment(line: &str) -> &str {
    line.split('#').next().unwrap_or_default().trim()
}

fn unquoted(text: &str) -> String {
    text.trim().trim_matches(['"', '\'']).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_of_every_form_are_read() {
        let text = r#"
[package]
name = "sample" # for people
version.workspace = true
[lints]
workspace = true
[dependencies]
a.workspace = true
b = "1" # c = "2"
#d = "3"
e = { version = "1", features = ["x"] }
[dependencies.f]
version = "1"
[dev-dependencies]
g.workspace = true
[build-dependencies]
h = "1"
[target.'cfg(unix)'.dependencies]
i = "1"
[features]
j = ["a/b"]
"#;
        let manifest = parse(text).unwrap();
        assert_eq!(manifest.name, "sample");
        assert_eq!(manifest.dependencies, ["a", "b", "e", "f", "g", "h", "i"]);
        assert!(!manifest.plants);
        let planting = parse("[package]\nname = \"x\"\n[dependencies]\ny = { features = [\"planted-z\"] }");
        assert!(planting.unwrap().plants);
    }

    #[test]
    fn what_hides_a_dependency_is_refused() {
        let renamed = "[package]\nname = \"x\"\n[dependencies]\ny = { package = \"burn\", version = \"1\" }";
        assert!(parse(renamed).unwrap_err().contains("renames"));
        let without_code = renamed.replace("\"x\"", "\"atoll-unify\"");
        assert_eq!(parse(&without_code).unwrap().dependencies, ["y"]);
        assert!(parse("[dependencies]\n").unwrap_err().contains("name"));
    }
}
