//! Signals work from the first second of a demo to its last: it ends in order at the first, at once at the second, and
//! leaves no process and no half of a folder behind.

#![cfg(target_os = "linux")] // whose /proc tells which processes there are

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
};
use support::{Running, alone, children_of, demo, events, fresh, last_json, node, signal, text, tree, until, well};

fn is_there(process: u32) -> bool {
    // one that has ended and waits to be reaped is gone for our purpose
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether these tests run below `nohup`, as then does all that they start.
fn hangups_are_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 1
}

fn gone(processes: &[u32]) {
    until(
        "the end of the nodes",
        || processes.iter().all(|process| !is_there(*process)).then_some(()),
        || format!("{processes:?}"),
    );
}

/// What a demo's start leaves under `home` when it is stopped: by a signal in the middle of making it, if `at` is there.
fn stopped_while_making(home: &Path, with: &str) -> (ExitStatus, PathBuf) {
    let dir = home.join("play");
    let place = text(&dir);
    let running = Running::start(
        &["demo", "--rounds", "1", "--dir", &place, "--json"],
        &home.with_extension("stderr"),
    );
    until(
        "the first key",
        || dir.join(".atoll-demo-partial/node-1/key").exists().then_some(()),
        || running.errors(),
    );
    signal(with, running.id());
    (running.ended().0, dir)
}

#[test]
fn a_demo_that_is_stopped_while_it_is_made_leaves_nothing() {
    let _alone = alone();
    let mut signals = vec![("-INT", 130), ("-TERM", 143)];
    if !hangups_are_ignored() {
        signals.push(("-HUP", 129));
    }
    for (name, status) in signals {
        let home = fresh(&format!("signals-making{name}"));
        fs::write(home.join("thesis.txt"), "years of work").unwrap();
        let (ended, _) = stopped_while_making(&home, name);
        assert_eq!(ended.code(), Some(status), "{name}");
        assert_eq!(support::files(&home), ["thesis.txt"]);
        assert!(!home.join("play").exists(), "{name}");
    }
}

#[test]
fn a_demo_that_is_killed_while_it_is_made_is_made_by_the_next_start() {
    let _alone = alone();
    let home = fresh("signals-killed");
    let (ended, dir) = stopped_while_making(&home, "-KILL");
    assert_eq!(ended.code(), None);
    assert!(dir.join(".atoll-demo-partial").is_dir());
    // another corpus than the killed start had
    let data = home.join("data.txt");
    let lines: String = (0..4000)
        .map(|i| format!("line {i} of a text, {}\n", i * i % 97))
        .collect();
    fs::write(&data, lines).unwrap();
    let arguments = [
        "demo",
        "--peers",
        "1",
        "--rounds",
        "1",
        "--inner-steps",
        "2",
        "--dir",
        &text(&dir),
        "--data",
        &text(&data),
        "--json",
    ];
    let result = last_json(&well(&arguments));
    assert_eq!(
        (&result["peers"], &result["audit_ok"]),
        (&1.into(), &true.into()),
        "{result}"
    );
    assert!(!dir.join(".atoll-demo-partial").exists());
}

#[test]
fn the_audit_of_a_finished_demo_can_be_stopped() {
    let _alone = alone();
    let dir = fresh("signals-audit").join("D");
    support::copy(&demo().0, &dir);
    let place = text(&dir);
    let running = Running::start(&["demo", "--dir", &place, "--json"], &dir.with_extension("stderr"));
    let sealed = |number| node(&dir, number).join("seal").exists();
    until(
        "the start of the nodes",
        || {
            (1..=4)
                .all(|number| events(&node(&dir, number)).len() > demo_events(number))
                .then_some(())
        },
        || running.errors(),
    );
    // all have ended when all are sealed and no process is left: from then on it audits
    until(
        "the end of the nodes",
        || ((1..=4).all(sealed) && children_of(running.id()).is_empty()).then_some(()),
        || running.errors(),
    );
    signal("-INT", running.id());
    let (status, said, errors) = running.ended();
    assert_eq!((status.code(), said), (Some(130), vec![]), "{errors}");
}

/// How many events node `number` of the finished demo has told.
fn demo_events(number: usize) -> usize {
    events(&demo().0.join(format!("node-{number}"))).len()
}

#[test]
fn a_second_signal_ends_at_once_and_leaves_no_node() {
    let _alone = alone();
    let dir = fresh("signals-second").join("D");
    let place = text(&dir);
    let arguments = ["demo", "--rounds", "50", "--dir", &place, "--json"];
    let running = Running::start(&arguments, &dir.with_extension("stderr"));
    until(
        "a step of every node",
        || {
            (1..=4)
                .all(|number| events(&node(&dir, number)).iter().any(|event| event["event"] == "step"))
                .then_some(())
        },
        || running.errors(),
    );
    let nodes = children_of(running.id());
    assert_eq!(nodes.len(), 4);
    // a node that does not end when it is asked to
    signal("-STOP", nodes[2]);
    signal("-INT", running.id());
    until(
        "the end of the others",
        || (nodes.iter().filter(|process| is_there(**process)).count() == 1).then_some(()),
        || running.errors(),
    );
    signal("-INT", running.id());
    let (status, _, errors) = running.ended();
    assert_eq!(status.code(), Some(130), "{errors}");
    gone(&nodes);
}

#[test]
fn a_node_that_dies_is_named_with_its_last_words_and_its_log() {
    let _alone = alone();
    let dir = fresh("signals-dies").join("D");
    support::copy(&demo().0, &dir);
    // its private state is damaged: it refuses to start
    let private = node(&dir, 3).join("trainer.bin");
    let mut bytes = fs::read(&private).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&private, bytes).unwrap();
    let ended = support::atoll(&["demo", "--dir", &text(&dir), "--json"]);
    let said = support::stderr(&ended);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap();
    for part in [
        "atoll: node-3 ended before the run was done: ",
        "trainer.bin is damaged",
        "node-3/events.jsonl",
    ] {
        assert!(last.contains(part), "{part}: {said}");
    }
    let own = said.lines().filter(|line| line.starts_with("node-3: ")).count();
    assert!(own >= 1, "its own line has its name in front: {said}");
    assert!(!said.contains('\u{1b}'), "no colours in a pipe: {said}");
}

#[test]
fn a_bench_that_is_stopped_goes_on_where_it_was() {
    let out = fresh("signals-bench").join("out");
    let arguments = ["bench", "convergence", "--json", "--threads", "1", "--out", &text(&out)];
    let mut running = Running::start(&arguments, &out.with_extension("stderr"));
    running.wait_for("a run", |line| line["result"].is_object());
    signal("-INT", running.id());
    let (status, lines, errors) = running.ended();
    assert_eq!(status.code(), Some(130), "{errors}");
    assert!(errors.contains("the same command goes on where it was"), "{errors}");
    let kept = fs::read_to_string(out.join("results.jsonl")).unwrap();
    assert_eq!(
        kept.lines().count(),
        lines.len(),
        "every run that was told is kept: {kept}"
    );
    assert_eq!(support::files(&out), ["plot.svg", "results.jsonl", "table.md"]);
    // its own files do not stop it; it begins with the run after the last
    let mut again = Running::start(&arguments, &out.with_extension("stderr"));
    let next = again.wait_for("another run", |line| line["result"].is_object());
    assert!(lines.iter().all(|line| line["spec"] != next["spec"]), "{next}");
    signal("-TERM", again.id());
    assert_eq!(again.ended().0.code(), Some(143));
}

#[test]
fn who_is_told_to_outlive_the_terminal_does() {
    let _alone = alone();
    let dir = fresh("signals-nohup").join("D");
    let errors = dir.with_extension("stderr");
    let log = fs::File::create(&errors).unwrap();
    let mut child = std::process::Command::new("nohup")
        .arg(support::PROGRAM)
        .args(["demo", "--rounds", "50", "--dir", &text(&dir), "--json"])
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let told = || fs::read_to_string(&errors).unwrap_or_default();
    until(
        "the start of the nodes",
        || {
            (1..=4)
                .all(|number| !events(&node(&dir, number)).is_empty())
                .then_some(())
        },
        told,
    );
    signal("-HUP", child.id());
    let steps = || {
        events(&node(&dir, 1))
            .iter()
            .filter(|event| event["event"] == "step")
            .count()
    };
    let before = steps();
    until("another step", || (steps() > before).then_some(()), told);
    signal("-TERM", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(143), "{}", told());
    let before = tree(&dir);
    assert!(
        before.keys().filter(|path| path.ends_with("/seal")).count() == 4,
        "ended in order: {before:?}"
    );
}
