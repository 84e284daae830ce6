//! `atoll init`.

use crate::paths::pasted;
use anyhow::bail;
use atoll_host::{
    charter_file,
    contents::{shown, taken},
    cost, disk,
    folder::Folder,
    found, identity,
};
use atoll_protocol::{Charter, Keypair};
use serde_json::json;
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Makes a folder with a new key, the node's one identity; give its public half to the founder. Later, with
/// --charter, puts the charter that the founder sends back into the same folder.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  atoll init my-node\n  atoll init my-node --charter charter.toml     with the charter that the founder sent"
)]
pub(crate) struct Arguments {
    /// The folder to make; with --charter, the one that holds the key you gave to the founder
    dir: PathBuf,
    /// The charter of the run to join
    #[arg(long)]
    charter: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let folder = Folder::at(&arguments.dir);
    match &arguments.charter {
        None => make(&folder, arguments.json),
        Some(path) => join(&folder, path, arguments.json),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// A new key, where nothing is that a node would take for its own or write over.
fn make(folder: &Folder, json: bool) -> anyhow::Result<()> {
    let taken = taken(folder.path());
    if taken.contains(&"key") {
        bail!(
            "{} holds a node already, whose key is never replaced; nothing was changed",
            shown(folder.path())
        );
    }
    if !taken.is_empty() {
        bail!(
            "{} has {}, which a node would use as its own; choose an empty folder (nothing was changed)",
            shown(folder.path()),
            taken.join(", ")
        );
    }
    let keypair = found::new_member(folder)?;
    let (place, key) = (folder.path().display().to_string(), folder.key().display().to_string());
    match json {
        true => say!(
            "{}",
            json!({ "folder": place, "key": keypair.peer().to_string(), "secret_in": key })
        ),
        false => say!(
            "{}\nThis is the node's public key: give it to the founder of a run. The secret is in {key}; back it up.",
            keypair.peer()
        ),
    }
    Ok(())
}

/// The charter beside the key that it names.
fn join(folder: &Folder, path: &Path, json: bool) -> anyhow::Result<()> {
    let charter = charter_file::read(path)?;
    let there = folder.key().symlink_metadata();
    if matches!(&there, Err(error) if error.kind() == ErrorKind::NotFound) {
        bail!(
            "{} has no key, and a new one cannot be a member of a charter that is written already; {} (nothing was \
             made)",
            shown(folder.path()),
            meant(folder, &charter)
        );
    }
    let keypair = identity::read(&folder.key())?;
    if !charter.keys().any(|key| key == keypair.peer()) {
        bail!(
            "the key in {} is {}, which {} does not name as a member; {} (nothing was changed)",
            shown(folder.path()),
            keypair.peer(),
            shown(path),
            meant(folder, &charter)
        );
    }
    found::install_charter(folder, &charter)?;
    joined(folder, &charter, &keypair, json);
    Ok(())
}

fn joined(folder: &Folder, charter: &Charter, keypair: &Keypair, json: bool) {
    let (place, name) = (folder.path().display().to_string(), charter.name_of(&keypair.peer()));
    match json {
        true => say!(
            "{}",
            json!({
                "folder": place,
                "key": keypair.peer().to_string(),
                "secret_in": folder.key().display().to_string(),
                "charter": folder.charter().display().to_string(),
                "genesis": charter.genesis().to_string(),
                "run": charter.name,
                "name": name,
                "cost": cost::of(charter).to_json(None, disk::free(folder.path())),
            })
        ),
        false => say!(
            "{place} is {name} of the run \"{}\" (genesis {}). Start it with\n  atoll node {} --bind ADDRESS:PORT --peer KEY=ADDRESS:PORT …\n{}",
            charter.name,
            charter.genesis(),
            pasted(folder.path()),
            cost::sentence(charter, None, folder.path())
        ),
    }
}

/// Which folder was meant, as far as can be seen: one beside it whose key the charter names.
fn meant(folder: &Folder, charter: &Charter) -> String {
    let absolute = std::path::absolute(folder.path()).unwrap_or_else(|_| folder.path().to_path_buf());
    // only a hint: what cannot be read beside it is not meant
    let beside = absolute.parent().and_then(|parent| fs::read_dir(parent).ok());
    let mut beside: Vec<PathBuf> = beside
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    beside.sort();
    let members = beside.into_iter().filter_map(|path| {
        let key = identity::read_whoever_may(&Folder::at(&path).key()).ok()?.peer();
        let is_member = charter.keys().any(|member| member == key);
        is_member.then(|| format!("{} ({})", shown(&path), charter.name_of(&key)))
    });
    let members: Vec<String> = members.collect();
    match members.is_empty() {
        true => "give the folder with the key that you gave to the founder".into(),
        false => format!(
            "the folder with the key that you gave to the founder is meant: {}",
            members.join(", ")
        ),
    }
}
