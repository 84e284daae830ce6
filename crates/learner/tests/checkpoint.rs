//! Checkpoint folders: there and back, the same bytes, and errors that name the tensor.

mod common;

use atoll_learner::{
    checkpoint::{CheckpointError, export, files, import},
    data::Tokenizer,
    theta_hash,
};
use atoll_protocol::Hash;
use common::{theta, tiny};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{fs, path::Path};

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn theta_comes_back_bit_by_bit() {
    let tokenizer = Tokenizer::bytes().unwrap();
    for tied in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (model, theta) = (tiny(tied), theta(&tiny(tied)));
        export(&dir.path().join("c"), &model, &theta, &tokenizer).unwrap();
        let back = import(&dir.path().join("c")).unwrap();
        assert_eq!(back.theta, theta);
        assert_eq!(back.tokenizer.json(), tokenizer.json());
        let mut named = model;
        (named.theta, named.tokenizer) = (theta_hash(&theta), tokenizer.hash());
        assert_eq!(back.model, named);
    }
}

#[test]
fn the_bytes_are_those_of_the_pure_function_and_nothing_else_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (model, theta, tokenizer) = (tiny(true), theta(&tiny(true)), Tokenizer::bytes().unwrap());
    let target = dir.path().join("round-3");
    let hashes = export(&target, &model, &theta, &tokenizer).unwrap();
    let expected = files(&model, &theta, &tokenizer).unwrap();
    assert_eq!(expected, files(&model, &theta, &tokenizer).unwrap());
    let five = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&target), five);
    assert_eq!(names(dir.path()), ["round-3"]);
    for ((name, bytes), (hashed, hash)) in expected.iter().zip(&hashes) {
        assert_eq!((name, &Hash::of_blob(bytes)), (hashed, hash));
        assert_eq!(&fs::read(target.join(name)).unwrap(), bytes);
    }

    assert_eq!(
        export(&target, &model, &theta, &tokenizer).unwrap(),
        hashes,
        "the same again is no error"
    );
    let mut other = theta;
    other[0] += 1.0;
    assert!(matches!(
        export(&target, &model, &other, &tokenizer),
        Err(CheckpointError::Exists { .. })
    ));
    assert_eq!(names(dir.path()), ["round-3"]);
    assert!(export(&dir.path().join("missing/c"), &model, &other, &tokenizer).is_ok());
    assert!(files(&model, &other[1..], &tokenizer).is_err());
}

/// Rewrites the weights of an exported folder.
fn rewrite(dir: &Path, change: impl Fn(&str, Vec<usize>, &[u8]) -> Option<(Dtype, Vec<usize>, Vec<u8>)>) {
    let path = dir.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let changed: Vec<_> = tensors
        .iter()
        .filter_map(|(name, view)| Some((name.to_string(), change(name, view.shape().to_vec(), view.data())?)))
        .collect();
    let views = changed
        .iter()
        .map(|(name, (dtype, shape, data))| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn half_precision_weights_are_widened() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("c");
    let (model, mut theta) = (tiny(true), theta(&tiny(true)));
    for value in &mut theta {
        *value = f32::from_bits(value.to_bits() & 0xFFFF_0000);
    }
    export(&target, &model, &theta, &Tokenizer::bytes().unwrap()).unwrap();
    rewrite(&target, |_, shape, data| {
        let halves = data.chunks_exact(4).flat_map(|word| [word[2], word[3]]).collect();
        Some((Dtype::BF16, shape, halves))
    });
    assert_eq!(import(&target).unwrap().theta, theta);
}

#[test]
fn errors_name_the_file_and_the_tensor() {
    let value = |bytes: &[u8]| bytes.to_vec();
    let query = "model.layers.1.self_attn.q_proj.weight";
    let config = |from: &'static str, to: &'static str| {
        move |dir: &Path| {
            let path = dir.join("config.json");
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{from}");
            fs::write(path, text.replace(from, to)).unwrap();
        }
    };
    type Change<'a> = Box<dyn Fn(&Path) + 'a>;
    let table: Vec<(Change<'_>, &str)> = vec![
        (
            Box::new(|dir| {
                rewrite(dir, |name, shape, data| {
                    (name != query).then(|| (Dtype::F32, shape, value(data)))
                })
            }),
            "tensor model.layers.1.self_attn.q_proj.weight is missing, not [16, 16]",
        ),
        (
            Box::new(|dir| {
                rewrite(dir, |name, shape, data| {
                    let shape = if name == query { vec![256] } else { shape };
                    Some((Dtype::F32, shape, value(data)))
                })
            }),
            "q_proj.weight is [256], not [16, 16]",
        ),
        (
            Box::new(|dir| rewrite(dir, |_, shape, data| Some((Dtype::I32, shape, value(data))))),
            "model.embed_tokens.weight is I32: F32, F16 and BF16 are read",
        ),
        (
            Box::new(config("\"silu\"", "\"gelu\"")),
            "config.json: hidden_act = gelu",
        ),
        (
            Box::new(config("LlamaForCausalLM", "GPT2LMHeadModel")),
            "only LlamaForCausalLM is read",
        ),
        (
            Box::new(config("\"mlp_bias\": false", "\"mlp_bias\": true")),
            "biases are not supported",
        ),
        (
            Box::new(config("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4000000000")),
            "config.json: num_hidden_layers = 4000000000: from 1 to 1024 is allowed",
        ),
        (
            Box::new(config("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1")),
            "tensor model.layers.1.input_layernorm",
        ),
        (
            Box::new(|dir| {
                config("\"vocab_size\": 257", "\"vocab_size\": 200")(dir);
                config("\"eos_token_id\": 256", "\"eos_token_id\": 0")(dir);
            }),
            "the tokenizer has 257 tokens, the model 200",
        ),
        (
            Box::new(config("\"hidden_size\": 16", "\"hidden_size\": 4294967295")),
            "hidden_size = 4294967295: from 2 to 65536 is allowed",
        ),
        (
            Box::new(config("\"hidden_size\": 16", "\"hidden_size\": 65536")),
            "tensor model.embed_tokens.weight is [257, 16], not [257, 65536]",
        ),
        (
            Box::new(config(
                "\"max_position_embeddings\": 16",
                "\"max_position_embeddings\": 0",
            )),
            "max_position_embeddings = 0: from 2 to 1048576 is allowed",
        ),
        (Box::new(config("\"head_dim\": 4", "\"head_dim\": 0")), "head_dim = 0"),
        (
            Box::new(config("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3")),
            "num_key_value_heads = 3: must divide heads = 4",
        ),
        (
            Box::new(config("\"eos_token_id\": 256", "\"eos_token_id\": [256, 257]")),
            "config.json: eos_token_id = 257: a token's number below vocab_size = 257, or a list of them, is read",
        ),
        (
            Box::new(config("\"eos_token_id\": 256", "\"eos_token_id\": \"</s>\"")),
            "eos_token_id = \"</s>\"",
        ),
        (
            Box::new(|dir| fs::write(dir.join("model.safetensors"), [9; 20]).unwrap()),
            "model.safetensors: header too large (20 bytes): it is cut short or damaged, copy it again",
        ),
        (
            Box::new(|dir| {
                let path = dir.join("model.safetensors");
                let bytes = fs::read(&path).unwrap();
                fs::write(path, &bytes[..bytes.len() - 100]).unwrap();
            }),
            "it is cut short or damaged, copy it again",
        ),
        (
            Box::new(|dir| fs::write(dir.join("generation_config.json"), "{").unwrap()),
            "generation_config.json: EOF",
        ),
        (
            Box::new(|dir| fs::write(dir.join("tokenizer.json"), "{}").unwrap()),
            "tokenizer.json: ",
        ),
        (
            Box::new(|dir| fs::remove_file(dir.join("config.json")).unwrap()),
            "cannot read",
        ),
    ];
    for (change, part) in table {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("c");
        export(&target, &tiny(true), &theta(&tiny(true)), &Tokenizer::bytes().unwrap()).unwrap();
        if !part.starts_with("generation_config") {
            fs::remove_file(target.join("generation_config.json")).unwrap(); // it is asked before config.json
        }
        change(&target);
        let error = import(&target).expect_err(part).to_string();
        assert!(error.contains(part), "{error}, where it should say: {part}");
    }
}

/// An exported folder with the byte tokenizer, whose files are then changed.
fn exported(dir: &Path, changes: &[(&str, &str, &str)]) -> std::path::PathBuf {
    let target = dir.join("c");
    export(&target, &tiny(true), &theta(&tiny(true)), &Tokenizer::bytes().unwrap()).unwrap();
    for (file, from, to) in changes {
        let path = target.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} in {file}");
        fs::write(path, text.replace(from, to)).unwrap();
    }
    target
}

#[test]
fn ends_and_beginnings_are_what_the_files_say() {
    let (generation, config, tokenizer) = ("generation_config.json", "config.json", "tokenizer_config.json");
    let silent = [
        (generation, "\"eos_token_id\": 256", "\"eos_token_id\": null"),
        (config, "\"eos_token_id\": 256,", ""),
    ];
    let and = |more: &[(&'static str, &'static str, &'static str)]| [&silent[..], more].concat();
    let renamed = ("tokenizer.json", "<|endoftext|>", "<|end|>");
    let table = [
        (vec![], Ok((vec![256], None))),
        (
            vec![(generation, "\"eos_token_id\": 256", "\"eos_token_id\": [10, 256]")],
            Ok((vec![10, 256], None)),
        ),
        (
            vec![
                silent[0],
                (config, "\"eos_token_id\": 256", "\"eos_token_id\": 10"),
                renamed,
            ],
            Ok((vec![10], None)),
        ),
        (and(&[]), Ok((vec![256], None))),
        (
            and(&[
                renamed,
                (
                    tokenizer,
                    "\"eos_token\": \"<|endoftext|>\"",
                    "\"eos_token\": {\"content\": \"<|end|>\"}",
                ),
            ]),
            Ok((vec![256], None)),
        ),
        (
            and(&[renamed]),
            Err("eos_token = \"<|endoftext|>\" is no token of tokenizer.json"),
        ),
        (
            and(&[
                renamed,
                (tokenizer, "\"eos_token\": \"<|endoftext|>\"", "\"eos_token\": null"),
            ]),
            Err("no end of text"),
        ),
        (
            vec![(tokenizer, "\"add_bos_token\": false", "\"add_bos_token\": true")],
            Ok((vec![256], Some(256))),
        ),
        (
            vec![
                (tokenizer, "\"add_bos_token\": false", "\"add_bos_token\": true"),
                (tokenizer, "\"bos_token\": \"<|endoftext|>\"", "\"bos_token\": \"a\""),
            ],
            Ok((vec![256], Some(97))),
        ),
        (
            vec![
                (tokenizer, "\"add_bos_token\": false,", ""),
                (
                    "tokenizer.json",
                    "\"post_processor\": null",
                    "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"b\", \
                     \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], \"pair\": [], \"special_tokens\": \
                     {\"b\": {\"id\": \"b\", \"ids\": [98], \"tokens\": [\"b\"]}}}",
                ),
            ],
            Ok((vec![256], Some(98))),
        ),
        (
            vec![(tokenizer, "\"add_bos_token\": false,", "")],
            Ok((vec![256], None)),
        ),
    ];
    for (changes, expected) in table {
        let dir = tempfile::tempdir().unwrap();
        let found = import(&exported(dir.path(), &changes)).map(|found| (found.ends, found.begin));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{changes:?}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}, not {part}"),
            (found, expected) => panic!("{changes:?}: {found:?}, not {expected:?}"),
        }
    }
}

#[test]
fn what_is_written_pads_and_sets_no_limit() {
    let files = files(&tiny(true), &theta(&tiny(true)), &Tokenizer::bytes().unwrap()).unwrap();
    let json = |name: &str| -> serde_json::Value {
        let (_, bytes) = files.iter().find(|(found, _)| found == name).unwrap();
        serde_json::from_slice(bytes).unwrap()
    };
    let generation = json("generation_config.json");
    assert_eq!(generation["pad_token_id"], 256);
    assert_eq!(generation.get("max_length"), None);
    assert_eq!(json("tokenizer_config.json")["pad_token"], "<|endoftext|>");
    assert_eq!(
        json("config.json").get("pad_token_id"),
        None,
        "transformers would zero the row of the end of text"
    );
}

#[test]
fn what_a_killed_writer_left_is_cleared_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let leave = |name: &str, files: &[&str]| {
        fs::create_dir(at(name)).unwrap();
        for file in files {
            fs::write(at(name).join(file), "x").unwrap();
        }
    };
    leave(".round-3.partial-4242", &["config.json", "model.safetensors"]);
    leave(".round-3.partial-4243", &[]);
    leave(".round-3.partial-4244", &["config.json", "thesis.txt"]);
    leave(".round-3.partial-4245", &["config.json"]);
    leave(".round-3.partial-x", &["config.json"]);
    leave(".round-4.partial-4242", &["config.json"]);
    leave("elsewhere", &["config.json"]);
    std::os::unix::fs::symlink(at("elsewhere"), at(".round-3.partial-4246")).unwrap();
    let writing = fs::File::open(at(".round-3.partial-4245")).unwrap();
    writing.lock().unwrap();
    let write = || {
        export(
            &at("round-3"),
            &tiny(true),
            &theta(&tiny(true)),
            &Tokenizer::bytes().unwrap(),
        )
    };
    write().unwrap();
    let left = [
        ".round-3.partial-4244",
        ".round-3.partial-4245",
        ".round-3.partial-4246",
        ".round-3.partial-x",
        ".round-4.partial-4242",
        "elsewhere",
        "round-3",
    ];
    assert_eq!(names(dir.path()), left);
    assert_eq!(names(&at(".round-3.partial-4244")), ["config.json", "thesis.txt"]);
    assert_eq!(names(&at("elsewhere")), ["config.json"]);

    fs::remove_dir_all(at("round-3")).unwrap();
    let own = format!(".round-3.partial-{}", std::process::id());
    leave(&own, &["thesis.txt"]);
    let error = write().unwrap_err().to_string();
    assert!(error.contains("cannot write") && error.contains(&own), "{error}");
    assert_eq!(
        names(&at(&own)),
        ["thesis.txt"],
        "a stranger's folder is left as it was"
    );
}

mod damaged {
    use super::*;
    use proptest::prelude::*;

    /// What foreign files have in place of what is expected.
    fn value() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::json;
        prop_oneof![
            Just(json!(null)),
            Just(json!([])),
            Just(json!({})),
            Just(json!("</s>")),
            Just(json!(-1)),
            Just(json!(0.5)),
            Just(json!(1e300)),
            Just(json!([0, 1, [2]])),
            Just(json!({"content": 3})),
            any::<u64>().prop_map(|n| json!(n)),
            any::<u32>().prop_map(|n| json!(n)),
            (0u32..70).prop_map(|n| json!(n)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn companions_never_panic(file in 0usize..3, field in any::<prop::sample::Index>(), value in value()) {
            let dir = tempfile::tempdir().unwrap();
            let target = exported(dir.path(), &[]);
            let path = target.join(["config.json", "generation_config.json", "tokenizer_config.json"][file]);
            let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let fields: Vec<String> = json.as_object().unwrap().keys().cloned().collect();
            json[field.get(&fields)] = value;
            fs::write(path, json.to_string()).unwrap();
            if let Ok(read) = import(&target) {
                prop_assert!(read.ends.iter().chain(&read.begin).all(|id| *id < read.model.vocab));
            }
        }

        #[test]
        fn weights_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), length in any::<u64>(), cut in any::<prop::sample::Index>()) {
            let dir = tempfile::tempdir().unwrap();
            let target = exported(dir.path(), &[]);
            let path = target.join("model.safetensors");
            let good = fs::read(&path).unwrap();
            let mut damaged = good.clone();
            let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
            damaged[at.index(header)] = byte;
            let mut lying = good.clone();
            lying[..8].copy_from_slice(&length.to_le_bytes());
            let short = good[..cut.index(good.len())].to_vec();
            for bytes in [damaged, lying, short] {
                fs::write(&path, bytes).unwrap();
                let _ = import(&target);
            }
        }
    }
}
