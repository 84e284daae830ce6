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
            "at most 1024 layers",
        ),
        (
            Box::new(config("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1")),
            "tensor model.layers.1.input_layernorm",
        ),
        (
            Box::new(config("\"vocab_size\": 257", "\"vocab_size\": 200")),
            "the tokenizer has 257 tokens, the model 200",
        ),
        (
            Box::new(config("\"hidden_size\": 16", "\"hidden_size\": 4294967295")),
            "parameters",
        ),
        (
            Box::new(|dir| fs::write(dir.join("model.safetensors"), [9; 20]).unwrap()),
            "model.safetensors: ",
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
        change(&target);
        let error = import(&target).expect_err(part).to_string();
        assert!(error.contains(part), "{error}, where it should say: {part}");
    }
}
