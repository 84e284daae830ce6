//! Nodes that are killed, and demos that are interrupted: the others go on, whoever comes back catches
//! up, and the audit holds.

#![cfg(target_os = "linux")] // whose /proc tells which processes there are

mod support;

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};
use support::{Running, alone, children_of, events, fresh, last_json, node, signal, text, until, well};

fn is(event: &Value, kind: &str) -> bool {
    event["event"] == kind
}

fn in_round(event: &Value, kind: &str, round: u64) -> bool {
    is(event, kind) && event["round"] == round
}

fn merged(event: &Value, name: &str) -> bool {
    event["merged"]
        .as_array()
        .unwrap()
        .iter()
        .any(|entry| entry["peer"] == name)
}

/// Starts a demo and interrupts it as soon as every node's log `is_far`. All of its processes must end,
/// with status 130, and every folder must be sealed and pass the audit.
fn interrupted(dir: &Path, rounds: &str, steps: &str, is_far: impl Fn(&[Value]) -> bool) {
    let place = text(dir);
    let arguments = [
        "demo",
        "--peers",
        "4",
        "--rounds",
        rounds,
        "--inner-steps",
        steps,
        "--dir",
        &place,
        "--json",
    ];
    let running = Running::start(&arguments, &dir.with_extension("stderr"));
    let logs = || (1..=4).map(|number| events(&node(dir, number))).collect::<Vec<_>>();
    until(
        "progress of every node",
        || logs().iter().all(|log| is_far(log)).then_some(()),
        || format!("{:?}\n{}", logs(), running.errors()),
    );
    let nodes = children_of(running.id());
    assert_eq!(nodes.len(), 4, "a process per node");
    signal("-INT", running.id());
    let (status, _, errors) = running.ended();
    assert_eq!(status.code(), Some(130), "{errors}");
    assert!(errors.contains("goes on from here"), "{errors}");
    for process in nodes {
        assert!(
            !Path::new(&format!("/proc/{process}")).exists(),
            "node process {process} is still there"
        );
    }
    let report = last_json(&well(&["audit", &place, "--json"]));
    assert!(
        report["folders"]
            .as_array()
            .unwrap()
            .iter()
            .all(|folder| folder["sealed"] == true),
        "{report}"
    );
}

/// Folders of four nodes that know each other, as an interrupted demo leaves them.
fn prepared(name: &str, rounds: &str, steps: &str) -> PathBuf {
    let dir = fresh(name).join("D");
    interrupted(&dir, rounds, steps, |log| log.iter().any(|event| is(event, "started")));
    dir
}

/// Asks all to end; all must end well. The folder must pass the audit with one θ. Gives its report.
fn stop_and_audit(dir: &Path, nodes: Vec<Running>) -> Value {
    for running in nodes {
        let (status, seen, errors) = running.stop();
        assert!(status.success(), "{status}: {errors}");
        assert!(
            !seen.iter().any(|event| is(event, "excluded")),
            "nobody said two things"
        );
    }
    let report = last_json(&well(&["audit", &text(dir), "--json"]));
    let folders = report["folders"].as_array().unwrap();
    assert!(
        folders
            .iter()
            .all(|folder| folder["sealed"] == true && folder["theta_root"] == folders[0]["theta_root"])
    );
    for number in 1..=4 {
        let excluded: Vec<_> = events(&node(dir, number))
            .into_iter()
            .filter(|event| is(event, "excluded"))
            .collect();
        assert!(excluded.is_empty(), "{excluded:?}");
    }
    report
}

fn done(nodes: &mut [Running]) {
    let thetas: Vec<Value> = nodes
        .iter_mut()
        .map(|running| running.wait_for("done", |event| is(event, "done"))["theta"].clone())
        .collect();
    assert!(
        thetas.iter().all(|theta| *theta == thetas[0] && theta.is_string()),
        "{thetas:?}"
    );
}

#[test]
fn three_go_on_without_a_killed_node_which_catches_up_when_it_comes_back() {
    let _alone = alone();
    let dir = prepared("faults-one", "10", "50");
    let mut nodes: Vec<Running> = (1..=4).map(|number| Running::node(&node(&dir, number))).collect();
    // The first of fifty, be it taken ahead: whoever waits for slower ones may take all of them ahead.
    nodes[3].wait_for("a step of round 1", |event| in_round(event, "step", 1));
    let victim = nodes.pop().unwrap().kill();
    assert!(
        !victim.iter().any(|event| in_round(event, "trained", 1)),
        "killed in the middle of its round"
    );
    // Two rounds: after one it could still merge what it missed, now it must fetch θ, and that later.
    for running in &mut nodes {
        for number in [1, 2] {
            let round = running.wait_for("the end of a round", |event| in_round(event, "round", number));
            assert_eq!(round["outcome"], "closed", "{round}");
            assert!(!merged(&round, "node-4") && merged(&round, "node-1"), "{round}");
        }
    }
    let mut back = Running::node(&node(&dir, 4));
    let later = back.wait_for("a later round with node 4 in it", |event| {
        is(event, "round") && merged(event, "node-4") && event["round"].as_u64() > Some(2)
    });
    println!("node 4 is merged again in round {}", later["round"]);
    nodes.push(back);
    done(&mut nodes);
    let log = || events(&node(&dir, 4));
    until(
        "what node 4 missed",
        || {
            let last = log().into_iter().rfind(|event| is(event, "backfill"))?;
            (last["missing"] == 0).then_some(())
        },
        || format!("{:?}", log()),
    );
    let report = stop_and_audit(&dir, nodes);
    let folder = &report["folders"][3];
    assert_eq!(folder["merges_recomputed"], folder["rounds_closed"], "{folder}");
}

#[test]
fn a_run_whose_nodes_were_all_killed_at_once_goes_on_to_its_end() {
    let _alone = alone();
    let dir = prepared("faults-all", "4", "50");
    let mut nodes: Vec<Running> = (1..=4).map(|number| Running::node(&node(&dir, number))).collect();
    nodes[0].wait_for("the opening of round 1", |event| in_round(event, "round_opened", 1));
    for running in &nodes {
        signal("-KILL", running.id());
    }
    nodes.into_iter().for_each(|running| drop(running.kill()));
    let report = last_json(&well(&["audit", &text(&dir), "--json"]));
    assert!(
        report["folders"]
            .as_array()
            .unwrap()
            .iter()
            .all(|folder| folder["sealed"] == false),
        "{report}"
    );
    let status = last_json(&well(&["status", &text(&dir), "--json"]));
    assert_eq!(
        (&status["round"], &status["running"]),
        (&1.into(), &false.into()),
        "{status}"
    );

    let mut nodes: Vec<Running> = (1..=4).map(|number| Running::node(&node(&dir, number))).collect();
    let last = nodes[0].wait_for("the last round", |event| in_round(event, "round", 3));
    assert_eq!(last["outcome"], "closed", "{last}");
    done(&mut nodes);
    stop_and_audit(&dir, nodes);
}

#[test]
fn an_interrupted_demo_leaves_no_process_and_goes_on_when_started_again() {
    let _alone = alone();
    let dir = fresh("faults-interrupt").join("D");
    interrupted(&dir, "3", "4", |log| log.iter().any(|event| in_round(event, "step", 1)));
    let before = fs::read_to_string(node(&dir, 1).join("events.jsonl")).unwrap();
    let result = last_json(&well(&["demo", "--dir", &text(&dir), "--json"]));
    assert_eq!(
        (&result["rounds"], &result["audit_ok"]),
        (&3.into(), &true.into()),
        "{result}"
    );
    let after = fs::read_to_string(node(&dir, 1).join("events.jsonl")).unwrap();
    assert!(after.starts_with(&before), "the log goes on");
    let rounds: Vec<Value> = events(&node(&dir, 1))
        .into_iter()
        .filter(|event| is(event, "round"))
        .map(|event| event["round"].clone())
        .collect();
    assert_eq!(rounds, [0, 1, 2], "every round once");
}
