//! A demo's liars, for people: which there are, and what became of them.

use crate::paths::pasted;
use atoll_host::liars::Liar;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::Value;
use std::path::Path;

/// Reads a liar's name; the help lists those that there are.
pub(crate) fn parser() -> impl TypedValueParser<Value = Liar> {
    PossibleValuesParser::new(Liar::ALL.map(Liar::name)).try_map(|name| name.parse::<Liar>())
}

/// Says who was caught, when and why.
pub(super) fn tell(liars: &[Liar], dir: &Path, result: &Value) {
    if liars.is_empty() {
        return;
    }
    let caught = result["caught"].as_array().map_or(&[][..], Vec::as_slice);
    say!("");
    for entry in caught {
        say!(
            "caught      {} ({}), first in round {}, in {} rounds: {}",
            entry["peer"].as_str().unwrap_or("-"),
            entry["liar"].as_str().unwrap_or("-"),
            entry["round"],
            entry["rounds"],
            entry["reason"].as_str().unwrap_or("-")
        );
        if let Some(sentence) = entry["convicted"].as_str().filter(|text| entry["reason"] != *text) {
            say!("            suspended: {sentence}");
        }
    }
    let known: Vec<_> = caught.iter().filter_map(|entry| entry["liar"].as_str()).collect();
    for liar in liars.iter().filter(|liar| !known.contains(&liar.name())) {
        say!(
            "not caught  {liar}: only the robust rule stands against it; see `atoll why {} PEER` for its weights",
            pasted(dir)
        );
    }
}
