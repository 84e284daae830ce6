//! `atoll export`: what others get is enough for every command that only looks, and holds no secret.

#![cfg(unix)]

mod support;

use atoll_host::{audit::audit, export, folder::Folder, identity};
use std::{
    fs,
    ops::ControlFlow,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};
use support::{Running, copy, demo, files, fresh, last_json, refused, text, tree, well};

fn node_copy(name: &str) -> PathBuf {
    let folder = fresh(&format!("export-{name}")).join("node-1");
    copy(&demo().0.join("node-1"), &folder);
    folder
}

fn exported(from: &Path, out: &Path) -> serde_json::Value {
    last_json(&well(&["export", &text(from), &text(out), "--json"]))
}

/// Nothing in `out` may hold these bytes.
fn nowhere(out: &Path, bytes: &[u8], what: &str) {
    for path in files(out) {
        let content = fs::read(out.join(&path)).unwrap();
        assert!(
            !content.windows(bytes.len()).any(|at| at == bytes),
            "{what} is in {path}"
        );
    }
}

#[test]
fn what_others_get_is_enough_to_check_and_use_it() {
    let folder = node_copy("one");
    let before = tree(&folder);
    let out = folder.with_file_name("out");
    let told = exported(&folder, &out);
    assert_eq!(tree(&folder), before, "exporting only reads");
    let node = &told["nodes"][0];
    assert_eq!(
        (node["node"].as_str(), node["signed"].as_bool()),
        (Some("node-1"), Some(true))
    );
    assert_eq!(node["lacks"].as_array().unwrap().len(), 0);
    let kept: Vec<&str> = node["kept_back"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    assert_eq!(
        kept[..6],
        [
            "key",
            "trainer.bin",
            "consensus",
            "node.toml",
            "events.jsonl",
            "status.json"
        ]
    );
    assert_eq!(node["files"].as_u64().unwrap() as usize, files(&out).len());
    for gone in [
        "key",
        "trainer.bin",
        "consensus",
        "node.toml",
        "events.jsonl",
        "status.json",
        "lock",
        "blobs/blobs.db",
    ] {
        assert!(!out.join(gone).exists(), "{gone}");
    }
    let seed = identity::read(&Folder::at(&folder).key()).unwrap().seed();
    nowhere(&out, &seed, "the secret key");
    let hex: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
    nowhere(&out, hex.as_bytes(), "the secret key");
    nowhere(
        &out,
        text(folder.parent().unwrap()).as_bytes(),
        "a path of this machine",
    );
    nowhere(&out, b"127.0.0.1", "an address");

    let written = tree(&out);
    let report = audit(&out, |_| ());
    let problems: Vec<_> = report.all_problems().collect();
    assert!(report.ok(), "{problems:?}");
    let seen = &report.folders[0];
    assert!(seen.sealed && seen.export == Some(true) && !seen.holds_secret && seen.node == "node-1");
    let whole = &audit(&folder, |_| ()).folders[0];
    let checked = |of: &atoll_host::audit::FolderReport| {
        (
            of.theta,
            of.tip,
            of.computed.clone(),
            of.certificates,
            of.checkpoints.clone(),
            of.gaps.len(),
        )
    };
    assert_eq!(
        checked(seen),
        checked(whole),
        "as much is checked as in the folder itself"
    );
    let said = String::from_utf8(well(&["audit", &text(&out)]).stdout).unwrap();
    assert!(
        said.contains("every file compared; an export, signed by node-1"),
        "{said}"
    );
    let of = |dir: &Path, arguments: &[&str]| {
        let arguments: Vec<String> = arguments.iter().map(|part| part.replace("DIR", &text(dir))).collect();
        let mut told = last_json(&well(&arguments.iter().map(String::as_str).collect::<Vec<_>>()));
        told["checkpoint"].take();
        told["disk"].take(); // less is there
        told
    };
    let (data, sample) = (
        text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")),
        "--max-tokens",
    );
    for arguments in [
        &["status", "DIR", "--json"][..],
        &["why", "DIR", "node-2", "--json"],
        &["generate", "DIR", "--prompt", "pub fn", sample, "5", "--json"],
        &["eval", "DIR", "--data", &data, "--json"],
    ] {
        assert_eq!(of(&out, arguments), of(&folder, arguments), "{arguments:?}");
    }
    assert_eq!(tree(&out), written, "whoever looks changes nothing");
    assert!(refused(&["node", &text(&out)]).contains("key is missing"));
}

#[test]
fn any_change_of_an_export_is_found() {
    let folder = node_copy("changed");
    let out = folder.with_file_name("out");
    exported(&folder, &out);
    let all = files(&out);
    let ends = [
        "charter.toml",
        "ledger.redb",
        "seal",
        ".data",
        "model.safetensors",
        "config.json",
    ];
    for end in ends {
        let path = out.join(all.iter().find(|name| name.ends_with(end)).unwrap());
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        fs::write(&path, bad).unwrap();
        let report = audit(&out, |_| ());
        assert!(
            !report.ok() && report.all_problems().any(|found| found.place.contains(end)),
            "{end}"
        );
        fs::remove_file(&path).unwrap();
        let report = audit(&out, |_| ());
        // without its seal an export is a folder like that of a node that was killed
        assert_eq!(report.ok(), end == "seal", "{end} is missing");
        fs::write(&path, good).unwrap();
    }
    assert!(audit(&out, |_| ()).ok(), "whole again");
    // a secret that is put into it is told
    fs::copy(folder.join("key"), out.join("key")).unwrap();
    let report = audit(&out, |_| ());
    assert!(report.ok() && report.folders[0].holds_secret, "{report:?}");
}

#[test]
fn whoever_has_no_key_exports_what_is_not_signed() {
    let folder = node_copy("unsigned");
    fs::remove_file(folder.join("key")).unwrap();
    let out = folder.with_file_name("out");
    let told = exported(&folder, &out);
    assert_eq!(
        (told["nodes"][0]["node"].as_str(), told["nodes"][0]["signed"].as_bool()),
        (Some("node-1"), Some(false))
    );
    let report = audit(&out, |_| ());
    let seen = &report.folders[0];
    assert!(
        report.ok() && seen.sealed && seen.export == Some(false) && seen.node == "node-1",
        "{report:?}"
    );
    assert!(
        seen.notes.iter().any(|note| note.contains("nobody signed the list")),
        "{:?}",
        seen.notes
    );
    // an export can be handed on, and tells no more than it did
    let again = folder.with_file_name("again");
    exported(&out, &again);
    assert_eq!(tree(&again), tree(&out));
    // a signature cannot be made up, nor taken off one's own folder
    let path = again.join("seal");
    let mut seal = fs::read(&path).unwrap();
    seal[0] = 0;
    fs::write(&path, seal).unwrap();
    assert!(!audit(&again, |_| ()).ok());
}

#[test]
fn a_demo_is_exported_whole() {
    let from = &demo().0;
    let out = fresh("export-demo").join("out");
    let told = exported(from, &out);
    assert_eq!(told["nodes"].as_array().unwrap().len(), 4);
    let report = last_json(&well(&["audit", &text(&out), "--json"]));
    let folders = report["folders"].as_array().unwrap();
    assert!(
        folders
            .iter()
            .all(|folder| folder["export_signed"] == true && folder["holds_secret"] == false)
    );
    assert_eq!(folders.len(), 4);
    well(&["status", &text(&out)]);
}

#[test]
fn nothing_is_written_over_and_nothing_from_outside_is_taken() {
    let folder = node_copy("places");
    let beside = folder.parent().unwrap().to_path_buf();
    let thesis = beside.join("thesis");
    fs::create_dir(&thesis).unwrap();
    symlink("nowhere", beside.join("link")).unwrap();
    fs::write(beside.join("file"), b"theirs").unwrap();
    let before = tree(&folder);
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&beside)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let (from, there) = (text(&folder), names());
    for out in ["thesis", "thesis/", "link", "file"] {
        let said = refused(&["export", &from, &text(&beside.join(out))]);
        assert!(said.contains("nothing is written over it"), "{said}");
    }
    for out in [".", "..", "/"] {
        assert!(
            refused(&["export", &from, out]).contains("names no folder that could be made"),
            "{out}"
        );
    }
    assert!(refused(&["export", &from, &text(&folder.join("out"))]).contains("would become part of it"));
    assert!(refused(&["export", &from, &text(&beside.join("no/such/out"))]).contains("no/such"));
    assert_eq!((names(), tree(&folder)), (there.clone(), before));

    // a checkpoint that leads elsewhere is named and not followed, nor is what lies beside the node's files taken
    let secret = beside.join("file");
    let checkpoint = fs::read_dir(folder.join("checkpoints"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let config = checkpoint.join("config.json");
    fs::remove_file(&config).unwrap();
    symlink(&secret, &config).unwrap();
    fs::copy(&secret, folder.join("blobs/data/notes.data")).unwrap();
    let told = exported(&folder, &beside.join("out/"));
    assert!(
        told["nodes"][0]["lacks"][0]
            .as_str()
            .unwrap()
            .ends_with("has no file config.json"),
        "{told}"
    );
    nowhere(&beside.join("out"), b"theirs", "what is outside");
    let mut with_out = there;
    with_out.push("out".into());
    with_out.sort();
    assert_eq!(names(), with_out, "nothing is left beside it");
}

#[test]
fn a_blob_that_is_not_what_its_name_says_is_not_given_away() {
    let folder = node_copy("damaged");
    let whole = folder.with_file_name("whole");
    exported(&folder, &whole);
    let blobs = files(&whole).into_iter().filter(|path| path.ends_with(".data"));
    let largest = blobs
        .max_by_key(|path| fs::metadata(whole.join(path)).unwrap().len())
        .unwrap();
    fs::write(folder.join(&largest), b"the secret of somebody").unwrap();
    let out = folder.with_file_name("out");
    let told = exported(&folder, &out);
    let lacks = told["nodes"][0]["lacks"].as_array().unwrap();
    assert!(
        lacks.len() == 1 && lacks[0].as_str().unwrap().ends_with("is not whole"),
        "{told}"
    );
    assert!(!out.join(&largest).exists());
}

#[test]
fn a_node_that_runs_is_not_exported() {
    let folder = node_copy("running");
    let arguments = [
        "node",
        &text(&folder),
        "--bind",
        "127.0.0.1:0",
        "--json",
        "--stop-with-stdin",
    ];
    let mut node = Running::start(&arguments, &folder.with_extension("stderr"));
    node.wait_for("started", |event| event["event"] == "started");
    let out = folder.with_file_name("out");
    assert!(refused(&["export", &text(&folder), &text(&out)]).contains("in use by another atoll process"));
    assert!(!out.exists());
    let (status, _, errors) = node.stop();
    assert!(status.success(), "{errors}");
}

#[test]
fn whoever_breaks_off_leaves_nothing() {
    let folder = node_copy("interrupted");
    let beside = folder.parent().unwrap();
    let mut calls = 0;
    let mut count = |_: &str, done: u64, of: u64| {
        assert!(done <= of);
        calls += 1;
        ControlFlow::Continue(())
    };
    export::export(&folder, &beside.join("whole"), &mut count).unwrap();
    for last in [1, calls / 2, calls] {
        let mut left = last;
        let mut stop = |_: &str, _: u64, _: u64| {
            left -= 1;
            match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        let error = export::export(&folder, &beside.join("out"), &mut stop).unwrap_err();
        assert!(error.is::<export::Interrupted>(), "{error:#}");
        assert_eq!(
            fs::read_dir(beside).unwrap().count(),
            2,
            "the node's folder and the whole export"
        );
    }
}
