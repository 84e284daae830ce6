//! What the fuzz targets and the seeds share: a small run in which every phase can be reached.

// The readers of data as they are, without the crate around them: it takes minutes to build.
#[allow(dead_code)]
#[path = "../../crates/learner/src/data/decode.rs"]
mod decode;
#[allow(dead_code)]
#[path = "../../crates/learner/src/data/json.rs"]
mod json;
#[allow(dead_code)]
#[path = "../../crates/learner/src/data/secret.rs"]
mod secret;

use atoll_ledger::State;
use atoll_protocol::{
    Action, Block, ByteCount, Domain, Hash, InnerSteps, Keypair, Layout, MicroNats, Millis, Nano, Tokens, Transaction,
    charter::{Charter, Codec, Model},
    tiny_charter,
    transaction::{Measured, Reveal, SignedTransaction, States, commitment},
};
use std::sync::Arc;

/// Root of the θ from which the seeds' contributions are made.
pub const BASE: Hash = Hash([9; 32]);

/// Keys of the members, ascending by peer.
pub fn keys() -> Vec<Keypair> {
    let mut keys: Vec<Keypair> = (1..=3).map(|i| Keypair::from_seed(&[i; 32])).collect();
    keys.sort_by_key(Keypair::peer);
    keys
}

/// A valid charter of three members and a tiny model.
pub fn charter() -> Charter {
    let members = keys();
    let mut charter = tiny_charter(
        members
            .iter()
            .zip(["a", "b", "c"])
            .map(|(key, name)| (name.into(), key.peer())),
    );
    charter.model.theta = BASE;
    charter.round.rounds = 2;
    charter.round.absent_max = 1;
    charter
}

fn model(ffn: u32) -> Model {
    Model { ffn, ..charter().model }
}

/// Every codec with a layout in which it has whole and broken blocks.
pub fn codecs() -> [(Codec, Layout); 5] {
    let feedback = Nano::ONE;
    [
        (Codec::Dense, Layout::of(&model(8))),
        (Codec::Int8 { feedback }, Layout::of(&model(70))),
        (Codec::Int4 { feedback }, Layout::of(&model(70))),
        (Codec::Sparse { k: 16, feedback }, Layout::of(&model(1100))),
        // A band and a half, and more than a block of columns.
        (Codec::LowRank { rank: 2, feedback }, Layout::of(&model(150))),
    ]
}

/// Bytes of error feedback with the hash that they should have, if they are long enough to have one.
pub fn seal(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some((header, rest)) = bytes.split_first_chunk_mut::<48>() {
        header[16..].copy_from_slice(Hash::of_blob(rest).as_bytes());
    }
    bytes
}

/// `action`, signed by member `who` for the run of [`charter`].
pub fn signed(who: usize, action: Action) -> SignedTransaction {
    let genesis = charter().genesis();
    keys()[who % 3].sign(Domain::Transaction, Transaction { genesis, action })
}

fn reveal(state: &State, who: usize) -> Reveal {
    Reveal {
        round: state.round().number,
        trained: state.round().number,
        blob: Hash([who as u8; 32]),
        bytes: ByteCount(100),
        steps: InnerSteps(4),
        ahead: None,
        tokens: Tokens(64),
        train_loss: MicroNats(1),
        held_out: MicroNats(2),
        measured: Measured::default(),
        states: States::NONE,
    }
}

/// What member `who` says in each step of a round.
fn statements(state: &State, who: usize) -> [Action; 5] {
    let (round, reveal) = (state.round().number, reveal(state, who));
    let (genesis, peer) = (state.core().genesis, keys()[who].peer());
    [
        Action::Join { sequence: 0 },
        Action::Commit {
            round,
            commitment: commitment(&genesis, &peer, round, &reveal.blob),
        },
        Action::Reveal(reveal),
        Action::Check {
            round,
            held: None,
            refused: Vec::new(),
        },
        Action::MergeRoot {
            round,
            theta: Hash([7; 32]),
            momentum: None,
            judgement: atoll_protocol::transaction::Judgement::NONE,
        },
    ]
}

/// A run's first round: the states before each of its five blocks, and the blocks.
pub fn run() -> Vec<(State, Block)> {
    let mut state = State::genesis(Arc::new(charter()));
    let mut run = Vec::new();
    for step in 0..5 {
        let said = (0..3).map(|who| signed(who, statements(&state, who)[step].clone()));
        let drafted = state.draft(Millis(1_000 * (step as u64 + 1)), said.collect::<Vec<_>>());
        let (block, next) = drafted.into_parts();
        run.push((std::mem::replace(&mut state, Arc::unwrap_or_clone(next)), block));
    }
    run
}

/// A line of JSON ends in a value or a reason, and what looks like a secret is found or not.
pub fn check_json(line: &str) {
    let mut texts = Vec::new();
    match json::pick(line, "text", &mut texts) {
        Ok(_) => assert!(
            texts.iter().map(String::len).sum::<usize>() <= line.len(),
            "no more than was there"
        ),
        Err(wrong) => assert!(texts.is_empty() && wrong.at <= line.len() && !wrong.what.is_empty()),
    }
    assert!(json::fields(line).len() < 4096, "a message is short");
    let _ = secret::secret_in_text(line);
}

/// Bytes of a file are read as what stands there, or there is a reason; a name moves no cursor.
pub fn check_text(bytes: &[u8]) {
    assert!(!decode::name(bytes).contains(char::is_control));
    match decode::text(bytes.to_vec()) {
        Ok((text, _)) if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") => {
            assert!(!text.contains('\0'));
        }
        Ok((text, lone)) => {
            assert!(bytes.ends_with(text.as_bytes()) && bytes.len() - text.len() <= 3 && lone == 0);
        }
        Err(reason) => assert!(!reason.is_empty()),
    }
}
