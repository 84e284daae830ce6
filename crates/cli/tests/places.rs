//! Nothing of somebody else's is touched, wherever a command is told to write.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use support::{PROGRAM, alone, copy, demo, fresh, last_json, node, refused, stderr, text, tree, well};

/// The smallest demo at `dir`, started in the folder `home`.
fn smallest(home: &Path, dir: &std::ffi::OsStr) -> std::process::Output {
    let lines: String = (0..4000)
        .map(|i| format!("line {i} of a text, {}\n", i * i % 97))
        .collect();
    let data = home.with_extension("txt");
    fs::write(&data, lines).unwrap();
    Command::new(PROGRAM)
        .current_dir(home)
        .args([
            "demo",
            "--peers",
            "1",
            "--rounds",
            "1",
            "--inner-steps",
            "1",
            "--json",
            "--data",
        ])
        .arg(data)
        .arg("--dir")
        .arg(dir)
        .env_remove("HOME")
        .env("TMPDIR", "/nowhere")
        .output()
        .unwrap()
}

#[test]
fn a_demo_is_made_wherever_a_folder_can_be_and_nothing_beside_it_changes() {
    let _alone = alone();
    for (number, (dir, at)) in [
        ("play", "play"),
        ("play/", "play"),
        (".", "."),
        ("./x/../y", "y"),
        ("two words/and more", "two words/and more"),
        ("empty/", "empty"),
    ]
    .into_iter()
    .enumerate()
    {
        let home = fresh(&format!("places-{number}")).join("home");
        // what was somebody's before: beside the demo's folder, and in earlier versions' names for it
        for path in [
            "play.new/thesis.txt",
            ".new/thesis.txt",
            "empty.new/thesis.txt",
            "y.new/thesis.txt",
        ] {
            if at != "." {
                let path = home.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "years of work").unwrap();
            }
        }
        fs::create_dir_all(if dir == "empty/" {
            home.join("empty")
        } else {
            home.clone()
        })
        .unwrap();
        let before = tree(&home);
        // a loss that did not fall in one step is no matter here
        let ended = smallest(&home, dir.as_ref());
        let result = last_json(&ended);
        assert_eq!(
            (&result["peers"], &result["audit_ok"]),
            (&1.into(), &true.into()),
            "{dir}: {}",
            stderr(&ended)
        );
        assert!(home.join(at).join("node-1/key").is_file(), "{dir}");
        let ignored = fs::read_to_string(home.join(at).join(".gitignore")).unwrap();
        assert_eq!(
            ignored, "*\n",
            "keys must not get into a repository that the folder lies in"
        );
        let after = tree(&home);
        assert!(before.iter().all(|(path, hash)| after.get(path) == Some(hash)), "{dir}");
        assert!(
            after.keys().all(|path| before.contains_key(path)
                || home.join(path).starts_with(home.join(at).canonicalize().unwrap())
                || Path::new(path).starts_with(at)
                || at == "."),
            "{dir}: {after:?}"
        );
        assert!(!home.join(at).join(".atoll-demo-partial").exists());
        assert!(!home.join("x").exists());
    }
}

#[cfg(target_os = "linux")] // elsewhere names must be UTF-8
#[test]
fn a_name_that_is_no_text_is_a_name() {
    use std::os::unix::ffi::OsStrExt as _;
    let _alone = alone();
    let home = fresh("places-bytes").join("home");
    fs::create_dir(&home).unwrap();
    // nor has it to be short
    let bytes: Vec<u8> = b"not \xff text, ".iter().copied().cycle().take(255).collect();
    let dir = std::ffi::OsStr::from_bytes(&bytes);
    let ended = smallest(&home, dir);
    assert_eq!(last_json(&ended)["audit_ok"], true, "{}", stderr(&ended));
    assert!(home.join(dir).join("node-1/seal").is_file());
}

#[test]
fn where_no_demo_can_be_is_said_in_one_line_and_nothing_is_changed() {
    let home = fresh("places-refused").join("home");
    fs::create_dir_all(home.join("full")).unwrap();
    fs::write(home.join("full/letter.txt"), "dear").unwrap();
    fs::write(home.join("file"), "dear").unwrap();
    let long = "x".repeat(256);
    let mut cases = vec![
        ("full", "not empty and no demo's folder"),
        ("file", "is no folder"),
        ("file/", "is no folder"),
        ("file/sub", "cannot make the folder"),
        (long.as_str(), "cannot make the folder"),
        ("a/b/../../file", "is no folder"),
    ];
    #[cfg(target_os = "linux")]
    {
        std::os::unix::fs::symlink("nowhere", home.join("dangling")).unwrap();
        cases.extend([
            ("dangling", "a link that leads nowhere"),
            ("/sys/play", "cannot make the folder"),
        ]);
    }
    let before = tree(&home.join("full"));
    for (dir, part) in cases {
        let ended = smallest(&home, dir.as_ref());
        let said = stderr(&ended);
        assert_eq!(ended.status.code(), Some(1), "{dir}: {said}");
        assert!(said.contains(part) && said.lines().count() == 1, "{dir}: {said}");
        let mut names: Vec<_> = fs::read_dir(&home)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "dangling")
            .collect();
        names.sort();
        assert_eq!(names, ["file", "full"], "{dir}");
        assert_eq!(tree(&home.join("full")), before);
    }
}

/// A copy of the finished demo.
fn demo_copy(name: &str) -> PathBuf {
    let dir = fresh(&format!("places-{name}")).join("D");
    copy(&demo().0, &dir);
    dir
}

#[test]
fn what_does_not_belong_together_is_not_started() {
    let dir = demo_copy("strangers");
    let place = text(&dir);
    // a backup beside the node
    copy(&node(&dir, 2), &dir.join("node-2-backup"));
    let before = tree(&dir);
    let said = refused(&["demo", "--dir", &place]);
    assert!(
        said.contains("/node-2 and ") && said.contains("/node-2-backup hold the same key"),
        "{said}"
    );
    assert_eq!(tree(&dir), before);
    fs::remove_dir_all(dir.join("node-2-backup")).unwrap();
    // a node of another run, which would get other addresses
    well(&["init", &text(&dir.join("other")), "--json"]);
    fs::copy(node(&dir, 1).join("charter.toml"), dir.join("other/charter.toml")).unwrap();
    let before = tree(&dir);
    let said = refused(&["demo", "--dir", &place]);
    assert!(said.contains("/other is no node of the demo"), "{said}");
    assert_eq!(tree(&dir), before);
    fs::remove_dir_all(dir.join("other")).unwrap();
    // another folder's numbers
    for (option, value) in [("--rounds", "3"), ("--seed", "7"), ("--liars", "zeros")] {
        let said = refused(&["demo", "--dir", &place, option, value]);
        assert!(said.contains(&format!("leave {option} out to go on with it")), "{said}");
    }
    // nodes of a real run are no demo's
    for number in 1..=4 {
        let charter = node(&dir, number).join("charter.toml");
        let other = fs::read_to_string(&charter)
            .unwrap()
            .replacen("name = \"demo\"", "name = \"ours\"", 1);
        fs::write(&charter, other).unwrap();
    }
    let before = tree(&dir);
    let said = refused(&["demo", "--dir", &place]);
    assert!(said.contains("the run \"ours\", which is no demo"), "{said}");
    assert_eq!(tree(&dir), before);
}

#[test]
fn what_a_seed_promises() {
    let _alone = alone();
    let home = fresh("places-seed").join("home");
    fs::create_dir(&home).unwrap();
    let made = |dir: &str, seed: &str| {
        let ended = Command::new(PROGRAM)
            .current_dir(&home)
            .args([
                "demo",
                "--peers",
                "2",
                "--rounds",
                "1",
                "--inner-steps",
                "1",
                "--json",
                "--seed",
                seed,
                "--dir",
                dir,
            ])
            .output()
            .unwrap();
        let keys = [1, 2].map(|number| fs::read(node(&home.join(dir), number).join("key")).unwrap());
        let result = last_json(&ended);
        (result["genesis"].clone(), keys, result["loss_start"].clone())
    };
    let (one, same, other) = (made("one", "7"), made("same", "7"), made("other", "8"));
    // the genesis is the hash of the charter: keys, corpus, tokenizer, first parameters, every setting
    assert_eq!(one, same);
    assert!(one.0.is_string() && one.0 != other.0 && one.1 != other.1);
}

#[test]
fn files_of_others_are_not_written_over() {
    let home = fresh("places-files");
    let at = |name: &str| text(&home.join(name));
    fs::write(at("letter"), "dear").unwrap();
    fs::write(
        at("fails.toml"),
        "name = \"fails\"\nabout = \"\"\nnodes = 5\nrounds = 1\n",
    )
    .unwrap();
    fs::create_dir(at("folder")).unwrap();
    let before = tree(&home);
    let fails = at("fails.toml");
    let node = text(&demo().0.join("node-1"));
    for (arguments, part) in [
        (
            vec!["sim", "calm", "--svg", &at("letter")],
            "is no picture that `atoll sim` drew",
        ),
        (
            vec!["sim", "calm", "--svg", &at("fails.toml")],
            "is no picture that `atoll sim` drew",
        ),
        (vec!["sim", "calm", "--svg", &at("folder")], "is a folder"),
        (vec!["sim", "calm", "--svg", &at("none/x.svg")], "there is no folder"),
        (vec!["sim", "calm", "--smallest", &at("letter")], "is no scenario that"),
        (vec!["sim", &fails, "--smallest", &fails], "is no scenario that"),
        (
            vec!["sim", "calm", "--svg", &at("x"), "--smallest", &at("x")],
            "would replace what is read or drawn",
        ),
        (
            vec!["calibrate", &node, "--write", &at("letter"), "--steps", "1"],
            "is no sample of this run",
        ),
        (
            vec!["calibrate", &node, "--write", &at("folder"), "--steps", "1"],
            "is a folder",
        ),
        (
            vec!["bench", "convergence", "--out", &at("letter")],
            "cannot make the folder",
        ),
    ] {
        let said = refused(&arguments);
        assert!(said.contains(part), "{arguments:?}: {said}");
        assert_eq!(tree(&home), before, "{arguments:?}");
    }
    for (file, part) in [
        ("table.md", "is no result of"),
        ("plot.svg", "is no result of"),
        ("results.jsonl", "this is not a result"),
    ] {
        let out = home.join(format!("bench-{file}"));
        fs::create_dir(&out).unwrap();
        fs::write(out.join(file), "dear reader").unwrap(); // a last line without an end, too
        let ended = support::atoll(&["bench", "convergence", "--out", &text(&out)]);
        let said = stderr(&ended);
        assert!(ended.status.code() == Some(1) && said.contains(part), "{said}");
        assert_eq!(fs::read_to_string(out.join(file)).unwrap(), "dear reader");
    }
}

#[test]
fn what_is_ours_is_replaced_and_streams_are_written_to() {
    let home = fresh("places-ours");
    let at = |name: &str| text(&home.join(name));
    let picture = at("calm.svg");
    fs::write(&picture, "").unwrap(); // mktemp makes them like this
    well(&["sim", "calm", "--json", "--svg", &picture]);
    let first = fs::read_to_string(&picture).unwrap();
    well(&["sim", "calm", "--json", "--seed", "2", "--svg", &picture]);
    let second = fs::read_to_string(&picture).unwrap();
    assert!(first.starts_with("<svg ") && second.starts_with("<svg ") && first != second);
    let node = text(&demo().0.join("node-1"));
    for _ in 0..2 {
        well(&[
            "calibrate",
            &node,
            "--write",
            &at("here.sample"),
            "--steps",
            "1",
            "--json",
        ]);
    }
    assert_eq!(support::files(&home), ["calm.svg", "here.sample"]);
    #[cfg(target_os = "linux")]
    {
        let out = well(&["sim", "calm", "--json", "--svg", "/dev/stdout"]).stdout;
        let out = String::from_utf8(out).unwrap();
        assert!(out.starts_with("<svg ") && out.contains("</svg>\n{"), "{out}");
        well(&["sim", "calm", "--json", "--svg", "/dev/null"]);
        let said = refused(&["sim", "calm", "--json", "--svg", "/dev/full"]);
        assert!(said.contains("cannot write /dev/full"), "{said}");
    }
}
