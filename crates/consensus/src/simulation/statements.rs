//! What a member says next: it joins, takes part in every round, and leaves after the last one.

use atoll_ledger::{Peer, Phase, Standing, State};
use atoll_protocol::{
    Action, ByteCount, Domain, Hash, Keypair, MicroNats, PeerId, Round, Tokens, Transaction, encode,
    transaction::{Measured, Reveal, SignedTransaction, States, commitment},
};

/// The next statement of `keypair` in this state. The same state gives the same one, so who restarts
/// repeats itself.
pub(super) fn next(state: &State, keypair: &Keypair) -> Option<SignedTransaction> {
    let me = keypair.peer();
    let action = match state.core().peers.get(&me) {
        None => Action::Join { sequence: 0 },
        Some(peer) => checkpoint(state, me).or_else(|| in_phase(state, me, peer))?,
    };
    let genesis = state.core().genesis;
    Some(keypair.sign(Domain::Transaction, Transaction { genesis, action }))
}

fn checkpoint(state: &State, me: PeerId) -> Option<Action> {
    let due = state.core().checkpoint.as_ref()?;
    let statement = || Action::Checkpoint {
        round: due.round,
        manifest: due.theta,
        held_out: MicroNats(1),
    };
    (!due.statements.contains_key(&me)).then(statement)
}

fn in_phase(state: &State, me: PeerId, peer: &Peer) -> Option<Action> {
    let round = state.round();
    let number = round.number;
    if round.phase == Phase::Finished {
        return (peer.standing == Standing::Active).then_some(Action::Leave { sequence: peer.joins });
    }
    round.replica(&me)?;
    let (said, action) = match round.phase {
        Phase::Gathering | Phase::Finished => return None,
        Phase::Commit => (round.commits.contains_key(&me), commit(state, me, number)),
        Phase::Reveal if !round.commits.contains_key(&me) => return None,
        Phase::Reveal => (
            round.reveals.contains_key(&me),
            Action::Reveal(reveal(state, me, number)),
        ),
        Phase::Check => (round.checks.contains_key(&me), check(number)),
        Phase::Merge => (round.roots.contains_key(&me), merge_root(state, number)),
    };
    (!said).then_some(action)
}

fn blob(me: PeerId, round: Round) -> Hash {
    Hash::of_blob(&encode(&(me, round)))
}

fn commit(state: &State, me: PeerId, round: Round) -> Action {
    let commitment = commitment(&state.core().genesis, &me, round, &blob(me, round));
    Action::Commit { round, commitment }
}

fn check(round: Round) -> Action {
    let refused = Vec::new();
    Action::Check {
        round,
        held: None,
        refused,
    }
}

fn merge_root(state: &State, round: Round) -> Action {
    Action::MergeRoot {
        round,
        theta: Hash::of_blob(&encode(&state.round().plan)),
        momentum: None,
        judgement: atoll_protocol::transaction::Judgement::NONE,
    }
}

fn reveal(state: &State, me: PeerId, round: Round) -> Reveal {
    let rules = &state.charter().round;
    let tokens = u64::from(rules.inner_steps.0) * u64::from(rules.batch) * u64::from(rules.sequence);
    Reveal {
        round,
        trained: round,
        blob: blob(me, round),
        bytes: ByteCount(1_000),
        steps: rules.inner_steps,
        tokens: Tokens(tokens),
        train_loss: MicroNats(1),
        held_out: MicroNats(1),
        ahead: None,
        measured: Measured::default(),
        states: States::NONE,
    }
}
