//! One validator lies: it shows different blocks to different validators, votes for two, or proposes wrong
//! ones.

use super::{
    cast::Cast,
    lies::{Lie, Spoiler},
    world::{World, good, runner},
};
use atoll_protocol::Hash;
use commonware_runtime::Runner as _;
use std::sync::Arc;

const LIAR: usize = 0;

/// What came of a run.
struct Outcome {
    /// Views in which the liar has said two things.
    lies: usize,
    /// Who keeps out whom.
    blocked: Vec<(usize, usize)>,
    /// Wrong blocks that were proposed, and the final ones.
    wrong: Vec<Hash>,
    history: Vec<Hash>,
}

/// Runs until all honest ones are done. `wake` starts the liar; a value is what it knows in the end.
fn run(n: u8, seed: u64, wake: impl AsyncFn(&mut World, &Cast) -> Option<Arc<Spoiler>>) -> Outcome {
    let cast = Cast::new(n, 5);
    let honest: Vec<usize> = cast.all().into_iter().filter(|who| *who != LIAR).collect();
    let (blocked, wrong) = runner(seed).start(|context| async {
        let mut world = World::with(context, &cast, &honest, good()).await;
        let spoiler = wake(&mut world, &cast).await;
        world.until_done(&honest).await;
        let wrong = spoiler.map(|spoiler| spoiler.spoiled()).unwrap_or_default();
        (world.network.blocked().await, wrong)
    });
    cast.assert_one_history(&honest);
    let liar = |(by, who): &(usize, usize)| honest.contains(by) && *who == LIAR;
    assert!(blocked.iter().all(liar), "an honest one is kept out: {blocked:?}");
    let lies = cast.ballots.contradictions(&cast.keypairs[LIAR].peer()).len();
    let history = cast.disks[honest[0]]
        .read()
        .blocks
        .iter()
        .map(|block| block.digest())
        .collect();
    Outcome {
        lies,
        blocked,
        wrong,
        history,
    }
}

/// Runs with twins; in how many of them they lied, and in how many somebody noticed. They lie when they
/// lead a view and know different transactions, which is left to the seed.
fn twins(n: u8, audiences: [&[usize]; 2]) -> (usize, usize) {
    let outcomes = (0..6).map(|seed| {
        run(n, seed, async |world, _| {
            world.wake_twins(LIAR, audiences).await;
            None
        })
    });
    outcomes.fold((0, 0), |(lied, noticed), outcome| {
        let (lies, notices) = (outcome.lies > 0, !outcome.blocked.is_empty());
        assert!(lies || !notices, "kept out without a lie");
        (lied + usize::from(lies), noticed + usize::from(notices))
    })
}

#[test]
fn of_four_one_shows_two_blocks() {
    let (lied, noticed) = twins(4, [&[1, 2], &[3]]);
    assert!(lied >= 3 && noticed >= 3, "lied in {lied} runs, noticed in {noticed}");
}

#[test]
fn of_seven_one_shows_two_blocks_of_which_one_can_be_certified() {
    let (lied, noticed) = twins(7, [&[1, 2, 3, 4], &[5, 6]]);
    assert!(lied >= 3 && noticed >= 3, "lied in {lied} runs, noticed in {noticed}");
}

#[test]
fn of_seven_one_shows_two_blocks_of_which_none_can_be_certified() {
    let (lied, _) = twins(7, [&[1, 2, 3], &[4, 5, 6]]);
    assert!(lied >= 3, "lied in {lied} runs");
}

#[test]
fn one_of_four_or_seven_votes_for_two_blocks_and_is_kept_out_by_all() {
    for (n, seed) in [(4, 0), (4, 1), (4, 2), (7, 3), (7, 4)] {
        let outcome = run(n, seed, async |world, cast| {
            world.wake_liar(LIAR, Lie::Forge(Arc::new(cast.signer(LIAR)))).await;
            None
        });
        assert!(outcome.lies > 0);
        let all: Vec<_> = (1..usize::from(n)).map(|honest| (honest, LIAR)).collect();
        assert_eq!(outcome.blocked, all);
    }
}

#[test]
fn one_of_four_or_seven_proposes_blocks_with_a_wrong_state_and_none_of_them_becomes_final() {
    for (n, seed) in [(4, 0), (4, 1), (7, 2), (7, 3)] {
        let outcome = run(n, seed, async |world, cast| {
            let spoiler = Spoiler::new(cast.signer(LIAR));
            world.wake_liar(LIAR, Lie::Spoil(spoiler.clone())).await;
            Some(spoiler)
        });
        assert!(outcome.wrong.len() >= 2, "{} wrong blocks", outcome.wrong.len());
        assert!(outcome.wrong.iter().all(|wrong| !outcome.history.contains(wrong)));
    }
}
