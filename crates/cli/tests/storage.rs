//! Broken storage has a way out: whatever file is damaged, the program says so in a sentence, `atoll repair` moves it
//! away, and the node goes on with the others.

mod support;

use atoll_host::{charter_file, cost, disk, folder::Folder};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};
use support::{Running, alone, atoll, copy, demo, files, fresh, last_json, node, refused, text, tree, well};

/// What is done to a file.
type Harm<'a> = &'a dyn Fn(&Path);

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn copied(name: &str, number: usize) -> PathBuf {
    let to = fresh(name).join(format!("node-{number}"));
    copy(&node(&demo().0, number), &to);
    to
}

fn paths(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap();
    let path = |finding: &Value| finding["path"].as_str().unwrap().to_string();
    findings.iter().map(path).collect()
}

#[test]
fn each_damaged_file_is_named_moved_away_and_nothing_else_is_touched() {
    let original = copied("storage-each", 2);
    let of_kind = |fits: &dyn Fn(&str) -> bool| files(&original).into_iter().find(|path| fits(path)).unwrap();
    assert_eq!(
        last_json(&well(&["repair", &text(&original), "--json"]))["findings"],
        Value::Array(Vec::new()),
        "a whole folder has nothing to repair"
    );
    let garbage = |path: &Path| fs::write(path, "{ no").unwrap();
    let cut = |path: &Path| {
        let good = fs::read(path).unwrap();
        fs::write(path, &good[..good.len() / 3]).unwrap();
    };
    let cases: [(String, Harm<'_>, &str); 9] = [
        (
            of_kind(&|path| path == "node.toml"),
            &garbage,
            "--peer KEY=ADDRESS:PORT",
        ),
        (of_kind(&|path| path == "ledger.redb"), &cut, "gets every block again"),
        (
            of_kind(&|path| path.ends_with(".data")),
            &flip,
            "fetches it again from the others",
        ),
        (
            of_kind(&|path| path.ends_with(".data")),
            &cut,
            "fetches it again from the others",
        ),
        (
            of_kind(&|path| path == "blobs/blobs.db"),
            &cut,
            "made again from the files",
        ),
        (of_kind(&|path| path == "trainer.bin"), &flip, "error feedback"),
        (
            of_kind(&|path| path.ends_with(".safetensors")),
            &flip,
            "the folders of the other members",
        ),
        (
            of_kind(&|path| path == "status.json"),
            &garbage,
            "a running node writes it anew",
        ),
        (of_kind(&|path| path == "seal"), &flip, "makes a new one"),
    ];
    for (path, harm, said) in cases {
        let folder = original.with_extension("case");
        copy(&original, &folder);
        harm(&folder.join(&path));
        let before = tree(&folder);
        let looked = last_json(&well(&["repair", &text(&folder), "--check", "--json"]));
        assert_eq!(tree(&folder), before, "{path}: --check changes nothing");
        let told = looked["findings"][0]["text"].as_str().unwrap();
        assert!(told.contains(said), "{path}: {told}");
        let report = last_json(&well(&["repair", &text(&folder), "--json"]));
        assert_eq!(paths(&report), paths(&looked), "{path}");
        let moved: Vec<&str> = report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|finding| finding["moved_to"].as_str().unwrap())
            .collect();
        assert!(moved[0].contains("damaged-1"), "{path}: {moved:?}");
        // every byte that was there is there still, at its place or below damaged-1
        let after = tree(&folder);
        for (file, hash) in &before {
            let aside = format!("damaged-1/{file}");
            let found = after.get(file).or_else(|| after.get(&aside));
            assert_eq!(found, Some(hash), "{path}: {file}");
        }
        let again = last_json(&well(&["repair", &text(&folder), "--json"]));
        assert!(
            again["findings"]
                .as_array()
                .unwrap()
                .iter()
                .all(|finding| finding["remedy"] == "leave"),
            "{path}: {again}"
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn what_nobody_else_has_is_said_and_the_status_is_1() {
    let folder = copied("storage-lost", 2);
    for (path, said) in [("key", "put back your copy"), ("charter.toml", "init")] {
        let good = fs::read(folder.join(path)).unwrap();
        fs::write(folder.join(path), "garbage").unwrap();
        let output = atoll(&["repair", &text(&folder), "--json"]);
        assert_eq!(output.status.code(), Some(1), "{path}");
        let report = last_json(&output);
        let told = report["findings"][0]["text"].as_str().unwrap();
        assert!(told.contains(said) && report["ok"] == false, "{path}: {report}");
        assert_eq!(
            fs::read(folder.join(path)).unwrap(),
            b"garbage",
            "it is left where it is"
        );
        fs::write(folder.join(path), good).unwrap();
    }
    assert!(!folder.join("damaged-1").exists());
    assert!(refused(&["repair", "/nowhere/at/all"]).contains("is no folder"));
}

/// Starts a node alone and lets it run until it ends or has reported twice what it sent.
fn started(folder: &Path) -> (Option<i32>, Vec<Value>, String) {
    let errors = folder.with_extension("stderr");
    let _ = fs::remove_file(&errors);
    let mut node = Running::node(folder);
    let ended = node.follow(|seen| seen.iter().filter(|event| event["event"] == "traffic").count() >= 2);
    let (status, seen, errors) = match ended {
        true => node.ended(),
        false => node.stop(),
    };
    (status.code(), seen, errors)
}

#[test]
fn a_flipped_byte_in_consensus_is_a_sentence_and_repair_the_way_out() {
    let _alone = alone();
    let original = copied("storage-consensus", 2);
    let folder = original.with_extension("case");
    // one file of each part of the engine's storage
    let all = files(&original);
    let long = |path: &&String| fs::metadata(original.join(path)).unwrap().len() > 200;
    let mut stores: Vec<&String> = all
        .iter()
        .filter(|path| path.starts_with("consensus/"))
        .filter(long)
        .collect();
    stores.dedup_by_key(|path| Path::new(path.as_str()).parent().map(Path::to_path_buf));
    let mut failed = None;
    for path in stores {
        let _ = fs::remove_dir_all(&folder);
        copy(&original, &folder);
        flip(&folder.join(path));
        let (status, _, errors) = started(&folder);
        assert!(!errors.contains("panicked"), "{path}: {errors}");
        if status == Some(0) {
            continue; // a torn end for the engine, or what it does not read
        }
        assert_eq!(status, Some(1), "{path}: {errors}");
        assert_eq!(errors.trim_end().lines().count(), 1, "{path}: {errors}");
        assert!(
            errors.contains("/consensus is damaged") && errors.contains("`atoll repair"),
            "{path}: {errors}"
        );
        failed = Some(path);
    }
    let path = failed.expect("some flip is found");
    let _ = fs::remove_dir_all(&folder);
    copy(&original, &folder);
    flip(&folder.join(path));
    started(&folder);
    let report = last_json(&well(&["repair", &text(&folder), "--json"]));
    assert_eq!(paths(&report), [text(&folder.join("consensus"))], "{report}");
    assert!(folder.join("damaged-1").join(path).exists());
    let (status, seen, errors) = started(&folder);
    assert_eq!((status, errors.as_str()), (Some(0), ""));
    let listens = seen.iter().find(|event| event["event"] == "listening");
    assert!(listens.is_some_and(|event| event["listens"] == true), "{seen:?}");
    // it has not listened enough: so it does at the next start too
    let (_, seen, _) = started(&folder);
    assert!(seen.iter().any(|event| event["event"] == "listening"), "{seen:?}");
}

#[test]
fn a_lost_ledger_and_damaged_blobs_come_back_from_the_others() {
    let _alone = alone();
    let theta = demo().1["theta_root"].as_str().unwrap().to_string();
    let dir = fresh("storage-back");
    for number in 1..=4 {
        copy(&node(&demo().0, number), &node(&dir, number));
    }
    let victim = node(&dir, 2);
    let ahead = text(&victim.join("ledger.redb"));
    fs::remove_file(&ahead).unwrap();
    let said = refused(&["node", &text(&victim)]);
    assert!(
        said.contains("the ledger's file was lost") && said.contains("`atoll repair"),
        "{said}"
    );
    // a ledger of no blocks is there now, and what the engine knows of it was noted
    let report = last_json(&well(&["repair", &text(&victim), "--json"]));
    assert_eq!(
        paths(&report),
        [ahead, text(&victim.join("consensus"))],
        "both go, and nothing else: {report}"
    );
    let charter = charter_file::read(&victim.join("charter.toml")).unwrap();
    let blobs = Folder::at(&victim);
    flip(&blobs.blob(&charter.data.manifest));
    let shard = fs::read_dir(victim.join("blobs/data"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let shard = shard.filter(|path| path.extension().is_some_and(|extension| extension == "data"));
    let shard = shard.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    fs::write(&shard, "cut").unwrap();
    fs::remove_file(blobs.blob(&theta.parse().unwrap())).unwrap();
    let others: Vec<Running> = [1, 3, 4].map(|number| Running::node(&node(&dir, number))).into();
    let mut back = Running::node(&victim);
    let done = back.wait_for("the end of the run", |event| event["event"] == "done");
    assert_eq!(done["theta"].as_str(), Some(theta.as_str()));
    back.wait_for("the mended manifest", |event| {
        event["event"] == "mended"
            && event["path"]
                .as_str()
                .unwrap()
                .contains(&charter.data.manifest.to_string())
    });
    let (status, seen, errors) = back.stop();
    assert!(status.success(), "{errors}");
    assert!(seen.iter().any(|event| event["listens"] == true), "{seen:?}");
    others.into_iter().for_each(|node| assert!(node.stop().0.success()));
}

#[test]
fn what_a_run_takes_is_said_before_and_is_what_it_takes() {
    let dir = &demo().0;
    for number in 1..=4 {
        let folder = Folder::at(node(dir, number));
        let charter = charter_file::read(&folder.charter()).unwrap();
        let corpus = corpus(&folder, &charter);
        let (said, took) = (cost::of(&charter).run + corpus, disk::usage(&folder).total());
        assert!(took <= said, "node {number}: took {took}, said {said}");
        assert!(took * 3 >= said, "node {number}: took {took}, said {said}");
    }
    let folder = fresh("storage-cost").join("me");
    let key = last_json(&well(&["init", &text(&folder), "--json"]))["key"]
        .as_str()
        .unwrap()
        .to_string();
    let member = format!("me={key}");
    let found = [
        "found",
        &text(&folder),
        "--member",
        &member,
        "--rounds",
        "1000",
        "--json",
    ];
    let cost = &last_json(&well(&found))["cost"];
    let bytes = |key: &str| cost[key].as_u64().unwrap_or_else(|| panic!("{key}: {cost}"));
    assert!(bytes("run") > bytes("corpus") + bytes("checkpoint") && bytes("round") > bytes("round_kept"));
    assert!(
        bytes("run") < 300_000_000,
        "with the default retention a thousand rounds do not take a gigabyte: {cost}"
    );
}

/// Bytes of the corpus in a folder: all that is no contribution, θ or matrix is there before the first round.
fn corpus(folder: &Folder, charter: &atoll_protocol::Charter) -> u64 {
    let manifest = fs::read(folder.blob(&charter.data.manifest)).unwrap();
    let value: Value = serde_json::from_slice(&manifest).unwrap();
    let shards = ["train", "held_out"]
        .iter()
        .flat_map(|part| value[*part].as_array().unwrap());
    let shard = |shard: &Value| folder.blob(&shard["blake3"].as_str().unwrap().parse().unwrap());
    let shards: u64 = shards.map(|found| fs::metadata(shard(found)).unwrap().len()).sum();
    shards + manifest.len() as u64 + fs::metadata(folder.blob(&charter.model.tokenizer)).unwrap().len()
}

#[test]
fn a_folder_in_use_is_not_repaired() {
    let _alone = alone();
    let folder = copied("storage-in-use", 3);
    let mut running = Running::node(&folder);
    running.wait_for("its start", |event| event["event"] == "started");
    for arguments in [&["repair", &text(&folder)][..], &["repair", &text(&folder), "--check"]] {
        assert!(refused(arguments).contains("in use by another atoll process"));
    }
    assert!(running.stop().0.success());
}

#[test]
fn what_is_no_nodes_folder_is_left_as_it_is() {
    let empty = fresh("storage-empty");
    for arguments in [vec!["repair", "--check"], vec!["repair"]] {
        let said = refused(&[&arguments[..], &[&text(&empty)]].concat());
        assert!(said.contains("holds no node's folder; nothing was changed"), "{said}");
        let said = refused(&[&arguments[..], &[&text(&demo().0)]].concat());
        assert!(said.contains("name one of them") && said.contains("node-2"), "{said}");
    }
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "not even a lock");
    assert!(!demo().0.join("lock").exists());
}

/// A copy of a finished node's folder.
fn node_copy(name: &str) -> PathBuf {
    let folder = fresh(name).join("node-1");
    copy(&node(&demo().0, 1), &folder);
    folder
}

#[test]
fn a_node_that_lost_its_votes_in_whatever_way_listens_first() {
    let _alone = alone();
    let folder = node_copy("storage-votes");
    fs::remove_dir_all(folder.join("consensus")).unwrap();
    let mut running = Running::node(&folder);
    let told = running.wait_for("a word on its votes", |event| event["event"] == "listening");
    assert_eq!(told["listens"], true, "{told}");
    assert!(running.stop().0.success());
    // nor does the next start forget it
    let mut running = Running::node(&folder);
    running.wait_for("the same word", |event| {
        event["event"] == "listening" && event["listens"] == true
    });
    assert!(running.stop().0.success());
}

#[test]
fn an_index_of_blobs_is_made_again_also_below_a_relative_path_and_after_a_stop_in_the_middle() {
    let _alone = alone();
    let folder = node_copy("storage-index");
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    let relative = up.join(folder.strip_prefix("/").unwrap());
    let begin = || {
        let arguments = ["node", &text(&relative), "--json", "--stop-with-stdin"];
        let mut running = Running::start(&arguments, &folder.with_extension("stderr"));
        let told = running.wait_for("a word on the index", |event| event["event"] == "mended");
        assert!(told["path"].as_str().unwrap().ends_with("blobs/blobs.db"), "{told}");
        running.wait_for("the tokenizer and the corpus", |event| event["event"] == "traffic");
        assert!(running.stop().0.success());
        assert!(!folder.join("blobs.rebuilding").exists());
        assert!(well(&["audit", &text(&folder)]).status.success());
    };
    fs::remove_file(folder.join("blobs/blobs.db")).unwrap();
    begin();
    fs::write(folder.join("blobs.rebuilding"), "").unwrap();
    begin();
}
