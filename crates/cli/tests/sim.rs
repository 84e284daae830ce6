//! `atoll sim` as a user has it: what it prints, what it writes, how it ends.

mod support;

use std::fs;
use support::{atoll, fresh, last_json, refused, text, well};

fn said(arguments: &[&str]) -> String {
    String::from_utf8_lossy(&well(arguments).stdout).into_owned()
}

#[test]
fn a_run_ends_with_one_json_line_and_repeats() {
    let run = |seed: &str| last_json(&well(&["sim", "calm", "--seed", seed, "--json"]));
    let (first, second) = (run("7"), run("7"));
    assert_eq!(first["trace_hash"], second["trace_hash"]);
    assert_eq!((&first["nodes"], &first["rounds"]), (&4.into(), &12.into()));
    assert_eq!(first["violations"], serde_json::json!([]));
    assert!(
        first["wall_s"].as_f64().unwrap() > 0.0 && first["virtual_s"].as_f64().unwrap() > 10.0,
        "{first}"
    );
    assert_ne!(first["trace_hash"], run("8")["trace_hash"]);
}

#[test]
fn people_get_a_timeline_and_a_picture() {
    let folder = fresh("sim-picture");
    let picture = folder.join("calm.svg");
    let told = said(&["sim", "calm", "--svg", &text(&picture)]);
    assert!(
        told.contains("round  11") && told.contains("  node-3   █") && told.contains("everything held"),
        "{told}"
    );
    assert!(fs::read_to_string(&picture).unwrap().starts_with("<svg"));
    let list = said(&["sim", "--list"]);
    assert!(list.contains("thousand-1000") && list.contains("wild"), "{list}");
}

#[test]
fn what_does_not_hold_is_named_made_small_and_can_be_seen_again() {
    let folder = fresh("sim-fails");
    let (file, small) = (folder.join("fails.toml"), folder.join("small.toml"));
    let scenario = "name = \"fails\"\nabout = \"nothing can be merged in time\"\nnodes = 5\nrounds = 6\n\
                    [link]\nlatency_ms = [50000, 60000]\n[hold]\ndeadlines_per_round = 1.0\n\
                    [[event]]\nat_s = 5\ndo = \"crash\"\nwho = [1, 2]\nfor_s = 9\n";
    fs::write(&file, scenario).unwrap();
    let ended = atoll(&["sim", &text(&file), "--seed", "3", "--smallest", &text(&small)]);
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("stuck") && said.contains("--seed 3"), "{said}");
    let shrunk = fs::read_to_string(&small).unwrap();
    assert!(
        shrunk.contains("rounds = 1") && !shrunk.contains("[[event]]"),
        "{shrunk}"
    );
    let again = atoll(&["sim", &text(&small), "--seed", "3", "--json"]);
    let line = last_json(&again);
    assert_eq!(
        (again.status.code(), &line["violations"][0]["rule"]),
        (Some(1), &"stuck".into())
    );
}

#[test]
fn bad_scenarios_are_refused_with_field_and_value() {
    let folder = fresh("sim-bad");
    let file = folder.join("bad.toml");
    for (text_of, part) in [
        (
            "name = \"x\"\nabout = \"\"\nnodes = 0\nrounds = 1\n",
            "nodes = 0: from 1 to 1024 is allowed",
        ),
        ("name = \"x\"\n", "bad.toml: line 1: missing field `about`"),
        ("nodes = [", "bad.toml: line 1: "),
    ] {
        fs::write(&file, text_of).unwrap();
        let said = refused(&["sim", &text(&file)]);
        assert!(said.contains(part), "{said}");
    }
    assert!(refused(&["sim", "no-such-scenario"]).contains("atoll sim --list"));
}
