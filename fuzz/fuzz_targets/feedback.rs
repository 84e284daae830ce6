//! Error feedback from a damaged disk: what is read is finite, is written back to the same bytes, and can be
//! gone on from.
#![no_main]

use atoll_fuzz::{BASE, codecs, seal};
use atoll_outer::ErrorFeedback;
use atoll_protocol::{Layout, charter::Codec};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static CODECS: LazyLock<[(Codec, Layout); 5]> = LazyLock::new(codecs);

fuzz_target!(|bytes: &[u8]| {
    // As it is, and with the hash that it should have: else no fuzzer comes past it.
    for bytes in [bytes.to_vec(), seal(bytes)] {
        for (codec, layout) in CODECS.iter() {
            let mut feedback = match ErrorFeedback::from_bytes(&bytes, layout.parameters) {
                Ok(feedback) => feedback,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    continue;
                }
            };
            assert_eq!(feedback.to_bytes(), bytes, "one encoding for each state");
            assert!(feedback.values().iter().all(|e| e.is_finite()));
            let before = feedback.clone();
            let delta = vec![0.25; layout.parameters];
            if feedback.contribute(delta, codec, (layout, &BASE), Some(1.0)).is_err() {
                assert_eq!(feedback, before, "unchanged by an error");
            }
        }
    }
});
