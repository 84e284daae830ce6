//! What a node says while it waits: for what, from whom, since when; and who is found again that moved.

mod support;

use atoll_host::{folder::Folder, network::Settings};
use serde_json::Value;
use std::{fs, path::Path};
use support::{Running, alone, copy, demo, fresh, last_json, node, text, well};

/// Copies of nodes of a finished demo, to run a few of them.
fn copies(name: &str, numbers: &[usize]) -> std::path::PathBuf {
    let dir = fresh(name);
    for number in numbers {
        copy(&node(&demo().0, *number), &node(&dir, *number));
    }
    dir
}

fn status(folder: &Path) -> Value {
    last_json(&well(&["status", &text(folder), "--json"]))
}

/// The status of a running node, once it says something of `key`.
fn status_with(folder: &Path, fits: impl Fn(&Value) -> bool) -> Value {
    support::until(
        "the status",
        || Some(status(folder)).filter(&fits),
        || status(folder).to_string(),
    )
}

fn waits_for<'a>(status: &'a Value, what: &str) -> Option<&'a Value> {
    let waits = status["waits"].as_array()?;
    waits
        .iter()
        .find(|wait| wait["what"].as_str().is_some_and(|found| found.contains(what)))
}

#[test]
fn a_node_without_a_quorum_names_who_is_missing_in_its_events_and_its_status() {
    let _alone = alone();
    let dir = copies("waits-quorum", &[1]);
    let folder = node(&dir, 1);
    let addresses = Settings::read(&Folder::at(&folder).settings()).unwrap().peers;
    let mut running = Running::node(&folder);
    let told = running.wait_for("a word on the quorum", |event| event["event"] == "waiting");
    assert_eq!(told["what"], "a quorum of connected members");
    let said = told["text"].as_str().unwrap();
    assert!(
        said.contains("1 of 4 are here, this node included; 3 are needed"),
        "{said}"
    );
    for (number, address) in (2..=4).zip(addresses.values()) {
        assert!(said.contains(&format!("node-{number} (")), "{said}");
        assert!(addresses.len() == 3 && said.contains(&address.to_string()), "{said}");
    }
    let seen = status_with(&folder, |status| waits_for(status, "a quorum").is_some());
    assert_eq!(
        (&seen["needed"], &seen["members"], &seen["running"]),
        (&3.into(), &4.into(), &true.into())
    );
    assert!(seen["connected"].as_array().unwrap().is_empty());
    assert!(
        seen["block_age_ms"].as_u64().unwrap() > 0 && seen["word_age_ms"].is_u64(),
        "{seen}"
    );
    assert_eq!(
        seen["last_rounds"].as_array().unwrap().len(),
        2,
        "loss while it runs: {seen}"
    );
    let printed = String::from_utf8(well(&["status", &text(&folder)]).stdout).unwrap();
    for part in [
        "connected   0 of 3 others; 3 members are needed",
        "waits       waiting for a quorum",
        "train loss",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let said = support::refused(&["audit", &text(&dir)]);
    assert!(
        said.contains("is in use"),
        "no fault, and nothing was hashed before: {said}"
    );
    let (ended, ..) = running.stop();
    assert!(ended.success());
}

#[test]
fn a_member_whose_founder_is_away_says_what_it_waits_for_and_from_whom() {
    let dir = fresh("waits-founder");
    let place = |name: &str| text(&dir.join(name));
    let key = |name: &str| {
        let made = last_json(&well(&["init", &place(name), "--json"]));
        made["key"].as_str().unwrap().to_string()
    };
    let (a, b) = (key("a"), key("b"));
    let members = [format!("ada={a}"), format!("bob={b}")];
    well(&[
        "found",
        &place("a"),
        "--member",
        &members[0],
        "--member",
        &members[1],
        "--rounds",
        "1",
    ]);
    well(&["init", &place("b"), "--charter", &text(&dir.join("a/charter.toml"))]);
    let address = "localhost:9"; // a name, behind which nobody answers
    let arguments = [
        "node",
        &place("b"),
        "--json",
        "--stop-with-stdin",
        "--bind",
        "localhost:0",
        "--peer",
    ];
    let peer = format!("{a}={address}");
    let mut running = Running::start(&[&arguments[..], &[&peer]].concat(), &dir.join("b.stderr"));
    let of_corpus = |event: &Value| event["event"] == "waiting" && event["what"] == "the tokenizer";
    let told = running.wait_for("a word on what it waits for", of_corpus);
    let said = told["text"].as_str().unwrap();
    assert!(
        said.contains("from ada (localhost:9)") && said.contains("--peer KEY=ADDRESS:PORT"),
        "{said}"
    );
    let seen = status_with(&dir.join("b"), |status| waits_for(status, "the tokenizer").is_some());
    let wait = waits_for(&seen, "the tokenizer").unwrap();
    assert!(wait["heard"].as_str().is_some_and(|heard| heard.contains("not served")) || wait["heard"].is_null());
    assert!(running.stop().0.success());
}

#[test]
fn a_node_that_moved_is_found_by_those_who_know_its_old_address() {
    let _alone = alone();
    let dir = copies("waits-moved", &[1, 2]);
    let (one, two) = (node(&dir, 1), node(&dir, 2));
    let connected = |count: u64| move |event: &Value| event["event"] == "traffic" && event["connected"] == count;
    let mut stays = Running::node(&one);
    let mut moves = Running::node(&two);
    stays.wait_for("the other", connected(1));
    moves.wait_for("the other", connected(1));
    assert!(moves.stop().0.success());
    let before = stays.seen().len();
    stays.wait_for("its absence", connected(0));
    let moved = [
        "node",
        &text(&two),
        "--json",
        "--stop-with-stdin",
        "--bind",
        "127.0.0.1:0",
    ];
    let mut moved = Running::start(&moved, &two.with_extension("stderr"));
    moved.wait_for("the way back", connected(1));
    stays.wait_new("the one that moved", before, |events| {
        let away = events.iter().rposition(connected(0));
        away.is_some_and(|away| events[away..].iter().any(connected(1)))
    });
    assert!(moved.stop().0.success() && stays.stop().0.success());
}

#[test]
fn a_key_that_runs_twice_is_named_by_the_nodes_that_have_it() {
    let _alone = alone();
    let dir = copies("waits-twin", &[1, 2]);
    let twin = dir.join("backup-of-2");
    copy(&node(&dir, 2), &twin);
    let bind = |folder: &Path| {
        let arguments = [
            "node",
            &text(folder),
            "--json",
            "--stop-with-stdin",
            "--bind",
            "127.0.0.1:0",
        ];
        Running::start(&arguments, &folder.with_extension("stderr"))
    };
    let third = Running::node(&node(&dir, 1));
    let (mut one, mut other) = (bind(&node(&dir, 2)), bind(&twin));
    let is_twin = |event: &Value| event["event"] == "twin";
    let told = support::until(
        "a word on the twin",
        || {
            [&mut one, &mut other]
                .into_iter()
                .find_map(|running| running.has(is_twin))
        },
        || fs::read_to_string(dir.join("backup-of-2/events.jsonl")).unwrap_or_default(),
    );
    assert!(
        told["text"]
            .as_str()
            .unwrap()
            .contains("another process runs with this node's key"),
        "{told}"
    );
    drop((one, other, third));
}
