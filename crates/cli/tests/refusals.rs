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
    // nor does `init` put it, or one of the same members, over the one that is there
    let folder = node_copy("init-charter");
    let before = tree(&folder);
    let same_members = founder.with_file_name("same-members.toml");
    let charter = fs::read_to_string(folder.join("charter.toml")).unwrap();
    fs::write(&same_members, charter.replacen("seed = 1\n", "seed = 2\n", 1)).unwrap();
    for (charter, what) in [
        (founder.join("charter.toml"), "does not name as a member"),
        (same_members, "is the charter of another run"),
    ] {
        let said = refused(&["init", &text(&folder), "--charter", &text(&charter)]);
        assert!(said.contains(what), "{said}");
        assert_eq!(tree(&folder), before);
    }
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

/// The sentence that says whose state and whose key do not fit.
fn not_theirs(said: &str, part: &str) {
    let fits =
        said.contains(part) && said.contains("is of node-1 (key ") && said.contains("this folder is of node-2 (key ");
    assert!(fits && said.contains("nothing was changed"), "{said}");
}

#[test]
fn anothers_folder_with_ones_own_key() {
    let folder = node_copy("mixed");
    fs::copy(demo().0.join("node-2/key"), folder.join("key")).unwrap();
    not_theirs(&node_refuses(&folder, "put back what belongs together"), "trainer.bin");
    // error feedback can be done without, votes cannot
    fs::remove_file(folder.join("trainer.bin")).unwrap();
    not_theirs(
        &node_refuses(&folder, "put back what belongs together"),
        "consensus/owner",
    );
    fs::remove_file(folder.join("consensus/owner")).unwrap();
    node_refuses(&folder, "does not say whose it is");
    let said = support::atoll(&["audit", &text(&folder)]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("was signed by another key"), "{said}");
}

#[test]
fn ones_own_folder_with_anothers_votes() {
    let folder = node_copy("votes");
    fs::remove_dir_all(folder.join("consensus")).unwrap();
    copy(&demo().0.join("node-2/consensus"), &folder.join("consensus"));
    let said = node_refuses(&folder, "consensus/owner is of node-2 (key ");
    assert!(said.contains("the key in this folder is of node-1"), "{said}");
}

#[test]
fn a_file_that_consensus_would_stop_at() {
    let folder = node_copy("finder");
    let partition = fs::read_dir(folder.join("consensus"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let partition = partition.filter(|path| path.is_dir()).min().unwrap();
    fs::write(partition.join(".DS_Store"), b"").unwrap();
    node_refuses(
        &folder,
        ".DS_Store is a file that is not the node's, and consensus stops at it: move it away",
    );
}

/// A run of one that somebody else founded, and its charter.
fn founded(name: &str) -> (PathBuf, PathBuf) {
    let beside = fresh(&format!("refusals-{name}"));
    let place = text(&beside.join("my-node"));
    let made = support::last_json(&support::well(&["init", &place, "--json"]));
    let member = format!("ada={}", made["key"].as_str().unwrap());
    support::well(&["found", &place, "--member", &member, "--rounds", "1", "--json"]);
    fs::rename(beside.join("my-node/charter.toml"), beside.join("charter.toml")).unwrap();
    (beside.clone(), beside.join("charter.toml"))
}

#[test]
fn init_with_a_charter_makes_no_identity_that_it_cannot_name() {
    let (beside, charter) = founded("typo");
    let (charter, before) = (text(&charter), tree(&beside));
    for name in ["my-nod", "my-nod/", "./my-nod"] {
        let output = support::atoll(&["init", &text(&beside.join(name)), "--charter", &charter, "--json"]);
        let said = support::stderr(&output);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
        assert!(
            said.contains("a new one cannot be a member") && said.contains("nothing was made"),
            "{said}"
        );
        assert!(
            said.contains(&format!("{} (ada)", text(&beside.join("my-node")))),
            "the one that is meant: {said}"
        );
        assert_eq!(tree(&beside), before);
        assert!(!beside.join("my-nod").exists());
    }
    // a key that is no member's, with or without a member's folder beside it
    for place in [beside.join("other"), fresh("refusals-typo-alone").join("other")] {
        support::well(&["init", &text(&place)]);
        let before = tree(&place);
        let said = refused(&["init", &text(&place), "--charter", &charter]);
        assert!(
            said.contains("does not name as a member") && said.contains("nothing was changed"),
            "{said}"
        );
        assert_eq!(tree(&place), before);
    }
    let place = text(&beside.join("my-node/"));
    let joined = support::last_json(&support::well(&["init", &place, "--charter", &charter, "--json"]));
    assert_eq!(
        (joined["name"].as_str(), joined["run"].as_str()),
        (Some("ada"), Some("run"))
    );
    assert!(beside.join("my-node/charter.toml").is_file());
    support::well(&["init", &place, "--charter", &charter]); // again is no mistake
}

#[test]
fn init_takes_nothing_of_somebody_elses_for_its_own() {
    for name in ["status.json", "events.jsonl", "seal", "charter.toml", "blobs", "lock"] {
        let folder = fresh("refusals-theirs");
        fs::write(folder.join("thesis.txt"), b"years of work").unwrap();
        fs::write(folder.join(name), b"theirs").unwrap();
        let before = fs::read_dir(&folder).unwrap().count();
        let said = refused(&["init", &text(&folder)]);
        assert!(said.contains(name) && said.contains("nothing was changed"), "{said}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), before);
        assert_eq!(fs::read(folder.join(name)).unwrap(), b"theirs");
    }
    let folder = fresh("refusals-among");
    fs::write(folder.join("thesis.txt"), b"years of work").unwrap();
    fs::write(folder.join("charter.toml.new"), b"theirs").unwrap();
    support::well(&["init", &text(&folder.join("."))]);
    assert_eq!(fs::read(folder.join("charter.toml.new")).unwrap(), b"theirs");
    assert_eq!(fs::read(folder.join("thesis.txt")).unwrap(), b"years of work");
}

#[test]
fn a_sample_is_written_over_nothing_but_a_sample() {
    let folder = demo().0.join("node-1");
    let file = fresh("refusals-sample").join("here.sample");
    let arguments = ["calibrate", &text(&folder), "--steps", "1", "--write", &text(&file)];
    fs::write(&file, b"years of work").unwrap();
    let said = refused(&arguments);
    assert!(
        said.contains("is no sample of this run") && said.contains("nothing was changed"),
        "{said}"
    );
    assert_eq!(fs::read(&file).unwrap(), b"years of work");
    fs::remove_file(&file).unwrap();
    support::well(&arguments);
    support::well(&arguments);
    assert_eq!(
        fs::read_dir(file.parent().unwrap()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
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
