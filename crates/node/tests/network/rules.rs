//! What holds after every step, and what holds when a run is over.

use crate::world::{Fate, World};
use atoll_ledger::{Event, Outcome, Phase, RoundRecord};
use atoll_node::Effect;
use atoll_protocol::{Action, Round};

/// After a step of `who` that led to `effects`.
pub(crate) fn after_step(world: &World, who: usize, effects: &[Effect]) {
    let state = world.peers[who].life.as_ref().unwrap().node.state();
    let height = state.height().0 as usize;
    assert_eq!(state.root(), world.chain.roots[height], "peer {who} at height {height}");
    effects
        .iter()
        .for_each(|effect| is_of_an_open_round(world, who, effect));
}

/// No effect is about a round that is not open at this peer. Only a merge may be about the last closed
/// round: a peer that missed it computes θ from it.
fn is_of_an_open_round(world: &World, who: usize, effect: &Effect) {
    let state = world.peers[who].life.as_ref().unwrap().node.state();
    let (round, phase) = (state.round().number, state.round().phase);
    let allowed = match effect {
        Effect::Train { round: of, share } => {
            *of == round && phase == Phase::Commit && share.beacon == state.round().beacon
        }
        Effect::Fetch { reveal, .. } => reveal.round == round && matches!(phase, Phase::Reveal | Phase::Check),
        Effect::Merge { round: of, .. } => {
            (*of == round && phase == Phase::Merge) || last_closed(world, round) == Some(*of)
        }
        Effect::Submit(Action::Commit { round: of, .. }) => *of == round && phase == Phase::Commit,
        Effect::Submit(Action::Reveal(reveal)) => reveal.round == round && phase == Phase::Reveal,
        Effect::Submit(Action::Check { round: of, .. }) => *of == round && phase == Phase::Check,
        Effect::Submit(Action::MergeRoot { round: of, .. }) => *of == round && phase == Phase::Merge,
        Effect::Restore(of) => *of <= round,
        _ => true,
    };
    assert!(allowed, "peer {who} in round {round}, {phase:?}: {effect:?}");
}

/// The last round before `current` that moved θ.
fn last_closed(world: &World, current: Round) -> Option<Round> {
    let closed = |record: &&RoundRecord| record.round < current && matches!(record.outcome, Outcome::Closed(_));
    world
        .chain
        .records
        .iter()
        .filter(closed)
        .map(|record| record.round)
        .next_back()
}

/// When nothing happens any more: all rounds are over, everybody who lives holds the same θ, every
/// contribution was either merged or restored, and nobody was caught with two statements.
pub(crate) fn at_the_end(world: &World) {
    assert!(world.chain.is_finished(), "not finished: {}", picture(world));
    for (who, peer) in world.peers.iter().enumerate().filter(|(_, peer)| peer.life.is_some()) {
        assert_eq!(peer.disk.height, world.chain.height(), "height of peer {who}");
        assert_eq!(peer.disk.holds, world.chain.state.core().roots, "θ of peer {who}");
        assert_eq!(peer.disk.mine, None, "peer {who} has an unsettled contribution");
    }
    for ((who, round), (blob, fate)) in &world.fates {
        let record = world
            .chain
            .records
            .iter()
            .find(|record| record.round == *round)
            .unwrap();
        let merged = record.merged.iter().any(|entry| entry.blob == *blob);
        let expected = match merged {
            true => Fate::Spent,
            false => Fate::Restored,
        };
        assert_eq!(*fate, expected, "contribution of peer {who} to round {round}");
    }
    let excluded = world
        .chain
        .events
        .iter()
        .find(|event| matches!(event, Event::Excluded(..)));
    assert_eq!(excluded, None, "an honest peer was excluded");
}

/// Where everybody stands, for a failure's message.
pub(crate) fn picture(world: &World) -> String {
    let round = world.chain.state.round();
    let mut text = format!("round {} {:?} at {}", round.number, round.phase, world.now);
    for (who, peer) in world.peers.iter().enumerate() {
        let (holds, height) = (peer.disk.holds.theta, peer.disk.height);
        text += &format!(
            "\npeer {who} lives: {}, height {height}, holds {holds:?}",
            peer.life.is_some()
        );
        for (at, _, effect) in world.log.iter().rev().filter(|entry| entry.1 == who).take(5) {
            text += &format!("\n  {at} {effect:?}");
        }
    }
    text
}
