//! The model against `transformers` (golden/make_golden.py).

mod common;

use atoll_learner::{Batch, Learner, data::Tokenizer, evaluate_text};
use common::{learner, theta, tiny, trained};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Golden {
    tokens: Vec<u32>,
    text: String,
    text_ids: Vec<u32>,
    cases: BTreeMap<String, Case>,
    bpe: Bpe,
}

/// The same text through a trained tokenizer.
#[derive(Deserialize)]
struct Bpe {
    text_ids: Vec<u32>,
    text_loss: f64,
    text_tokens: u64,
}

#[derive(Deserialize)]
struct Case {
    logits: Vec<Vec<f32>>,
    loss: f64,
    text_loss: f64,
    text_tokens: u64,
}

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/model.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_trained_tokenizer_gives_transformers_the_same_tokens() {
    let Golden { text, bpe, .. } = golden();
    let (model, tokenizer) = trained();
    assert_eq!(tokenizer.encode(&text).unwrap(), bpe.text_ids);
    assert_eq!(tokenizer.decode(&bpe.text_ids).unwrap(), text);
    let report = evaluate_text(&mut learner(&model, &theta(&model)), &tokenizer, &text).unwrap();
    assert_eq!(report.tokens, bpe.text_tokens);
    assert!(
        (report.nats_per_token - bpe.text_loss).abs() < 1e-5,
        "{report:?}, not {}",
        bpe.text_loss
    );
}

#[test]
fn logits_and_losses_equal_those_of_transformers() {
    let golden = golden();
    let tokenizer = Tokenizer::bytes().unwrap();
    assert_eq!(tokenizer.encode(&golden.text).unwrap(), golden.text_ids);
    for (name, case) in &golden.cases {
        let model = tiny(name == "tied");
        let mut learner = learner(&model, &theta(&model));
        let logits = learner.logits(&golden.tokens).unwrap();
        let expected = case.logits.concat();
        assert_eq!(logits.len(), expected.len());
        let spread = expected.iter().fold(0f32, |greatest, value| greatest.max(value.abs()));
        assert!(spread > 1.0, "{name}: logits of at most {spread} would prove little");
        for (index, (ours, theirs)) in logits.iter().zip(&expected).enumerate() {
            assert!(
                (ours - theirs).abs() < 1e-4,
                "{name}: logit {index} is {ours}, not {theirs}"
            );
        }
        let last = learner.next_logits(&golden.tokens).unwrap();
        let row = &logits[logits.len() - last.len()..];
        let close = last.iter().zip(row).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(
            close && last.len() == 257,
            "{name}: one row alone is summed in another order, but no other row"
        );

        let (nats, tokens) = learner
            .evaluate(&Batch::new(golden.tokens.clone(), 15).unwrap())
            .unwrap();
        let loss = nats / tokens as f64;
        assert!(
            (loss - case.loss).abs() < 1e-5,
            "{name}: loss {loss}, not {}",
            case.loss
        );
        let report = evaluate_text(&mut learner, &tokenizer, &golden.text).unwrap();
        assert_eq!(report.tokens, case.text_tokens);
        let difference = (report.nats_per_token - case.text_loss).abs();
        assert!(
            difference < 1e-5,
            "{name}: text loss {report:?}, not {}",
            case.text_loss
        );
    }
}
