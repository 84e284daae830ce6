//! A charter from a stranger: whatever is valid can be laid out and begun.
#![no_main]

use atoll_ledger::State;
use atoll_protocol::{Charter, Layout, decode, encode, layout, limits::CHARTER_BYTES_MAX};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

/// Tensors of the largest layout that is built: more would only be slower.
const LAYERS_MAX: u32 = 64;

fuzz_target!(|bytes: &[u8]| {
    let Ok(charter) = decode::<Charter>(bytes, CHARTER_BYTES_MAX) else {
        return;
    };
    assert_eq!(encode(&charter), bytes, "one encoding for each charter");
    if let Err(error) = charter.validate() {
        assert!(!error.to_string().is_empty());
        return;
    }
    if charter.model.layers <= LAYERS_MAX {
        let counted = layout::parameters(&charter.model);
        assert_eq!(counted, Some(Layout::of(&charter.model).parameters as u64));
    }
    let quorum = charter.quorum(charter.members.len());
    assert!(2 * quorum > charter.members.len() && quorum <= charter.members.len());
    let state = State::genesis(Arc::new(charter));
    let (block, next) = state.draft(atoll_protocol::Millis(1), []).into_parts();
    let (applied, _) = state.apply(&block).expect("who drafts and who applies agree");
    assert_eq!(*next, applied);
});
