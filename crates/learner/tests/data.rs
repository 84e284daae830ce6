//! Tokenizers, manifests and shards: the same bytes twice, and nothing tampered with gets through.

use atoll_learner::data::{
    Built, Corpus, DataError, Dataset, Document, END_OF_TEXT, Manifest, Source, Split, Tokenizer, build,
};
use atoll_protocol::Hash;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Prose-like text: many repeated words, so that there is much to merge and many ties.
fn corpus() -> Corpus {
    let words = [
        "atoll", "island", "ring", "sea", "the", "of", "together", "größe", "環礁", "learn",
    ];
    let mut state = 1u64;
    let mut text = String::new();
    for index in 0..6000 {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        text.push_str(words[(state >> 33) as usize % words.len()]);
        text.push_str(if index % 11 == 0 { ".\n" } else { " " });
    }
    let source = Source {
        path: "a.txt".into(),
        bytes: text.len() as u64,
        hash: Hash::of_blob(text.as_bytes()),
    };
    Corpus {
        sources: vec![source],
        documents: vec![Document { source: 0, text }],
        ..Corpus::default()
    }
}

fn open(built: &Built) -> Result<Dataset, DataError> {
    let shards: BTreeMap<_, _> = built.shards.iter().cloned().collect();
    Dataset::open(&built.manifest.to_bytes().unwrap(), |hash| shards.get(hash).cloned())
}

#[test]
fn training_a_tokenizer_twice_gives_the_same_bytes() {
    let first = Tokenizer::train(&corpus(), 320).unwrap();
    for _ in 0..3 {
        assert_eq!(Tokenizer::train(&corpus(), 320).unwrap().json(), first.json());
    }
    assert!((258..=320).contains(&first.vocab()), "{}", first.vocab());
    let again = Tokenizer::from_bytes(first.json()).unwrap();
    assert_eq!(
        (again.vocab(), again.eos(), again.hash()),
        (first.vocab(), first.eos(), first.hash())
    );
    assert_eq!(again.eos_text(), END_OF_TEXT);
    let word = first.encode("the atoll").unwrap();
    assert!(word.len() < 5, "frequent words are few tokens: {word:?}");
}

#[test]
fn vocabularies_that_cannot_be_are_refused() {
    for vocab in [0, 256, u32::MAX] {
        assert!(Tokenizer::train(&corpus(), vocab).is_err(), "{vocab}");
    }
    for json in [
        "",
        "{}",
        "[1]",
        "{\"version\": \"1.0\", \"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}}",
    ] {
        assert!(Tokenizer::from_bytes(json.as_bytes()).is_err(), "{json}");
    }
    let no_end = String::from_utf8(Tokenizer::bytes().unwrap().json().to_vec()).unwrap();
    let no_end = no_end.replace(END_OF_TEXT, "<|something|>");
    let error = Tokenizer::from_bytes(no_end.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("no end of text"), "{error}");
}

#[test]
fn splits_share_nothing_and_lose_nothing() {
    let tokenizer = Tokenizer::train(&corpus(), 300).unwrap();
    let built = build(&corpus(), &tokenizer, Some("CC0-1.0")).unwrap();
    assert_eq!(built, build(&corpus(), &tokenizer, Some("CC0-1.0")).unwrap());
    assert_eq!(built.manifest.sources[0].licence.as_deref(), Some("CC0-1.0"));
    assert_eq!(built.manifest.tokenizer, tokenizer.hash());
    let data = open(&built).unwrap();
    let (train, held_out) = (data.tokens(Split::Train), data.tokens(Split::HeldOut));
    let whole = tokenizer.encode(&corpus().documents[0].text).unwrap().len() + 1;
    assert_eq!(train.len() + held_out.len(), whole);
    let share = held_out.len() as f64 / whole as f64;
    assert!((0.04..0.06).contains(&share), "{share}");
    assert_eq!(
        train
            .iter()
            .chain(held_out)
            .filter(|token| **token == tokenizer.eos())
            .count(),
        1
    );
}

#[test]
fn what_is_held_out_and_also_trained_on_is_measured() {
    let tokenizer = Tokenizer::bytes().unwrap();
    let once = build(&corpus(), &tokenizer, None).unwrap().overlap;
    assert_eq!(once.trained, 0, "words repeat, but not 64 bytes of them: {once:?}");
    let mut copies = corpus();
    let document = copies.documents[0].clone();
    copies.documents.push(document);
    let twice = build(&copies, &tokenizer, None).unwrap().overlap;
    assert!(twice.percent() > 80.0, "{twice:?}");
}

#[test]
fn a_manifest_that_nobody_would_read_is_not_written() {
    let mut corpus = corpus();
    let long = Source {
        path: "x".repeat(1 << 20),
        ..corpus.sources[0].clone()
    };
    corpus.sources = vec![long; 65];
    let manifest = build(&corpus, &Tokenizer::bytes().unwrap(), None).unwrap().manifest;
    let error = manifest.to_bytes().unwrap_err().to_string();
    assert!(
        error.contains("it names 65 files in") && error.contains("pack the texts into fewer files"),
        "{error}"
    );
}

#[test]
fn rows_overlap_by_one_token() {
    let tokenizer = Tokenizer::bytes().unwrap();
    let data = open(&build(&corpus(), &tokenizer, None).unwrap()).unwrap();
    let rows = data.rows(Split::Train, 32);
    assert_eq!(rows, (data.tokens(Split::Train).len() as u64 - 1) / 32);
    let (first, second) = (
        data.row(Split::Train, 0, 32).unwrap(),
        data.row(Split::Train, 1, 32).unwrap(),
    );
    assert_eq!((first.len(), first[32]), (33, second[0]));
    let batch = data.batch(Split::HeldOut, &[1, 0], 16).unwrap();
    assert_eq!(batch.tokens()[17..], *data.row(Split::HeldOut, 0, 16).unwrap());
    for (row, sequence) in [(rows, 32), (u64::MAX, 32), (0, 0), (0, u32::MAX)] {
        assert!(
            matches!(data.row(Split::Train, row, sequence), Err(DataError::Row { .. })),
            "{row} of {sequence}"
        );
    }
}

#[test]
fn a_corpus_that_is_too_small_is_refused_with_its_size() {
    let mut corpus = corpus();
    corpus.documents[0].text.truncate(100);
    let error = build(&corpus, &Tokenizer::bytes().unwrap(), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the corpus has 101 tokens; at least 1600 are needed: add text or lower the vocabulary"
    );
}

#[test]
fn tampering_is_refused() {
    let good = build(&corpus(), &Tokenizer::bytes().unwrap(), None).unwrap();
    open(&good).unwrap();
    type Change = fn(&mut Built);
    let rename = |built: &mut Built, bytes: Vec<u8>| {
        built.manifest.train[0].blake3 = Hash::of_blob(&bytes);
        built.shards[0] = (Hash::of_blob(&bytes), bytes);
    };
    let mut outside = good.clone();
    let mut bytes = outside.shards[0].1.clone();
    bytes[..2].copy_from_slice(&257u16.to_le_bytes());
    rename(&mut outside, bytes);
    let error = open(&outside).unwrap_err().to_string();
    assert!(error.contains("token 257 is outside the vocabulary of 257"), "{error}");

    let table: [(&str, Change); 7] = [
        ("one byte of a shard", |b| b.shards[0].1[0] ^= 1),
        ("a shard cut short", |b| b.shards[0].1.truncate(8)),
        ("a missing shard", |b| b.shards.clear()),
        ("a length", |b| b.manifest.train[0].tokens -= 1),
        ("a huge length", |b| b.manifest.train[0].tokens = u64::MAX),
        ("the token width", |b| b.manifest.token_bytes = 4),
        ("nothing held out", |b| b.manifest.held_out.clear()),
    ];
    for (name, change) in table {
        let mut built = good.clone();
        change(&mut built);
        assert!(open(&built).is_err(), "{name}");
    }
}

#[test]
fn only_the_canonical_manifest_is_read() {
    let manifest = build(&corpus(), &Tokenizer::bytes().unwrap(), None).unwrap().manifest;
    let bytes = manifest.to_bytes().unwrap();
    assert_eq!(Manifest::from_bytes(&bytes).unwrap(), manifest);
    let text = String::from_utf8(bytes).unwrap();
    for (name, changed) in [
        ("a space more", text.replace("\"version\": 1", "\"version\":  1")),
        ("another version", text.replace("\"version\": 1", "\"version\": 2")),
        (
            "an unknown field",
            text.replace("\"version\": 1", "\"version\": 1,\n  \"extra\": 0"),
        ),
        ("a field less", text.replace("  \"vocab\": 257,\n", "")),
        ("a short hash", text.replacen("\"blake3\": \"", "\"blake3\": \"00", 1)),
        ("a newline less", text.trim_end().to_string()),
    ] {
        assert_ne!(changed, text, "{name}");
        assert!(Manifest::from_bytes(changed.as_bytes()).is_err(), "{name}");
    }
}

proptest! {
    #[test]
    fn byte_tokens_come_back_as_the_same_text(text in ".{0,200}") {
        let tokenizer = Tokenizer::bytes().unwrap();
        let tokens = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(tokens.len(), text.len());
        prop_assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
    }

    #[test]
    fn decoders_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), tokens in prop::collection::vec(0u32..300, 0..30)) {
        let _ = Manifest::from_bytes(&bytes);
        let _ = Tokenizer::from_bytes(&bytes);
        let _ = Tokenizer::bytes().unwrap().decode(&tokens);
    }

    #[test]
    fn a_damaged_manifest_never_panics(at in 0usize..600, byte in any::<u8>()) {
        let built = build(&corpus(), &Tokenizer::bytes().unwrap(), None).unwrap();
        let mut bytes = built.manifest.to_bytes().unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        let shards: BTreeMap<_, _> = built.shards.into_iter().collect();
        let _ = Dataset::open(&bytes, |hash| shards.get(hash).cloned());
    }
}
