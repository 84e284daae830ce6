//! What the program refuses: it says why in one line, ends with status 1, and changes nothing.

mod support;

use atoll_host::{folder::Folder, identity};
use std::{
    fs,
    path::{Path, PathBuf},
};
use support::{Running, copy, demo, fresh, refused, text, tree};

/// A copy of a finished node's folder.
fn node_copy(name: &str) -> PathBuf {
    let folder = fresh(&format!("refusals-{name}")).join("node-1");
    copy(&demo().0.join("node-1"), &folder);
    folder
}

/// The node in `folder` must refuse to start with a line that holds `what`, and leave every file alone.
fn node_refuses(folder: &Path, what: &str) -> String {
    let before = tree(folder);
    let said = refused(&["node", &text(folder)]);
    assert!(said.contains(what), "{said}");
    let after = tree(folder);
    let changed: Vec<_> = before
        .iter()
        .filter(|(path, hash)| after.get(*path) != Some(hash))
        .collect();
    assert!(
        changed.is_empty() && after.len() == before.len(),
        "nothing may change, but these did: {changed:?}"
    );
    said
}

#[test]
fn the_charter_of_another_run_of_the_same_members() {
    let folder = node_copy("other-charter");
    let charter = fs::read_to_string(folder.join("charter.toml")).unwrap();
    let other = charter.replacen("seed = 1\n", "seed = 2\n", 1);
    assert_ne!(charter, other);
    fs::write(folder.join("charter.toml"), other).unwrap();
    node_refuses(&folder, "of another run");
}

#[test]
fn the_charter_of_another_runs_members() {
    let folder = node_copy("other-members");
    let founder = fresh("refusals-founder").join("f");
    let place = text(&founder);
    let made = support::last_json(&support::well(&["init", &place, "--json"]));
    let member = format!("me={}", made["key"].as_str().unwrap());
    support::well(&["found", &place, "--member", &member, "--rounds", "1", "--json"]);
    fs::copy(founder.join("charter.toml"), folder.join("charter.toml")).unwrap();
    node_refuses(&folder, "does not name as a member");
    // nor does `init` put it over the one that is there
    let folder = node_copy("init-charter");
    let before = tree(&folder);
    let said = refused(&[
        "init",
        &text(&folder),
        "--charter",
        &text(&founder.join("charter.toml")),
    ]);
    assert!(said.contains("charter of another run"), "{said}");
    assert_eq!(tree(&folder), before);
}

#[test]
fn a_charter_with_a_mistake_names_the_line() {
    let folder = node_copy("mistake");
    let charter = fs::read_to_string(folder.join("charter.toml")).unwrap();
    let line = 1 + charter.lines().position(|line| line.starts_with("rounds = ")).unwrap();
    fs::write(
        folder.join("charter.toml"),
        charter.replacen("rounds = 2", "rounds = 0", 1),
    )
    .unwrap();
    node_refuses(&folder, &format!("charter.toml:{line}: "));
}

#[test]
fn another_key() {
    let folder = node_copy("other-key");
    fs::remove_file(folder.join("key")).unwrap();
    identity::create(&folder.join("key")).unwrap();
    node_refuses(&folder, "does not name as a member");
}

#[test]
fn a_damaged_key() {
    let folder = node_copy("damaged-key");
    let mut key = fs::read(folder.join("key")).unwrap();
    let place = key.len() - 5;
    key[place] ^= 1;
    fs::write(folder.join("key"), key).unwrap();
    node_refuses(&folder, "is not a key file");
}

#[cfg(unix)]
#[test]
fn a_key_that_others_can_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = node_copy("open-key");
    fs::set_permissions(folder.join("key"), fs::Permissions::from_mode(0o644)).unwrap();
    node_refuses(&folder, &format!("chmod 600 {}", text(&folder.join("key"))));
}

#[test]
fn a_folder_without_a_node() {
    let folder = fresh("refusals-empty");
    node_refuses(&folder, "is not a node's folder");
    for command in ["status", "audit", "generate"] {
        assert_eq!(
            support::atoll(&[command, &text(&folder)]).status.code(),
            Some(1),
            "{command}"
        );
    }
    assert!(tree(&folder).is_empty());
}

#[test]
fn damaged_private_state() {
    let folder = node_copy("trainer");
    let path = folder.join("trainer.bin");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let said = refused(&["node", &text(&folder), "--bind", "127.0.0.1:0"]);
    assert!(
        said.contains("trainer.bin is damaged") && said.contains("move it away"),
        "{said}"
    );
    assert_eq!(
        fs::read(&path).unwrap(),
        bytes,
        "the damaged file is left to be looked at"
    );
}

#[test]
fn a_folder_that_another_process_has() {
    let folder = node_copy("two");
    let arguments = [
        "node",
        &text(&folder),
        "--bind",
        "127.0.0.1:0",
        "--json",
        "--stop-with-stdin",
    ];
    let mut first = Running::start(&arguments, &folder.with_extension("stderr"));
    first.wait_for("started", |event| event["event"] == "started");
    assert!(refused(&["node", &text(&folder)]).contains("in use by another atoll process"));
    let (status, _, errors) = first.stop();
    assert!(status.success(), "{errors}");
}

#[test]
fn init_never_replaces_a_key() {
    let folder = fresh("refusals-init").join("node");
    support::well(&["init", &text(&folder)]);
    let before = tree(&folder);
    let said = refused(&["init", &text(&folder)]);
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(tree(&folder), before);
    assert!(identity::read(&Folder::at(&folder).key()).is_ok());
}
