//! A block from a stranger, in every phase of a round; and the same statements under true signatures.
#![no_main]

use atoll_fuzz::{run, signed};
use atoll_ledger::State;
use atoll_protocol::{Block, encode};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static STATES: LazyLock<Vec<State>> = LazyLock::new(|| run().into_iter().map(|(state, _)| state).collect());

fuzz_target!(|bytes: &[u8]| {
    let Ok(block) = Block::from_bytes(bytes) else { return };
    assert_eq!(encode(&block), bytes, "one encoding for each block");
    for state in STATES.iter() {
        if let Err(error) = state.apply(&block) {
            assert!(!error.to_string().is_empty());
        }
        let again = block.transactions.iter().take(8);
        let said = again.map(|entry| signed(entry.signer.0[0].into(), entry.body.action.clone()));
        let (drafted, next) = state.draft(block.header.time, said).into_parts();
        let (applied, _) = state.apply(&drafted).expect("who drafts and who applies agree");
        assert_eq!(*next, applied);
    }
});
