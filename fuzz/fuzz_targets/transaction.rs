//! A statement from a stranger.
#![no_main]

use atoll_fuzz::run;
use atoll_ledger::State;
use atoll_protocol::{decode, encode, limits::TRANSACTION_BYTES_MAX, transaction::SignedTransaction};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static STATES: LazyLock<Vec<State>> = LazyLock::new(|| run().into_iter().map(|(state, _)| state).collect());

fuzz_target!(|bytes: &[u8]| {
    let Ok(transaction) = decode::<SignedTransaction>(bytes, TRANSACTION_BYTES_MAX) else {
        return;
    };
    assert_eq!(encode(&transaction), bytes, "one encoding for each statement");
    for state in STATES.iter() {
        if let Err(refusal) = state.admissible(&transaction) {
            assert!(!refusal.to_string().is_empty());
        }
    }
});
