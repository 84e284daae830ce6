//! A text is a text, whatever it says and however long it goes on.

mod common;

use atoll_learner::{
    EvalError, Learner,
    data::{Corpus, Document, END_OF_TEXT, Tokenizer, TokenizerError, TrainProgress},
    evaluate_text, evaluate_watched,
};
use common::{learner, theta, tiny, trained};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::ops::ControlFlow;

fn corpus(texts: &[&str]) -> Corpus {
    let documents = texts.iter().map(|text| Document {
        source: 0,
        text: text.to_string(),
    });
    Corpus {
        documents: documents.collect(),
        ..Corpus::default()
    }
}

/// As good as random, and the same every time.
fn letters(alphabet: &[u8], length: usize) -> String {
    let mut state = 1u64;
    let letters = (0..length).map(|_| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        char::from(alphabet[(state >> 33) as usize % alphabet.len()])
    });
    letters.collect()
}

/// What a tokenizer of somebody else may be: the parts that differ, and a model.
fn foreign(parts: Value) -> Tokenizer {
    let mut json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null
    });
    for (name, part) in parts.as_object().unwrap() {
        json[name] = part.clone();
    }
    Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
}

fn added(id: u32, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": special})
}

#[test]
fn the_name_of_the_end_is_text_and_code_alone_puts_the_end() {
    let text = "alpha beta <|endoftext|> gamma <|endoftext|><|endoftext|>";
    let often = "<|endoftext|> and <|endoftext|>. ".repeat(200);
    for tokenizer in [
        Tokenizer::bytes().unwrap(),
        trained().1,
        Tokenizer::train(&corpus(&[&often]), 400).unwrap(),
    ] {
        let tokens = tokenizer.encode(text).unwrap();
        assert!(!tokens.contains(&tokenizer.eos()), "{tokens:?}");
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        assert_eq!(tokenizer.id_of(END_OF_TEXT), Some(tokenizer.eos()));
        assert!(tokenizer.encode(END_OF_TEXT).unwrap().len() > 1);
    }
}

#[test]
fn special_tokens_of_others_come_out_of_no_text() {
    // Unigram finds its own control tokens in a text, whatever the library was told
    let unigram = foreign(json!({
        "added_tokens": [added(0, "<unk>", true), added(1, "</s>", true)],
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": [
            ["<unk>", 0.0], ["</s>", 0.0], ["<", -5.0], ["/", -5.0], ["s", -5.0], [">", -5.0], ["a", -4.0]
        ]}
    }));
    assert_eq!(unigram.encode("a</s>a").unwrap(), [6, 2, 3, 4, 5, 6]);
    assert_eq!(unigram.encode(&"</s>".repeat(3000)).unwrap(), [2, 3, 4, 5].repeat(3000));
    assert_eq!(
        unigram.encode("aéa").unwrap(),
        [6, 0, 6],
        "an unknown character is none of them"
    );

    // an end that is an added token, but not marked as special; and a token of the author's that is text
    let characters = "<|im_end>thk ".chars().zip(0..);
    let vocab: serde_json::Map<String, Value> = characters.map(|(c, id)| (c.to_string(), json!(id))).collect();
    let bpe = foreign(json!({
        "added_tokens": [added(13, "<|im_end|>", false), added(14, "<think>", false)],
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "ignore_merges": true, "unk_token": null}
    }));
    assert_eq!(bpe.eos(), 13);
    assert!(!bpe.encode("then <|im_end|> it").unwrap().contains(&13));
    assert!(
        bpe.encode("then <think> it").unwrap().contains(&14),
        "as its author wants"
    );

    // one that can be spelled in no other way is an error, not something else in silence
    let words = foreign(json!({
        "added_tokens": [added(1, "x", true)],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "x": 1, "y": 2, "</s>": 3}}
    }));
    assert_eq!(words.encode("y y").unwrap(), [2, 2]);
    let error = words.encode("y x").unwrap_err();
    assert!(
        matches!(&error, TokenizerError::Special { text } if text == "x"),
        "{error}"
    );
}

#[test]
fn foreign_tokenizers_neither_shorten_nor_pad_nor_repeat_their_first_blank() {
    let bytes = Tokenizer::bytes().unwrap();
    let mut json: Value = serde_json::from_slice(bytes.json()).unwrap();
    json["truncation"] = json!({"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "a"});
    json["model"]["dropout"] = json!(0.5);
    let odd = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
    let text = "a longer text";
    assert_eq!(odd.encode(text).unwrap(), bytes.encode(text).unwrap());

    let parts = [
        json!({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}}),
        json!({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}}),
    ];
    for mut part in parts {
        part["model"] = json!({"type": "BPE", "vocab": {"</s>": 0, "▁": 1, "a": 2, "b": 3}, "merges": []});
        let tokenizer = foreign(part);
        assert_eq!(tokenizer.encode("a b").unwrap(), [1, 2, 1, 3]);
        let long = tokenizer.encode(&"a".repeat(5000)).unwrap();
        assert_eq!(
            (long.len(), long[0]),
            (5001, 1),
            "one blank before the text, none at its cuts"
        );
        assert!(long[1..].iter().all(|token| *token == 2));
    }
}

#[test]
fn a_hostile_tokenizer_is_refused_without_a_panic() {
    // the library writes "abcd" into the space of its longest token
    let json = json!({
        "version": "1.0", "added_tokens": [],
        "model": {"type": "BPE", "vocab": {"ab": 0, "cd": 1, "</s>": 2}, "merges": [["</s>", "</s>"]]}
    });
    assert!(Tokenizer::from_bytes(json.to_string().as_bytes()).is_err());
}

#[test]
fn two_million_letters_without_a_break_are_learned_and_encoded() {
    let million = 2_000_000;
    let texts = [
        letters(b"ACGT", million),
        "a".repeat(million),
        format!("word{}end", " ".repeat(million)),
        "\n".repeat(million),
        letters(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
            300_000,
        ),
        "環礁の島々が一緒に環を作る".repeat(20_000),
        "👩\u{200d}👩\u{200d}👧\u{200d}👦\u{200d}".repeat(20_000),
        "\0".repeat(300_000),
        "e\u{301}".repeat(200_000),
    ];
    let bytes = Tokenizer::bytes().unwrap();
    for text in &texts {
        let shown: String = text.chars().take(12).collect();
        let tokenizer = Tokenizer::train(&corpus(&[text]), 400).unwrap();
        for tokenizer in [&tokenizer, &bytes] {
            let tokens = tokenizer.encode(text).unwrap();
            assert!(tokenizer.decode(&tokens).unwrap() == *text, "{shown:?}");
        }
    }
}

#[test]
fn training_is_heard_and_can_be_stopped_in_each_phase() {
    let texts = corpus(&[&letters(b"ACGT", 3_000_000)]);
    let mut heard = Vec::new();
    let tokenizer = Tokenizer::train_watched(&texts, 1024, &mut |progress| {
        heard.push(progress);
        ControlFlow::Continue(())
    });
    assert_eq!(tokenizer.unwrap().vocab(), 1024);
    let counted = heard.iter().filter_map(|progress| match progress {
        TrainProgress::Counting { bytes, of: 3_000_000 } => Some(*bytes),
        _ => None,
    });
    let counted: Vec<u64> = counted.collect();
    assert!(
        counted.len() >= 3 && counted.is_sorted() && counted.last() == Some(&3_000_000),
        "{counted:?}"
    );
    assert_eq!(heard.last(), Some(&TrainProgress::Merging { of: 1024 }));
    assert_eq!(heard.len(), counted.len() + 1);
    for last in [0, 2, counted.len()] {
        let mut calls = 0;
        let stopped = Tokenizer::train_watched(&texts, 1024, &mut |_| {
            calls += 1;
            if calls > last {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert!(matches!(stopped, Err(TokenizerError::Stopped)), "{last}");
        assert_eq!(calls, last + 1, "nothing is done after that");
    }
}

#[test]
fn a_long_text_is_evaluated_in_the_windows_of_a_short_one() {
    let (model, tokenizer) = trained();
    let text = "An atoll is a ring of islands <|endoftext|>, together. ".repeat(900);
    let mut learner = learner(&model, &theta(&model));
    let tokens = tokenizer.encode(&text).unwrap();
    let (mut nats, mut count) = (0.0, 0);
    for from in (0..tokens.len() - 1).step_by(16) {
        let window = &tokens[from..(from + 17).min(tokens.len())];
        let batch = atoll_learner::Batch::new(window.to_vec(), window.len() - 1).unwrap();
        let (sum, targets) = learner.evaluate(&batch).unwrap();
        (nats, count) = (nats + sum, count + targets);
    }
    let report = evaluate_text(&mut learner, &tokenizer, &text).unwrap();
    assert_eq!(
        (report.tokens, count),
        (tokens.len() as u64 - 1, tokens.len() as u64 - 1)
    );
    assert!((report.nats_per_token - nats / count as f64).abs() < 1e-6, "{report:?}");

    // with a beginning each window starts anew and every token is predicted
    let (mut nats, mut count) = (0.0, 0);
    for window in tokens.chunks(16) {
        let row: Vec<u32> = [5].iter().chain(window).copied().collect();
        let (sum, targets) = learner
            .evaluate(&atoll_learner::Batch::new(row, window.len()).unwrap())
            .unwrap();
        (nats, count) = (nats + sum, count + targets);
    }
    let (mut last, mut calls) = (0, 0);
    let sum = evaluate_watched(&mut learner, &tokenizer, Some(5), &text, &mut |bytes, _| {
        assert!(bytes >= last);
        (last, calls) = (bytes, calls + 1);
        ControlFlow::Continue(())
    });
    let sum = sum.unwrap();
    assert_eq!((sum.tokens, count), (tokens.len() as u64, tokens.len() as u64));
    assert!((sum.nats / sum.tokens as f64 - nats / count as f64).abs() < 1e-6);
    assert!(calls > 50, "{calls}");
    let stopped = evaluate_watched(
        &mut learner,
        &tokenizer,
        None,
        &text,
        &mut |_, _| ControlFlow::Break(()),
    );
    assert!(matches!(stopped, Err(EvalError::Stopped)));
}

#[test]
fn a_text_of_one_token_has_something_to_predict_only_behind_a_beginning() {
    let model = tiny(true);
    let mut learner = learner(&model, &theta(&model));
    let tokenizer = Tokenizer::bytes().unwrap();
    let mut tokens = |begin, text: &str| {
        evaluate_watched(&mut learner, &tokenizer, begin, text, &mut |_, _| {
            ControlFlow::Continue(())
        })
        .map(|sum| sum.tokens)
    };
    assert!(matches!(tokens(None, ""), Err(EvalError::TooShort(0))));
    assert!(matches!(tokens(None, "a"), Err(EvalError::TooShort(1))));
    assert!(matches!(tokens(Some(256), ""), Err(EvalError::TooShort(0))));
    assert_eq!(tokens(Some(256), "a").unwrap(), 1);
    assert_eq!(tokens(None, &"a".repeat(17)).unwrap(), 16);
    assert_eq!(tokens(None, &"a".repeat(18)).unwrap(), 17);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_text_comes_back(parts in prop::collection::vec(prop_oneof![
        Just("<|endoftext|>".to_string()), Just("<|".to_string()), Just("endoftext|>".to_string()),
        Just("</s>".to_string()), Just("  \n\r\n".to_string()), ".{0,30}", "[a-z]{1,9}"
    ], 0..20), times in 1usize..40) {
        let text = parts.concat().repeat(times);
        for tokenizer in [Tokenizer::bytes().unwrap(), trained().1] {
            let tokens = tokenizer.encode(&text).unwrap();
            prop_assert!(!tokens.contains(&tokenizer.eos()));
            prop_assert_eq!(tokenizer.decode(&tokens).unwrap(), &text[..]);
            let mut stream = tokenizer.stream();
            let streamed: String = tokens.iter().map(|token| stream.push(*token).unwrap()).collect();
            prop_assert_eq!(streamed.trim_end_matches('\u{fffd}'), text.trim_end_matches('\u{fffd}'));
        }
    }
}
