//! One validator lies: it shows different blocks to different validators, or votes for two.

use super::{
    cast::Cast,
    world::{World, good, runner},
};
use commonware_runtime::Runner as _;
use std::sync::Arc;

const LIAR: usize = 0;

enum Lie<'a> {
    /// Two blocks a view, each shown to its own audience.
    Twins([&'a [usize]; 2]),
    /// Two votes a view, for all to see.
    Forger,
}

/// Runs until all honest ones are done; who has kept out whom.
fn run(cast: &Arc<Cast>, seed: u64, lie: Lie<'_>) -> Vec<(usize, usize)> {
    let honest: Vec<usize> = cast.all().into_iter().filter(|who| *who != LIAR).collect();
    let blocked = runner(seed).start(|context| async {
        let mut world = World::with(context, cast, &honest, good()).await;
        match lie {
            Lie::Twins(audiences) => world.wake_twins(LIAR, audiences).await,
            Lie::Forger => world.wake_forger(LIAR).await,
        }
        world.until_done(&honest).await;
        world.network.blocked().await
    });
    cast.assert_one_history(&honest);
    let lies = cast.ballots.contradictions(&cast.keypairs[LIAR].peer());
    assert!(!lies.is_empty(), "it has not lied");
    let liar = |(by, who): &(usize, usize)| honest.contains(by) && *who == LIAR;
    assert!(blocked.iter().all(liar), "an honest one is kept out: {blocked:?}");
    blocked
}

#[test]
fn of_four_one_shows_two_blocks() {
    for seed in 0..6 {
        let blocked = run(&Cast::new(4), seed, Lie::Twins([&[1, 2], &[3]]));
        assert!(!blocked.is_empty(), "nobody has noticed");
    }
}

#[test]
fn of_seven_one_shows_two_blocks_of_which_one_can_be_certified() {
    for seed in 0..3 {
        let blocked = run(&Cast::new(7), seed, Lie::Twins([&[1, 2, 3, 4], &[5, 6]]));
        assert!(!blocked.is_empty(), "nobody has noticed");
    }
}

#[test]
fn of_seven_one_shows_two_blocks_of_which_none_can_be_certified() {
    for seed in 0..3 {
        run(&Cast::new(7), seed, Lie::Twins([&[1, 2, 3], &[4, 5, 6]]));
    }
}

#[test]
fn one_of_four_or_seven_votes_for_two_blocks_and_is_kept_out_by_all() {
    for (n, seed) in [(4, 0), (4, 1), (4, 2), (7, 3), (7, 4)] {
        let cast = Cast::new(n);
        let expected: Vec<_> = (1..usize::from(n)).map(|honest| (honest, LIAR)).collect();
        assert_eq!(run(&cast, seed, Lie::Forger), expected);
    }
}
