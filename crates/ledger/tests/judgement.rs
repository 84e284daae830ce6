//! What peers keep out of a merge, as the ledger takes it up.

mod world;

use atoll_ledger::{Outcome, Phase, Refusal};
use atoll_protocol::{
    Hash,
    transaction::{Judgement, Unfit, UnfitReplica},
};
use world::World;

fn out(replica: u16, reason: Unfit) -> UnfitReplica {
    UnfitReplica { replica, reason }
}

fn judgement(norm_micro: u64, unfit: &[UnfitReplica]) -> Judgement {
    Judgement {
        matrix: Hash([5; 32]),
        norm_micro,
        unfit: unfit.to_vec(),
    }
}

/// Four peers who are about to merge.
fn merging() -> World {
    let mut world = World::new(4);
    world.join_all();
    until_merge(&mut world);
    world
}

fn until_merge(world: &mut World) {
    (0..4).for_each(|who| world.commit(who).unwrap());
    (0..4).for_each(|who| world.reveal(who).unwrap());
    (0..4).for_each(|who| world.check(who, &[]).unwrap());
    assert_eq!(world.state.round().phase, Phase::Merge);
}

#[test]
fn what_a_quorum_keeps_out_is_recorded_and_not_credited() {
    let mut world = merging();
    let long = out(2, Unfit::Long { times_milli: 4_200 });
    for who in 0..3 {
        world.judged_root(who, 1, judgement(1_500_000, &[long])).unwrap();
    }
    let record = world.last_record();
    assert_eq!(
        record.merged.iter().map(|entry| entry.replica).collect::<Vec<_>>(),
        [0, 1, 3]
    );
    assert_eq!(
        record.kept_out.iter().map(|out| out.entry()).collect::<Vec<_>>(),
        [long]
    );
    assert_eq!(record.matrix, Hash([5; 32]));
    assert_eq!(
        record.plan().iter().map(|entry| entry.replica).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
    assert_eq!(
        record.plan().iter().map(|entry| entry.order).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
    let merged = |world: &World, who: usize| world.state.core().peers[&world.peer(who)].merged;
    assert_eq!([0, 1, 2, 3].map(|who| merged(&world, who)), [1, 1, 0, 1]);
    assert_eq!(
        world.state.core().last_merge.as_ref().unwrap().plan.len(),
        4,
        "who merges late judges all"
    );
    assert_eq!(world.state.round().terms.usual_norm_micro, Some(1_500_000));
}

#[test]
fn the_usual_length_is_the_median_of_the_last_rounds() {
    let mut world = World::under(4, |charter| charter.round.rounds = 20);
    world.join_all();
    for (round, norm_micro) in [3, 9, 0, 5, 7, 1, 1, 1, 1, 1, 1, 1].into_iter().enumerate() {
        until_merge(&mut world);
        (0..3).for_each(|who| world.judged_root(who, round as u8, judgement(norm_micro, &[])).unwrap());
        let usual = world.state.round().terms.usual_norm_micro;
        let expected = [3, 9, 9, 5, 7, 5, 5, 3, 3, 1, 1, 1][round];
        assert_eq!(usual, Some(expected), "round {round}");
    }
}

#[test]
fn peers_that_judge_otherwise_do_not_agree() {
    let mut world = merging();
    let zero = out(3, Unfit::Zero);
    world.judged_root(0, 1, judgement(7, &[])).unwrap();
    world.judged_root(1, 1, judgement(7, &[zero])).unwrap();
    world.judged_root(2, 1, judgement(8, &[])).unwrap();
    assert_eq!(world.last_record().outcome, Outcome::RootsSplit);
    assert!(world.last_record().kept_out.is_empty());
    assert_eq!(world.state.round().terms.usual_norm_micro, None);
}

#[test]
fn a_judgement_of_what_is_not_there_is_refused() {
    let mut world = merging();
    let (a, b) = (out(0, Unfit::Zero), out(1, Unfit::Zero));
    let table: [(&[UnfitReplica], &str); 5] = [
        (&[b, a], "must ascend by replica, without repeats"),
        (&[a, a], "must ascend by replica, without repeats"),
        (&[out(4, Unfit::Zero)], "may name planned contributions only"),
        (&[out(u16::MAX, Unfit::Zero)], "may name planned contributions only"),
        (
            &[a, b, out(2, Unfit::Zero), out(3, Unfit::Zero)],
            "must leave at least one contribution, and name no more than a merge may keep out",
        ),
    ];
    for (unfit, expected) in table {
        let refused = world.judged_root(0, 1, judgement(0, unfit));
        assert!(
            matches!(refused, Err(Refusal::Unfit(text)) if text == expected),
            "{refused:?}"
        );
    }
    world.judged_root(0, 1, judgement(0, &[a])).unwrap();
}
