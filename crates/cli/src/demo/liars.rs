//! What became of a demo's liars, for people.

use atoll_host::liars::Liar;
use serde_json::Value;

/// Says who was caught, when and why.
pub(super) fn tell(liars: &[Liar], result: &Value) {
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
        say!("not caught  {liar}: only the robust rule stands against it; see `atoll why DIR PEER` for its weights");
    }
}
