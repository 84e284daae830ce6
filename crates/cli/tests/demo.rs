//! The demo from end to end: it trains, agrees, audits itself, and can be used, repeated and gone on with.

mod support;

use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};
use support::{atoll, demo, fresh, last_json, refused, text, tree, well};

fn node(dir: &Path, number: u32) -> String {
    text(&dir.join(format!("node-{number}")))
}

#[test]
fn it_trains_and_says_so_in_numbers() {
    let (dir, result) = demo();
    let number = |key: &str| result[key].as_f64().unwrap_or_else(|| panic!("{key} in {result}"));
    assert!(number("loss_end") < number("loss_start"), "{result}");
    assert_eq!((number("rounds"), number("peers")), (2.0, 4.0), "{result}");
    // int4 sends an eighth of f32 and some scales, so a dense exchange is at least five times as much
    assert!(number("bytes_per_peer_per_round") > 0.0);
    assert!(
        number("bytes_per_peer_per_round") * 5.0 < number("dense_bytes"),
        "{result}"
    );
    assert!(
        number("socket_bytes_sent") > 4.0 * number("bytes_per_peer_per_round"),
        "{result}"
    );
    assert_eq!(result["audit_ok"], true);
    let checkpoint = Path::new(result["checkpoint"].as_str().unwrap());
    assert!(
        checkpoint.starts_with(dir) && checkpoint.join("model.safetensors").is_file(),
        "{result}"
    );
}

#[test]
fn every_node_ends_with_the_same_parameters() {
    let (dir, result) = demo();
    let report = last_json(&well(&["audit", &text(dir), "--json"]));
    assert_eq!(
        (report["ok"].clone(), report["problems"].clone()),
        (true.into(), Value::Array(vec![]))
    );
    let folders = report["folders"].as_array().unwrap();
    assert_eq!(folders.len(), 4);
    for folder in folders {
        assert_eq!(folder["theta_root"], result["theta_root"], "{folder}");
        assert_eq!(folder["genesis"], result["genesis"], "{folder}");
        assert_eq!(
            (&folder["merges_recomputed"], &folder["sealed"]),
            (&2.into(), &true.into()),
            "{folder}"
        );
    }
}

#[test]
fn its_audit_notes_the_keys_and_nothing_else() {
    let told = well(&["audit", &text(&demo().0)]).stdout;
    let told = String::from_utf8(told).unwrap();
    assert!(told.ends_with("audit passed: every check holds\n"), "{told}");
    let about_keys = |line: &&str| line.ends_with("holds the secret key: give away what `atoll export` writes instead");
    let notes: Vec<&str> = told
        .lines()
        .filter(|line| line.trim_start().starts_with("note "))
        .collect();
    assert_eq!(notes.len(), 4, "a key in each folder: {told}");
    assert!(
        notes.iter().all(about_keys) && !told.contains("belongs to no node"),
        "{told}"
    );
}

#[test]
fn its_model_can_be_used_from_every_folder() {
    let (dir, result) = demo();
    let words = fresh("demo-words").join("words.txt");
    fs::write(
        &words,
        "A ledger is a list of blocks.\nA block is a list of transactions.\n",
    )
    .unwrap();
    let checkpoint = result["checkpoint"].as_str().unwrap().to_string();
    let mut seen = Vec::new();
    for place in [text(dir), node(dir, 2), checkpoint] {
        let made = last_json(&well(&[
            "generate",
            &place,
            "--prompt",
            "x",
            "--max-tokens",
            "5",
            "--json",
        ]));
        assert_eq!((&made["prompt"], &made["tokens"]), (&"x".into(), &5.into()), "{made}");
        let measured = last_json(&well(&["eval", &place, "--data", &text(&words), "--json"]));
        let loss = measured["nats_per_token"].as_f64().unwrap();
        assert!(
            loss > 0.0 && loss < 20.0 && measured["tokens"].as_u64() > Some(10),
            "{measured}"
        );
        seen.push((made["text"].clone(), measured["nats_per_token"].clone()));
    }
    assert!(
        seen.windows(2).all(|pair| pair[0] == pair[1]),
        "one model, one answer: {seen:?}"
    );
}

#[test]
fn its_status_is_told_for_the_whole_and_for_one_node() {
    let (dir, result) = demo();
    for place in [text(dir), node(dir, 2)] {
        let status = last_json(&well(&["status", &place, "--json"]));
        assert_eq!(
            (&status["theta_root"], &status["running"]),
            (&result["theta_root"], &false.into()),
            "{status}"
        );
        assert_eq!(
            (&status["phase"], &status["round"]),
            (&"finished".into(), &2.into()),
            "{status}"
        );
    }
    let told = well(&["status", &text(dir)]).stdout;
    let told = String::from_utf8_lossy(&told);
    assert!(
        told.contains("steps done\n") && !told.contains("0 steps a round"),
        "{told}"
    );
}

/// Every command, as quick as it can be; `fresh` is a folder that is not there.
#[cfg(target_os = "linux")]
fn commands(dir: &str, fresh: &str, data: &str) -> Vec<Vec<String>> {
    let node = format!("{dir}/node-1");
    let key = last_json(&well(&["init", &format!("{fresh}-founder"), "--json"]))["key"].clone();
    let member = format!("me={}", key.as_str().unwrap());
    let founder = format!("{fresh}-founder");
    [
        format!("demo --dir {dir}"),
        format!("demo --dir {dir} --json"),
        format!("init {fresh}-init"),
        format!("found {founder} --member {member} --rounds 1 --data {data}"),
        format!("audit {node}"),
        format!("audit {node} --json"),
        format!("generate {dir} --max-tokens 3"),
        format!("generate {dir} --max-tokens 3 --json"),
        format!("eval {dir} --data {data}"),
        "sim calm".into(),
        "sim calm --json".into(),
        "sim --list".into(),
        "sim --list --json".into(),
        "bench codec --parameters 4096 --runs 1".into(),
        "bench codec --parameters 4096 --runs 1 --json".into(),
        "bench weigh --parameters 65536 --replicas 2".into(),
        format!("calibrate {node} --steps 1 --write {fresh}-sample"),
        format!("status {dir}"),
        format!("why {dir} node-2"),
        "--help".into(),
        "--version".into(),
        "help sim".into(),
        "sim --help".into(),
    ]
    .map(|line| line.split(' ').map(str::to_string).collect())
    .to_vec()
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_nobody_reads_is_no_error_and_output_that_is_lost_is() {
    let home = fresh("demo-output");
    let dir = home.join("D");
    support::copy(&demo().0, &dir);
    let data = home.join("words.txt");
    let lines: String = (0..4000)
        .map(|i| format!("line {i} of a text, {}\n", i * i % 97))
        .collect();
    fs::write(&data, lines).unwrap();
    let ends = |arguments: &[String], out: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out)
            .output()
            .unwrap()
    };
    for arguments in commands(&text(&dir), &text(&home.join("closed")), &text(&data)) {
        let (reader, gone) = std::io::pipe().unwrap();
        drop(reader);
        let ended = ends(&arguments, gone.into());
        assert!(
            ended.status.success() && ended.stderr.is_empty(),
            "{arguments:?}: {ended:?}"
        );
    }
    for arguments in commands(&text(&dir), &text(&home.join("full")), &text(&data)) {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ended = ends(&arguments, full.into());
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}: {said}");
        assert_eq!(
            said.matches("cannot write to standard output").count(),
            1,
            "{arguments:?}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    }
}

/// Nobody reads what is wrong either: that is no reason to end otherwise.
#[cfg(target_os = "linux")]
#[test]
fn errors_that_cannot_be_said_are_no_panic() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for (arguments, status) in [
        (vec!["sim", "none"], 1),
        (vec!["status", "/nowhere"], 1),
        (vec!["none"], 2),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        let ended = command.args(&arguments).stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(ended.code(), Some(status), "{arguments:?}");
    }
}

#[test]
fn lists_in_the_help_come_from_the_code() {
    let help = |arguments: &[&str]| String::from_utf8(well(arguments).stdout).unwrap();
    let demo = help(&["demo", "--help"]);
    assert!(demo.contains("Rounds are counted from 0"), "{demo}");
    for liar in atoll_host::liars::Liar::ALL {
        assert!(demo.contains(liar.name()), "{liar}");
    }
    let unknown = atoll(&["demo", "--liars", "sign-flop"]);
    let said = support::stderr(&unknown);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(said.contains("sign-flip"), "what is near is named: {said}");
    let weigh = help(&["bench", "weigh", "--help"]);
    for rule in atoll_protocol::robust::Weighing::ALL {
        assert!(weigh.contains(rule.name()), "{}", rule.name());
    }
}

#[test]
fn rounds_are_counted_from_0_where_people_read_them() {
    let dir = fresh("demo-rounds").join("D");
    let arguments = [
        "demo",
        "--peers",
        "1",
        "--rounds",
        "2",
        "--inner-steps",
        "1",
        "--dir",
        &text(&dir),
    ];
    let told = String::from_utf8(atoll(&arguments).stdout).unwrap();
    let rows: Vec<&str> = told
        .lines()
        .skip_while(|line| !line.starts_with("round   train"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .collect();
    let numbers: Vec<_> = rows.iter().map(|row| row.split_whitespace().next().unwrap()).collect();
    assert_eq!(numbers, ["0", "1"], "{told}");
    for number in ["0", "1"] {
        let why = well(&["why", &text(&dir), "node-1", number]).stdout;
        let why = String::from_utf8(why).unwrap();
        assert!(why.contains(&format!("  round {number}")), "{why}");
    }
    assert!(dir.join("node-1/checkpoints/round-000001").is_dir());
}

#[test]
fn a_finished_demo_runs_again_without_training_and_refuses_other_numbers() {
    let dir = fresh("demo-again").join("D");
    support::copy(&demo().0, &dir);
    let before = tree(&dir);
    let said = refused(&["demo", "--rounds", "3", "--dir", &text(&dir)]);
    assert!(said.contains("--rounds 2, not 3"), "{said}");
    assert_eq!(tree(&dir), before, "nothing was changed");

    let arguments = [
        "demo",
        "--peers",
        "4",
        "--rounds",
        "2",
        "--inner-steps",
        "3",
        "--dir",
        &text(&dir),
        "--json",
    ];
    let again = last_json(&well(&arguments));
    for key in ["theta_root", "genesis", "rounds", "loss_start", "loss_end", "audit_ok"] {
        assert_eq!(again[key], demo().1[key], "{key}");
    }
    for number in 1..=4 {
        let told = support::events(&dir.join(format!("node-{number}")));
        assert_eq!(told.iter().filter(|event| event["event"] == "started").count(), 2);
        assert_eq!(
            told.iter().filter(|event| event["event"] == "trained").count(),
            2,
            "two rounds, once each"
        );
    }
}

#[test]
fn a_folder_that_is_no_demo_is_left_alone() {
    let dir = fresh("demo-foreign");
    fs::write(dir.join("letter.txt"), "dear").unwrap();
    let before = tree(&dir);
    let said = refused(&["demo", "--dir", &text(&dir)]);
    assert!(
        said.contains("not empty") && said.contains("nothing was changed"),
        "{said}"
    );
    assert_eq!(tree(&dir), before);
    assert_eq!(atoll(&["audit", &text(&dir)]).status.code(), Some(1));
}
