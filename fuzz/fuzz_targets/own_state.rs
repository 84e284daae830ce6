//! A replica's state that its author serves: what is read is written back to the same bytes, and what is in it is
//! finite or refused.
#![no_main]

use atoll_fuzz::codecs;
use atoll_outer::{ErrorFeedback, OwnState};
use atoll_protocol::{Layout, charter::Codec};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static CODECS: LazyLock<[(Codec, Layout); 5]> = LazyLock::new(codecs);

fuzz_target!(|bytes: &[u8]| {
    let state = match OwnState::from_bytes(bytes) {
        Ok(state) => state,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(state.to_bytes(), bytes, "one encoding for each state");
    for (_, layout) in CODECS.iter() {
        if let Ok(feedback) = ErrorFeedback::from_bytes(&state.feedback, layout.parameters) {
            assert!(feedback.values().iter().all(|e| e.is_finite()));
        }
        if let Ok(Some(local)) = state.local(layout) {
            assert!(local.len() == layout.parameters && local.iter().all(|w| w.is_finite()));
        }
    }
});
