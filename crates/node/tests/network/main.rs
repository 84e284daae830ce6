//! Whole networks of node machines in virtual time: what happens, and what never does.

mod chain;
mod charter;
mod effects;
mod peer;
mod rules;
mod world;

use atoll_ledger::{Event, Outcome, Roots, Standing};
use atoll_node::{Effect, Notice};
use atoll_protocol::{CheckReason, Millis, Refused, Round};
use peer::{Crash, Fault, Pace};
use proptest::{prelude::*, test_runner::RngSeed};
use world::{Fate, Happening, World};

impl World {
    /// Runs to the end and checks what must hold there.
    fn finish(mut self) -> Self {
        self.run();
        rules::at_the_end(&self);
        self
    }

    fn merged(&self, round: u32) -> Vec<usize> {
        let record = &self.chain.records[round as usize];
        record.merged.iter().map(|entry| self.who(&entry.peer)).collect()
    }

    fn did(&self, who: usize, wanted: impl Fn(&Effect) -> bool) -> usize {
        let did = |(_, by, effect): &&(_, _, _)| *by == who && wanted(effect);
        self.log.iter().filter(did).count()
    }
}

#[test]
fn everybody_finishes_all_rounds_with_equal_roots() {
    for n in 1..=4 {
        let world = World::new(n, 3, 1).finish();
        for round in 0..3 {
            assert_eq!(
                world.merged(round),
                (0..n).collect::<Vec<_>>(),
                "{n} peers, round {round}"
            );
        }
        let recorded = |event: &&Event| matches!(event, Event::CheckpointRecorded { .. });
        assert_eq!(world.chain.events.iter().filter(recorded).count(), 2, "{n} peers");
        assert!((0..n).all(|who| world.did(who, |effect| matches!(effect, Effect::Adopt(_))) == 0));
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (first, second) = (World::new(4, 2, 9).finish(), World::new(4, 2, 9).finish());
    assert_eq!(first.log, second.log);
    assert_ne!(first.log, World::new(4, 2, 10).finish().log);
}

/// Runs once for every step of peer 0's machine, until a crash comes too late to happen.
fn crash_at_every_step(n: usize, effects: usize, away: Millis) -> usize {
    for step in 0.. {
        let world = World::new(n, 2, 1).crash(0, Crash { step, effects, away }).finish();
        if !world.peers[0].crashes.is_empty() {
            return step as usize;
        }
        assert_eq!(world.chain.records.len(), 2);
        if n == 4 {
            let closed = |record: &atoll_ledger::RoundRecord| matches!(record.outcome, Outcome::Closed(_));
            assert!(
                world.chain.records.iter().all(closed),
                "the others close it, step {step}"
            );
        }
    }
    0
}

#[test]
fn one_of_four_crashes_at_any_step_and_comes_back() {
    for effects in [0, 1, 2, usize::MAX] {
        for away in [10, 3_000, 30_000] {
            assert!(crash_at_every_step(4, effects, Millis(away)) > 30);
        }
    }
}

#[test]
fn one_alone_crashes_at_any_step_and_goes_on() {
    for effects in [0, 1, 2, usize::MAX] {
        assert!(crash_at_every_step(1, effects, Millis(2_000)) > 12);
    }
}

#[test]
fn all_crash_at_the_same_step_and_go_on() {
    for step in 0..60 {
        let crash = Crash {
            step,
            effects: 0,
            away: Millis(5_000),
        };
        let world = (0..4).fold(World::new(4, 2, 3), |world, who| world.crash(who, crash));
        world.finish();
    }
}

#[test]
fn another_root_is_noticed_and_given_up() {
    let world = World::new(4, 3, 1).fault(2, Fault::OtherRoot(Round(0))).finish();
    let diverged = |effect: &Effect| matches!(effect, Effect::Notice(Notice::Diverged { round: Round(0), .. }));
    assert_eq!(world.did(2, diverged), 1);
    assert_eq!(world.did(2, |effect| matches!(effect, Effect::Adopt(_))), 1);
    assert_eq!(world.did(1, diverged), 0);
    assert_eq!(world.merged(1), [0, 1, 2, 3]);
}

#[test]
fn a_blob_that_nobody_can_use_is_refused_and_restored() {
    for (fault, reason) in [
        (Fault::Unserved(Round(1)), CheckReason::Missing),
        (Fault::Malformed(Round(1)), CheckReason::Malformed),
    ] {
        let world = World::new(4, 3, 1).fault(3, fault).finish();
        let peer = world.peer(3);
        assert_eq!(world.chain.records[1].refused, [Refused { peer, reason }]);
        assert_eq!(world.merged(1), [0, 1, 2]);
        assert_eq!(world.did(3, |effect| *effect == Effect::Restore(Round(1))), 1);
        assert_eq!(world.merged(2), [0, 1, 2, 3]);
    }
}

#[test]
fn a_merge_that_fails_is_tried_again() {
    let world = (1..4).fold(World::new(4, 2, 1), |world, who| {
        world.fault(who, Fault::MergeFails(Round(0), 3))
    });
    let world = world.finish();
    assert!(matches!(world.chain.records[0].outcome, Outcome::Closed(_)));
    let tries = |effect: &Effect| matches!(effect, Effect::Merge { round: Round(0), .. });
    assert_eq!(world.did(1, tries), 4);
}

#[test]
fn a_slow_peer_is_stopped_and_takes_part_when_it_can() {
    let mut world = World::new(4, 4, 1);
    let usual = world.peers[1].pace;
    world.peers[1].pace = Pace {
        training_ms_max: 60_000,
        ..usual
    };
    world.run_while(|world| world.chain.records.is_empty());
    world.peers[1].pace = usual;
    let peer = world.peer(1);
    let world = world.finish();
    assert_eq!(world.chain.records[0].absent, [peer]);
    assert_eq!(world.did(1, |effect| *effect == Effect::Abort), 1);
    assert_eq!(world.merged(1), [0, 1, 2, 3]);
}

#[test]
fn training_that_ends_as_commitments_close_is_restored() {
    let restored = (0..200).filter(|seed| {
        let mut world = World::new(4, 2, *seed);
        world.peers[1].pace.training_ms_max = 6_000;
        let world = world.finish();
        world
            .fates
            .get(&(1, Round(0)))
            .is_some_and(|fate| fate.1 == Fate::Restored)
    });
    assert!(restored.count() > 0);
}

#[test]
fn a_slow_merge_is_not_called_another_root() {
    let mut world = World::new(4, 5, 1);
    world.peers[2].pace.merge_ms_max = 60_000;
    let world = world.finish();
    assert_eq!(
        world.did(2, |effect| matches!(effect, Effect::Notice(Notice::Diverged { .. }))),
        0
    );
    assert!(world.did(2, |effect| matches!(effect, Effect::Advance(_))) > 0);
}

#[test]
fn who_was_away_for_long_trains_for_no_old_round() {
    let crash = Crash {
        step: 30,
        effects: 0,
        away: Millis(20_000),
    };
    let mut world = World::new(4, 12, 1).crash(3, crash);
    world.run_while(|world| world.peers[3].crashes.len() == 1);
    let left_in = world.chain.state.round().number;
    world.run_while(|world| world.peers[3].life.is_none());
    let back_in = world.chain.state.round().number;
    assert!(
        back_in > left_in.next().next(),
        "it missed rounds: {left_in}, {back_in}"
    );
    let (logged, current) = (world.log.len(), back_in.0 as usize - 1);
    let world = world.finish();
    let old = &world.chain.records[..current];
    let is_old = |roots: &Roots| old.iter().any(|record| record.outcome == Outcome::Closed(*roots));
    for (_, _, effect) in world.log[logged..].iter().filter(|entry| entry.1 == 3) {
        match effect {
            Effect::Train { round, .. } | Effect::Merge { round, .. } => assert!(*round >= back_in, "{effect:?}"),
            Effect::Fetch { reveal, .. } => assert!(reveal.round >= back_in, "{effect:?}"),
            Effect::Adopt(roots) => assert!(!is_old(roots), "{effect:?}"),
            _ => {}
        }
    }
    assert_eq!(world.merged(11), [0, 1, 2, 3]);
}

#[test]
fn who_leaves_is_gone_and_who_comes_back_joins_again() {
    let mut world = World::new(4, 8, 1);
    world.run_while(|world| world.chain.records.is_empty());
    world.after(0, Happening::Leave(0));
    world.run_while(|world| world.chain.records.len() < 4);
    let peer = world.peer(0);
    assert_eq!(world.chain.state.core().peers[&peer].standing, Standing::Left);
    assert_eq!(world.chain.state.round().roster.len(), 3);
    assert_eq!(world.merged(3), [1, 2, 3]);
    world.peers[0].life = None;
    world.after(0, Happening::Start(0));
    let world = world.finish();
    assert_eq!(world.chain.state.core().peers[&peer].joins, 2);
    assert_eq!(world.merged(7), [0, 1, 2, 3]);
}

#[test]
fn who_leaves_before_its_join_is_final_does_not_take_part() {
    let mut world = World::new(4, 3, 1);
    let submitted = |world: &World| world.did(2, |effect| matches!(effect, Effect::Submit(_))) > 0;
    world.run_while(|world| !submitted(world));
    world.after(0, Happening::Leave(2));
    let peer = world.peer(2);
    let world = world.finish();
    assert_eq!(world.chain.state.core().peers[&peer].standing, Standing::Left);
}

/// A θ made before a crash and a ledger that is behind it: the older θ must not replace it.
#[test]
fn who_is_ahead_of_its_ledger_after_a_crash_goes_on() {
    let mut world = World::new(2, 4, 4_037_121_171_703_185_184);
    for (who, step, effects) in [(1, 41, 0), (0, 43, 3)] {
        let away = Millis(1);
        world = world.crash(who, Crash { step, effects, away });
    }
    for (who, paces) in [(1_217, 100, 265), (155, 4_700, 6_889)].into_iter().enumerate() {
        let (link_ms_max, training_ms_max, merge_ms_max) = paces;
        world.peers[who].pace = Pace {
            link_ms_max,
            training_ms_max,
            merge_ms_max,
        };
    }
    let world = world.finish();
    let (mut adopted, mut replaced) = (None, false);
    for (_, _, effect) in world.log.iter().filter(|entry| entry.1 == 0) {
        if let Effect::Adopt(roots) = effect {
            replaced |= adopted.replace(*roots).is_some();
        }
    }
    assert!(replaced, "this seed leads there");
}

fn any_crash() -> impl Strategy<Value = (usize, Crash)> {
    (0usize..4, 0u32..250, 0usize..5, 1u64..60_000).prop_map(|(who, step, effects, away)| {
        let away = Millis(away);
        (who, Crash { step, effects, away })
    })
}

fn any_fault() -> impl Strategy<Value = Option<(usize, Fault)>> {
    let fault = |(who, kind, round): (usize, u8, u32)| {
        let round = Round(round);
        let fault = match kind {
            0 => Fault::OtherRoot(round),
            1 => Fault::Unserved(round),
            2 => Fault::Malformed(round),
            _ => Fault::MergeFails(round, 2),
        };
        (who, fault)
    };
    prop::option::of((0usize..4, 0u8..4, 0u32..4).prop_map(fault))
}

/// A fixed set of runs; other and more runs with `ATOLL_NETWORK_CASES=2000`.
fn config() -> ProptestConfig {
    let wanted = std::env::var("ATOLL_NETWORK_CASES").ok();
    let wanted = wanted.and_then(|wanted| wanted.parse().ok());
    let rng_seed = wanted.map_or(RngSeed::Fixed(1), |_| RngSeed::Random);
    ProptestConfig {
        cases: wanted.unwrap_or(200),
        rng_seed,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]
    /// Any delays, crashes and returns, and at most one faulty peer: every round ends, nobody makes two
    /// commitments, everybody ends with the same θ.
    #[test]
    fn any_run_ends_well(
        seed: u64,
        n in 1usize..=4,
        paces in prop::collection::vec((1u64..2_000, 100u64..20_000, 1u64..15_000), 4),
        mut crashes in prop::collection::vec(any_crash(), 0..8),
        fault in any_fault(),
    ) {
        let mut world = World::new(n, 4, seed);
        crashes.sort_by_key(|(_, crash)| crash.step);
        for (who, crash) in crashes {
            world = world.crash(who % n, crash);
        }
        if let Some((who, fault)) = fault {
            world = world.fault(who % n, fault);
        }
        for (peer, (link_ms_max, training_ms_max, merge_ms_max)) in world.peers.iter_mut().zip(paces) {
            peer.pace = Pace { link_ms_max, training_ms_max, merge_ms_max };
        }
        world.finish();
    }
}
