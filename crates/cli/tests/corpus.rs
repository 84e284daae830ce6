//! What the program says of data as people have it: what is read, what is not, and why.

mod support;

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};
use support::{atoll, demo, fresh, last_json, refused, stderr, text, well};

fn lines(count: usize) -> String {
    let line = |i: usize| format!("line {i} of a text that goes on, {}\n", i * i % 97);
    (0..count).map(line).collect()
}

/// A folder with a node in it, and the node's key.
fn founder(name: &str) -> (PathBuf, String) {
    let dir = fresh(&format!("corpus-{name}"));
    let made = last_json(&well(&["init", &text(&dir.join("n")), "--json"]));
    (dir, format!("me={}", made["key"].as_str().unwrap()))
}

/// Founds a run of one on `data` with the node in `dir`.
fn found(dir: &Path, member: &str, data: &Path, more: &[&str]) -> Output {
    let (node, data) = (text(&dir.join("n")), text(data));
    let rest = ["--member", member, "--rounds", "1", "--inner-steps", "1", "--json"];
    atoll(&[&["found", &node, "--data", &data][..], &rest, more].concat())
}

/// Loss of the finished demo on a file with these bytes.
fn eval(name: &str, bytes: impl AsRef<[u8]>) -> Output {
    let path = fresh(&format!("corpus-eval-{name}")).join(name);
    fs::write(&path, bytes).unwrap();
    atoll(&["eval", &text(&demo().0), "--data", &text(&path), "--json"])
}

fn skipped(json: &Value) -> Vec<(String, u64)> {
    let entries = json["corpus"]["skipped"].as_array().unwrap().iter();
    entries
        .map(|entry| {
            (
                entry["path"].as_str().unwrap().to_string(),
                entry["count"].as_u64().unwrap(),
            )
        })
        .collect()
}

#[test]
fn found_names_all_that_is_not_in_the_corpus() {
    let (dir, member) = founder("folder");
    let data = dir.join("d");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("big.txt"), lines(4000)).unwrap();
    fs::write(data.join("copy.txt"), lines(4000)).unwrap();
    fs::write(data.join(".notes"), "hidden").unwrap();
    for number in 10..22 {
        fs::write(data.join(format!("{number}.arrow")), "ARROW1").unwrap();
    }
    let output = found(&dir, &member, &data, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.starts_with("atoll: left out: 10.arrow: an Arrow file; Arrow is not read: save it as Parquet\n"),
        "{said}"
    );
    let last: Vec<&str> = said.lines().skip(10).collect();
    assert_eq!(
        last,
        [
            "atoll: left out: 3 more; --json names all",
            "atoll: left out: 1 hidden file and folder: names that begin with a dot are not read"
        ],
        "{said}"
    );
    let json = last_json(&output);
    assert_eq!(skipped(&json).len(), 14);
    assert!(skipped(&json).contains(&("copy.txt".into(), 1)));
    assert_eq!(
        (&json["corpus"]["files"], &json["corpus"]["documents"]),
        (&1.into(), &1.into())
    );
    assert_eq!(json["corpus"]["text_bytes"], lines(4000).len());
}

#[test]
fn the_founders_key_stays_out_of_the_corpus() {
    let (dir, member) = founder("key");
    fs::write(dir.join("big.txt"), lines(4000)).unwrap();
    let other = dir.join("other");
    well(&["init", &text(&other)]);
    fs::copy(other.join("key"), dir.join("backup.txt")).unwrap();
    let output = found(&dir, &member, &dir, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let json = last_json(&output);
    assert_eq!(json["corpus"]["files"], 1);
    let said = stderr(&output);
    for part in [
        "backup.txt: it holds the secret key of an Atoll node",
        "n: this command writes to it",
        "other: it looks like a node's folder, with its secret key",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let secret = |path: &Path| {
        let key = fs::read_to_string(path).unwrap();
        key.lines().nth(1).unwrap().strip_prefix("secret ").unwrap().to_string()
    };
    let secrets = [secret(&dir.join("n/key")), secret(&other.join("key"))];
    let home = dir.parent().unwrap().to_str().unwrap().to_string();
    for blob in support::files(&dir.join("n/blobs/data")) {
        let bytes = fs::read(dir.join("n/blobs/data").join(blob)).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            secrets.iter().all(|secret| !text.contains(secret)),
            "a secret is served"
        );
        assert!(!text.contains(&home), "a path of the founder's machine is served");
    }
}

#[test]
fn a_secret_that_is_named_is_refused() {
    let (dir, _) = founder("named");
    for data in ["n/key", "n"] {
        let said = refused(&["eval", &text(&demo().0), "--data", &text(&dir.join(data))]);
        assert!(
            said.contains("a corpus is given to everybody; name other data"),
            "{said}"
        );
    }
}

#[test]
fn broken_lines_end_it_or_are_counted() {
    let (dir, member) = founder("broken");
    let data = dir.join("d");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("big.txt"), lines(4000)).unwrap();
    let broken = [
        b"{\"text\":\"caf\xe9 ".to_vec(),
        b"x y z ".repeat(90_000),
        b"\"}\n{\"text\":\"whole\"}\n".to_vec(),
    ];
    fs::write(data.join("more.jsonl"), broken.concat()).unwrap();
    let output = found(&dir, &member, &data, &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("more.jsonl, line 1: byte 12 of the line is not UTF-8") && said.contains("--skip-broken"),
        "{said}"
    );
    assert!(said.len() < 600 && said.trim_end().lines().count() == 1, "{said}");
    let output = found(&dir, &member, &data, &["--skip-broken"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let json = last_json(&output);
    assert_eq!(skipped(&json), [("more.jsonl".to_string(), 1)]);
    assert_eq!(json["corpus"]["documents"], 2);
}

#[test]
fn files_as_other_programs_write_them_are_measured() {
    let words = "hello world there, and more of it";
    let utf16: Vec<u8> = format!("\u{feff}{words}")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let plain = last_json(&eval("plain.txt", words));
    let tokens = plain["tokens"].as_u64().unwrap();
    assert_eq!(skipped(&plain), []);
    for (name, bytes) in [
        ("mark.txt", format!("\u{feff}{words}").into_bytes()),
        ("utf16.txt", utf16),
        ("mark.jsonl", format!("\u{feff}{{\"text\":\"{words}\"}}\n").into_bytes()),
        (
            "nan.jsonl",
            format!("{{\"text\":\"{words}\",\"score\":NaN}}\n").into_bytes(),
        ),
        (
            "null.jsonl",
            format!("{{\"text\":null}}\r\n{{\"text\":\"{words}\"}}\r\n").into_bytes(),
        ),
        (
            "lines.json",
            format!("{{\"text\":\"{words}\"}}\n{{\"text\":\" \"}}\n").into_bytes(),
        ),
        ("array.json", format!("[{{\"text\":\"{words}\"}}]").into_bytes()),
    ] {
        let output = eval(name, bytes);
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        assert_eq!(last_json(&output)["tokens"], tokens, "{name}");
    }
    let copies = last_json(&eval("copies.jsonl", format!("{{\"text\":\"{words}\"}}\n").repeat(3)));
    assert_eq!(
        copies["tokens"],
        3 * tokens,
        "what is measured is measured as often as it stands there"
    );
    let surrogate = eval("lone.jsonl", r#"{"text":"bad \ud83d char"}"#);
    assert!(surrogate.status.success(), "{}", stderr(&surrogate));
    assert_eq!(
        stderr(&surrogate),
        "atoll: changed: lone.jsonl, line 1: what is half a character in UTF-16 became U+FFFD\n"
    );
    assert_eq!(last_json(&surrogate)["corpus"]["changed"][0]["count"], 1);
}

#[test]
fn another_field_is_named_and_read() {
    let said = stderr(&eval("content.jsonl", "{\"content\":\"hello world\"}\n"));
    assert!(
        said.contains("missing field `text`; its fields are content: name the one that holds the text with --field"),
        "{said}"
    );
    let path = fresh("corpus-field").join("c.jsonl");
    fs::write(&path, "{\"meta\":{\"content\":\"hello world there\"}}\n").unwrap();
    let output = well(&[
        "eval",
        &text(&demo().0),
        "--data",
        &text(&path),
        "--field",
        "meta.content",
        "--json",
    ]);
    assert_eq!(last_json(&output)["corpus"]["documents"], 1);
}

#[test]
fn what_only_describes_data_is_no_corpus() {
    let (dir, member) = founder("arrow");
    let data = dir.join("h");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("data-00000.arrow"), "ARROW1\0\0").unwrap();
    fs::write(data.join("dataset_info.json"), lines(4000)).unwrap();
    let output = found(&dir, &member, &data, &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("holds no text") && said.contains("Arrow is not read: save it as Parquet"),
        "{said}"
    );
    assert!(!dir.join("n/charter.toml").exists());
}
