//! Packs the project's own sources and documentation, which are the demo's corpus unless it is given
//! another: sorted, so that the same tree gives the same bytes.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

const FOLDERS: [&str; 4] = ["crates", "docs", "python", "xtask"];
const FILES: [&str; 3] = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"];
const ENDINGS: [&str; 4] = ["rs", "md", "py", "toml"];

fn main() -> io::Result<()> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?).join("../..");
    let mut paths: Vec<PathBuf> = FILES
        .iter()
        .map(|name| root.join(name))
        .filter(|path| path.is_file())
        .collect();
    for folder in FOLDERS.iter().map(|name| root.join(name)).filter(|path| path.is_dir()) {
        println!("cargo:rerun-if-changed={}", folder.display());
        walk(&folder, &mut paths)?;
    }
    FILES
        .iter()
        .for_each(|name| println!("cargo:rerun-if-changed={}", root.join(name).display()));
    let mut named: Vec<(String, PathBuf)> = paths.into_iter().map(|path| (name(&root, &path), path)).collect();
    named.sort();
    let mut packed = String::new();
    for (name, path) in named {
        let text = fs::read_to_string(path)?;
        packed.push_str(&format!("{}\u{0}{}\u{0}", name, text));
    }
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    fs::write(Path::new(&out).join("corpus"), packed)
}

fn name(root: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(root).unwrap_or(path);
    relative
        .iter()
        .map(|part| part.to_string_lossy())
        .collect::<Vec<_>>()
        .join("/")
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if path.is_dir() {
            walk(&path, paths)?;
        } else if ENDINGS.contains(&ending) {
            paths.push(path);
        }
    }
    Ok(())
}
