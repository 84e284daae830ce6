//! `atoll generate` and `atoll eval` on checkpoints of somebody else, made here byte by byte.

mod support;

use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use support::{PROGRAM, atoll, copy, fresh, last_json, refused, stderr, text, until, well};

const WIDTH: usize = 8;
const VOCAB: usize = 257;

/// A checkpoint whose next token is always the one with the greatest value in `embedding`: nothing but
/// the embedding speaks, and only its first column.
fn checkpoint(dir: &Path, embedding: &[f32]) {
    let rows = embedding.len();
    let mut tensors = vec![
        (
            "model.embed_tokens.weight".to_string(),
            vec![rows, WIDTH],
            first_column(embedding),
        ),
        ("model.norm.weight".to_string(), vec![WIDTH], vec![1.0; WIDTH]),
    ];
    for part in ["input_layernorm", "post_attention_layernorm"] {
        tensors.push((format!("model.layers.0.{part}.weight"), vec![WIDTH], vec![1.0; WIDTH]));
    }
    let attention = ["q", "k", "v", "o"].map(|part| format!("self_attn.{part}_proj"));
    let feed_forward = ["gate", "up", "down"].map(|part| format!("mlp.{part}_proj"));
    for part in attention.iter().chain(&feed_forward) {
        let name = format!("model.layers.0.{part}.weight");
        tensors.push((name, vec![WIDTH, WIDTH], vec![0.0; WIDTH * WIDTH]));
    }
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("model.safetensors"), safetensors(&tensors)).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH, "intermediate_size": WIDTH,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
        "vocab_size": rows, "tie_word_embeddings": true, "eos_token_id": 256
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("tokenizer.json"), tokenizer("<|endoftext|>").to_string()).unwrap();
}

fn first_column(values: &[f32]) -> Vec<f32> {
    values
        .iter()
        .flat_map(|value| [&[*value][..], &[0.0; WIDTH - 1]].concat())
        .collect()
}

fn safetensors(tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        header.insert(
            name.clone(),
            json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// One token per byte, and `end` as token 256.
fn tokenizer(end: &str) -> Value {
    let mut next = 0x100;
    let mut letter = |byte: u8| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap()
        }
    };
    let vocab: serde_json::Map<String, Value> = (0..=255u8)
        .map(|byte| (letter(byte).to_string(), json!(byte)))
        .collect();
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": 256, "content": end, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "pre_tokenizer": level, "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []}
    })
}

/// Values of an embedding in which `a` is the likeliest.
fn mostly_a(rows: usize) -> Vec<f32> {
    let mut values = vec![1.0; rows];
    values[usize::from(b'a')] = 2.0;
    values
}

/// A folder for a test with a sound checkpoint `c` in it.
fn sound(name: &str) -> (PathBuf, String) {
    let dir = fresh(&format!("models-{name}"));
    checkpoint(&dir.join("c"), &mostly_a(VOCAB));
    let place = text(&dir.join("c"));
    (dir, place)
}

fn set(path: &Path, field: &str, value: Value) {
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    json[field] = value;
    fs::write(path, json.to_string()).unwrap();
}

fn written(dir: &Path, name: &str, data: &str) -> String {
    fs::write(dir.join(name), data).unwrap();
    text(&dir.join(name))
}

fn generated(place: &str, more: &[&str]) -> Value {
    let arguments = [&["generate", place, "--temperature", "0", "--json"], more].concat();
    last_json(&well(&arguments))
}

fn evaluated(place: &str, data: &str) -> Value {
    last_json(&well(&["eval", place, "--data", data, "--json"]))
}

#[test]
fn texts_and_prompts_are_text() {
    let (dir, place) = sound("text");
    let data = written(&dir, "e.txt", "alpha beta <|endoftext|> gamma delta");
    assert_eq!(
        evaluated(&place, &data)["tokens"],
        36 - 1,
        "one token for each byte but the first"
    );
    let made = generated(&place, &["--prompt", "<|endoftext|>", "--max-tokens", "3"]);
    assert_eq!((&made["prompt_tokens"], &made["text"]), (&json!(13), &json!("aaa")));
}

#[test]
fn prompts_may_be_empty_or_long_and_nothing_may_be_asked_for() {
    let (_, place) = sound("prompts");
    assert_eq!(generated(&place, &["--max-tokens", "2"])["text"], "aa");
    let none = generated(&place, &["--prompt", "b", "--max-tokens", "0"]);
    assert_eq!((&none["text"], &none["tokens"]), (&json!(""), &json!(0)));
    let plain = well(&["generate", &place, "--prompt", "né", "--max-tokens", "0"]);
    assert_eq!(String::from_utf8(plain.stdout).unwrap(), "né\n");
    let prompt = "x".repeat(40);
    let long = generated(&place, &["--prompt", &prompt, "--max-tokens", "2"]);
    assert_eq!(
        (&long["prompt_tokens"], &long["prompt_tokens_seen"]),
        (&json!(40), &json!(16))
    );
    let plain = well(&[
        "generate",
        &place,
        "--prompt",
        &prompt,
        "--max-tokens",
        "1",
        "--temperature",
        "0",
    ]);
    assert!(
        stderr(&plain).contains("the prompt has 40 tokens; the model sees only the last 16"),
        "{}",
        stderr(&plain)
    );
    assert_eq!(String::from_utf8(plain.stdout).unwrap(), format!("{prompt}a\n"));
}

#[test]
fn a_model_without_numbers_is_an_error_and_no_empty_answer() {
    let dir = fresh("models-broken");
    let mut values = mostly_a(VOCAB);
    values[usize::from(b'z')] = 3e38;
    checkpoint(&dir.join("c"), &values);
    let place = text(&dir.join("c"));
    let data = written(&dir, "t.txt", "some text that is long enough for more than one window");
    let said = refused(&["eval", &place, "--data", &data]);
    assert!(
        said.contains("the model gives NaN as the loss of tokens 1 to 48"),
        "{said}"
    );
    assert!(
        said.contains("the greatest, 3e38, is in model.embed_tokens.weight"),
        "{said}"
    );
    for temperature in ["0", "1"] {
        let said = refused(&["generate", &place, "--prompt", "pub fn ", "--temperature", temperature]);
        assert!(
            said.contains("as the score of the next token: its weights are damaged"),
            "{said}"
        );
        let output = atoll(&["generate", &place, "--prompt", "pub fn ", "--temperature", temperature]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    }
}

#[test]
fn rows_beyond_the_tokenizer_are_never_drawn() {
    let dir = fresh("models-padded");
    let mut values = mostly_a(VOCAB + 64);
    values[VOCAB..].fill(50.0);
    checkpoint(&dir.join("c"), &values);
    let place = text(&dir.join("c"));
    let made = generated(&place, &["--prompt", "b", "--max-tokens", "5"]);
    assert_eq!((&made["text"], &made["tokens"]), (&json!("aaaaa"), &json!(5)));
    let warm = well(&[
        "generate",
        &place,
        "--temperature",
        "100",
        "--top-k",
        "0",
        "--top-p",
        "1",
        "--json",
    ]);
    assert!(last_json(&warm)["tokens"].is_u64());
    let data = written(&dir, "t.txt", "aaaa");
    let nats = evaluated(&place, &data)["nats_per_token"].as_f64().unwrap();
    assert!(nats > 100.0, "a loss is over every row, as in transformers: {nats}");
}

#[test]
fn ends_and_beginnings_are_what_the_config_says() {
    let (dir, place) = sound("ends");
    let folder = dir.join("c");
    fs::write(folder.join("tokenizer.json"), tokenizer("<|end|>").to_string()).unwrap();
    assert_eq!(generated(&place, &["--max-tokens", "4"])["ends"], json!(["<|end|>"]));
    set(&folder.join("config.json"), "eos_token_id", json!([256, 97]));
    let made = generated(&place, &["--prompt", "b", "--max-tokens", "4"]);
    assert_eq!((&made["text"], &made["ends"]), (&json!(""), &json!(["<|end|>", "a"])));
    fs::write(folder.join("generation_config.json"), "{\"eos_token_id\": 98}").unwrap();
    assert_eq!(
        generated(&place, &["--max-tokens", "4"])["text"],
        "aaaa",
        "generation_config.json is asked first"
    );

    let data = written(&dir, "t.txt", "twelve bytes");
    let plain = evaluated(&place, &data);
    assert_eq!((&plain["tokens"], &plain["begin"]), (&json!(11), &Value::Null));
    let begin = json!({"add_bos_token": true, "bos_token": {"content": "<|end|>"}});
    fs::write(folder.join("tokenizer_config.json"), begin.to_string()).unwrap();
    let found = evaluated(&place, &data);
    assert_eq!((&found["tokens"], &found["begin"]), (&json!(12), &json!("<|end|>")));
    let said = well(&["eval", &place, "--data", &data]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(
        said.contains("each window of 16 tokens begins with <|end|>, as the checkpoint says"),
        "{said}"
    );
    let made = generated(&place, &["--prompt", "", "--max-tokens", "2"]);
    assert_eq!((&made["begin"], &made["text"]), (&json!("<|end|>"), &json!("aa")));
}

#[test]
fn documents_without_anything_to_predict_are_counted() {
    let (dir, place) = sound("short");
    let lines = ["a", "bcd", "e", "fg"].map(|line| json!({ "text": line }).to_string());
    let data = written(&dir, "d.jsonl", &lines.join("\n"));
    let found = evaluated(&place, &data);
    let counts = ["tokens", "documents", "documents_too_short", "window"].map(|field| found[field].as_u64().unwrap());
    assert_eq!(counts, [3, 2, 2, 16]);
    let said = well(&["eval", &place, "--data", &data]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(
        said.contains("2 of 4 documents have nothing to predict: less than two tokens"),
        "{said}"
    );
    let data = written(&dir, "one.jsonl", &lines[0]);
    let said = refused(&["eval", &place, "--data", &data]);
    assert!(said.contains("none of 1 documents has two tokens or more"), "{said}");
}

#[test]
fn damaged_and_missing_files_are_named_with_what_to_do() {
    let (dir, place) = sound("damaged");
    let folder = dir.join("c");
    let weights = fs::read(folder.join("model.safetensors")).unwrap();
    fs::write(folder.join("model.safetensors"), &weights[..weights.len() - 9]).unwrap();
    let said = refused(&["generate", &place]);
    assert!(
        said.contains("model.safetensors") && said.contains("cut short or damaged, copy it again"),
        "{said}"
    );
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        let (dir, place) = sound("missing");
        fs::remove_file(dir.join("c").join(file)).unwrap();
        let said = refused(&["generate", &place]);
        assert!(said.contains(file) && said.contains("No such file"), "{said}");
    }
    let said = refused(&["generate", &text(&dir.join("mistyped"))]);
    assert!(
        said.contains("mistyped does not exist; name a checkpoint's folder"),
        "{said}"
    );
}

#[test]
fn the_newest_whole_checkpoint_is_taken() {
    let (dir, _) = sound("newest");
    let node = dir.join("n");
    fs::create_dir_all(node.join("checkpoints")).unwrap();
    fs::write(node.join("key"), "").unwrap();
    let said = refused(&["generate", &text(&node)]);
    assert!(said.contains("holds no checkpoint yet"), "{said}");
    for name in [
        "round-000009",
        "round-000010",
        "round-000011",
        "zz-copy",
        ".round-000012.partial-4242",
    ] {
        copy(&dir.join("c"), &node.join("checkpoints").join(name));
    }
    fs::remove_file(node.join("checkpoints/round-000011/tokenizer.json")).unwrap();
    let made = generated(&text(&node), &["--max-tokens", "1"]);
    assert!(
        made["checkpoint"]
            .as_str()
            .unwrap()
            .ends_with("checkpoints/round-000010"),
        "{made}"
    );
}

/// The signals that a process catches, as bits.
#[cfg(target_os = "linux")]
fn caught(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[test]
#[cfg(target_os = "linux")]
fn an_interrupt_ends_at_once_and_lost_output_is_an_error() {
    let (dir, place) = sound("interrupt");
    // hours of work: nothing but the interrupt can end it within a test's patience
    let data = written(&dir, "long.txt", &"some words here and there\n".repeat(800_000));
    let long = u32::MAX.to_string();
    let commands: [&[&str]; 2] = [
        &["eval", &place, "--data", &data],
        &["generate", &place, "--max-tokens", &long, "--json"],
    ];
    for arguments in commands {
        let mut child = Command::new(PROGRAM)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let interrupt = 1 << 1;
        until(
            "the handler",
            || (caught(child.id()) & interrupt != 0).then_some(()),
            || format!("{arguments:?}"),
        );
        support::signal("-INT", child.id());
        assert_eq!(child.wait().unwrap().code(), Some(130), "{arguments:?}");
    }
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let lost = Command::new(PROGRAM)
        .args(["generate", &place, "--max-tokens", "1"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(lost.status.code(), Some(1));
}
