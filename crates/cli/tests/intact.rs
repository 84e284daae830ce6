//! What is intact is not called damaged: an audit names what lies beside a node's files and finds no fault in it;
//! and whoever only looks at a folder writes nothing and needs no secret.

#![cfg(unix)]

mod support;

use atoll_host::{
    audit::{Report, audit},
    folder::Folder,
    identity, seal,
};
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    ops::ControlFlow,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
};
use support::{copy, demo, files, fresh, last_json, refused, text, tree, well};

/// A copy of node 1's sealed folder.
fn node_copy(name: &str) -> PathBuf {
    let folder = fresh(&format!("intact-{name}")).join("node-1");
    copy(&demo().0.join("node-1"), &folder);
    folder
}

/// The audit of `folder`, which must find no fault.
fn intact(folder: &Path) -> Report {
    let report = audit(folder, |_| ());
    let problems: Vec<_> = report.all_problems().collect();
    assert!(report.ok(), "{}: {problems:?}", folder.display());
    report
}

fn faults(folder: &Path) -> Vec<String> {
    let report = audit(folder, |_| ());
    report
        .all_problems()
        .map(|found| format!("{} {}", found.place, found.what))
        .collect()
}

fn notes(report: &Report) -> Vec<String> {
    report.notes.iter().chain(&report.folders[0].notes).cloned().collect()
}

fn checkpoint(folder: &Path) -> PathBuf {
    fs::read_dir(folder.join("checkpoints"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path()
}

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn what_is_not_the_nodes_is_a_note() {
    let folder = node_copy("beside");
    let of_round = checkpoint(&folder);
    let names = [
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "charter.toml~",
        ".charter.toml.swp",
        "._key",
        ".nfs000000000001",
        "README",
        "blobs/.DS_Store",
        "blobs/data/.DS_Store",
        "consensus/.DS_Store",
    ];
    let mut beside: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
    beside.extend(
        ["ggml-model-f16.gguf", "README.md", ".DS_Store", "._model.safetensors"].map(|name| of_round.join(name)),
    );
    beside.push(folder.join(OsStr::from_bytes(b"caf\xe9")));
    beside.push(folder.join(OsStr::from_bytes(b"caf\xea")));
    beside.push(folder.join("two\nlines \u{1b}[31m"));
    beside.iter().for_each(|path| fs::write(path, b"somebody's").unwrap());
    fs::create_dir_all(folder.join("lost+found")).unwrap();
    fs::create_dir_all(folder.join("checkpoints/.round-000009.partial-4242")).unwrap();
    fs::write(folder.join("checkpoints/.round-000009.partial-4242/config.json"), b"{}").unwrap();
    symlink("nowhere", folder.join(".#charter.toml")).unwrap();
    symlink("/", folder.join("everything")).unwrap();
    pipe(&folder.join("pipe"));
    let _socket = UnixListener::bind(folder.join("socket")).unwrap();
    let report = intact(&folder);
    let seen = &report.folders[0];
    assert!(
        seen.sealed && seen.foreign.len() == beside.len() + 6,
        "{:?}",
        seen.foreign
    );
    let kind_of = |name: &str| {
        seen.foreign
            .iter()
            .find(|(path, _)| path.ends_with(name))
            .map(|(_, kind)| kind.as_str())
    };
    for (name, kind) in [
        (".DS_Store", "a file"),
        ("lost+found", "a folder"),
        (".#charter.toml", "a symbolic link"),
        ("everything", "a symbolic link"),
        ("pipe", "a pipe"),
        ("socket", "a socket"),
        (r#"two\nlines \u{1b}[31m""#, "a file"),
        (r#"caf\xE9""#, "a file"),
        (r#"caf\xEA""#, "a file"),
    ] {
        assert_eq!(kind_of(name), Some(kind), "{name}: {:?}", seen.foreign);
    }
    let notes = notes(&report);
    assert!(
        notes
            .iter()
            .any(|note| note.contains("more things that are not the node's; --json has all")),
        "{notes:?}"
    );
    assert!(
        notes.iter().all(|note| !note.contains('\u{1b}')),
        "a name cannot speak to the terminal"
    );
    let told = last_json(&well(&["audit", &text(&folder), "--json"]));
    assert_eq!(
        told["folders"][0]["foreign"].as_array().unwrap().len(),
        beside.len() + 6
    );
    // nor do such things hide a change
    let key = folder.join("events.jsonl");
    let mut log = fs::read(&key).unwrap();
    log[10] ^= 1;
    fs::write(&key, log).unwrap();
    assert!(matches!(&faults(&folder)[..], [fault] if fault.contains("events.jsonl was changed between byte 0")));
}

#[test]
fn what_readers_would_take_for_their_own_is_a_fault() {
    let table: [(&str, &str); 6] = [
        (
            "checkpoints/ROUND/adapter_model.safetensors",
            "programs that open it would read it",
        ),
        (
            "checkpoints/ROUND/modeling_llama.py",
            "programs that open it would read it",
        ),
        (
            "checkpoints/round-000077/config.json",
            "is not the checkpoint of any round",
        ),
        ("checkpoints/newest/config.json", "is read as a checkpoint"),
        ("consensus/simplex/00ff00ff", "was not there when the folder was sealed"),
        (
            "blobs/data/af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262.data",
            "was not there when the folder was sealed",
        ),
    ];
    for (name, what) in table {
        let folder = node_copy("taken");
        let round = checkpoint(&folder).file_name().unwrap().to_str().unwrap().to_string();
        let path = folder.join(name.replace("ROUND", &round));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"").unwrap();
        let faults = faults(&folder);
        assert!(faults.iter().any(|fault| fault.contains(what)), "{name}: {faults:?}");
    }
}

#[test]
fn an_auditor_needs_no_secret() {
    let folder = node_copy("secret");
    let key = folder.join("key");
    let report = intact(&folder);
    let (owner, node) = (report.folders[0].owner, report.folders[0].node.clone());
    let says = |report: &Report, what: &str| {
        let notes = notes(report);
        assert!(notes.iter().any(|note| note.contains(what)), "{what}: {notes:?}");
    };
    assert!(report.folders[0].holds_secret);
    says(
        &report,
        "holds the secret key: give away what `atoll export` writes instead",
    );
    for mode in [0o644, 0o666, 0o777] {
        fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        says(
            &intact(&folder),
            &format!("(mode {mode:o}): its node starts after `chmod 600 {}`", text(&key)),
        );
    }
    let whole = tree(&folder);
    fs::remove_file(&key).unwrap();
    let report = intact(&folder);
    assert_eq!(
        (report.folders[0].owner, &report.folders[0].node),
        (owner, &node),
        "the seal is signed"
    );
    assert!(!report.folders[0].holds_secret);
    says(&report, "is missing: its owner keeps it");
    fs::remove_file(folder.join("seal")).unwrap();
    let report = intact(&folder);
    assert_eq!(report.folders[0].owner, owner, "whose the votes are");
    fs::remove_dir_all(folder.join("consensus")).unwrap();
    let report = intact(&folder);
    assert_eq!(report.folders[0].owner, None);
    says(&report, "neither a key nor a seal says whose folder this is");
    // what only looks does so without the key too, and leaves everything as it is
    let before = tree(&folder);
    for arguments in [
        vec!["status", "DIR"],
        vec!["why", "DIR", "node-1"],
        vec!["generate", "DIR", "--max-tokens", "3"],
        vec!["audit", "DIR"],
    ] {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|part| part.replace("DIR", &text(&folder)))
            .collect();
        well(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }
    assert_eq!(tree(&folder), before);
    assert!(before.len() < whole.len() && !folder.join("lock").exists());
    let said = refused(&["node", &text(&folder)]);
    assert!(said.contains("key is missing"), "{said}");
}

#[test]
fn another_members_seal_over_the_same_folder_does_not_pass_as_this_nodes() {
    let folder = node_copy("reseal");
    fs::copy(demo().0.join("node-2/key"), folder.join("other")).unwrap();
    let (mine, theirs) = (folder.join("key"), folder.join("other"));
    fs::rename(&mine, folder.with_extension("mine")).unwrap();
    fs::rename(&theirs, &mine).unwrap();
    let sealed = seal::write(&Folder::at(&folder), &mut |_, _| ControlFlow::Continue(()));
    assert!(sealed.unwrap().sealed);
    fs::rename(folder.with_extension("mine"), &mine).unwrap();
    let faults = faults(&folder);
    assert!(
        faults
            .iter()
            .any(|fault| fault.contains("seal was signed by another key")),
        "{faults:?}"
    );
    // nor one of a stranger, with the key away
    fs::remove_file(&mine).unwrap();
    identity::create(&mine).unwrap();
    seal::write(&Folder::at(&folder), &mut |_, _| ControlFlow::Continue(())).unwrap();
    fs::remove_file(&mine).unwrap();
    let faults = self::faults(&folder);
    assert!(
        faults.iter().any(|fault| fault.contains("charter.toml does not name")),
        "{faults:?}"
    );
}

#[test]
fn what_cannot_be_read_is_named_with_its_permission() {
    let folder = node_copy("closed");
    let close = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let closed = [
        folder.join("trainer.bin"),
        folder.join("consensus"),
        checkpoint(&folder),
    ];
    for path in &closed {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        close(path, 0o000);
        // whoever may read everything, such as root, reads this too
        if fs::File::open(path).is_err() {
            let faults = faults(&folder);
            let named = |fault: &String| fault.contains(&text(path)) && fault.contains("Permission denied");
            assert!(faults.iter().any(named), "{faults:?}");
            assert!(
                !faults
                    .iter()
                    .any(|fault| fault.contains("damaged") || fault.contains("is missing")),
                "{faults:?}"
            );
        }
        close(path, mode);
    }
    let key = folder.join("key");
    close(&key, 0o000);
    let report = intact(&folder);
    close(&key, 0o600);
    assert_eq!(report.folders[0].node, "node-1", "another user's key is not needed");
}

#[test]
fn a_folder_that_cannot_be_written_is_read_all_the_same() {
    let folder = node_copy("read-only");
    fs::remove_file(folder.join("lock")).ok();
    let shut = |mode: &str| {
        assert!(
            Command::new("chmod")
                .args(["-R", mode, &text(&folder)])
                .status()
                .unwrap()
                .success()
        )
    };
    let before = tree(&folder);
    shut("a-w");
    let status: Value = last_json(&well(&["status", &text(&folder), "--json"]));
    assert_eq!(status["running"], false);
    intact(&folder);
    well(&["why", &text(&folder), "node-1"]);
    let out = folder.with_file_name("out");
    well(&["export", &text(&folder), &text(&out)]);
    shut("u+w");
    assert_eq!(tree(&folder), before);
    assert!(!folder.join("lock").exists(), "a look makes no lock");
}

#[test]
fn a_copy_beside_a_nodes_folder_is_noted() {
    let both = fresh("intact-twins");
    for name in ["node-1", "node-1-backup"] {
        copy(&demo().0.join("node-1"), &both.join(name));
    }
    fs::write(both.join("notes.txt"), b"mine").unwrap();
    let report = intact(&both);
    let said = |what: &str| report.notes.iter().any(|note| note.contains(what));
    assert!(
        said("node-1-backup and") && said("are both node-1's: one is a copy"),
        "{:?}",
        report.notes
    );
    assert!(
        said("notes.txt is a file that belongs to no node"),
        "{:?}",
        report.notes
    );
    assert!(said("members without a folder in"), "{:?}", report.notes);
}

#[test]
fn blobs_that_were_moved_to_another_disk_are_found_there() {
    let folder = node_copy("moved");
    let elsewhere = folder.with_file_name("elsewhere");
    fs::rename(folder.join("blobs"), &elsewhere).unwrap();
    symlink(&elsewhere, folder.join("blobs")).unwrap();
    let left = seal::write(&Folder::at(&folder), &mut |_, _| ControlFlow::Continue(()))
        .unwrap()
        .left_out;
    assert_eq!(left, [(folder.join("blobs"), "is a symbolic link".to_string())]);
    let report = intact(&folder);
    assert!(report.folders[0].blobs > 10, "they are hashed");
    assert!(
        notes(&report)
            .iter()
            .any(|note| note.contains("blobs is a symbolic link: no seal covers it"))
    );
    let blob = files(&elsewhere)
        .into_iter()
        .find(|path| path.ends_with(".data"))
        .unwrap();
    fs::write(elsewhere.join(blob), b"x").unwrap();
    assert!(!faults(&folder).is_empty());
}

#[test]
fn a_pipe_in_the_place_of_any_file_keeps_nobody_waiting() {
    let folder = node_copy("pipes");
    let all = files(&folder);
    let ends = [".data", ".obao4", ".safetensors", "config.json"];
    let of_each = ends
        .iter()
        .filter_map(|end| all.iter().find(|name| name.ends_with(end)));
    let top = all.iter().filter(|name| !name.contains('/'));
    for name in of_each.chain(top) {
        let (path, aside) = (folder.join(name), folder.with_file_name("aside"));
        fs::rename(&path, &aside).unwrap();
        pipe(&path);
        let faults = faults(&folder);
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        assert!(faults.iter().any(|fault| fault.contains(name)), "{name}: {faults:?}");
    }
    intact(&folder);
}
