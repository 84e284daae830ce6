//! Real nodes of which one lies: who is put out and why can be read from the ledger alone, the guilty may object, and
//! an honest node that loses its power in the middle is not taken for a liar.

#![cfg(target_os = "linux")] // as the other tests with many processes

mod support;

use serde_json::Value;
use std::path::Path;
use support::{Running, alone, events, fresh, last_json, node, text, well};

/// What the audit lists of contributions that did not count and peers that were put out, by the first node's ledger.
fn outs(dir: &Path) -> Vec<(String, String, String)> {
    let report = last_json(&well(&["audit", &text(dir), "--json"]));
    assert_eq!(report["ok"], true, "{report}");
    let word = |out: &Value, key: &str| out[key].as_str().unwrap().to_string();
    let outs = report["folders"][0]["outs"].as_array().unwrap();
    outs.iter()
        .map(|out| (word(out, "peer"), word(out, "what"), word(out, "reason")))
        .collect()
}

#[test]
fn a_liar_is_put_out_by_the_ledger_and_may_object() {
    let _alone = alone();
    let dir = fresh("liars-one").join("D");
    let place = text(&dir);
    let demo = [
        "demo",
        "--peers",
        "5",
        "--rounds",
        "8",
        "--inner-steps",
        "10",
        "--liars",
        "sign-flip",
        "--seed",
        "1",
        "--dir",
        &place,
        "--json",
    ];
    let ended = well(&demo);
    let (result, complaints) = (last_json(&ended), support::stderr(&ended));
    assert_eq!(result["audit_ok"], true, "{result}");
    // what is refused because its author is suspended is no news; whatever is said has a node's name in front
    assert!(
        !complaints.contains("found guilty") && !complaints.contains('\u{1b}'),
        "{complaints}"
    );
    assert!(complaints.lines().all(|line| line.starts_with("node-")), "{complaints}");
    assert_eq!(result["excluded_honest"], Value::Array(vec![]), "{result}");
    assert_eq!(
        (&result["caught"][0]["peer"], &result["caught"][0]["liar"]),
        (&"node-5".into(), &"sign-flip".into()),
        "{result}"
    );

    let listed = outs(&dir);
    let about = |what: &str| listed.iter().find(|(_, found, _)| found == what);
    let (peer, _, why) = about("suspended").unwrap_or_else(|| panic!("{listed:?}"));
    assert!(peer == "node-5" && why.contains("was made again by"), "{why}");
    let (peer, ..) = about("taken out").unwrap_or_else(|| panic!("{listed:?}"));
    assert_eq!(peer, "node-5");
    assert!(listed.iter().all(|(peer, ..)| peer == "node-5"), "{listed:?}");

    // everybody is up once more, and the guilty has something to say
    let mut nodes: Vec<Running> = (1..=4).map(|number| Running::node(&node(&dir, number))).collect();
    let place_of_five = text(&node(&dir, 5));
    let objects = [
        "node",
        &place_of_five,
        "--json",
        "--stop-with-stdin",
        "--appeal",
        "my clock was wrong",
    ];
    nodes.push(Running::start(&objects, &dir.join("appeal.stderr")));
    for running in &mut nodes {
        let said = running.wait_for("the objection", |event| event["event"] == "appealed");
        assert_eq!(
            (&said["peer"], &said["reason"]),
            (&"node-5".into(), &"my clock was wrong".into())
        );
    }
    for running in nodes {
        let (status, _, errors) = running.stop();
        assert!(status.success(), "{status}: {errors}");
    }
    let listed = outs(&dir);
    let objection = listed.iter().find(|(_, what, _)| what == "objects");
    let (peer, _, why) = objection.unwrap_or_else(|| panic!("{listed:?}"));
    assert!(peer == "node-5" && why.contains("my clock was wrong"), "{why}");
    let why = last_json(&well(&["why", &place, "node-5", "--json"]));
    assert!(why["excluded"].is_string() && why["objects"].as_str().unwrap().contains("my clock was wrong"));
    let status = last_json(&well(&["status", &place, "--json"]));
    let five = status["peers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|peer| peer["name"] == "node-5");
    assert_eq!(five.unwrap()["objects"]["reason"], "my clock was wrong");
}

/// Where everything is made again, a node is killed as soon as it has trained, each time it comes back: the state that
/// it named or did not name, and what is on its disk, still belong together, and nobody finds anything wrong.
#[test]
fn who_loses_its_power_is_not_taken_for_a_liar() {
    let _alone = alone();
    let dir = fresh("liars-power").join("D");
    let place = text(&dir);
    let demo = [
        "demo",
        "--peers",
        "4",
        "--rounds",
        "8",
        "--inner-steps",
        "25",
        "--audits",
        "--dir",
        &place,
        "--json",
    ];
    // made, and stopped at once: the nodes are then run one by one
    let running = Running::start(&demo, &dir.with_extension("stderr"));
    support::until(
        "every node's start",
        || {
            (1..=4)
                .all(|number| !events(&node(&dir, number)).is_empty())
                .then_some(())
        },
        || running.errors(),
    );
    support::signal("-INT", running.id());
    running.ended();

    let mut nodes: Vec<Running> = (1..=3).map(|number| Running::node(&node(&dir, number))).collect();
    for kind in ["trained", "step", "trained"] {
        let mut victim = Running::node(&node(&dir, 4));
        victim.wait_for("work of node 4", |event| event["event"] == kind);
        victim.kill();
    }
    nodes.push(Running::node(&node(&dir, 4)));
    for running in &mut nodes {
        running.wait_for("the end", |event| event["event"] == "done");
    }
    let mut verified = 0;
    for running in nodes {
        let (status, seen, errors) = running.stop();
        assert!(status.success(), "{status}: {errors}");
        let wrong: Vec<_> = seen
            .iter()
            .filter(|event| event["event"] == "convicted" || event["event"] == "excluded")
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        let of_four = |event: &&Value| event["event"] == "verified" && event["peer"] == "node-4";
        let same = |event: &&Value| event["finding"].as_str().unwrap().contains("same");
        let found: Vec<_> = seen.iter().filter(of_four).collect();
        assert!(found.iter().all(same), "{found:?}");
        verified = verified.max(found.len());
    }
    assert!(verified > 0, "nobody made anything of node 4 again");
    let listed = outs(&dir);
    let put_out = |what: &str| ["suspended", "excluded", "unserved", "taken out"].contains(&what);
    assert!(!listed.iter().any(|(_, what, _)| put_out(what)), "{listed:?}");
}
